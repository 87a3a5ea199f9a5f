"""Sources and stores in a real S3-compatible server, with the errors that such servers give."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from benchmarks.fleet_generator import write_fleet
from carbon_plugin.cli.main import run as command_line
from carbon_plugin.errors import FleetError
from carbon_plugin.fleet.ingest import ingest
from carbon_plugin.fleet.report import Asked, report
from carbon_plugin.fleet.rows import reading as reading_module

# Every worker loads this file, and only one of them needs a second's imports of clients and servers.
if not (find_spec("s3fs") and find_spec("moto")):
    pytest.skip("s3fs or moto is not installed; `make test` installs them", allow_module_level=True)

Answer = tuple[str, bytes]


class FaultyServer:
    """An S3 server of moto in a thread. `fault` sees method and path of each request, and may answer in its place.

    With `halve` a download of a matching path ends in the middle.
    """

    def __init__(self) -> None:
        from moto.moto_server import werkzeug_app
        from werkzeug.serving import make_server

        self._app = werkzeug_app.DomainDispatcherApplication(werkzeug_app.create_backend_app)
        self._server = make_server("127.0.0.1", 0, self, threaded=True)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.heal()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.port}"

    def heal(self) -> None:
        self.fault: Callable[[str, str], Answer | None] = lambda method, path: None
        self.halve = ""
        self.requests: list[tuple[str, str]] = []

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.requests.append((method, path))
        answer = self.fault(method, path)
        if answer is not None:
            status, body = answer
            start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
            return [body]
        if self.halve and self.halve in path and method == "GET":
            return self._half(environ, start_response)
        found: Iterable[bytes] = self._app(environ, start_response)
        return found

    def _half(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        told: list[Any] = []
        whole = b"".join(self._app(environ, lambda status, headers, *_: told.extend((status, headers))))
        kept = [pair for pair in told[1] if pair[0].lower() not in ("content-length", "etag")]
        start_response(told[0], [*kept, ("Content-Length", str(len(whole) // 2))])
        return [whole[: len(whole) // 2]]


def error_document(code: str, message: str) -> bytes:
    return f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'.encode()


BROKEN = ("500 Internal Server Error", error_document("InternalError", "We encountered an internal error"))
EXPIRED = ("400 Bad Request", error_document("ExpiredToken", "The provided token has expired."))


@pytest.fixture(scope="module")
def running() -> Iterator[FaultyServer]:
    started = FaultyServer()
    yield started
    started.stop()


@pytest.fixture
def server(running: FaultyServer, monkeypatch: Any) -> Iterator[FaultyServer]:
    """Provide the running server with an empty bucket "fleet", and name it in the environment."""
    import s3fs

    running.heal()
    for name, value in (
        ("AWS_ENDPOINT_URL", running.url), ("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_DEFAULT_REGION", "us-east-1"), ("AWS_MAX_ATTEMPTS", "1"),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)  # else it waits for seconds between its tries
    s3fs.S3FileSystem.clear_instance_cache()
    fs = s3fs.S3FileSystem(use_listings_cache=False)
    fs.mkdir("fleet")
    yield running
    running.heal()
    fs.rm("fleet", recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()


def put(local: Path, prefix: str) -> None:
    import s3fs

    fs = s3fs.S3FileSystem(use_listings_cache=False)
    for path in sorted(local.rglob("*")):
        if path.is_file():
            fs.put_file(str(path), f"{prefix}/{path.relative_to(local)}")


def test_runs_of_an_object_store_are_ingested_into_one_and_reported_as_local_ones(
    server: FaultyServer, tmp_path: Path, capsys: Any
) -> None:
    write_fleet(tmp_path / "runs", 5)
    put(tmp_path / "runs", "fleet/runs")

    code = command_line(["fleet", "ingest", "s3://fleet/runs", "--into", "s3://fleet/store"])
    server.requests.clear()
    again = ingest(["s3://fleet/runs"], "s3://fleet/store")
    fetched = [path for method, path in server.requests if method == "GET" and path.endswith(".jsonl")]
    ingest([str(tmp_path / "runs")], str(tmp_path / "store"))

    assert code == 0, capsys.readouterr().err
    assert (again.unchanged, again.added, again.held) == (5, 0, 5)
    assert fetched == []
    remote = report("s3://fleet/store", Asked(cache=tmp_path / "cache"))
    local = report(str(tmp_path / "store"), Asked())
    assert (remote.groups, remote.months) == (local.groups, local.months)
    assert remote.top_runs[0].place.startswith("s3://fleet/runs/")
    server.requests.clear()
    assert report("s3://fleet/store", Asked(cache=tmp_path / "cache")).groups == local.groups
    assert [path for _, path in server.requests if path.endswith(".parquet")] == []


def test_a_failing_object_is_named_and_comes_with_the_next_ingest(server: FaultyServer, tmp_path: Path) -> None:
    write_fleet(tmp_path / "runs", 4)
    put(tmp_path / "runs", "fleet/runs")
    server.fault = lambda method, path: BROKEN if method == "GET" and "run-000001/node" in path else None

    first = ingest(["s3://fleet/runs"], str(tmp_path / "store"))
    server.heal()
    second = ingest(["s3://fleet/runs"], str(tmp_path / "store"))

    assert (first.added, first.held, len(first.skipped)) == (3, 3, 1)
    assert "run-000001" in first.skipped[0].place
    assert "cannot be read" in first.skipped[0].reason
    assert (second.unchanged, second.added, second.held, second.skipped) == (3, 1, 4, [])


def test_an_object_that_comes_half_is_never_taken_for_a_whole_one(server: FaultyServer, tmp_path: Path) -> None:
    write_fleet(tmp_path / "runs", 2)
    put(tmp_path / "runs", "fleet/runs")
    server.halve = "run-000000/node"

    found = ingest(["s3://fleet/runs"], str(tmp_path / "store"))
    server.heal()

    assert found.held == 1
    assert "run-000000" in found.skipped[0].reason
    assert ingest(["s3://fleet/runs"], str(tmp_path / "store")).held == 2


def test_credentials_that_expire_stop_the_ingest_and_lose_nothing(server: FaultyServer, tmp_path: Path) -> None:
    write_fleet(tmp_path / "runs", 4)
    put(tmp_path / "runs", "fleet/runs")
    server.fault = lambda method, path: EXPIRED if "/runs/" in path and "run-000002" in path else None

    with pytest.raises(FleetError, match="token has expired"):
        ingest(["s3://fleet/runs"], "s3://fleet/store")
    server.heal()
    again = ingest(["s3://fleet/runs"], "s3://fleet/store")

    assert again.held == 4
    assert 0 < again.unchanged < 4
    assert again.unchanged + again.added == 4


def test_credentials_that_are_refused_are_an_error_of_one_line(
    server: FaultyServer, tmp_path: Path, capsys: Any
) -> None:
    server.fault = lambda method, path: EXPIRED

    assert command_line(["fleet", "report", "s3://fleet/store"]) == 2
    error = capsys.readouterr().err
    server.heal()

    assert "token has expired" in error
    assert error.count("\n") == 1


def test_a_store_that_refuses_a_write_keeps_what_it_held(server: FaultyServer, tmp_path: Path) -> None:
    write_fleet(tmp_path / "runs", 2)
    ingest([str(tmp_path / "runs")], "s3://fleet/store")
    write_fleet(tmp_path / "runs", 5)
    server.fault = lambda method, path: BROKEN if method == "PUT" and "/hour/" in path else None

    with pytest.raises(FleetError, match="cannot be written"):
        ingest([str(tmp_path / "runs")], "s3://fleet/store")
    server.heal()

    assert report("s3://fleet/store", Asked(cache=tmp_path / "cache")).totals.runs == 2
    assert ingest([str(tmp_path / "runs")], "s3://fleet/store").held == 5
    assert report("s3://fleet/store", Asked(cache=tmp_path / "cache")).totals.runs == 5


def test_two_ingests_into_an_object_store_do_not_overwrite_each_other(
    server: FaultyServer, tmp_path: Path, monkeypatch: Any
) -> None:
    write_fleet(tmp_path / "runs", 3)
    real = reading_module.content_of

    def slow(*arguments: Any) -> str:
        monkeypatch.setattr(reading_module, "content_of", real)
        ingest([str(tmp_path / "runs")], "s3://fleet/store")
        return real(*arguments)

    monkeypatch.setattr(reading_module, "content_of", slow)
    with pytest.raises(FleetError, match="run it again"):
        ingest([str(tmp_path / "runs")], "s3://fleet/store")

    assert ingest([str(tmp_path / "runs")], "s3://fleet/store").unchanged == 3


def test_a_protocol_that_is_none_is_an_error_of_one_line(tmp_path: Path, capsys: Any) -> None:
    assert command_line(["fleet", "ingest", "nosuch://bucket/runs", "--into", str(tmp_path / "store")]) == 2
    error = capsys.readouterr().err
    assert "no known protocol" in error
    assert error.count("\n") == 1
