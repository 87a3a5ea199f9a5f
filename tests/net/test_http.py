"""The HTTP client against real local servers that answer well, badly, slowly and for ever."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread

import pytest
from msgspec import Struct

from carbon_plugin.net.http import MAX_BYTES, HttpClient, HttpError


class Answer(Struct):
    watts: float


class Server:
    """A server on this machine that answers each connection with the same bytes and keeps the requests."""

    def __init__(self, answer: bytes, *, byte_by_byte: bool = False) -> None:
        self.requests: list[str] = []
        self._answer = answer
        self._byte_by_byte = byte_by_byte
        self._over = Event()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                with connection, suppress(OSError):
                    self.requests.append(connection.recv(1 << 16).decode())
                    for part in (
                        [self._answer[i : i + 1] for i in range(len(self._answer))]
                        if self._byte_by_byte
                        else [self._answer]
                    ):
                        connection.sendall(part)
                        if self._byte_by_byte and self._over.wait(0.005):
                            return

    def close(self) -> None:
        self._over.set()
        self._listening.close()


@contextmanager
def serving(answer: bytes, *, byte_by_byte: bool = False) -> Iterator[Server]:
    server = Server(answer, byte_by_byte=byte_by_byte)
    try:
        yield server
    finally:
        server.close()


def ok(body: bytes, *headers: str) -> bytes:
    return "\r\n".join(["HTTP/1.1 200 OK", *headers, "Connection: close", "", ""]).encode() + body


def failure(client: HttpClient, *, deadline_s: float = 60.0) -> HttpError:
    with pytest.raises(HttpError) as raised:
        client.ask("/power", Answer, deadline_s=deadline_s)
    return raised.value


def test_an_answer_is_read_as_the_type_that_is_asked_for():
    with serving(ok(b'{"watts": 612.5}')) as server:
        client = HttpClient(f"{server.url}/v1/", headers={"Authorization": "Bearer t"})

        assert client.ask("/power", Answer, deadline_s=60, params={"of": "a b"}) == Answer(612.5)

    assert server.requests[0].startswith("GET /v1/power?of=a+b HTTP/1.1\r\n")
    assert "Authorization: Bearer t\r\n" in server.requests[0]


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 500, ok(b" " * 500)])
def test_headers_and_a_body_that_come_byte_by_byte_end_at_the_deadline(answer):
    with serving(answer, byte_by_byte=True) as server:
        error = failure(HttpClient(server.url), deadline_s=0.2)

    assert (error.failure, str(error)) == ("unreachable", "has no answer within 0.2 s")


def test_two_slow_answers_of_a_redirect_share_one_deadline():
    moved = b"HTTP/1.1 308 Moved\r\nLocation: /power/\r\nConnection: close\r\n\r\n"
    with serving(moved, byte_by_byte=True) as server:
        began_s = time.monotonic()
        error = failure(HttpClient(server.url, follow_redirect=True), deadline_s=0.5)
        waited_s = time.monotonic() - began_s

    # One answer takes 0.3 s, so that the second cannot be whole. What the machine does beside it only adds to this.
    assert str(error) == "has no answer within 0.5 s"
    assert waited_s >= 0.5
    assert len(server.requests) <= 2


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (b"HTTP/1.1 401 No\r\n\r\nsecret", "refused", "refuses the credentials (status 401)"),
        (b"HTTP/1.1 404 No\r\n\r\nsecret", "not_found", "has no such resource (status 404)"),
        (b"HTTP/1.1 503 No\r\nRetry-After: 7\r\n\r\nsecret", "status", "answers with status 503"),
        (b"HTTP/1.1 302 No\r\nLocation: /secret\r\n\r\n", "status", "answers with status 302"),
        (ok(b'{"watts": "secret"}'), "malformed", "gives an answer that is not what this service documents"),
        (ok(b"{secret"), "malformed", "gives an answer that is not what this service documents"),
        (ok(b" " * (MAX_BYTES + 1)), "malformed", f"gives an answer that is longer than {MAX_BYTES} bytes"),
        (b"secret\r\n\r\n", "unreachable", "does not answer (BadStatusLine)"),
        (b"", "unreachable", "does not answer (RemoteDisconnected)"),
    ],
)
def test_every_failure_has_its_class_and_holds_nothing_of_the_answer(answer, kind, words):
    with serving(answer) as server:
        error = failure(HttpClient(server.url))

    assert (error.failure, str(error)) == (kind, words)
    assert error.retry_after_s == (7.0 if "503" in words else None)


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("http://elsewhere/power", "redirects to another host, which is not followed"),
        ("https://127.0.0.1/power", "redirects to another host, which is not followed"),
        ("power", "redirects to no path"),
        ("http://[", "redirects to no address"),
        ("/power", "redirects from /power on and on"),
    ],
)
def test_a_redirect_is_followed_once_and_within_the_host_only(location, words):
    with serving(f"HTTP/1.1 301 Moved\r\nLocation: {location}\r\nConnection: close\r\n\r\n".encode()) as server:
        error = failure(HttpClient(server.url, follow_redirect=True))

    assert (error.failure, str(error)) == ("redirect", words)


@pytest.mark.parametrize("address", ["ftp://host", "host:80", "http://", "http://host:port"])
def test_an_address_that_is_none_of_http_is_an_error_of_the_question(address):
    assert "neither http:// nor https://" in str(failure(HttpClient(address)))


def test_a_header_that_cannot_be_sent_gives_its_value_away_in_no_error():
    error = failure(HttpClient("http://127.0.0.1:9", headers={"auth-token": "very-secret\nheader"}))

    assert "very-secret" not in f"{error!r} {error.__cause__!r}"


def test_only_a_service_outside_is_asked_through_the_proxy_of_the_environment(monkeypatch):
    with serving(ok(b'{"watts": 1}')) as proxy:
        monkeypatch.setenv("http_proxy", f"http://user:p%40ss@127.0.0.1:{proxy.port}")
        monkeypatch.setenv("no_proxy", "inside.test")

        outside = HttpClient("http://service.test/v1", proxied=True)
        assert outside.ask("/power", Answer, deadline_s=60) == Answer(1)
        for direct in (HttpClient("http://inside.test", proxied=True), HttpClient("http://service.test")):
            assert failure(direct).failure == "unreachable"

    assert [request.split("\r\n")[0] for request in proxy.requests] == ["GET http://service.test/v1/power HTTP/1.1"]
    assert "Proxy-Authorization: Basic dXNlcjpwQHNz\r\n" in proxy.requests[0]


def test_a_secure_service_is_asked_through_a_tunnel_of_the_proxy(monkeypatch):
    with serving(b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\n\r\n") as proxy:
        monkeypatch.setenv("https_proxy", f"127.0.0.1:{proxy.port}")
        monkeypatch.delenv("no_proxy", raising=False)

        assert failure(HttpClient("https://service.test", proxied=True)).failure == "unreachable"

    assert proxy.requests[0].startswith("CONNECT service.test:443 HTTP/1.")
