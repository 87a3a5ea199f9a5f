"""One month of a fleet, computed by hand from the raw lines of its ledgers, without any code of this package."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.fleet_generator import Shape, write_fleet

PROFILES = Path(__file__).resolve().parents[2] / "hardware_profiles"
NODES = {"h100-sxm": "dgx-h100", "a100-sxm-80gb": "dgx-a100"}
YEAR_S = 365.25 * 86_400
KWH_J = 3.6e6
Three = tuple[float, float, float]


def three(document: dict[str, Any]) -> Three:
    value: float = document["value"]
    return value, document.get("low", value), document.get("high", value)


def files_of(run: Path) -> Iterator[list[dict[str, Any]]]:
    for path in sorted(run.glob("node-0.attempt-*.jsonl")):
        yield [json.loads(line.split(" ", 1)[1]) for line in path.read_text().splitlines()]


def by_hand(run: Path) -> tuple[str, dict[int, dict[str, float]]]:
    """Return the team of a run, and its sums by month (kWh, kg, h)."""
    role = json.loads((run / "run.json").read_text())["role"]
    months: dict[int, dict[str, float]] = {}
    items: dict[str, list[float]] = {}
    reserved_s, reached, ended = 0.0, 0, ""

    def add(at_s: float, **values: float) -> None:
        moment = datetime.fromtimestamp(at_s, UTC)
        sums = months.setdefault(100 * moment.year + moment.month, {})
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + value

    def count(scope: str, joules: Three) -> None:
        items[scope] = [one + more for one, more in zip(items.get(scope, (0.0, 0.0, 0.0)), joules, strict=True)]

    for records in files_of(run):
        manifest = records[0]
        start_s, since_s = manifest["started_unix_s"], manifest.get("reserved_since_unix_s")
        windows = [record for record in records if record["type"] == "window"]
        end_s = max(window["start_unix_s"] + window["duration_s"] for window in windows)
        ended = next((record["reason"] for record in records if record["type"] == "close"), "")
        profile = next(device["profile"] for device in manifest["devices"] if device["rung"] == "gpu")
        if since_s is not None:
            device = yaml.safe_load((PROFILES / "accelerators" / f"{profile}.yaml").read_text())
            node = yaml.safe_load((PROFILES / "nodes" / f"{NODES[profile]}.yaml").read_text())
            watts = three(device["idle_power_w"])
            watts = (*watts[:2], max(watts[2], device["idle_context_power_w"]["value"]))
            base, share = three(node["host"]["base_power_w"]), three(node["host"]["overhead_fraction"])
            host = tuple(b / 8 + o * w for b, o, w in zip(base, share, watts, strict=True))
            for scope, power in (("idle gpu", watts), ("idle host", host)):
                joules = tuple(2 * (start_s - since_s) * one for one in power)
                count(scope, joules)
                add(since_s, energy=joules[0], low=joules[1], high=joules[2], idle=joules[0])
            add(since_s, device_s=2 * (start_s - since_s))
            reserved_s += start_s - since_s
        reserved_s += end_s - start_s
        for window in windows:
            again = window["phase"] != "startup" and manifest["attempt"] > 0 and window["last_step"] <= reached
            kind = (
                "restart" if window["phase"] == "startup" and manifest["attempt"] > 0
                else "redone" if again and window.get("steps")
                else "idle" if window["phase"] == "idle" else "own"
            )  # fmt: skip
            for energy in window["energies"]:
                joules = (energy["energy_j"], energy["low_j"], energy["high_j"])
                gpu = energy["key"].startswith("GPU")
                count("gpu" if gpu else "host", joules)
                add(window["start_unix_s"], energy=joules[0], low=joules[1], high=joules[2])
                add(window["start_unix_s"], **{kind: joules[0], "measured": joules[0] if gpu else 0.0})
            add(window["start_unix_s"], device_s=2 * window["duration_s"])
        reached = max(reached, *(window["last_step"] for window in windows))
    factors = manifest["factors"]
    pue, intensity = three(factors["pue"]), three(factors["intensity"]["figure"])
    kilograms = sum(joules[0] for joules in items.values()) * pue[0] * intensity[0] / KWH_J / 1000
    years = reserved_s / YEAR_S
    embodied = factors["embodied_kg"]
    made = {part: embodied[part]["value"] for part in ("device", "host", "network")}
    embodied_kg = (
        years
        / factors["lifetime_years"]["value"]
        * (2 * made["device"] + 2 * made["network"] + manifest["host_share"] * made["host"])
    )
    failed = role == "failed" or ended.startswith("exception")
    whole_j = sum(sums["energy"] for sums in months.values())
    whole_s = sum(sums["device_s"] for sums in months.values())
    found = {}
    for month, sums in months.items():
        part = {name: sums.get(name, 0.0) for name in ("redone", "restart", "idle")}
        part["failed"] = sums.get("own", 0.0) if failed else 0.0
        location_kg = kilograms * sums["energy"] / whole_j
        found[month] = {
            "device_hours": sums["device_s"] / 3600,
            "facility_kwh": sums["energy"] * pue[0] / KWH_J,
            "location_kg": location_kg,
            "market_kg": location_kg,
            "embodied_kg": embodied_kg * sums["device_s"] / whole_s,
            "waste_operational_kg": kilograms * sum(part.values()) / whole_j,
            **{f"{name}_kwh": sums.get(name, 0.0) / KWH_J for name in ("energy", "measured", "low", "high")},
            **{f"waste_{name}_kwh": joules / KWH_J for name, joules in part.items()},
        }
    team: str = manifest["tags"]["team"]
    return team, found


def test_every_column_of_every_month_is_what_the_raw_ledgers_give_by_hand(tmp_path: Path) -> None:
    pytest.importorskip("ibis")
    from carbon_plugin.fleet.ingest import ingest
    from carbon_plugin.fleet.report import Asked, report
    from carbon_plugin.fleet.tables import _flat

    runs = write_fleet(tmp_path / "runs", 60, Shape(windows=20))
    expected: dict[tuple[str, str], dict[str, float]] = {}
    for run in runs:
        team, months = by_hand(run)
        for month, values in months.items():
            line = expected.setdefault((team, f"{month // 100}-{month % 100:02d}"), {"runs": 0.0})
            line["runs"] += 1
            for name, value in values.items():
                line[name] = line.get(name, 0.0) + value

    ingest([str(tmp_path / "runs")], str(tmp_path / "store"))
    lines = [_flat(line) for line in report(str(tmp_path / "store"), Asked(by=("team",))).lines]

    assert {(line["team"], line["month"]) for line in lines} == set(expected)
    for line in lines:
        for name, value in expected[line["team"], line["month"]].items():
            # Each run is rounded to whole millijoules, milliseconds and micrograms.
            assert line[name] == pytest.approx(value, rel=1e-9, abs=3e-9 * line["runs"]), (name, line)
