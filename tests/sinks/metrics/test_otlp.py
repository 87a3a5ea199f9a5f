"""OTLP over HTTP, read back from a receiver that decodes the messages."""

from __future__ import annotations

import threading
from http.server import ThreadingHTTPServer

import pytest

from carbon_plugin.sinks.choose import sinks_of
from carbon_plugin.sinks.sink import NotTakenError
from tests.sinks.conftest import GPU
from tests.sinks.metrics.receiver import Handler, Receiver

pytest.importorskip("opentelemetry.sdk", reason="opentelemetry-sdk is not installed; `make test` installs it")


@pytest.mark.usefixtures("patient_sender")
def test_receiver_gets_each_row_with_the_names_of_the_conventions(receiver, rows):
    (sink,) = sinks_of(f"otlp:{receiver.address}")

    for row in rows(2):
        sink.write(row)
    sink.close(None)

    first, last = receiver.requests[:2]
    assert first["carbon_plugin.energy", ""][0] == pytest.approx(2.5 * 3.6e6)
    run = {"carbon_plugin.run.id": "run-1", "carbon_plugin.run.name": "llama"}
    gpu = {"hw.id": GPU, "hw.name": "NVIDIA H100", "hw.type": "gpu", **run}
    assert last["hw.energy", GPU] == (2e7, "J", gpu, True)
    assert last["hw.power", GPU] == (620.0, "W", gpu, False)
    host = {"hw.id": "boot/host", "hw.name": "host", **run}
    assert last["hw.host.energy", "boot/host"] == (2e6, "J", host, True)
    assert last["hw.host.power", "boot/host"] == (100.0, "W", host, False)
    assert last["carbon_plugin.energy", ""] == (pytest.approx(5.0 * 3.6e6), "J", run, True)
    assert last["carbon_plugin.emissions", ""] == (pytest.approx(2400.0), "g", run, True)
    assert last["carbon_plugin.projected_energy_high", ""] == (pytest.approx(55.0 * 3.6e6), "J", run, False)
    assert last["carbon_plugin.step", ""][0] == 20
    assert set(receiver.paths) == {"/v1/metrics"}
    assert receiver.resources[0]["service.name"] == "carbon_plugin"
    assert receiver.resources[0]["host.name"] == "node-7"


@pytest.mark.usefixtures("patient_sender")
def test_environment_names_the_collector_where_the_script_does_not(receiver, rows, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http:{receiver.address}")
    (sink,) = sinks_of("otlp")

    sink.write(rows(1)[0])
    sink.close(None)

    assert receiver.requests[0]["hw.energy", GPU][0] == 1e7


@pytest.mark.usefixtures("patient_sender")
def test_provider_of_the_program_is_not_touched(receiver, rows):
    from opentelemetry import metrics

    before = metrics.get_meter_provider()
    (sink,) = sinks_of(f"otlp:{receiver.address}")
    sink.write(rows(1)[0])
    sink.close(None)

    assert metrics.get_meter_provider() is before


def test_collector_that_is_away_is_told_of_and_gets_the_totals_later(receiver, rows, caplog):
    receiver.refusing = True
    (sink,) = sinks_of(f"otlp:{receiver.address}")
    first, second = rows(2)

    with pytest.raises(NotTakenError):
        sink.write(first)
    receiver.refusing = False
    sink.write(second)
    sink.close(None)

    assert receiver.requests[0]["hw.energy", GPU][0] == 2e7
    assert caplog.records == []


def test_a_collector_that_is_away_is_not_asked_again_at_the_end(rows, free_port):
    (sink,) = sinks_of(f"otlp://127.0.0.1:{free_port}")
    (row,) = rows(1)
    with pytest.raises(NotTakenError):
        sink.write(row)
    late = Receiver.__new__(Receiver)
    ThreadingHTTPServer.__init__(late, ("127.0.0.1", free_port), Handler)
    late.refusing, late.paths, late.resources, late.requests = False, [], [], []
    thread = threading.Thread(target=late.serve_forever, daemon=True)
    thread.start()

    sink.close(None)

    late.shutdown()
    late.server_close()
    assert late.requests == [], "the last row was sent when it was written"
