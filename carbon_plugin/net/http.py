"""Ask one question over HTTP within a deadline and a size. Every failure is an `HttpError` that gives nothing away.

The standard library is enough for this: a small document each way, without sessions. The core needs no client
library for it, and a node's service processor and a provider of grid intensity are asked by the same code.
"""

from __future__ import annotations

import http.client
import ssl
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal, TypeVar
from urllib.parse import SplitResult, urlencode, urlsplit, urlunsplit

from carbon_plugin.errors import CarbonPluginError
from carbon_plugin.net.connection import Method, bounded_request, time_left_s
from carbon_plugin.spec.parsing.boundary import UNREADABLE, parse_json, whole_number

T = TypeVar("T")
Failure = Literal["unreachable", "refused", "not_found", "status", "redirect", "malformed"]

MAX_BYTES = 1 << 20
CHUNK_BYTES = 1 << 16
REDIRECTS = (301, 302, 307, 308)
REFUSED = (http.client.UNAUTHORIZED, http.client.FORBIDDEN)
MISSING = (http.client.NOT_FOUND, http.client.METHOD_NOT_ALLOWED)


class HttpError(CarbonPluginError):
    """A question got no usable answer.

    The message says what the service did ("answers with status 500"), so that the caller puts its name before it. It
    never holds headers, parameters, credentials or a part of the answer. `failure` is the class of failure, `status`
    the status if the service answered with another one than 200, and `retry_after_s` the seconds after which it may be
    asked again, if the service states them.
    """

    def __init__(
        self, message: str, failure: Failure, *, status: int | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.failure: Failure = failure
        self.status = status
        self.retry_after_s = retry_after_s


class HttpClient:
    """One service at one address. It is made on a thread that may import; `get` belongs on one that may wait.

    Args:
        base_url: http:// or https:// with host, and optionally port and path.
        headers: headers of every question.
        tls: how certificates are checked; the system's certificates if left out.
        follow_redirect: follow one redirect within the host, because some services name each path with a slash at its
            end. A redirect to another host is never followed, so that credentials go to this host only.
        proxied: use the proxy of the user's environment. Left out for hosts of the cluster's own network.
    """

    def __init__(
        self,
        base_url: str,
        *,
        headers: Mapping[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
        follow_redirect: bool = False,
        proxied: bool = False,
    ) -> None:
        self._origin = _origin(base_url)
        self._headers = {"Accept": "application/json", **(headers or {})}
        secure = self._origin is not None and self._origin.scheme == "https"
        self._tls = (tls or ssl.create_default_context()) if secure else None
        self._follow_redirect = follow_redirect
        self._proxied = proxied

    def ask(
        self,
        path: str,
        answer: type[T],
        *,
        deadline_s: float,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> T:
        """Return the JSON answer to a GET as the type `answer`, within `deadline_s` seconds. Raises `HttpError`."""
        body = self.get(path, deadline_s=deadline_s, params=params, headers=headers)
        try:
            return parse_json(body, "the service", "its answer", CarbonPluginError, answer)
        except CarbonPluginError:  # its message may quote a part of the answer
            raise HttpError("gives an answer that is not what this service documents", "malformed") from None

    def get(
        self,
        path: str,
        *,
        deadline_s: float,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """Return the body of the answer to a GET, within `deadline_s` seconds. Raises `HttpError`."""
        return self.send("GET", path, deadline_s=deadline_s, params=params, headers=headers)

    def send(
        self,
        method: Method,
        path: str,
        *,
        deadline_s: float,
        body: bytes | None = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """Return the body of the answer to a request, within `deadline_s` seconds. Raises `HttpError`.

        Any status of success is one to a POST or a PUT; a GET must be answered with 200.
        """
        origin = self._origin
        if origin is None:
            raise HttpError("has an address that is neither http:// nor https:// with a host", "unreachable")
        end_s = time.monotonic() + deadline_s
        full = f"{origin.path}{path}{f'?{urlencode(params)}' if params else ''}"
        try:
            found = self._fetched(origin, full, {**self._headers, **(headers or {})}, end_s, method, body)
            if isinstance(found, str):
                found = self._fetched(origin, found, {**self._headers, **(headers or {})}, end_s, method, body)
        except TimeoutError:
            raise HttpError(f"has no answer within {deadline_s:g} s", "unreachable") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise HttpError(f"does not answer ({type(error).__name__})", "unreachable") from None
        if isinstance(found, str):
            raise HttpError(f"redirects from {path} on and on", "redirect")
        return found

    def _fetched(
        self,
        origin: SplitResult,
        path: str,
        headers: dict[str, str],
        end_s: float,
        method: Method,
        sent: bytes | None,
    ) -> bytes | str:
        """Return the body, or the path on this host to which the answer redirects."""
        response, connected = bounded_request(
            origin, path, headers, end_s=end_s, tls=self._tls, proxied=self._proxied, method=method, body=sent
        )
        try:
            if response.status in REDIRECTS and self._follow_redirect:
                return _elsewhere(origin, response.getheader("Location", ""))
            _check(response, method)
            body = bytearray()
            while chunk := response.read1(CHUNK_BYTES):
                body += chunk
                if len(body) > MAX_BYTES:
                    raise HttpError(f"gives an answer that is longer than {MAX_BYTES} bytes", "malformed")
                time_left_s(end_s)
            return bytes(body)
        finally:
            response.close()
            connected.close()


def _origin(base_url: str) -> SplitResult | None:
    """Return the parts of an address without a slash at its end, or None if it is no http address with a host."""
    try:
        parts = urlsplit(base_url.rstrip("/"))
        _ = parts.port  # this raises for a port that is no number
    except ValueError:
        return None
    return parts if parts.scheme in ("http", "https") and parts.hostname else None


def _check(response: http.client.HTTPResponse, method: Method) -> None:
    """Raise `HttpError` for any status but 200, or for a POST or a PUT any but those of success."""
    status = response.status
    if status == http.client.OK or (method != "GET" and 200 <= status < 300):
        return
    if status in REFUSED:
        raise HttpError(f"refuses the credentials (status {status})", "refused", status=status)
    if status in MISSING:
        raise HttpError(f"has no such resource (status {status})", "not_found", status=status)
    retry_after_s = _retry_after_s(response.getheader("Retry-After"))
    raise HttpError(f"answers with status {status}", "status", status=status, retry_after_s=retry_after_s)


def _elsewhere(origin: SplitResult, location: str) -> str:
    """Return the path of a redirect. Raises `HttpError` for another host, which must not see the credentials."""
    try:
        parts = urlsplit(location)
        place = (parts.scheme or origin.scheme, parts.hostname, parts.port)
    except ValueError:
        raise HttpError("redirects to no address", "redirect") from None
    if parts.netloc and _host(*place) != _host(origin.scheme, origin.hostname, origin.port):
        raise HttpError("redirects to another host, which is not followed", "redirect")
    if not parts.path.startswith("/"):
        raise HttpError("redirects to no path", "redirect")
    return urlunsplit(("", "", parts.path, parts.query, ""))


def _host(scheme: str, host: str | None, port: int | None) -> tuple[str | None, int]:
    return host, port or (http.client.HTTPS_PORT if scheme == "https" else http.client.HTTP_PORT)


def _retry_after_s(value: str | None) -> float | None:
    """Return the seconds of a Retry-After header, which holds a number or a date, or None where it holds neither."""
    if value is None:
        return None
    seconds = whole_number(value.strip())
    if seconds is not None:
        return float(seconds)
    try:
        moment = parsedate_to_datetime(value)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return max(0.0, (moment - datetime.now(UTC)).total_seconds())
    except UNREADABLE:
        return None
