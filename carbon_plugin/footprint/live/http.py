"""One HTTP question with a deadline, and every way in which it can fail as one error that gives nothing away."""

from __future__ import annotations

import codecs
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx

from carbon_plugin.footprint.live.provider import ProviderError
from carbon_plugin.spec.parsing.boundary import UNREADABLE, parse_json, whole_number

T = TypeVar("T")

MAX_BYTES = 1 << 20
WAIT_S = 2.0
REFUSED = (401, 403)


class Service:
    """One service at one address. It is made on a thread that may import; `ask` belongs on one that may wait."""

    def __init__(self, name: str, base_url: str) -> None:
        self.name = name
        self._base_url = base_url.rstrip("/")
        # Loaded with the first connection otherwise: an import on another thread stays locked in a forked child.
        codecs.lookup("idna")
        # Redirects are not followed, so that no token leaves for another host.
        self._client = httpx.Client(follow_redirects=False, headers={"Accept": "application/json"})

    def ask(
        self,
        path: str,
        answer: type[T],
        *,
        deadline_s: float,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        auth: tuple[str, str] | None = None,
    ) -> T:
        """The answer to a GET as the type `answer`, within about `deadline_s` seconds.

        Raises `ProviderError` with the name of the service and the kind of failure, but without headers, parameters or
        any part of the answer.
        """
        try:
            body = self._body(path, deadline_s, params=params, headers=headers, auth=auth)
        except httpx.TimeoutException:
            raise ProviderError(f"{self.name}: no answer within {deadline_s:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ProviderError(f"{self.name}: cannot be reached ({type(error).__name__})") from None
        try:
            return parse_json(body, self.name, "its answer", ProviderError, answer)
        except ProviderError:  # which may quote a part of the answer
            raise ProviderError(f"{self.name}: the answer is not what this service documents") from None

    def _body(self, path: str, deadline_s: float, **request: Any) -> bytes:
        end_s = time.monotonic() + deadline_s
        timeout = httpx.Timeout(min(WAIT_S, deadline_s))
        with self._client.stream("GET", self._base_url + path, timeout=timeout, **request) as response:
            _check_status(self.name, response)
            body = bytearray()
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > MAX_BYTES:
                    raise ProviderError(f"{self.name}: the answer is longer than {MAX_BYTES} bytes")
                # The timeout above is for each read: a server that drips bytes would keep us for hours.
                if time.monotonic() > end_s:
                    raise ProviderError(f"{self.name}: no complete answer within {deadline_s:g} s")
        return bytes(body)


def _check_status(name: str, response: httpx.Response) -> None:
    status = response.status_code
    if status == httpx.codes.OK:
        return
    retry_after_s = _retry_after_s(response.headers.get("retry-after"))
    if status in REFUSED:
        raise ProviderError(f"{name}: refuses the credentials or the zone (status {status})", permanent=True)
    raise ProviderError(f"{name}: answers with status {status}", retry_after_s=retry_after_s)


def _retry_after_s(value: str | None) -> float | None:
    """Seconds of a Retry-After header, which holds a number or a date."""
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
