"""Rows of a run as the monitor hands them to sinks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from carbon_plugin.sinks.row import DeviceFigures, Row, RunDescription
from tests.sinks.metrics.receiver import Receiver

GPU = "GPU-5ed5f5a1-0000-0000-0000-000000000001"


def metrics(step: int) -> dict[str, float]:
    """Return figures that grow with the step, with all keys that a row can have."""
    energy_kwh = 0.25 * step
    figures = {
        "energy_kwh": energy_kwh, "estimated_energy_kwh": 0.01 * step, "power_w": 700.0 + step, "step_time_s": 1.25,
        "predicted_step_time_s": 1.0, "step_time_ratio": 1.25, "coverage_gpus": 0.5, "remaining_h": 2.0,
        "budget_share": 0.4, "measured_share": 0.75, "projected_by_rates": 1.0,
        "operational_kg": 0.1 * step, "embodied_kg": 0.02 * step, "total_kg": 0.12 * step,
    }  # fmt: skip
    for key, value in (("energy_kwh", 50.0), ("operational_kg", 20.0), ("embodied_kg", 4.0), ("total_kg", 24.0)):
        figures |= {
            f"projected_{key}": value,
            f"projected_{key}_low": 0.9 * value,
            f"projected_{key}_high": 1.1 * value,
        }
    return {f"carbon/{key}": value for key, value in figures.items()}


@pytest.fixture
def rows(tmp_path) -> Callable[..., list[Row]]:
    """Return a function that makes rows: `rows(3)` has three rows, of steps 10, 20 and 30 of a run in `tmp_path /
    "run"`.
    """

    def some(number: int, run_id: str = "run-1", run_dir: Path = tmp_path / "run") -> list[Row]:
        run_dir.mkdir(exist_ok=True)
        run = RunDescription(
            run_id=run_id, name="llama", run_dir=run_dir, hostname="node-7", total_steps=200, programme="Llama",
            params={"layout.tp": 8, "model.name": "llama-3-8b", "training.precision": "bf16"},
        )  # fmt: skip
        found = []
        for step in range(10, 10 * number + 1, 10):
            device = DeviceFigures(
                key=GPU,
                name="NVIDIA H100",
                rung="gpu",
                energy_j=1e6 * step,
                power_w=600.0 + step,
                energy_kind="counter",
            )
            host = DeviceFigures(
                key="boot/host", name="host", rung="host", energy_j=1e5 * step, power_w=100.0, energy_kind="modelled"
            )
            found.append(
                Row(
                    step=step,
                    at_unix_s=1.75e9 + step,
                    metrics=metrics(step),
                    run=run,
                    head=f"{step:032x}",
                    devices=(device, host),
                )
            )
        return found

    return some


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Start a receiver of OTLP that decodes and keeps what it is sent."""
    pytest.importorskip("opentelemetry.sdk", reason="opentelemetry-sdk is not installed; `make test` installs it")
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def patient_sender(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for a receiver as long as a busy machine takes. One that refuses would be asked again for as long."""
    monkeypatch.setattr("carbon_plugin.sinks.metrics.otlp._TIMEOUT_S", 60)
