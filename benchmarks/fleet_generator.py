"""Write the ledgers of a fleet that never ran: any number of runs, always the same ones, in the real format.

    python benchmarks/fleet_generator.py DIR --runs 3000

Lines are chained as the real writer chains them, so that every ledger verifies. Teams, programmes, roles, hardware and
regions follow from the number of a run. Runs start over a year from 2025-07-01 on. Some are killed, restart, waste
steps or fail, as runs do.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from carbon_plugin.footprint.run_factors import resolve_factors
from carbon_plugin.ledger import chain
from carbon_plugin.ledger.codec import encode_record
from carbon_plugin.ledger.files import ledger_name
from carbon_plugin.ledger.records import Close, DeviceEnergy, Manifest, Record, RunIdentity, Window
from carbon_plugin.ledger.sums import RunningSums
from carbon_plugin.spec.hardware.cluster import Cluster
from carbon_plugin.spec.hardware.profiles import default_node_for, load_accelerator
from carbon_plugin.spec.metered import DeviceIdentity
from carbon_plugin.spec.site import Site

START_UNIX_S = 1_751_328_000.0  # 2025-07-01 00:00 UTC
YEAR_S = 365 * 86_400.0
TEAMS = ("language", "vision", "speech", "search", "robotics")
PROGRAMMES = ("atlas-7b", "atlas-70b", "iris", "echo", "scout", "forge")
ROLES = ("final", "ablation", "sweep", "sweep", "evaluation", "failed")
REGIONS = ("USA", "FRA", "SWE", "IND")
HARDWARE = {"h100-sxm": "NVIDIA H100 80GB HBM3", "a100-sxm-80gb": "NVIDIA A100-SXM4-80GB"}
HOSTS = 20  # one after the other, runs use the same machines
POWER_W = {"h100-sxm": 560.0, "a100-sxm-80gb": 330.0}


@dataclass(frozen=True)
class Shape:
    """One shape says how large each run is."""

    gpus: int = 2
    windows: int = 20
    window_s: float = 60.0


def write_fleet(root: Path, runs: int, shape: Shape | None = None, seed: int = 0) -> list[Path]:
    """Write `runs` run directories below `root`, by team, and return them."""
    return [write_run(root, number, shape or Shape(), seed) for number in range(runs)]


def write_run(root: Path, number: int, shape: Shape, seed: int = 0) -> Path:
    """Write the run of a number, and return its directory."""
    rng = random.Random(f"{seed}/{number}")
    team = TEAMS[number % len(TEAMS)]
    directory = root / team / f"run-{number:06d}"
    directory.mkdir(parents=True, exist_ok=True)
    run_id = f"{seed:08x}{number:024x}"
    programme, role = PROGRAMMES[number % len(PROGRAMMES)], ROLES[number % len(ROLES)]
    start_s = START_UNIX_S + rng.random() * YEAR_S
    identity = RunIdentity(
        version=1, run_id=run_id, created_unix_s=start_s, name=f"{programme}-{number}", programme=programme, role=role
    )
    (directory / "run.json").write_bytes(msgspec.json.encode(identity))
    restarts = rng.random() < 0.1
    records = _records(number, run_id, team, role, start_s, shape, rng)
    (directory / ledger_name(0, 0)).write_bytes(_lines(run_id, records))
    if restarts:  # on the same host, from a checkpoint before the end
        window = next(record for record in reversed(records) if isinstance(record, Window))
        again_s = window.start_unix_s + window.duration_s + 120.0
        more = _records(number, run_id, team, role, again_s, shape, rng, attempt=1, step=max(0, window.last_step - 40))
        (directory / ledger_name(0, 1)).write_bytes(_lines(run_id, more))
    return directory


def _lines(run_id: str, records: list[Record]) -> bytes:
    link, lines = chain.seed(run_id), []
    for record in records:
        payload = encode_record(record)
        link = chain.extend(link, payload)
        lines.append(chain.join_line(link, payload))
    return b"".join(lines)


@cache
def factors_of(region: str, hardware: str) -> dict[str, Any]:
    """Return the factors of a site on a node of eight accelerators, as a manifest holds them."""
    accelerator = load_accelerator(hardware)
    node = default_node_for(accelerator)
    cluster = Cluster(accelerator=accelerator, node=node, nodes=1, devices_per_node=8)
    plain: dict[str, Any] = msgspec.to_builtins(resolve_factors(Site(zone=region, pue=1.2), cluster))
    return plain


def _records(
    number: int,
    run_id: str,
    team: str,
    role: str,
    start_s: float,
    shape: Shape,
    rng: random.Random,
    attempt: int = 0,
    step: int = 0,
) -> list[Record]:
    hardware = list(HARDWARE)[number % len(HARDWARE)]
    region = REGIONS[(number // 3) % len(REGIONS)]
    factors = factors_of(region, hardware)
    intensity, pue = factors["intensity"]["figure"]["value"], factors["pue"]["value"]
    host = f"boot-{number:06d}/host"
    gpus = [f"GPU-{number % HOSTS:06d}-{gpu:02d}" for gpu in range(shape.gpus)]
    named = [
        DeviceIdentity(
            key=key, name=HARDWARE[hardware], rung="gpu", scope="gpu", meter="nvml", energy_kind="counter",
            ranks=[place], profile=hardware,
        )
        for place, key in enumerate(gpus)
    ]  # fmt: skip
    named.append(
        DeviceIdentity(key=host, name="host", rung="host", scope="host", meter="model", energy_kind="modelled")
    )
    name = ledger_name(0, attempt)
    manifest = Manifest(
        version=1, run_id=run_id, attempt=attempt, node=0, nodes=1, host_key=f"boot-{number:06d}",
        hostname=f"node-{number % HOSTS}", world_size=shape.gpus,
        started_unix_s=start_s, reserved_since_unix_s=start_s - 45.0 if attempt == 0 else None,
        devices=named, effective={"layout.dp_shard": {"value": shape.gpus, "source": "mesh"}}, factors=factors,
        versions={"carbon_plugin": "0.1.0"}, total_steps=10 * shape.windows, tokens_per_step=8192,
        host_share=shape.gpus / 8, file=name,
        tags={"team": team, "project": f"project-{number % 11}", "user": f"user-{number % 40}"},
    )  # fmt: skip
    records: list[Record] = [manifest]
    sums, now_s = RunningSums(), start_s
    power_w = POWER_W[hardware]
    for index in range(shape.windows):
        phase = "startup" if index == 0 else "idle" if index % 17 == 16 else "train"
        load = 0.3 if phase == "startup" else 0.2 if phase == "idle" else 1.0
        energies = []
        for key in gpus:
            energy_j = round(power_w * load * shape.window_s * (1 + rng.gauss(0, 0.02)), 3)
            energies.append(_energy(key, energy_j, "counter", 0.95, 1.05))
        energies.append(
            _energy(host, round(120.0 * shape.window_s * (1 + rng.gauss(0, 0.05)), 3), "modelled", 0.6, 1.5)
        )
        steps = 10 if phase == "train" else 0
        step += steps
        window = Window(
            index=index, phase=phase, start_unix_s=now_s, duration_s=shape.window_s, energies=energies, steps=steps,
            last_step=step, tokens=8192 * steps, intensity_g_per_kwh=intensity, pue=pue, intensity_origin="static",
        )  # fmt: skip
        sums.add(window)
        records.append(window)
        now_s += shape.window_s
    if rng.random() < 0.9:
        reason = "exception: RuntimeError" if role == "failed" else "closed"
        records.append(
            Close(
                at_unix_s=now_s, reason=reason, steps=sums.steps, windows=sums.windows, energy_j=sums.energy_j,
                sums=sums.sums,
            )
        )  # fmt: skip
    return records


def _energy(key: str, energy_j: float, kind: Any, low: float, high: float) -> DeviceEnergy:
    return DeviceEnergy(key=key, energy_j=energy_j, kind=kind, low_j=low * energy_j, high_j=high * energy_j)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--runs", type=int, default=3000)
    parser.add_argument("--gpus", type=int, default=2)
    parser.add_argument("--windows", type=int, default=20)
    arguments = parser.parse_args()
    write_fleet(arguments.directory, arguments.runs, Shape(gpus=arguments.gpus, windows=arguments.windows))
