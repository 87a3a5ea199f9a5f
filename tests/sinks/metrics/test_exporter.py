"""The Prometheus endpoint, scraped over HTTP and parsed by the client library."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path
from urllib.request import urlopen

import pytest
from msgspec.structs import replace

from carbon_plugin.sinks.choose import sinks_of
from carbon_plugin.sinks.metrics.metric import METRICS, UCUM, Rising
from carbon_plugin.sinks.row import DeviceFigures
from tests.sinks.conftest import GPU, metrics

pytest.importorskip("prometheus_client", reason="prometheus_client is not installed; `make test` installs it")


def scraped(port: int) -> str:
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=240) as answer:
        return answer.read().decode()


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    from prometheus_client.parser import text_string_to_metric_families

    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def of(text: str, name: str) -> dict[str, float]:
    """Return the values of a metric by run."""
    return {dict(labels)["run_id"]: value for (found, labels), value in samples(text).items() if found == name}


@pytest.fixture
def exposed(rows, free_port) -> str:
    (sink,) = sinks_of(f"prometheus://127.0.0.1:{free_port}?team=nlp&cluster=a")
    for row in rows(2):
        sink.write(row)
    return scraped(free_port)


def test_every_figure_of_a_row_has_a_metric_and_every_metric_a_known_unit():
    assert {f"carbon/{family.key}" for family in METRICS} == set(metrics(1))
    assert {family.unit for family in METRICS} <= set(UCUM)
    assert len({family.prometheus_name for family in METRICS}) == len(METRICS)


def test_scrape_has_the_last_row_in_base_units(exposed):
    assert of(exposed, "carbon_plugin_energy_joules_total") == {"run-1": pytest.approx(5.0 * 3.6e6)}
    assert of(exposed, "carbon_plugin_emissions_grams_total") == {"run-1": pytest.approx(2400.0)}
    assert of(exposed, "carbon_plugin_power_watts") == {"run-1": 720.0}
    assert of(exposed, "carbon_plugin_projected_energy_low_joules") == {"run-1": pytest.approx(45.0 * 3.6e6)}
    assert of(exposed, "carbon_plugin_remaining_seconds") == {"run-1": 7200.0}
    assert of(exposed, "carbon_plugin_step") == {"run-1": 20.0}
    assert of(exposed, "carbon_plugin_planned_steps") == {"run-1": 200.0}
    assert of(exposed, "carbon_plugin_last_window_timestamp_seconds") == {"run-1": 1.75e9 + 20}


def test_devices_of_the_run_have_metrics_by_their_key(exposed):
    found = {
        dict(labels)["device"]: value
        for (name, labels), value in samples(exposed).items()
        if name == "carbon_plugin_run_device_energy_joules_total"
    }

    assert found == {GPU: 2e7, "boot/host": 2e6}


def test_labels_of_the_address_are_on_every_metric(exposed):
    assert {(dict(labels)["team"], dict(labels)["cluster"]) for _, labels in samples(exposed)} == {("nlp", "a")}


def test_counters_never_fall_when_a_figure_is_corrected_or_the_training_begins_again(rows, free_port):
    address = f"prometheus://127.0.0.1:{free_port}"
    (first,), (second,) = sinks_of(address), sinks_of(address)
    low, high = rows(2)

    first.write(high)
    assert of(scraped(free_port), "carbon_plugin_power_watts") == {"run-1": 720.0}
    first.close(None)
    second.write(low)  # another attempt in this process, whose meters tell less
    text = scraped(free_port)

    assert of(text, "carbon_plugin_energy_joules_total") == {"run-1": pytest.approx(5.0 * 3.6e6)}
    assert of(text, "carbon_plugin_power_watts") == {"run-1": 710.0}


def test_run_that_has_ended_keeps_its_totals_and_says_so(rows, free_port):
    (sink,) = sinks_of(f"prometheus://127.0.0.1:{free_port}")

    sink.write(rows(1)[0])
    assert of(scraped(free_port), "carbon_plugin_run_active") == {"run-1": 1.0}
    sink.close(None)
    text = scraped(free_port)

    assert of(text, "carbon_plugin_run_active") == {"run-1": 0.0}
    assert of(text, "carbon_plugin_energy_joules_total") == {"run-1": pytest.approx(2.5 * 3.6e6)}


def test_two_runs_of_a_process_share_an_endpoint(rows, free_port, tmp_path):
    address = f"prometheus://127.0.0.1:{free_port}"

    for run_id in ("a", "b"):
        (sink,) = sinks_of(address)
        sink.write(rows(1, run_id, tmp_path / run_id)[0])

    assert set(of(scraped(free_port), "carbon_plugin_energy_joules_total")) == {"a", "b"}


def test_unknown_figure_has_no_sample(rows, free_port):
    (sink,) = sinks_of(f"prometheus://127.0.0.1:{free_port}")
    (row,) = rows(1)

    sink.write(replace(row, metrics={"carbon/energy_kwh": 1.0}, run=replace(row.run, total_steps=None)))
    text = scraped(free_port)

    assert of(text, "carbon_plugin_energy_joules_total") == {"run-1": 3.6e6}
    assert of(text, "carbon_plugin_operational_emissions_grams_total") == {}
    assert "carbon_plugin_emissions" not in text


def test_promtool_finds_nothing_in_a_scrape(exposed):
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed")

    done = subprocess.run(["promtool", "check", "metrics"], input=exposed, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_port_in_use_is_an_error_of_the_sink(rows, free_port):
    (sink,) = sinks_of(f"prometheus://127.0.0.1:{free_port}")

    with socket.create_server(("127.0.0.1", free_port)), pytest.raises(OSError, match="in use"):
        sink.write(rows(1)[0])


def test_forked_child_leaves_the_port_to_its_parent(rows, free_port):
    (sink,) = sinks_of(f"prometheus://127.0.0.1:{free_port}")
    sink.write(rows(1)[0])
    held, release = os.pipe()

    child = os.fork()
    if child == 0:
        sink.forget()
        os.close(release)
        os.read(held, 1)  # it outlives the exporter of its parent
        os._exit(0)
    os.close(held)
    from carbon_plugin.sinks.metrics.exporter import PrometheusSink

    assert isinstance(sink, PrometheusSink)
    sink._exporter.close()
    with socket.create_server(("127.0.0.1", free_port)) as server:
        assert server.getsockname()[1] == free_port
    os.close(release)
    os.waitpid(child, 0)


@pytest.mark.parametrize("values", [[1.0, 3.0, 2.0, 4.0], [0.0, 0.0], [5.0, -1.0]])
def test_rising_value_is_the_highest_so_far(values):
    rising = Rising()

    assert [rising.value(("a",), value) for value in values] == [max(values[: n + 1]) for n in range(len(values))]


def test_device_of_a_node_has_metrics_without_a_run(free_port):
    from carbon_plugin.sinks.metrics.exporter import Endpoint, Exporter

    exporter = Exporter(Endpoint(port=free_port))
    device = DeviceFigures(key=GPU, name="H100", rung="gpu", energy_j=5.0, power_w=7.0, energy_kind="counter")
    exporter.exposition.show_devices("node-7", [device])
    text = scraped(exporter.port)
    exporter.close()

    labels = (("device", GPU), ("host", "node-7"), ("model", "H100"), ("rung", "gpu"))
    assert samples(text) == {
        ("carbon_plugin_device_energy_joules_total", labels): 5.0,
        ("carbon_plugin_device_power_watts", labels): 7.0,
    }


def test_page_of_prometheus_lists_every_metric():
    page = (Path(__file__).resolve().parents[3] / "docs" / "prometheus.md").read_text()

    for family in METRICS:
        assert f"`{family.prometheus_name}{'_total' if family.counter else ''}`" in page
