"""One question over HTTP with a deadline, and every way in which it can fail as one `SourceError`.

`http.client` and not a client library: it asks no proxy and follows no redirect to another host, so credentials go to
this host only. Within the host it follows one, because some services name each path with a slash at its end.
"""

from __future__ import annotations

import base64
import codecs
import http.client
import ssl
import time
from typing import TypeVar
from urllib.parse import urlsplit, urlunsplit

from carbon_plugin.errors import MeterError
from carbon_plugin.meters.node.address import NodeAddress
from carbon_plugin.meters.node.source import Credentials, SourceError
from carbon_plugin.spec.parsing.boundary import parse_json

T = TypeVar("T")

_REDIRECTS = (301, 302, 307, 308)

MAX_BYTES = 1 << 20
_CHUNK = 1 << 16

# Loaded with the first connection otherwise, on a thread that must not import.
codecs.lookup("idna")


class JsonService:
    """A host that answers JSON. `token_header` is where a token goes: "Authorization" as Bearer, else as it is."""

    def __init__(self, address: NodeAddress, credentials: Credentials, token_header: str) -> None:
        self._address = address
        self._headers = {"Accept": "application/json", **_authorization(credentials, token_header)}
        self._tls = _tls(address) if address.secure else None

    def ask(self, path: str, answer: type[T], deadline_s: float) -> T:
        """The answer to a GET as the type `answer`. Raises `SourceError`, in "not_supported" where there is no such
        path, so that another can be tried."""
        try:
            body = self._body(path, deadline_s)
        except (OSError, http.client.HTTPException) as error:
            kind = type(error).__name__
            raise SourceError(f"{self._address.shown} does not answer ({kind})", "unreachable") from None
        try:
            return parse_json(body, self._address.shown, "its answer", MeterError, answer)
        except MeterError:  # which may quote a part of the answer
            raise SourceError(f"{self._address.shown} answers something else than documented", "malformed") from None

    def _body(self, path: str, deadline_s: float) -> bytes:
        end_s = time.monotonic() + deadline_s
        found = self._fetched(path, end_s, deadline_s)
        if isinstance(found, str):
            found = self._fetched(found, end_s, deadline_s)
        if isinstance(found, str):
            raise SourceError(f"{self._address.shown} redirects from {path} on and on", "error")
        return found

    def _fetched(self, path: str, end_s: float, deadline_s: float) -> bytes | str:
        """The body, or the path on this host that the answer names instead."""
        connection = self._connection(deadline_s)
        try:
            connection.request("GET", path, headers=self._headers)
            response = connection.getresponse()
            if response.status in _REDIRECTS:
                return self._elsewhere(response.getheader("Location", ""))
            self._check(response.status)
            body = bytearray()
            # The timeout holds for each read; a server that drips bytes would keep us for hours.
            while chunk := response.read1(_CHUNK):
                body += chunk
                if len(body) > MAX_BYTES:
                    raise SourceError(f"{self._address.shown} answers more than {MAX_BYTES} bytes", "malformed")
                if time.monotonic() > end_s:
                    raise SourceError(f"{self._address.shown} has no answer within {deadline_s:g} s", "unreachable")
            return bytes(body)
        finally:
            connection.close()

    def _elsewhere(self, location: str) -> str:
        """The path of a redirect. Raises `SourceError` for another host, which must not see the credentials."""
        try:
            parts = urlsplit(location)
            port = parts.port or _default_port(self._address)
        except ValueError:
            raise SourceError(f"{self._address.shown} redirects to no address", "error") from None
        own = (self._address.host, self._address.port or _default_port(self._address))
        if parts.netloc and (parts.hostname, port) != own:
            raise SourceError(f"{self._address.shown} redirects to another host, which is not followed", "error")
        if not parts.path.startswith("/"):
            raise SourceError(f"{self._address.shown} redirects to no path", "error")
        return urlunsplit(("", "", parts.path, parts.query, ""))

    def _connection(self, deadline_s: float) -> http.client.HTTPConnection:
        # Without a port the client looks for one in the host, where an IPv6 address has colons too.
        host, port = self._address.host, self._address.port
        if self._tls is None:
            return http.client.HTTPConnection(host, port or http.client.HTTP_PORT, timeout=deadline_s)
        return http.client.HTTPSConnection(host, port or http.client.HTTPS_PORT, timeout=deadline_s, context=self._tls)

    def _check(self, status: int) -> None:
        if status == http.client.OK:
            return
        if status in (http.client.UNAUTHORIZED, http.client.FORBIDDEN):
            raise SourceError(f"{self._address.shown} refuses the credentials (status {status})", "refused")
        if status in (http.client.NOT_FOUND, http.client.METHOD_NOT_ALLOWED):
            raise SourceError(f"{self._address.shown} has no such resource (status {status})", "not_supported")
        raise SourceError(f"{self._address.shown} answers with status {status}", "error")


def _default_port(address: NodeAddress) -> int:
    return http.client.HTTPS_PORT if address.secure else http.client.HTTP_PORT


def _authorization(credentials: Credentials, token_header: str) -> dict[str, str]:
    if credentials.token is not None:
        return {token_header: f"Bearer {credentials.token}" if token_header == "Authorization" else credentials.token}
    if credentials.user is None:
        return {}
    both = f"{credentials.user}:{credentials.password or ''}".encode()
    return {"Authorization": f"Basic {base64.b64encode(both).decode()}"}


def _tls(address: NodeAddress) -> ssl.SSLContext:
    ca = address.options.get("ca")
    try:
        context = ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise SourceError(f"{address.shown}: the file ca={ca} cannot be used: {error}", "error") from None
    if address.options.get("verify") == "no":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
