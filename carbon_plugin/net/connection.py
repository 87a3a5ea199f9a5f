"""Open connections on which every read and write ends at one deadline, directly to a host or through the user's proxy.

The timeout of a socket holds for one read. A server that sends a byte now and then would keep the reader for hours, in
the headers too, so each read here has only the time that is left.
"""

from __future__ import annotations

import base64
import codecs
import http.client
import io
import socket
import ssl
import time
from typing import Any, Literal
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

# The first connection would import it otherwise, and an import on another thread stays locked in a forked child.
codecs.lookup("idna")

Method = Literal["GET", "POST", "PUT"]


class _BoundedReader(io.RawIOBase):
    def __init__(self, connected: socket.socket, end_s: float) -> None:
        self._socket = connected
        self._end_s = end_s

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._socket.settimeout(time_left_s(self._end_s))
        return self._socket.recv_into(buffer)


class _BoundedSocket:
    """One instance is the part of a socket that `http.client` uses, with one deadline (on `time.monotonic`) for all its
    calls.
    """

    def __init__(self, connected: socket.socket, end_s: float) -> None:
        self._socket = connected
        self._end_s = end_s

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_BoundedReader(self._socket, self._end_s))

    def sendall(self, content: bytes) -> None:
        self._socket.settimeout(time_left_s(self._end_s))
        self._socket.sendall(content)

    def close(self) -> None:
        """Do nothing: `http.client` closes before the body is read. Whoever opened the connection closes it."""


def time_left_s(end_s: float) -> float:
    """Return the seconds until a moment of `time.monotonic`. Raises `TimeoutError` if it has passed."""
    left_s = end_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s


def bounded_request(
    origin: SplitResult,
    path: str,
    headers: dict[str, str],
    *,
    end_s: float,
    tls: ssl.SSLContext | None,
    proxied: bool,
    method: Method = "GET",
    body: bytes | None = None,
) -> tuple[http.client.HTTPResponse, socket.socket]:
    """Send a request and return the response, of which the headers are read, and its socket, which the caller closes.

    Args:
        origin: scheme, host and port of the service.
        path: path with query.
        headers: headers of the request.
        end_s: moment of `time.monotonic` at which every wait ends with `TimeoutError`.
        tls: how certificates are checked, for https.
        proxied: whether the proxy in the user's environment (`HTTPS_PROXY`, `NO_PROXY`) is used.
        method: the method of the request.
        body: what is sent with it.

    Raises `OSError` or `http.client.HTTPException` for a host that cannot be reached or does not speak HTTP.
    """
    proxy = _proxy(origin) if proxied else None
    if proxy is not None and origin.scheme == "http":
        path = f"http://{origin.netloc}{path}"
        headers = {**headers, **_proxy_authorization(proxy)}
    connection = _connection(origin, proxy, tls, time_left_s(end_s))
    try:
        connection.connect()
        connected = connection.sock
        connection.sock = _BoundedSocket(connected, end_s)
    except BaseException:
        connection.close()
        raise
    try:
        connection.request(method, path, body=body, headers=headers)
        return connection.getresponse(), connected
    except BaseException:
        connected.close()
        raise


def _connection(
    origin: SplitResult, proxy: SplitResult | None, tls: ssl.SSLContext | None, timeout_s: float
) -> http.client.HTTPConnection:
    secure = origin.scheme == "https"
    usual_port = http.client.HTTPS_PORT if secure else http.client.HTTP_PORT
    host, port = origin.hostname or "", origin.port or usual_port
    # Without a port the client looks for one in the host, where an IPv6 address has colons too.
    next_host, next_port = (
        (host, port) if proxy is None else (proxy.hostname or "", proxy.port or http.client.HTTP_PORT)
    )
    if not secure:
        return http.client.HTTPConnection(next_host, next_port, timeout=timeout_s)
    connection = http.client.HTTPSConnection(next_host, next_port, timeout=timeout_s, context=tls)
    if proxy is not None:
        connection.set_tunnel(host, port, headers=_proxy_authorization(proxy))
    return connection


def _proxy(origin: SplitResult) -> SplitResult | None:
    """Return the proxy of the user's environment for a service, or None if the service is asked directly.

    Raises `OSError` for a proxy without an http:// address.
    """
    proxies = getproxies()
    stated = proxies.get(origin.scheme) or proxies.get("all")
    if not stated or proxy_bypass(origin.netloc.rpartition("@")[2]):
        return None
    proxy = urlsplit(stated if "://" in stated else f"http://{stated}")
    if proxy.scheme != "http" or not proxy.hostname:
        raise OSError("the proxy of the environment is no http:// address")
    return proxy


def _proxy_authorization(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    return {"Proxy-Authorization": basic(unquote(proxy.username), unquote(proxy.password or ""))}


def basic(user: str, password: str) -> str:
    """Return the value of an Authorization header for a user and a password."""
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"
