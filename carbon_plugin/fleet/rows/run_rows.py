"""Turn the ledgers of one run directory into rows of a store, by the audit's own pass and accounting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from carbon_plugin.audit.findings.run import Attempt, Period
from carbon_plugin.audit.tally.account.accounting import run_energy, unobserved_sums
from carbon_plugin.audit.tally.account.overview import coverage_of, leading_manifest, period_of, progress_of
from carbon_plugin.audit.tally.account.reservations import reserved_time, shared_by_device
from carbon_plugin.audit.tally.documents import read_forecast
from carbon_plugin.audit.tally.file_pass import FilePass
from carbon_plugin.audit.tally.parts import pass_over
from carbon_plugin.audit.tally.sums.energy_sums import energy_of
from carbon_plugin.errors import LedgerError
from carbon_plugin.fleet.rows.hour_rows import Columns, hour_columns
from carbon_plugin.fleet.rows.hours import HourCollector
from carbon_plugin.fleet.rows.run_carbon import RunMicrograms, carbon_of
from carbon_plugin.fleet.rows.run_places import SCOPES, UNSTATED, factors_by_launch, place_of
from carbon_plugin.fleet.store.schema import (
    ENDS,
    MJ_PER_J,
    MS_PER_S,
    RANGED,
    STATIC,
    SUMS,
    TAGS,
    UG_PER_KG,
    month_number,
)
from carbon_plugin.footprint.factors.grid import describe_basis
from carbon_plugin.footprint.values import BUILDING, Factors, Footprint
from carbon_plugin.ledger.held.holdings import gpus_of
from carbon_plugin.ledger.identity import read_identity
from carbon_plugin.ledger.records import Manifest, RunIdentity
from carbon_plugin.ledger.verification.verify import combine_checks, files_by_start

FAILED_ENDS = ("exception", "failed")
"""An attempt whose end begins with one of these words did not reach what it was started for."""

EMBODIED_PARTS = ("device", "host", "network", BUILDING)

Row = dict[str, Any]


class RunRows(Struct, frozen=True, kw_only=True):
    """The rows of one run directory by table, the hourly ones as columns, and what identifies the directory.

    `fingerprints` are those of the first windows of its files, and `records` is the number of its lines.
    """

    run: int
    run_id: str
    start_s: float
    end_s: float
    records: int
    fingerprints: list[str]
    tables: dict[str, list[Row]]
    hours: Columns


def rows_of(directory: Path, place: str, content: str, processes: int | None = None) -> RunRows:
    """Return the rows of the run in a directory. `place` is the name of the directory in the store.

    `processes` share the work; by default their number follows from the size of the ledgers.

    Raises `LedgerError` for ledgers that cannot be read, come from another program or version, or contradict
    themselves.
    """
    paths = files_by_start(directory)
    identity = read_identity(directory)
    passed = pass_over(paths, identity.run_id if identity else None, processes=processes, collector=HourCollector)
    collected = passed.collected
    assert isinstance(collected, HourCollector)
    checks = combine_checks(directory, passed.ledgers)
    if not checks.ok:
        more = len(checks.all_problems) - 1
        raise LedgerError(f"{checks.all_problems[0]}{f' (and {more} more)' if more else ''}")
    manifest = leading_manifest(collected.files)
    fingerprints = sorted({one.fingerprint for one in passed.ledgers if one.fingerprint})
    run_id = manifest.run_id
    run = number_of(run_id, fingerprints[0] if fingerprints else place)
    period = period_of(collected)
    reserved, unobserved = reserved_time(collected.files)
    used = run_energy(collected, unobserved)
    factors = next(file.factors for file in collected.files if file.manifest is manifest)
    collected.unobserved = unobserved_sums(unobserved, used.idle_factors(factors))
    energy = energy_of(chain.from_iterable(collected.by_phase().values()))
    carbon = carbon_of(used, collected.files, reserved, factors) if energy.is_known else None
    collected.add_unobserved(reserved.before_first_record_s)
    hours = hour_columns(run, collected, energy, reserved, factors, carbon)
    recorded = _recorded_factors(collected.files)
    first_month = month_number(period.start_unix_s)
    run_row = _run_row(collected, manifest, identity, period, factors, carbon)
    run_row |= {"run": run, "place": place, "content": content, "month": first_month, "state": checks.state}
    run_row |= {f"run_{name}": sum(hours.get(name, ())) for name in (*SUMS, "unobserved_mj")}
    run_row["unobserved"] = msgspec.json.encode(unobserved.time).decode() if unobserved.used else ""
    return RunRows(
        run=run,
        run_id=run_id,
        start_s=period.start_unix_s,
        end_s=period.end_unix_s,
        records=sum(one.check.records for one in passed.ledgers),
        fingerprints=fingerprints,
        tables={
            "run": [run_row],
            "attempt": [_attempt_row(run, attempt, recorded, collected.files) for attempt in period.attempts],
            "node": _node_rows(run, collected),
            "device": _device_rows(run, collected, factors, first_month),
            "factor": [
                {"factors": digest, "document": msgspec.json.encode(document).decode()}
                for digest, document in sorted(recorded.values(), key=lambda pair: pair[0])
                if document
            ],
        },
        hours=hours,
    )


def number_of(*texts: str) -> int:
    """Return a number of 63 bits that identifies some texts."""
    digest = blake2b("\0".join(texts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _run_row(
    collected: HourCollector,
    manifest: Manifest,
    identity: RunIdentity | None,
    period: Period,
    factors: Factors | None,
    carbon: RunMicrograms | None,
) -> Row:
    coverage = coverage_of(collected)
    progress = progress_of(collected.files, manifest)
    forecast = read_forecast(manifest.forecast)
    ended = period.attempts[-1].ended
    role = identity.role if identity else None
    basis = factors.intensity.basis if factors else None
    places = dict.fromkeys(place_of(one or factors) for one in factors_by_launch(collected).values())
    tags = {tag: manifest.tags.get(tag) or UNSTATED for tag in TAGS}
    return {
        "run_id": manifest.run_id,
        "name": identity.name if identity else manifest.run_id,
        **tags,
        "programme": (identity.programme if identity else None) or UNSTATED,
        "role": role or UNSTATED,
        "hardware": _hardware(collected, manifest),
        "region": " and ".join(place[0] for place in places),
        "region_name": " and ".join(place[1] for place in places),
        "basis": describe_basis(basis) if basis else UNSTATED,
        "factors": _digest(manifest.factors) if factors else UNSTATED,
        "g_per_kwh": factors.intensity.figure.value if factors else None,
        "pue": factors.pue.value if factors else None,
        "scope": (carbon.scope if carbon else None) or UNSTATED,
        **{f"run_{part}_ug": carbon.parts_ug.get(part, 0) if carbon else 0 for part in EMBODIED_PARTS},
        "start_ms": round(MS_PER_S * period.start_unix_s),
        "end_ms": round(MS_PER_S * period.end_unix_s),
        "ended": ended or "",
        "failed": int(role == "failed" or (ended or "").startswith(FAILED_ENDS)),
        **{f"has_{scope}": int(carbon is not None and scope in carbon.located_ug) for scope in SCOPES},
        "has_embodied": int(carbon is not None and carbon.embodied_ug > 0),
        "has_market": int(carbon is not None and carbon.market_ug is not None),
        **{
            f"{end}_{name}": ratio
            for name in RANGED
            for end, ratio in zip(ENDS, (carbon.ends if carbon else {}).get(name, (1.0, 1.0)), strict=True)
        },
        "attempts": len(period.attempts),
        "nodes": coverage.nodes,
        "nodes_seen": coverage.nodes_seen,
        "gpus": coverage.gpus,
        "gpus_seen": coverage.gpus_seen,
        "steps": progress.steps,
        "tokens": progress.tokens,
        "stalled_ms": round(MS_PER_S * period.stalled_s),
        **_forecast(forecast.footprint if forecast else None, carbon),
        "forecast_mj": round(MJ_PER_J * it.value)
        if forecast and (it := forecast.footprint.energy_j.get("it"))
        else None,
    }


def _forecast(planned: Footprint | None, carbon: RunMicrograms | None) -> dict[str, int | None]:
    """Return the forecast and the actual carbon in micrograms. Both are totals, or operational carbon where one side
    does not know the manufacture of the hardware.
    """
    if planned is None or carbon is None:
        return {"forecast_ug": None, "actual_ug": None}
    if planned.total_kg is None or not carbon.parts_ug:
        return {"forecast_ug": round(UG_PER_KG * planned.operational_kg.value), "actual_ug": carbon.central_ug}
    actual_ug = carbon.central_ug + carbon.embodied_ug
    return {"forecast_ug": round(UG_PER_KG * planned.total_kg.value), "actual_ug": actual_ug}


def _hardware(collected: HourCollector, manifest: Manifest) -> str:
    """Return the profile that most accelerators in the ledgers have, or else their name."""
    gpus = (seen.identity for seen in collected.devices.values() if seen.identity.rung == "gpu")
    named = Counter(identity.profile or identity.name for identity in gpus)
    if named:
        return min(named, key=lambda name: (-named[name], name))
    return "no accelerator"


def _digest(document: dict[str, Any]) -> str:
    return blake2b(msgspec.json.encode(document), digest_size=8).hexdigest()


def _recorded_factors(files: Sequence[FilePass]) -> dict[int, tuple[str, dict[str, Any]]]:
    """Return the factors that each launch recorded first, as digest and document."""
    found: dict[int, tuple[str, dict[str, Any]]] = {}
    for file in sorted(files, key=lambda one: (one.context.launch, one.manifest.node)):
        launch, document = file.context.launch, file.manifest.factors if file.factors else {}
        if document and not found.get(launch, ("", {}))[1]:
            found[launch] = (_digest(document), document)
        found.setdefault(launch, (UNSTATED, {}))
    return found


def _attempt_row(
    run: int, attempt: Attempt, recorded: Mapping[int, tuple[str, dict[str, Any]]], files: Sequence[FilePass]
) -> Row:
    origins = {origin for file in files if file.context.launch == attempt.attempt for origin in file.grid.origins}
    return {
        "factors": recorded[attempt.attempt][0],
        "origin": " and ".join(sorted(origins)) or STATIC,
        "run": run,
        "attempt": attempt.attempt,
        "start_ms": round(MS_PER_S * attempt.start_unix_s),
        "end_ms": round(MS_PER_S * attempt.end_unix_s),
        "nodes": attempt.nodes,
        "world_size": attempt.world_size,
        "steps": attempt.steps,
        "last_step": attempt.last_step,
        "redone_steps": attempt.redone_steps,
        "ended": attempt.ended or "",
    }


def _node_rows(run: int, collected: HourCollector) -> list[Row]:
    """Return a row for each host, with the energy of its devices."""
    hosts: dict[str, list[str]] = {}
    for key, seen in collected.devices.items():
        if collected.is_it(key):
            hosts.setdefault(seen.hostname, []).append(key)
    sums = collected.by_device()
    rows = []
    for hostname, keys in sorted(hosts.items()):
        energy = energy_of(one for key in keys for one in sums.get(key, ()))
        row: Row = {"run": run, "hostname": hostname, "energy_mj": round(MJ_PER_J * energy.energy_j)}
        row["measured_mj"] = round(MJ_PER_J * energy.measured_j)
        row["gpus"] = sum(collected.devices[key].identity.rung == "gpu" for key in keys)
        rows.append(row)
    return rows


def _device_rows(run: int, collected: HourCollector, factors: Factors | None, month: int) -> list[Row]:
    """Return the hardware that the run used, each unit once, with the carbon of making it.

    An accelerator carries its share of the network and of its host, as in `audit.exports.ghg`: of several runs on one
    host, each books the part around its own accelerators. A host without accelerators is a row of its own. It is known
    by its name, because its boot id changes with every boot.
    """
    whole_ug = _whole_ug(factors)
    recorded, shared_s = collected.by_device(), shared_by_device(collected.files)
    found: dict[tuple[str, int], Row] = {}
    for file in sorted(collected.files, key=lambda one: (one.manifest.attempt, one.manifest.node)):
        manifest = file.manifest
        gpus = gpus_of(manifest)
        region, _ = place_of(file.factors or factors)
        host_ug = round(manifest.host_share * whole_ug["host"] / max(1, len(gpus)))
        for key, units in gpus.items():
            device_ug, network_ug = (round(units * whole_ug[part]) for part in ("device", "network"))
            row = {"region": region, "device_ug": device_ug, "network_ug": network_ug, "host_ug": host_ug}
            charged_s = energy_of(recorded.get(key, ())).device_s - shared_s.get(key, 0.0)
            row["charged_ms"] = round(charged_s * MS_PER_S)
            found.setdefault(("gpu", number_of(key)), row)
        if not gpus:
            row = {"region": region, "device_ug": 0, "network_ug": 0, "host_ug": host_ug, "charged_ms": 0}
            found.setdefault(("host", number_of(manifest.hostname)), row)
    return [
        {
            "run": run,
            "kind": kind,
            "device": key,
            "first_month": month,
            "embodied_ug": row["device_ug"] + row["network_ug"] + row["host_ug"],
            **row,
        }
        for (kind, key), row in sorted(found.items())
    ]


def _whole_ug(factors: Factors | None) -> dict[str, int]:
    """Return the carbon of making one accelerator, its share of the network, and one host, in micrograms."""
    figures = factors.embodied_kg if factors else {}
    return {
        part: round(UG_PER_KG * figures[part].value) if part in figures else 0 for part in ("device", "network", "host")
    }
