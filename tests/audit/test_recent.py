"""The present power of a run is that of the time in which its devices were read."""

from __future__ import annotations

import pytest

from carbon_plugin.audit.live import live_view
from carbon_plugin.audit.recent import RecentWindows
from carbon_plugin.ledger.identity import agree_run
from carbon_plugin.ledger.records import LEDGER_VERSION, DeviceEnergy, Manifest, Window
from carbon_plugin.ledger.writer import LedgerWriter
from carbon_plugin.spec.metered import DeviceIdentity

GPUS = [
    DeviceIdentity(key=f"GPU-{n}", name="H100", rung="gpu", scope="gpu", meter="nvml", energy_kind="counter")
    for n in range(2)
]
START_S = 1_750_000_000.0


def manifest() -> Manifest:
    return Manifest(
        version=LEDGER_VERSION, run_id="a" * 32, attempt=0, node=0, nodes=1, host_key="boot", hostname="h",
        world_size=2, started_unix_s=START_S, reserved_since_unix_s=None, devices=GPUS, effective={}, factors={},
        versions={},
    )  # fmt: skip


def window(index: int, *watts: float | None) -> Window:
    """Return a window of ten seconds in which the GPUs drew this power, W, or could not be read."""
    return Window(
        index=index, phase="train", start_unix_s=START_S + 10 * index, duration_s=10.0,
        energies=[
            DeviceEnergy(key=gpu.key, energy_j=None if w is None else 10 * w, kind="absent" if w is None else "counter")
            for gpu, w in zip(GPUS, watts, strict=True)
        ],
        steps=10, last_step=10 * (index + 1), tokens=0, intensity_g_per_kwh=None, pue=None,
    )  # fmt: skip


def test_seconds_in_which_a_gpu_was_not_read_lower_no_power():
    recent = RecentWindows(60.0)
    for record in (manifest(), *(window(n, 600.0, 400.0 if n % 2 else None) for n in range(20))):
        recent.hear("node-0", record)

    power = recent.power()

    assert power is not None
    assert (power.machines_w, power.lasted_s) == (1000.0, 60.0)
    assert power.gpus_w == {"GPU-0": 600.0, "GPU-1": 400.0}


def test_only_the_last_minute_counts_and_ledgers_that_ended_before_it_do_not():
    recent = RecentWindows(60.0)
    for file, last, watts in (("node-0", 20, 600.0), ("earlier", 5, 300.0)):
        recent.hear(file, manifest())
        for n in range(last):
            recent.hear(file, window(n, 100.0 if n < last - 6 else watts, 0.0))

    power = recent.power()

    assert power is not None
    assert power.machines_w == pytest.approx(600.0)


def test_a_gpu_that_was_not_read_at_all_is_named_in_the_view(tmp_path):
    agree_run(tmp_path, name="job", run_id="a" * 32)
    writer = LedgerWriter(tmp_path, run_id="a" * 32, node=0, attempt=0)
    for record in (manifest(), *(window(n, 600.0, None) for n in range(20))):
        writer.write(record)
    writer.close()

    rows = dict(live_view(tmp_path).rows)

    assert rows["power"] == "600 W of all machines, without 1 GPU that was not read, mean of the last 1.00 min"
    assert rows["GPUs"] == "600 W, not read"
