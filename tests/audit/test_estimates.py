"""Energy that stands for what a meter could not tell: in every total, and beside what was measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from carbon_plugin.audit.report.page import render_html
from carbon_plugin.audit.report.text import render_text
from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.audit.sentences.narrative import opening, warnings
from carbon_plugin.audit.sentences.phrases import gaps
from carbon_plugin.audit.summary import summarise
from carbon_plugin.ledger.identity import agree_run
from carbon_plugin.ledger.records import BELOW_GPUS_EVENT, Close, DeviceEnergy, Event, Manifest, Record, Window
from carbon_plugin.ledger.writer import LedgerWriter
from carbon_plugin.monitor.ledgers.file_totals import FileTotals
from carbon_plugin.monitor.run.totals import RunTotals, run_totals
from carbon_plugin.spec.metered import DeviceIdentity

SOUND = "GPU-sound"
LOST = "GPU-lost"
MEASURED = DeviceEnergy(key=LOST, energy_j=100.0, kind="counter")
ESTIMATED = DeviceEnergy(key=LOST, energy_j=110.0, kind="modelled", low_j=60.0, high_j=150.0, estimated_j=110.0)
REPLACED = DeviceEnergy(key=LOST, energy_j=90.0, kind="counter", estimated_j=-110.0)
"""The counter tells 200 J of the last two windows, of which 110 J had been estimated."""


def ledger(run_dir: Path, *lost: DeviceEnergy) -> tuple[AuditSummary, RunTotals]:
    """Return the audit and the live totals of a run of two GPUs, one of which has these energies in its windows."""
    identity = agree_run(run_dir, name="run", run_id="b" * 32)
    devices = [
        DeviceIdentity(key=key, name="H100", rung="gpu", scope="gpu", meter="nvml", energy_kind="counter")
        for key in (SOUND, LOST)
    ]
    records: list[Record] = [
        Manifest(
            version=1, run_id=identity.run_id, attempt=0, node=0, nodes=1, host_key="boot", hostname="h", world_size=2,
            started_unix_s=1000.0, reserved_since_unix_s=None, devices=devices, effective={}, factors={}, versions={},
        )
    ]  # fmt: skip
    for index, energy in enumerate(lost):
        records.append(
            Window(
                index=index, phase="train", start_unix_s=1000.0 + 10 * index, duration_s=10.0, steps=1, tokens=0,
                energies=[DeviceEnergy(key=SOUND, energy_j=100.0, kind="counter"), energy], last_step=index + 1,
                intensity_g_per_kwh=None, pue=None,
            )
        )  # fmt: skip
    energy_j = sum(energy.energy_j or 0 for energy in lost) + 100.0 * len(lost)
    close = Close(at_unix_s=1040.0, reason="closed", steps=len(lost), windows=len(lost), energy_j=energy_j)
    writer, live = LedgerWriter(run_dir, run_id=identity.run_id, node=0), FileTotals()
    for record in [*records, close]:
        writer.write(record)
        live.add(record)
    writer.close()
    return summarise(run_dir), run_totals({writer.path.name: live}, attempt_started_s=0.0)


def test_a_gpu_lost_for_good_is_estimated_beside_what_was_measured(tmp_path):
    summary, live = ledger(tmp_path, MEASURED, ESTIMATED, ESTIMATED)
    gpu = summary.by_rung["gpu"]
    lost = next(device for device in summary.devices if device.identity.key == LOST)

    assert (gpu.energy_j, gpu.measured_j, gpu.estimated_j) == (620, 400, 220)
    assert (lost.energy.measured_j, lost.energy.estimated_j) == (100, 220)
    assert (gpu.low_j, gpu.high_j) == (520, 700)
    assert (live.energy_j, live.used.remaining_estimate_j) == (620, 220)


def test_an_estimate_is_said_wherever_the_total_is(tmp_path):
    summary, _ = ledger(tmp_path, MEASURED, ESTIMATED, ESTIMATED)
    text = render_text(summary)

    assert "35.5 % estimated for GPUs that could not be read" in opening(summary)
    said = "220 J in the totals are an estimate for 1 GPU that could not be read: GPU-lost beside 100 J"
    assert any(warning.startswith(said) for warning in warnings(summary))
    assert "measured 400 J, estimated 220 J" in text
    assert "measured 400 J, estimated 220 J" in render_html(summary)
    assert "energy of 1 of 2 GPUs is partly an estimate" in text.splitlines()[-1]


def test_an_estimate_that_a_measurement_replaced_is_said_nowhere(tmp_path):
    summary, live = ledger(tmp_path, MEASURED, ESTIMATED, REPLACED)
    gpu, text = summary.by_rung["gpu"], render_text(summary)

    assert (gpu.energy_j, gpu.measured_j, gpu.estimated_j) == (600, 600, 0)
    assert (live.energy_j, live.used.remaining_estimate_j) == (600, 0)
    assert "estimate" not in text
    assert "in no total" not in "".join(warning for warning in warnings(summary) if "GPU" in warning)
    assert not gaps(summary)


def test_a_gpu_that_nothing_tells_of_is_in_the_verdict(tmp_path):
    summary, _ = ledger(tmp_path, MEASURED, DeviceEnergy(key=LOST, energy_j=None, kind="absent"))

    assert gaps(summary) == ["1 of 2 GPUs could not be read all the time"]


def test_parts_of_a_window_share_its_estimate(tmp_path):
    half = DeviceEnergy(key=LOST, energy_j=100.0, kind="modelled", estimated_j=40.0)
    summary, _ = ledger(tmp_path, MEASURED, half)

    assert summary.by_rung["gpu"].measured_j == pytest.approx(360)
    assert summary.by_rung["gpu"].estimated_j == 40


def test_an_estimated_host_is_named_with_the_fault_of_its_meter(tmp_path):
    """The node meter told 155 W beside GPUs that drew 2,400 W; every GPU was read."""
    identity, host = agree_run(tmp_path, name="run", run_id="b" * 32), "boot/host"
    devices = [
        DeviceIdentity(key=SOUND, name="H100", rung="gpu", scope="gpu", meter="nvml", energy_kind="counter"),
        DeviceIdentity(key=host, name="host", rung="host", scope="host", meter="ipmi", energy_kind="power_integrated"),
    ]
    energies = [
        DeviceEnergy(key=SOUND, energy_j=24000.0, kind="counter"),
        DeviceEnergy(key=host, energy_j=8000.0, kind="modelled", low_j=6e3, high_j=1e4, estimated_j=8000.0),
    ]
    records = [
        Manifest(
            version=1, run_id=identity.run_id, attempt=0, node=0, nodes=1, host_key="boot", hostname="h", world_size=1,
            started_unix_s=1000.0, reserved_since_unix_s=None, devices=devices, effective={}, factors={}, versions={},
            ranks_without_gpu=[0],
        ),
        Event(
            at_unix_s=1005.0, kind=BELOW_GPUS_EVENT, data={"key": host},
            message=f"{host}: the node meter tells 155 W while the GPUs inside the node draw 2400 W; it is estimated",
        ),
        Window(
            index=0, phase="train", start_unix_s=1000.0, duration_s=10.0, steps=1, tokens=0, energies=energies,
            last_step=1, intensity_g_per_kwh=None, pue=None,
        ),
        Close(at_unix_s=1010.0, reason="closed", steps=1, windows=1, energy_j=32000.0),
    ]  # fmt: skip
    writer = LedgerWriter(tmp_path, run_id=identity.run_id, node=0)
    for record in records:
        writer.write(record)
    writer.close()
    summary = summarise(tmp_path)
    text = render_text(summary)

    assert "25 % estimated for the host, whose meter could not be used" in opening(summary)
    assert "that could not be read" not in text
    assert "an estimate for 1 host that has a meter that could not be used: boot/host" in text
    assert "(the node meter tells 155 W while the GPUs inside the node draw 2400 W), which cannot be" in text
    assert "energy of 1 of 1 host is an estimate" in text.splitlines()[-1]
    assert "No rank computed on 1 of 1 GPU, by what the ranks say" in text
