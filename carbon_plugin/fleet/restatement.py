"""Compute accounts again with other factors, and say which totals moved, by how much and through which factor.

Each run is computed by its own recorded factors, hour by hour of its months: its carbon is a product of means, so that
a new factor is applied as the ratio of its mean to the mean of the one before. The change of a total is divided over
the factors by applying them one after the other, so that the parts add up to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from carbon_plugin.fleet.new_factors import (
    CURRENT,
    FactorFile,
    NewFactors,
    read_factors,
    shipped_factors,
    stated_factors,
)
from carbon_plugin.fleet.run_places import turned
from carbon_plugin.fleet.store.schema import MJ_PER_J, STATIC, UG_PER_KG
from carbon_plugin.footprint.market import Contracts
from carbon_plugin.footprint.uncertainty import mean_of
from carbon_plugin.footprint.values import BUILDING, EmissionScope, Factors, Intensity
from carbon_plugin.ledger.held.unobserved import IdleTime, modelled_idle
from carbon_plugin.spec.numbers.figure import Figure
from carbon_plugin.spec.numbers.units import GRAMS_PER_KG, JOULES_PER_KWH

LOCATION, MARKET, EMBODIED, CAPITAL = "location-based", "market-based", "embodied", "capital goods"
TOTALS = (LOCATION, MARKET, EMBODIED, CAPITAL)
PARTS = ("device", "host", "network", BUILDING)
"""The parts of embodied carbon, each with a column `run_<part>_ug` in the table of runs."""
NEVER = (
    "global warming potentials alone: ledgers hold CO2e and not single gases, so that they change with an intensity",
    "marginal intensity: it serves what-if questions and is in no total",
)
"""What no store can apply again."""
_LEAST = 1e-6
"""A smaller relative change is the rounding of whole micrograms."""


class FactorMove(Struct, frozen=True, kw_only=True):
    """The part of a change that one factor makes, kgCO2e, and what became of the factor."""

    factor: str
    by_kg: float
    reason: str


class MovedTotal(Struct, frozen=True, kw_only=True):
    """A total of a region in a month before and after, kgCO2e. The `moves` add up to the change."""

    total: str
    region: str
    month: int
    before_kg: float
    after_kg: float
    moves: list[FactorMove]

    @property
    def reason(self) -> str:
        """Return what became of the factors, in words."""
        return "; ".join(move.reason for move in self.moves)


class RestatedTotal(Struct, frozen=True, kw_only=True):
    """A total of the whole report before and after, kgCO2e, and the part that each factor moved."""

    total: str
    before_kg: float
    after_kg: float
    by_factor_kg: dict[str, float]


class Restatement(Struct, frozen=True, kw_only=True):
    """The totals with other factors, and what moved. What did not move is not listed.

    `not_applied` names the factors that could not be applied again, or stay as recorded, with reason and runs.
    """

    factors: str
    totals: list[RestatedTotal]
    moved: list[MovedTotal]
    not_applied: list[str]

    def of(self, total: str) -> RestatedTotal:
        """Return one of the totals by its name."""
        return next(one for one in self.totals if one.total == total)


class _Change(Struct, frozen=True):
    """A factor that changes, by which ratio carbon changes with it, and what became of it in words."""

    factor: str
    ratio: float
    reason: str


def restate(
    rows: Iterable[Mapping[str, Any]],
    capital: Iterable[Mapping[str, Any]],
    documents: Mapping[str, Factors],
    scope: EmissionScope,
    factors: str,
) -> Restatement:
    """Return the totals with the factors of a YAML file, or with the shipped ones (`CURRENT`).

    `rows` are those of `queries.hours_of_runs`, `capital` those of `queries.capital_goods`, and `documents` the factors
    that runs recorded by their digest. Raises `FleetError` for a file that cannot be used.
    """
    rows, capital = list(rows), list(capital)
    if factors == CURRENT:
        choose = _shipped(documents)
    else:
        regions, hardware = ({row[name] for row in rows} for name in ("region", "hardware"))
        choose = _of_file(documents, read_factors(Path(factors), regions, hardware))
    work = _Restating(documents, scope, choose)
    for row in rows:
        work.add_hours(row)
    for row in capital:
        work.add_capital(row)
    return work.result(factors)


_Choose = Callable[[str, str, bool], NewFactors]
"""Returns the new factors for a digest, a hardware, and whether a static intensity was in force."""


def _shipped(documents: Mapping[str, Factors]) -> _Choose:
    @lru_cache(maxsize=4096)
    def choose(digest: str, hardware: str, static: bool) -> NewFactors:
        return shipped_factors(documents[digest], hardware, static=static)

    return choose


def _of_file(documents: Mapping[str, Factors], file: FactorFile) -> _Choose:
    @lru_cache(maxsize=4096)
    def choose(digest: str, hardware: str, static: bool) -> NewFactors:
        return stated_factors(documents[digest], hardware, file)

    return choose


class _Restating:
    """The sums of a restatement that is being made."""

    def __init__(self, documents: Mapping[str, Factors], scope: EmissionScope, choose: _Choose) -> None:
        self._documents = documents
        self._scope: EmissionScope = scope
        self._choose = choose
        self._sums: dict[tuple[str, str, int], list[float]] = {}
        self._moves: dict[tuple[str, str, int], dict[str, dict[str, float]]] = {}
        self._kept: dict[str, set[int]] = {}

    def add_hours(self, row: Mapping[str, Any]) -> None:
        """Add the sums of a run in one launch, region and month."""
        leading, own = row["run_factors"], row["factors"] or row["run_factors"]
        place = (row["region"], row["month"])
        location_ug = row[f"{self._scope}_ug"]
        market_ug = row["market_ug"] if row["has_market"] else location_ug
        amounts = ((LOCATION, location_ug), (MARKET, market_ug), (EMBODIED, row["embodied_ug"]))
        if leading not in self._documents or own not in self._documents:
            for total, amount_ug in amounts:
                self._add(total, *place, amount_ug, ())
            return
        hardware, static = row["hardware"], row["origin"] in ("", STATIC)
        new, new_own = self._choose(leading, hardware, static), self._choose(own, hardware, static)
        for words in (*new.kept, *new_own.kept):
            self._kept.setdefault(words, set()).add(row["run"])
        old, old_own = self._documents[leading], self._documents[own]
        energy = [*self._idle(row, new), *_pue_changes(old, old_own, new, new_own)]
        grid = _intensity_changes(row, self._scope, static, old, old_own, new, new_own)
        self._add(LOCATION, *place, location_ug, (*energy, *grid))
        by_contract = self._market(row, old, new, grid)
        self._add(MARKET, *place, market_ug, (*energy, *by_contract))
        shares = {part: row[f"run_{part}_ug"] for part in PARTS}
        self._add(EMBODIED, *place, row["embodied_ug"], _embodied_changes(shares, old, new, with_life=True))

    def add_capital(self, row: Mapping[str, Any]) -> None:
        """Add hardware that was first used in a month: whole devices with their part of host and network."""
        place, digest = (row["region"], row["month"]), row["factors"]
        changes: Iterable[_Change] = ()
        if digest in self._documents:
            shares = {part: row.get(f"{part}_ug", 0) for part in PARTS}
            changes = _embodied_changes(
                shares, self._documents[digest], self._choose(digest, row["hardware"], True), with_life=False
            )
        self._add(CAPITAL, *place, row["embodied_ug"], changes)

    def result(self, factors: str) -> Restatement:
        """Return all of it, the largest change first."""
        moved, totals = [], []
        for total in TOTALS:
            keys = [key for key in sorted(self._sums) if key[0] == total]
            by_factor: dict[str, float] = {}
            for key in keys:
                before, after = self._sums[key]
                if abs(after - before) <= _LEAST * abs(before):
                    continue
                moves = _moves(self._moves[key])
                for move in moves:
                    by_factor[move.factor] = by_factor.get(move.factor, 0.0) + move.by_kg
                moved.append(
                    MovedTotal(
                        total=total,
                        region=key[1],
                        month=key[2],
                        before_kg=before / UG_PER_KG,
                        after_kg=after / UG_PER_KG,
                        moves=moves,
                    )
                )
            totals.append(
                RestatedTotal(
                    total=total,
                    before_kg=sum(self._sums[key][0] for key in keys) / UG_PER_KG,
                    after_kg=sum(self._sums[key][1] for key in keys) / UG_PER_KG,
                    by_factor_kg=by_factor,
                )
            )
        moved.sort(key=lambda one: (-abs(one.after_kg - one.before_kg), one.total, one.region, one.month))
        kept = [f"{words} ({len(runs):,} {'run' if len(runs) == 1 else 'runs'})" for words, runs in self._kept.items()]
        return Restatement(factors=factors, totals=totals, moved=moved, not_applied=[*sorted(kept), *NEVER])

    def _add(self, total: str, region: str, month: int, amount_ug: int, changes: Iterable[_Change]) -> None:
        key = (total, region, month)
        sums = self._sums.setdefault(key, [0.0, 0.0])
        after = float(amount_ug)
        for change in changes:
            by_ug = after * (change.ratio - 1)
            reasons = self._moves.setdefault(key, {}).setdefault(change.factor, {})
            reasons[change.reason] = reasons.get(change.reason, 0.0) + by_ug
            after += by_ug
        sums[0] += amount_ug
        sums[1] += after

    def _idle(self, row: Mapping[str, Any], new: NewFactors) -> Iterator[_Change]:
        """Yield the change of the energy that is modelled for reserved time without records."""
        if not row["unobserved_mj"] or not row["energy_mj"] or not row["unobserved"]:
            return
        time = msgspec.json.decode(row["unobserved"], type=IdleTime)
        before_j = row["run_unobserved_mj"] / MJ_PER_J
        after_j = sum(used.energy.value for used in modelled_idle(time, new.idle_w).used.values())
        if before_j <= 0 or after_j <= 0 or abs(after_j / before_j - 1) <= _LEAST:
            return
        ratio = 1 + row["unobserved_mj"] / row["energy_mj"] * (after_j / before_j - 1)
        yield _Change("idle power", ratio, f"idle reserved time: {after_j / before_j:.4g} times the energy")

    def _market(
        self, row: Mapping[str, Any], old: Factors, new: NewFactors, grid: Iterable[_Change]
    ) -> Iterator[_Change]:
        """Yield the change of what a kWh of the facility emits by contract."""
        if Contracts.of(old) is None and Contracts.of(new.factors) is None:
            yield from grid
            return
        if any(one.share is None for one in old.instruments):
            words = "market-based rate of contracts over a number of kWh: which run they serve first is not stored"
            self._kept.setdefault(words, set()).add(row["run"])
            return
        before, after = (_rate(one, self._scope) for one in (old, new.factors))
        if before > 0 and abs(after / before - 1) > _LEAST:
            words = f"market-based rate {_g(before)} to {_g(after)} g/kWh"
            yield _Change("market factors", after / before, words)


def _moves(found: Mapping[str, Mapping[str, float]]) -> list[FactorMove]:
    """Return the factors that moved a total, each with its reasons."""
    return [
        FactorMove(factor=factor, by_kg=sum(reasons.values()) / UG_PER_KG, reason="; ".join(reasons))
        for factor, reasons in found.items()
    ]


def _pue_changes(old: Factors, old_own: Factors, new: NewFactors, new_own: NewFactors) -> Iterator[_Change]:
    """Yield the change of the PUE: that of the launch, with the spread of the run."""
    was, now = old_own.pue, new_own.factors.pue
    ratio = now.value / was.value
    if not new.stated:
        ratio *= _pue_skew(new.factors.pue) / _pue_skew(old.pue)
    if abs(ratio - 1) > _LEAST:
        yield _Change("PUE", ratio, f"PUE {was.value:.4g} to {now.value:.4g} ({now.source})")


def _intensity_changes(
    row: Mapping[str, Any],
    scope: EmissionScope,
    static: bool,
    old: Factors,
    old_own: Factors,
    new: NewFactors,
    new_own: NewFactors,
) -> list[_Change]:
    """Return the change of the grid's intensity: that of the launch, with the spread of the run."""
    if new_own.factors.intensity is old_own.intensity:
        return []
    was, now = turned(old_own.intensity, scope), turned(new_own.factors.intensity, scope)
    if not static and row["facility_mj"] and row["central_ug"]:  # the mean of a live service or a series was in force
        in_force = row["central_ug"] / UG_PER_KG * GRAMS_PER_KG / (row["facility_mj"] / MJ_PER_J / JOULES_PER_KWH)
        was = None if was is None else was * in_force / old_own.intensity.figure.value
    if not was or now is None:
        return []
    ratio = now / was
    if not new.stated:
        ratio *= _skew(new.factors.intensity.figure) / _skew(old.intensity.figure)
    if abs(ratio - 1) <= _LEAST:
        return []
    intensity = new_own.factors.intensity
    year = f", {intensity.year}" if not new.stated and intensity.year else ""
    source = intensity.figure.source if new.stated else f"{intensity.attribution}{year}"
    words = f"intensity {_g(was)} to {_g(now)} g/kWh ({source})"
    if intensity.gwp != old_own.intensity.gwp:
        words += f", global warming potentials {old_own.intensity.gwp} to {intensity.gwp}"
    return [_Change("intensity", ratio, words)]


def _embodied_changes(
    shares_ug: Mapping[str, int], old: Factors, new: NewFactors, *, with_life: bool
) -> Iterator[_Change]:
    """Yield the changes of embodied carbon that has these parts. `with_life` is for what is charged by time."""
    sums = {part: float(amount) for part, amount in shares_ug.items()}
    if not sum(sums.values()):
        return

    def change(factor: str, parts: Iterable[str], ratio: float, words: str) -> Iterator[_Change]:
        before = sum(sums.values())
        for part in parts:
            sums[part] *= ratio
        after = sum(sums.values())
        if abs(after / before - 1) > _LEAST:
            yield _Change(factor, after / before, words)

    for part in PARTS:
        was, now = _kg_of(old, part), _kg_of(new.factors, part)
        if was is None or now is None or was is now or not was.value:
            continue
        ratio = now.value / was.value if new.stated else _mean(now) / _mean(was)
        words = f"{part} {was.value:.4g} to {now.value:.4g} kg ({now.source})"
        yield from change(f"embodied {part}", (part,), ratio, words)
    if not with_life:
        return
    timed = [part for part in PARTS if part != BUILDING]
    for factor, was, now in (
        ("lifetime", old.lifetime_years, new.factors.lifetime_years),
        ("fleet utilisation", old.fleet_utilisation, new.factors.fleet_utilisation),
    ):
        if was is not None and now is not None and was is not now:
            ratio = was.value / now.value if new.stated else _mean_inverse(now) / _mean_inverse(was)
            yield from change(factor, timed, ratio, f"{factor} {was.value:.4g} to {now.value:.4g} ({now.source})")


def _kg_of(factors: Factors, part: str) -> Figure | None:
    return factors.building_kg if part == BUILDING else factors.embodied_kg.get(part)


def _rate(factors: Factors, scope: EmissionScope) -> float:
    """Return the mean g/kWh by contract, that of the location where there is none."""
    location = (_located(factors.intensity, scope) or 0.0) * _skew(factors.intensity.figure)
    contracts = Contracts.of(factors)
    if contracts is None:
        return location
    one_kwh = np.array([JOULES_PER_KWH])
    settled = contracts.settle(one_kwh, np.array([location / GRAMS_PER_KG]))
    return float(settled.operational_kg[0]) * GRAMS_PER_KG


def _located(intensity: Intensity, scope: EmissionScope) -> float | None:
    return turned(intensity, scope) if intensity.basis is not None else intensity.figure.value


def _skew(figure: Figure) -> float:
    """Return the mean over the central value of a figure."""
    return _mean(figure) / figure.value if figure.value > 0 else 1.0


def _pue_skew(pue: Figure) -> float:
    """Return the mean of a PUE over its central value: what varies is the overhead beyond 1."""
    overhead = Figure(pue.value - 1, pue.low - 1, pue.high - 1, pue.unit, pue.kind, pue.source)
    return (1 + _mean(overhead)) / pue.value


def _mean(figure: Figure) -> float:
    ends = (np.array([end]) for end in (figure.value, figure.low, figure.high))
    return float(mean_of(*ends)[0])


def _mean_inverse(figure: Figure) -> float:
    ends = (np.array([1 / end]) for end in (figure.value, figure.high, figure.low))
    return float(mean_of(*ends)[0])


def _g(g_per_kwh: float) -> str:
    return f"{g_per_kwh:.4g}"
