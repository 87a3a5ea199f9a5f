"""Convert the grid intensity of a place to lifecycle or to direct emissions.

Where both are published for the same grid, the published value is taken. Elsewhere one follows from the other:

    lifecycle = slope * direct + offset

The slope is that of the country where both of its values are published, and else the median over such countries. The
range of a derived value covers the spread of these countries around the line.
"""

from __future__ import annotations

import math
from datetime import date

import msgspec

from carbon_plugin.footprint.factors import tables
from carbon_plugin.footprint.factors.grid import UNIT, zone_intensity
from carbon_plugin.footprint.factors.zones import TABLES, Area, find, row_of
from carbon_plugin.footprint.values import EmissionScope, Intensity
from carbon_plugin.spec.numbers.figure import Figure


def in_scope(intensity: Intensity, scope: EmissionScope, *, today: date | None = None) -> Intensity | None:
    """Return the intensity of the same place in lifecycle or in direct emissions, gCO2e/kWh.

    It is the given one where that counts them already. The result is None for an intensity whose basis is not stated,
    because nothing says what to convert from. `today` decides how old a published vintage is.
    """
    basis = intensity.basis
    if basis is None:
        return None
    if basis.scope == scope:
        return intensity
    area = find(intensity.zone)
    published = _published(area, scope) if area is not None and intensity.granularity == "annual" else None
    if published is not None and area is not None:
        other = zone_intensity(published, today=today)
        return msgspec.structs.replace(other, zone=intensity.zone, zone_name=intensity.zone_name, asked=intensity.asked)
    return _derived(intensity, scope, _slope(area))


def _published(area: Area, scope: EmissionScope) -> str | None:
    """Return the published row of an area's grid in a scope, or None where there is none."""
    pairs = tables.bases_table().pairs
    if scope == "direct":
        return pairs.get(area.code) if area.table == "country" and not area.larger else None
    row = f"{area.table}:{area.code}"
    return next((country for country, other in pairs.items() if other == row), None)


def _slope(area: Area | None) -> float:
    """Return (lifecycle - offset) / direct of the country of an area, where both are published."""
    table = tables.bases_table()
    pair = table.pairs.get(area.country) if area is not None and area.country is not None else None
    if pair is None or area is None or area.country is None:
        return table.slope
    return national_slope(area.country, pair)


def national_slope(country: str, direct_row: str) -> float:
    """Return (lifecycle - offset) / direct of a country, and a row of its grid. Both values are published."""
    row = row_of(direct_row)
    direct = TABLES[row.table]().areas[row.code].g_per_kwh
    lifecycle = tables.country_intensities().areas[country].g_per_kwh
    return (lifecycle - tables.bases_table().offset_g_per_kwh) / direct


def _derived(intensity: Intensity, scope: EmissionScope, slope: float) -> Intensity:
    table, figure = tables.bases_table(), intensity.figure
    offset = table.offset_g_per_kwh

    def turned(g_per_kwh: float) -> float:
        return g_per_kwh * slope + offset if scope == "lifecycle" else max(0.0, (g_per_kwh - offset) / slope)

    value, low, high = turned(figure.value), turned(figure.low), turned(figure.high)
    below = math.hypot(math.log(value / low), math.log(table.spread)) if low > 0 else math.inf
    above = math.hypot(math.log(high / value), math.log(table.spread)) if value > 0 else 0.0
    forward, back = f"{slope:.3g} x direct + {offset:g} g/kWh", f"(lifecycle - {offset:g} g/kWh) / {slope:.3g}"
    line = forward if scope == "lifecycle" else back
    source = f"{figure.source}; turned into {scope} emissions as {line} ({table.source})"
    basis = None if intensity.basis is None else msgspec.structs.replace(intensity.basis, scope=scope)
    return msgspec.structs.replace(
        intensity,
        figure=Figure(value, value * math.exp(-below), value * math.exp(above), UNIT, "modelled", source),
        basis=basis,
        notes=(*intensity.notes, f"no {scope} value of {intensity.zone_name} is published: it follows from the other"),
        parts=(),
    )
