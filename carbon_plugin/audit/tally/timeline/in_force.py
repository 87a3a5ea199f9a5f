"""Find the grid intensity that was in force over a run, and its sources, from the windows and events of its ledgers.

The factors of a manifest state an intensity, but a live service or a series may have replaced it. A report gives
source, basis and licence of the values that its carbon was computed with.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Literal

import msgspec
import numpy as np
from msgspec import Struct

from carbon_plugin.footprint.factors.grid import describe_basis
from carbon_plugin.footprint.values import Basis, Intensity, IntensityPart
from carbon_plugin.ledger.records import GRID_EVENT, Event, IntensityOrigin
from carbon_plugin.show import wording
from carbon_plugin.spec.numbers.figure import Figure
from carbon_plugin.spec.numbers.range_array import Floats


class IntensitySource(Struct, frozen=True, kw_only=True):
    """The source of an intensity with its basis and licence: an `Intensity` without its number."""

    name: str
    zone: str
    zone_name: str
    year: int | None
    basis: Basis | None
    licence: str
    attribution: str
    granularity: str
    notes: tuple[str, ...]


class _LiveService(Struct, frozen=True, kw_only=True):
    """The live service as an event describes it. Older ledgers do not state `licence` and `interval_s`."""

    provider: str
    zone: str
    scope: Literal["lifecycle", "direct"]
    boundary: Literal["generation", "consumption"]
    at_unix_s: float
    licence: str | None = None
    interval_s: float | None = None


class GridTally:
    """Holds facility energy of one file (J), and its product with the intensity in force.

    Both are summed up for each pair of the stated intensity and the origin of the intensity in force.
    """

    __slots__ = ("_live", "_origins", "_sums")

    def __init__(self) -> None:
        self._sums: dict[tuple[Intensity, IntensityOrigin | None], tuple[float, float]] = {}
        self._origins: set[object] = set()
        self._live: _LiveService | None = None

    def add(
        self, stated: Intensity, origins: Sequence[IntensityOrigin | None], facility_j: Floats, g_per_kwh: Floats
    ) -> None:
        """Add windows by the origin of their intensity, with their facility energy, J, and intensity, g/kWh, which is
        NaN where it is not known.
        """
        known = ~np.isnan(facility_j * g_per_kwh)
        for origin in dict.fromkeys(origins):
            chosen = known & np.array([each == origin for each in origins])
            if origin is None:  # an older ledger gives no origin: a value that equals the stated one is taken for it
                as_stated = chosen & (g_per_kwh == stated.figure.value)
                self._add(stated, "static", facility_j[as_stated], g_per_kwh[as_stated])
                chosen &= ~as_stated
            self._add(stated, origin, facility_j[chosen], g_per_kwh[chosen])

    def note(self, event: Event) -> None:
        """Read the source that is now in force from an event, if the event names one."""
        if event.kind != GRID_EVENT:
            return
        self._origins.add(event.data.get("origin"))
        if "provider" in event.data:
            try:
                self._live = msgspec.convert(event.data, type=_LiveService)
            except msgspec.ValidationError:
                self._live = None

    @property
    def origins(self) -> frozenset[IntensityOrigin]:
        """Return the origins of the intensities in force."""
        return frozenset(origin or self._likely() for (_, origin), (energy_j, _) in self._sums.items() if energy_j > 0)

    def sources(self) -> Iterator[tuple[IntensitySource, float, float]]:
        """Yield each source with its energy, J, and the product of that energy with the intensity."""
        for (stated, origin), (energy_j, weighted) in self._sums.items():
            if energy_j > 0:
                yield self._source(stated, origin or self._likely()), energy_j, weighted

    def _add(self, stated: Intensity, origin: IntensityOrigin | None, facility_j: Floats, g_per_kwh: Floats) -> None:
        energy_j, weighted = self._sums.get((stated, origin), (0.0, 0.0))
        energy_j, weighted = energy_j + float(facility_j.sum()), weighted + float((facility_j * g_per_kwh).sum())
        self._sums[stated, origin] = energy_j, weighted

    def _likely(self) -> IntensityOrigin:
        """Return the likely origin of a value whose window states none, by the events of the file.

        Of several possible origins it is the one that may count other emissions than the stated intensity.
        """
        order: tuple[IntensityOrigin, ...] = ("ageing", "live", "series")
        return next((origin for origin in order if origin in self._origins), "static")

    def _source(self, stated: Intensity, origin: IntensityOrigin) -> IntensitySource:
        source = _stated(stated)
        if origin == "static":
            return source
        if origin == "series":  # the series itself, without the period of the stated mean
            return msgspec.structs.replace(source, name=stated.attribution)
        live = _live(source, self._live)
        return live if origin == "live" else _ageing(live, source)


def in_force(tallies: Iterable[GridTally], stated: Intensity) -> Intensity:
    """Return the mean intensity over the windows of a run, with its sources.

    It is the stated intensity where nothing else was in force. It has no basis where its sources count different
    emissions. Its relative range is that of the stated intensity.
    """
    sums: dict[IntensitySource, tuple[float, float]] = {}
    for tally in tallies:
        for source, energy_j, weighted in tally.sources():
            before_j, before = sums.get(source, (0.0, 0.0))
            sums[source] = (before_j + energy_j, before + weighted)
    total_j = sum(energy_j for energy_j, _ in sums.values())
    mean = sum(weighted for _, weighted in sums.values()) / total_j if total_j else stated.figure.value
    as_stated = not sums or list(sums) == [_stated(stated)]
    if as_stated and math.isclose(mean, stated.figure.value, rel_tol=1e-9):
        return stated
    sources = sorted(sums, key=lambda source: -sums[source][0])
    parts = [
        IntensityPart(
            source=source.name,
            basis=source.basis,
            g_per_kwh=sums[source][1] / sums[source][0],
            share=sums[source][0] / total_j,
            zone=source.zone,
            zone_name=source.zone_name,
            granularity=source.granularity,
        )
        for source in sources
    ]
    bases, years = {source.basis for source in sources}, {source.year for source in sources}
    return Intensity(
        zone=_each(source.zone for source in sources),
        zone_name=_each(source.zone_name for source in sources),
        figure=_figure(parts, mean, stated.figure),
        year=years.pop() if len(years) == 1 else None,
        basis=bases.pop() if len(bases) == 1 else None,
        licence=_each(source.licence for source in sources),
        attribution=_each(source.attribution for source in sources),
        granularity=_each(source.granularity for source in sources),
        notes=tuple(dict.fromkeys(note for source in sources for note in source.notes)),
        parts=tuple(parts),
    )


def _figure(parts: Sequence[IntensityPart], mean: float, stated: Figure) -> Figure:
    low, high = (mean * edge / stated.value if stated.value else mean for edge in (stated.low, stated.high))
    if len(parts) == 1:
        source = f"{parts[0].source}: mean over the run's windows"
    else:
        made_of = " and ".join(f"{wording.percent(part.share)} {part.source}" for part in parts)
        source = f"mean over the run's windows, of their energy {made_of}"
    return Figure(mean, min(low, mean), max(high, mean), stated.unit, stated.kind, source)


def _stated(intensity: Intensity) -> IntensitySource:
    return IntensitySource(
        name=intensity.figure.source,
        zone=intensity.zone,
        zone_name=intensity.zone_name,
        year=intensity.year,
        basis=intensity.basis,
        licence=intensity.licence,
        attribution=intensity.attribution,
        granularity=intensity.granularity,
        notes=intensity.notes,
    )


def _live(stated: IntensitySource, service: _LiveService | None) -> IntensitySource:
    """Return the live service of a ledger as a source, for the place of the stated intensity."""
    if service is None:
        name = "a live service that the ledger does not name"
        return msgspec.structs.replace(stated, name=name, year=None, basis=None, licence="not stated", attribution=name)
    basis = Basis(scope=service.scope, signal="average", boundary=service.boundary)
    where = f"{service.provider}, zone {service.zone}"
    return msgspec.structs.replace(
        stated,
        name=f"{where}, live ({describe_basis(basis)})",
        year=_year(service.at_unix_s),
        basis=basis,
        licence=service.licence or f"terms of {service.provider}",
        attribution=where,
        granularity=f"every {service.interval_s / 60:g} min" if service.interval_s else "live",
        notes=(),
    )


def _ageing(live: IntensitySource, stated: IntensitySource) -> IntensitySource:
    """Return the source for a live value that is no longer fresh. It changes gradually into the stated intensity."""
    return msgspec.structs.replace(
        live,
        name=f"{live.name} ageing into {stated.name}",
        basis=live.basis if live.basis == stated.basis else None,
        licence=_each((live.licence, stated.licence)),
        attribution=_each((live.attribution, stated.attribution)),
    )


def _year(unix_s: float) -> int | None:
    try:
        return datetime.fromtimestamp(unix_s, UTC).year
    except (OverflowError, OSError, ValueError):
        return None


def _each(words: Iterable[str]) -> str:
    return " and ".join(dict.fromkeys(words))
