"""Ledgers of a simulated job, written by the real writer, for tests of everything that reads ledgers."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.audit.summary import summarise
from carbon_plugin.ledger.held.unobserved import UNOBSERVED_PHASE
from carbon_plugin.ledger.identity import agree_run
from carbon_plugin.ledger.records import (
    HEADS_EVENT,
    LEDGER_VERSION,
    Close,
    DeviceEnergy,
    Event,
    Manifest,
    Projection,
    Record,
    Span,
    Window,
)
from carbon_plugin.ledger.sums import RunningSums
from carbon_plugin.ledger.verification.heads import witnessed_by
from carbon_plugin.ledger.writer import LedgerWriter
from carbon_plugin.spec.metered import DeviceIdentity, Rung

RUN_START_UNIX_S = 1_760_000_000.0


@dataclass
class Attempt:
    """One start of the job: after which step it resumes, how many train windows it runs, how it ends."""

    resumes_after_step: int
    train_windows: int
    starts_after_s: float = 0.0
    closed: bool = True
    reserved_before_s: float | None = None


@dataclass
class Job:
    """A job of `nodes` x `gpus` with constant powers and a little noise; windows of 10 s, steps of 0.5 s."""

    nodes: int = 2
    gpus: int = 2
    gpu_share: float | None = None  # of MIG slices
    attempts: list[Attempt] = field(default_factory=lambda: [Attempt(0, 12, closed=False), Attempt(200, 12, 60.0)])
    gpu_power_w: float = 400.0
    host_power_w: float | None = 150.0
    step_time_s: float = 0.5
    window_s: float = 10.0
    tokens_per_step: int = 8192
    total_steps: int | None = 1000
    intensity_g_per_kwh: float | None = 50.0
    pue: float | None = 1.2
    factors: dict[str, Any] = field(default_factory=dict)
    forecast: dict[str, Any] | None = None
    prediction: dict[str, Any] | None = None
    predicted_step_time_s: float | None = 0.45
    noise: float = 0.02
    peak: tuple[int, int, float] | None = None  # node, train window of each attempt, factor of its power
    series: Callable[[float], float] | None = None  # the grid intensity of a site's series at a moment, g/kWh
    lost_gpu: tuple[int, int, int] | None = None  # node, gpu, from train window on, in the last attempt
    seed: int = 0

    def gpu_key(self, node: int, gpu: int) -> str:
        return f"GPU-{node:04d}-{gpu:04d}"

    def host_key(self, node: int) -> str:
        return f"boot-{node:04d}/host"

    def devices(self, node: int) -> list[DeviceIdentity]:
        devices = [
            DeviceIdentity(
                key=self.gpu_key(node, gpu),
                name="NVIDIA H100 80GB HBM3",
                rung="gpu",
                scope="gpu",
                meter="nvml",
                energy_kind="counter",
                ranks=[node * self.gpus + gpu],
                profile="h100-sxm",
                share=self.gpu_share,
            )
            for gpu in range(self.gpus)
        ]
        if self.host_power_w is not None:
            devices.append(
                DeviceIdentity(
                    key=self.host_key(node),
                    name="host without accelerators",
                    rung="host",
                    scope="host",
                    meter="host model",
                    energy_kind="modelled",
                    note="CPU utilisation times TDP, DRAM by capacity",
                )
            )
        return devices

    def write(self, run_dir: Path, start_unix_s: float = RUN_START_UNIX_S) -> list[Path]:
        """Write every ledger of the job; the files in the order node, attempt."""
        identity = agree_run(run_dir, name="simulated", run_id="a" * 32, programme="simulated-llm", role="final")
        paths = []
        for node in range(self.nodes):
            clock_s = start_unix_s
            for number, attempt in enumerate(self.attempts):
                clock_s += attempt.starts_after_s
                writer = LedgerWriter(run_dir, run_id=identity.run_id, node=node, attempt=number)
                records = self.records(identity.run_id, node, number, attempt, clock_s)
                seen = witnessed_by(run_dir, writer.path.name, node, self.nodes)
                if number:
                    data = {"heads": seen, "complete": True}
                    records.insert(1, Event(at_unix_s=clock_s, kind=HEADS_EVENT, message="ledgers", data=data))
                for record in records:
                    named = isinstance(record, Manifest)
                    writer.write(msgspec.structs.replace(record, file=writer.path.name) if named else record)
                writer.close()
                clock_s = max(r.start_unix_s + r.duration_s for r in records if isinstance(r, Window))
                paths.append(writer.path)
        return paths

    def records(self, run_id: str, node: int, number: int, attempt: Attempt, start_s: float) -> list[Record]:
        """Return all records of one file."""
        rng = random.Random(f"{self.seed}/{node}/{number}")
        manifest = Manifest(
            version=LEDGER_VERSION,
            run_id=run_id,
            attempt=number,
            node=node,
            nodes=self.nodes,
            host_key=f"boot-{node:04d}",
            hostname=f"node{node}",
            world_size=self.nodes * max(1, self.gpus),
            started_unix_s=start_s,
            reserved_since_unix_s=None if attempt.reserved_before_s is None else start_s - attempt.reserved_before_s,
            devices=self.devices(node),
            effective={"layout.dp_shard": {"value": 4, "source": "FSDP2 device mesh", "planned": 4, "detected": 4}},
            factors=self.factors,
            versions={"carbon_plugin": "0.1.0", "torch": "2.13.0"},
            total_steps=self.total_steps,
            tokens_per_step=self.tokens_per_step,
            forecast=self.forecast,
            prediction=self.prediction,
            assumptions=[{"field": "training.precision", "value": "bf16", "source": "the default of the test"}],
            host_share=max(1, self.gpus) / 8,
        )
        records: list[Record] = [manifest]
        now_s, step, index = start_s, attempt.resumes_after_step, 0
        steps_per_window = round(self.window_s / self.step_time_s)
        last = number == len(self.attempts) - 1

        def window(phase: str, duration_s: float, steps: int, load: float, train_window: int = 0) -> Window:
            nonlocal now_s, step, index
            energies = []
            if self.peak is not None and phase == "train" and (node, train_window) == self.peak[:2]:
                load *= self.peak[2]
            series = self.series(now_s) if self.series else None
            for gpu in range(self.gpus):
                lost = last and self.lost_gpu is not None and (node, gpu) == self.lost_gpu[:2]
                if lost and self.lost_gpu is not None and train_window >= self.lost_gpu[2]:
                    absent = DeviceEnergy(key=self.gpu_key(node, gpu), energy_j=None, kind="absent", note="GPU is lost")
                    energies.append(absent)
                    continue
                energy_j = self.gpu_power_w * load * duration_s * (1 + rng.gauss(0, self.noise))
                energies.append(
                    DeviceEnergy(
                        key=self.gpu_key(node, gpu),
                        energy_j=energy_j,
                        kind="counter",
                        low_j=0.95 * energy_j,
                        high_j=1.05 * energy_j,
                    )
                )
            if self.host_power_w is not None:
                energy_j = self.host_power_w * duration_s * (1 + rng.gauss(0, self.noise))
                host = DeviceEnergy(
                    key=self.host_key(node),
                    energy_j=energy_j,
                    kind="modelled",
                    low_j=0.6 * energy_j,
                    high_j=1.5 * energy_j,
                )
                energies.append(host)
            made = Window(
                index=index,
                phase=phase,  # type: ignore[arg-type]
                start_unix_s=now_s,
                duration_s=duration_s,
                energies=energies,
                steps=steps,
                last_step=step + steps,
                tokens=steps * self.tokens_per_step,
                intensity_g_per_kwh=self.intensity_g_per_kwh if series is None else series,
                intensity_origin=None if series is None else "series",
                pue=self.pue,
            )
            now_s, step, index = now_s + duration_s, step + steps, index + 1
            return made

        records.append(window("startup", 1.5 * self.window_s, 0, 0.25))
        for number_of_window in range(attempt.train_windows):
            records.append(window("train", self.window_s, steps_per_window, 1.0, number_of_window))
            measured_s = self.step_time_s * (1 + rng.gauss(0, self.noise))
            records.append(
                Span(
                    first_step=step - steps_per_window + 1,
                    last_step=step,
                    start_unix_s=now_s - self.window_s,
                    duration_s=measured_s * steps_per_window,
                    step_time_s=measured_s,
                    predicted_step_time_s=self.predicted_step_time_s,
                    gpu_energy_per_step_j=measured_s * self.gpu_power_w * self.gpus,
                    predicted_gpu_energy_per_step_j=0.45 * 380.0 * self.gpus if self.predicted_step_time_s else None,
                    boundary_error_s=0.05,
                )
            )
            if number_of_window % 5 == 4:
                records.append(window("evaluation", 0.6 * self.window_s, 0, 0.7, number_of_window))
                records.append(window("checkpoint", 0.5 * self.window_s, 0, 0.3, number_of_window))
        if node == 0:
            message = "planned tp 2, detected tp 1"
            records.append(Event(at_unix_s=now_s, kind="layout_difference", message=message, data={"field": "tp"}))
            records.append(
                Projection(
                    at_unix_s=now_s,
                    step=step,
                    total_steps=self.total_steps,
                    nodes_seen=self.nodes,
                    nodes=self.nodes,
                    spent_energy_j=1.0e6,
                    spent_carbon_kg=0.02,
                    energy_j=(3.0e6, 4.0e6, 5.0e6),
                    carbon_kg=(0.06, 0.08, 0.1),
                    remaining_s=300.0,
                )
            )
        if attempt.closed:
            windows = [record for record in records if isinstance(record, Window)]
            summed = RunningSums()
            for one in windows:
                summed.add(one)
            records.append(
                Close(
                    at_unix_s=now_s,
                    reason="finished",
                    steps=sum(w.steps for w in windows),
                    windows=len(windows),
                    energy_j=sum(e.energy_j or 0.0 for w in windows for e in w.energies),
                    sums=summed.sums,
                )
            )
        return records


def waited_j(run_dir: Path) -> float:
    """Return the energy that the audit of a run models for reserved time without records, J."""
    waited = summarise(run_dir).by_phase.get(UNOBSERVED_PHASE)
    return waited.energy_j if waited else 0.0


def recorded_j(summary: AuditSummary, rung: Rung) -> float:
    """Return the energy of a rung that the ledgers of a run recorded, J."""
    return sum(device.energy.energy_j for device in summary.devices if device.identity.rung == rung)
