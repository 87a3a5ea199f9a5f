"""Turn the ledgers of one run directory into rows of a store, by the audit's own pass and accounting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from carbon_plugin.audit.findings.reserved import Reserved
from carbon_plugin.audit.findings.run import Attempt, Period
from carbon_plugin.audit.tally.accounting import RunEnergy, inputs_of, run_energy, unobserved_sums
from carbon_plugin.audit.tally.collect import FilePass
from carbon_plugin.audit.tally.documents import read_forecast
from carbon_plugin.audit.tally.energy_sums import energy_of
from carbon_plugin.audit.tally.overview import coverage_of, leading_manifest, period_of, progress_of
from carbon_plugin.audit.tally.parts import pass_over
from carbon_plugin.audit.tally.reservations import reserved_time
from carbon_plugin.errors import FootprintError, LedgerError
from carbon_plugin.fleet.hours import COLUMNS, HOUR_S, HourCollector
from carbon_plugin.fleet.run_places import SCOPES, UNSTATED, factors_by_launch, place_of, scope_ratio, turned
from carbon_plugin.fleet.store.schema import MJ_PER_J, MS_PER_S, STATIC, SUMS, TAGS, UG_PER_KG
from carbon_plugin.footprint.factors.grid import describe_basis
from carbon_plugin.footprint.propagation import central_and_mean, gather
from carbon_plugin.footprint.uncertainty import mean_of
from carbon_plugin.footprint.values import BUILDING, EmissionScope, Factors, Footprint
from carbon_plugin.ledger.held.holdings import gpus_of
from carbon_plugin.ledger.identity import read_identity
from carbon_plugin.ledger.records import Manifest, RunIdentity
from carbon_plugin.ledger.verification.verify import combine_checks, files_by_start
from carbon_plugin.spec.numbers.range_array import Floats
from carbon_plugin.spec.numbers.units import GRAMS_PER_KG, JOULES_PER_KWH

FAILED_ENDS = ("exception", "failed")
"""An attempt whose end begins with one of these words did not reach what it was started for."""


WASTE = ("redone", "restart", "idle")
"""The kinds of waste that an hour tells apart. That of failed runs is all of their energy."""

EMBODIED_PARTS = ("device", "host", "network", BUILDING)

Row = dict[str, Any]
Columns = dict[str, list[Any]]


class RunRows(Struct, frozen=True, kw_only=True):
    """The rows of one run directory by table, those by the hour as columns, and what tells it from others.

    `fingerprints` are those of the first windows of its files, and `records` the number of its lines.
    """

    run: int
    run_id: str
    start_s: float
    end_s: float
    records: int
    fingerprints: list[str]
    tables: dict[str, list[Row]]
    hours: Columns


class RunMicrograms(Struct, frozen=True, kw_only=True):
    """The carbon of a run in whole micrograms, as its audit computes it: central values, and means.

    `means_ug` is the location-based mean by the scope of emissions that the grid's intensity counts, for those scopes
    in which it is known.
    """

    scope: EmissionScope | None
    facility_mj: int
    central_ug: int
    means_ug: dict[EmissionScope, int]
    market_ug: int | None
    embodied_central_ug: int
    embodied_ug: int
    parts_ug: dict[str, int]


def rows_of(directory: Path, place: str, content: str, processes: int | None = None) -> RunRows:
    """Return the rows of the run in a directory. `place` is the name that the store gives to it.

    `processes` share the work, by default as many as the size of the ledgers is worth.

    Raises `LedgerError` for ledgers that cannot be read, are of another program or version, or contradict themselves.
    """
    paths = files_by_start(directory)
    identity = read_identity(directory)
    passed = pass_over(paths, identity.run_id if identity else None, processes=processes, collector=HourCollector)
    collected = passed.collected
    assert isinstance(collected, HourCollector)
    if not collected.files:
        raise LedgerError("no ledger here begins with a manifest: another program's files, or cut off at the start")
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
    carbon = _carbon(used, collected.files, reserved, factors)
    collected.add_unobserved(reserved.before_first_record_s)
    hours = _hours(run, collected, reserved, factors, carbon)
    recorded = _recorded_factors(collected.files)
    first_month = month_of(period.start_unix_s)
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
    """Return a number of 63 bits that stands for some texts."""
    digest = blake2b("\0".join(texts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def month_of(unix_s: float) -> int:
    """Return the month of a moment in UTC as a number, for instance 202511."""
    moment = datetime.fromtimestamp(unix_s, UTC)
    return 100 * moment.year + moment.month


def apportioned(total: int, weights: Floats) -> list[int]:
    """Divide a whole number by weights so that the parts are whole and add up to it exactly.

    Each running sum is rounded, so that no part is off by more than 1. Without any weight the first part takes all.
    """
    if len(weights) == 1:
        return [total]
    running = np.cumsum(weights)
    if not running[-1] > 0:
        return [total, *[0] * (len(weights) - 1)]
    edges = np.rint(running * (total / running[-1])).astype(np.int64)
    edges[-1] = total
    edges[1:] -= edges[:-1].copy()
    parts: list[int] = edges.tolist()
    return parts


def _carbon(
    energy: RunEnergy, files: Sequence[FilePass], reserved: Reserved, factors: Factors | None
) -> RunMicrograms | None:
    if factors is None:
        return None
    try:
        inputs = inputs_of(energy, files, reserved, factors)
        outcome = central_and_mean(gather(inputs.items, inputs.charged, inputs.factors, (1.0, 1.0)))
    except FootprintError as error:
        raise LedgerError(f"its carbon cannot be computed: {error}") from None
    location, embodied = outcome.operational_kg.tolist(), outcome.embodied_kg.tolist()
    facility_j = outcome.energy_j["facility"].tolist()[0]
    intensity = inputs.factors.intensity
    scopes = {basis.scope if basis else None for basis in intensity.bases}
    own = scopes.pop() if len(scopes) == 1 else None
    skew = location[1] / location[0] if location[0] > 0 else 1.0
    means_ug = {}
    for scope in SCOPES:
        if scope == own:
            means_ug[scope] = round(location[1] * UG_PER_KG)
        elif (g_per_kwh := turned(intensity, scope)) is not None:  # as `audit.run_carbon` turns the run of a programme
            means_ug[scope] = round(facility_j / JOULES_PER_KWH * g_per_kwh / GRAMS_PER_KG * skew * UG_PER_KG)
    return RunMicrograms(
        scope=own,
        facility_mj=round(facility_j * MJ_PER_J),
        central_ug=round(location[0] * UG_PER_KG),
        means_ug=means_ug,
        market_ug=None if outcome.market is None else round(outcome.market.operational_kg.tolist()[1] * UG_PER_KG),
        embodied_central_ug=round(embodied[0] * UG_PER_KG),
        embodied_ug=round(embodied[1] * UG_PER_KG),
        parts_ug={part: round(float(kg[1]) * UG_PER_KG) for part, kg in outcome.embodied_parts_kg.items()},
    )


def _hours(
    run: int, collected: HourCollector, reserved: Reserved, factors: Factors | None, carbon: RunMicrograms | None
) -> Columns:
    """Return the columns of the table by the hour. They add up to what the audit says of the run, to the last unit."""
    slots = list(collected.hours)
    if not slots:
        return {}
    table = np.array(list(collected.hours.values())).T
    summed = dict(zip(COLUMNS, table, strict=True))
    facility_j, weighted = summed["facility"], summed["weighted"]
    if factors is not None:  # windows that state no factors have those of the run
        without_j = summed["without"] * factors.pue.value
        facility_j = facility_j + without_j
        weighted = weighted + without_j * factors.intensity.figure.value
    facility_mj = carbon.facility_mj if carbon else round(MJ_PER_J * float(facility_j.sum()))
    energy = energy_of(chain.from_iterable(collected.by_phase().values()))
    hours = [slot[2] for slot in slots]
    months = {hour: month_of(hour * HOUR_S) for hour in dict.fromkeys(hours)}
    nothing = [0] * len(slots)
    columns: Columns = {
        "run": [run] * len(slots),
        "attempt": [slot[0] for slot in slots],
        "rung": [slot[1] for slot in slots],
        "hour": hours,
        "month": [months[hour] for hour in hours],
        "energy_mj": apportioned(round(MJ_PER_J * energy.energy_j), summed["energy"]),
        "measured_mj": apportioned(round(MJ_PER_J * energy.measured_j), summed["measured"]),
        "low_mj": apportioned(round(MJ_PER_J * energy.low_j), summed["low"]),
        "high_mj": apportioned(round(MJ_PER_J * energy.high_j), summed["high"]),
        "facility_mj": apportioned(facility_mj, facility_j),
        "device_ms": apportioned(round(MS_PER_S * reserved.device_s), summed["device_s"]),
    }
    modelled_mj = round(MJ_PER_J * float(summed["unobserved"].sum()))
    columns["unobserved_mj"] = apportioned(modelled_mj, summed["unobserved"]) if modelled_mj else nothing
    for kind in WASTE:
        wasted_j = float(summed[kind].sum())
        columns[f"{kind}_mj"] = apportioned(round(MJ_PER_J * wasted_j), summed[kind]) if wasted_j else nothing
    wasted = sum((summed[f"{kind}_weighted"] for kind in WASTE), np.zeros(len(slots)))
    stated = factors_by_launch(collected)
    places = {launch: place_of(one or factors) for launch, one in stated.items()}
    columns["region"] = [places[slot[0]][0] for slot in slots]
    columns["region_name"] = [places[slot[0]][1] for slot in slots]
    for scope in SCOPES:
        total_ug = carbon.means_ug.get(scope) if carbon else None
        # Launches in several regions may count other emissions each, so that each is brought to the same ones first.
        ratios = {launch: scope_ratio(one or factors, scope) for launch, one in stated.items()}
        ratio = np.array([ratios[slot[0]] for slot in slots])
        emitted, lost = weighted * ratio, wasted * ratio
        columns[f"{scope}_ug"] = nothing if total_ug is None else apportioned(total_ug, emitted)
        whole = float(emitted.sum())
        wasted_ug = round((total_ug or 0) * float(lost.sum()) / whole) if whole > 0 else 0
        columns[f"wasted_{scope}_ug"] = apportioned(wasted_ug, lost) if wasted_ug else nothing
    if carbon is None:
        return columns | dict.fromkeys(("central_ug", "market_ug", "embodied_ug"), nothing)
    columns["central_ug"] = apportioned(carbon.central_ug, weighted)
    columns["market_ug"] = nothing if carbon.market_ug is None else apportioned(carbon.market_ug, facility_j)
    columns["embodied_ug"] = apportioned(carbon.embodied_ug, summed["device_s"])
    return columns


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
        "embodied_central_ug": carbon.embodied_central_ug if carbon else 0,
        **{f"run_{part}_ug": carbon.parts_ug.get(part, 0) if carbon else 0 for part in EMBODIED_PARTS},
        "start_ms": round(MS_PER_S * period.start_unix_s),
        "end_ms": round(MS_PER_S * period.end_unix_s),
        "ended": ended or "",
        "failed": int(role == "failed" or (ended or "").startswith(FAILED_ENDS)),
        **{f"has_{scope}": int(carbon is not None and scope in carbon.means_ug) for scope in SCOPES},
        "has_embodied": int(carbon is not None and carbon.embodied_central_ug > 0),
        "has_market": int(carbon is not None and carbon.market_ug is not None),
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
    """Return the forecast and the actual carbon in micrograms: totals, or operational carbon where the manufacture of
    the hardware is unknown on one side."""
    if planned is None or carbon is None:
        return {"forecast_ug": None, "actual_ug": None}
    if planned.total_kg is None or not carbon.parts_ug:
        return {"forecast_ug": round(UG_PER_KG * planned.operational_kg.value), "actual_ug": carbon.central_ug}
    actual_ug = carbon.central_ug + carbon.embodied_central_ug
    return {"forecast_ug": round(UG_PER_KG * planned.total_kg.value), "actual_ug": actual_ug}


def _hardware(collected: HourCollector, manifest: Manifest) -> str:
    """Return the profile, else the name, of most of the accelerators that the ledgers name."""
    gpus = (seen.identity for seen in collected.devices.values() if seen.identity.rung == "gpu")
    named = Counter(identity.profile or identity.name for identity in gpus)
    if named:
        return min(named, key=lambda name: (-named[name], name))
    return "no accelerator"


def _digest(document: dict[str, Any]) -> str:
    return blake2b(msgspec.json.encode(document), digest_size=8).hexdigest()


def _recorded_factors(files: Sequence[FilePass]) -> dict[int, tuple[str, dict[str, Any]]]:
    """Return the factors that each launch recorded first, as their digest and their document."""
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
    """Return the hardware that the run used, each once, with the mean of what its making emitted.

    An accelerator carries its share of the network and of its host, as in `audit.exports.ghg`: runs that share a host
    each book the part around their own accelerators. A host without accelerators is a row of its own. It is known by
    its name, because its boot id changes with every boot.
    """
    whole_ug = _whole_ug(factors)
    found: dict[tuple[str, int], Row] = {}
    for file in sorted(collected.files, key=lambda one: (one.manifest.attempt, one.manifest.node)):
        manifest = file.manifest
        gpus = gpus_of(manifest)
        region, _ = place_of(file.factors or factors)
        host_ug = round(manifest.host_share * whole_ug["host"] / max(1, len(gpus)))
        for key, units in gpus.items():
            device_ug, network_ug = (round(units * whole_ug[part]) for part in ("device", "network"))
            row = {"region": region, "device_ug": device_ug, "network_ug": network_ug, "host_ug": host_ug}
            found.setdefault(("gpu", number_of(key)), row)
        if not gpus:
            row = {"region": region, "device_ug": 0, "network_ug": 0, "host_ug": host_ug}
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
    """Return the mean of what making one accelerator, its share of the network, and one host emitted, in micrograms."""
    figures = factors.embodied_kg if factors else {}
    ends = np.array([(figure.value, figure.low, figure.high) for figure in figures.values()]).reshape(-1, 3).T
    means = dict(zip(figures, mean_of(*ends).tolist(), strict=True))
    return {part: round(UG_PER_KG * means.get(part, 0.0)) for part in ("device", "network", "host")}
