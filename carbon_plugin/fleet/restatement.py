"""Compute accounts again with other factors, and say which totals moved and why.

The store keeps facility energy by the hour, so that a new intensity or PUE of a region can be applied to what was used
then. The change of each region and month is split into the part of the PUE and that of the intensity, which add up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from carbon_plugin.errors import FleetError, FootprintError
from carbon_plugin.fleet.store.schema import MJ_PER_J, UG_PER_KG
from carbon_plugin.footprint.factors.pue import resolve_pue
from carbon_plugin.footprint.intensity import average_intensity
from carbon_plugin.spec.parsing.document import read_document
from carbon_plugin.spec.site import MOST_G_PER_KWH, MOST_PUE, Site
from carbon_plugin.spec.units import GRAMS_PER_KG, JOULES_PER_KWH

CURRENT = "current"
"""Asks for the factors that this release ships for each region."""

_KG_PER_MJ_G_PER_KWH = 1 / (MJ_PER_J * JOULES_PER_KWH * GRAMS_PER_KG)
_LEAST = 1e-6
"""A smaller relative change is the rounding of whole micrograms."""


class RegionFactors(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """New factors of a region: intensity in g/kWh and PUE, each None where it stays, and where they are from."""

    g_per_kwh: float | None = None
    pue: float | None = None
    source: str = "stated by the user"


class RestatedMonth(Struct, frozen=True, kw_only=True):
    """The operational carbon of a region in a month before and after, kgCO2e, with the parts of the change and why."""

    region: str
    month: int
    before_kg: float
    after_kg: float
    by_pue_kg: float
    by_intensity_kg: float
    reason: str


class Restatement(Struct, frozen=True, kw_only=True):
    """Location-based operational carbon with other factors: all of it, and what moved. What did not is not listed."""

    factors: str
    before_kg: float
    after_kg: float
    moved: list[RestatedMonth]
    notes: list[str]


def restate(rows: Iterable[Mapping[str, Any]], scope: str, factors: str) -> Restatement:
    """Return the sums of regions and months with the factors of a YAML file, or with the shipped ones (`CURRENT`).

    `rows` are those of `queries.factors_by` by month. Raises `FleetError` for a file that cannot be used.
    """
    rows = list(rows)
    regions = sorted({row["region"] for row in rows})
    notes: list[str] = []
    new = _shipped(regions, notes) if factors == CURRENT else _stated(Path(factors), regions)
    moved: dict[tuple[str, int], RestatedMonth] = {}
    before_kg = after_kg = 0.0
    for row in rows:
        had_kg = row[f"{scope}_ug"] / UG_PER_KG
        before_kg += had_kg
        change = new.get(row["region"])
        if change is None or not row["facility_mj"] or not row["central_ug"]:
            after_kg += had_kg
            continue
        one = _moved(row, had_kg, change)
        after_kg += one.after_kg
        if abs(one.after_kg - one.before_kg) <= _LEAST * abs(one.before_kg):
            continue
        key = (row["region"], row["month"])
        moved[key] = _joined(moved[key], one) if key in moved else one
    return Restatement(
        factors=factors,
        before_kg=before_kg,
        after_kg=after_kg,
        moved=sorted(moved.values(), key=lambda one: -abs(one.after_kg - one.before_kg)),
        notes=notes,
    )


def _moved(row: Mapping[str, Any], had_kg: float, change: RegionFactors) -> RestatedMonth:
    """Return one row under new factors: first the PUE changes, then the intensity."""
    pue = row["facility_mj"] / row["energy_mj"]
    g_per_kwh = row["central_ug"] / UG_PER_KG / (row["facility_mj"] * _KG_PER_MJ_G_PER_KWH)
    # The mean lies above the central value by the same share as before.
    with_pue_kg = had_kg * (change.pue / pue if change.pue is not None else 1.0)
    after_kg = with_pue_kg * (change.g_per_kwh / g_per_kwh if change.g_per_kwh is not None else 1.0)
    reasons = []
    if change.pue is not None and abs(change.pue / pue - 1) > _LEAST:
        reasons.append(f"PUE {pue:.4g} to {change.pue:.4g}")
    if change.g_per_kwh is not None and abs(change.g_per_kwh / g_per_kwh - 1) > _LEAST:
        reasons.append(f"intensity {g_per_kwh:.4g} to {change.g_per_kwh:.4g} g/kWh")
    return RestatedMonth(
        region=row["region"],
        month=row["month"],
        before_kg=had_kg,
        after_kg=after_kg,
        by_pue_kg=with_pue_kg - had_kg,
        by_intensity_kg=after_kg - with_pue_kg,
        reason=f"{' and '.join(reasons)} ({change.source})",
    )


def _joined(one: RestatedMonth, other: RestatedMonth) -> RestatedMonth:
    return RestatedMonth(
        region=one.region,
        month=one.month,
        before_kg=one.before_kg + other.before_kg,
        after_kg=one.after_kg + other.after_kg,
        by_pue_kg=one.by_pue_kg + other.by_pue_kg,
        by_intensity_kg=one.by_intensity_kg + other.by_intensity_kg,
        reason=one.reason if one.reason == other.reason else f"{one.reason}; {other.reason}",
    )


def _shipped(regions: Iterable[str], notes: list[str]) -> dict[str, RegionFactors]:
    found = {}
    for region in regions:
        try:
            site = Site(zone=region)
            intensity = average_intensity(site)
        except (FootprintError, ValueError):
            notes.append(f"{region}: no zone of that name is shipped, so its factors stay as they were recorded")
            continue
        year = f", {intensity.year}" if intensity.year else ""
        source = f"{intensity.attribution}{year}"
        # A PUE that the site stated is the user's, so that only published ones of cloud regions are replaced.
        pue = resolve_pue(site).value if ":" in region else None
        found[region] = RegionFactors(g_per_kwh=intensity.figure.value, pue=pue, source=source)
    return found


def _stated(path: Path, regions: Iterable[str]) -> dict[str, RegionFactors]:
    document = read_document(path).value
    try:
        found = msgspec.convert(document, type=dict[str, RegionFactors], strict=False)
    except msgspec.ValidationError as error:
        raise FleetError(f"{path}: expected regions, each with g_per_kwh, pue and source: {error}") from None
    unknown = sorted(set(found) - set(regions))
    if unknown:
        raise FleetError(f"{path}: no run is in {', '.join(unknown)}; the store has {', '.join(regions)}")
    for region, one in found.items():
        if one.g_per_kwh is not None and not 0 <= one.g_per_kwh <= MOST_G_PER_KWH:
            raise FleetError(f"{path}: {region}.g_per_kwh is {one.g_per_kwh:g}, expected 0 to {MOST_G_PER_KWH:g}")
        if one.pue is not None and not 1 <= one.pue <= MOST_PUE:
            raise FleetError(f"{path}: {region}.pue is {one.pue:g}, expected 1 to {MOST_PUE:g}")
    return found
