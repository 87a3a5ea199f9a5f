"""Compute accounts again with other factors, and say which totals moved, by how much and through which factor.

Each run is computed from its own recorded factors, hour by hour. Its carbon is a product of central values, so a new
factor is applied as its ratio to the old one. The factors are applied one after the other, so that their parts add up
to the change of a total.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from carbon_plugin.fleet.restate.factor_changes import (
    LEAST_CHANGE,
    PARTS,
    Change,
    contract_rate,
    embodied_changes,
    grams,
    intensity_changes,
    pue_changes,
)
from carbon_plugin.fleet.restate.new_factors import (
    CURRENT,
    REFUSED,
    FactorFile,
    NewFactors,
    read_factors,
    shipped_factors,
    stated_factors,
)
from carbon_plugin.fleet.store.schema import MJ_PER_J, STATIC, UG_PER_KG
from carbon_plugin.footprint.market import Contracts
from carbon_plugin.footprint.values import EmissionScope, Factors
from carbon_plugin.ledger.held.unobserved import IdleTime, modelled_idle

LOCATION, MARKET, EMBODIED, CAPITAL = "location-based", "market-based", "embodied", "capital goods"
TOTALS = (LOCATION, MARKET, EMBODIED, CAPITAL)


class FactorMove(Struct, frozen=True, kw_only=True):
    """The part of a change that comes from one factor, kgCO2e, and a sentence on what became of the factor."""

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
        """Return what became of the factors in words."""
        return "; ".join(move.reason for move in self.moves)


class RestatedTotal(Struct, frozen=True, kw_only=True):
    """A total of the whole report before and after, kgCO2e, and the part that each factor moved."""

    total: str
    before_kg: float
    after_kg: float
    by_factor_kg: dict[str, float]


class Restatement(Struct, frozen=True, kw_only=True):
    """The totals with other factors, and the totals that moved. Totals that stayed are not listed.

    `not_applied` names the factors that could not be applied again or that stay as recorded, each with the reason and
    the runs.
    """

    factors: str
    totals: list[RestatedTotal]
    moved: list[MovedTotal]
    not_applied: list[str]

    def of(self, total: str) -> RestatedTotal:
        """Return the total of this name."""
        return next(one for one in self.totals if one.total == total)


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
    """The sums of a restatement in the making."""

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
        energy = [*self._idle(row, new), *pue_changes(old_own, new_own)]
        grid = intensity_changes(row, self._scope, static, old_own, new, new_own)
        self._add(LOCATION, *place, location_ug, (*energy, *grid))
        by_contract = self._market(row, old, new, grid)
        self._add(MARKET, *place, market_ug, (*energy, *by_contract))
        shares = {part: row[f"run_{part}_ug"] for part in PARTS}
        self._add(EMBODIED, *place, row["embodied_ug"], embodied_changes(shares, old, new, with_life=True))

    def add_capital(self, row: Mapping[str, Any]) -> None:
        """Add hardware that was first used in a month: whole devices, each with its part of host and network."""
        place, digest = (row["region"], row["month"]), row["factors"]
        changes: Iterable[Change] = ()
        if digest in self._documents:
            shares = {part: row.get(f"{part}_ug", 0) for part in PARTS}
            changes = embodied_changes(
                shares, self._documents[digest], self._choose(digest, row["hardware"], True), with_life=False
            )
        self._add(CAPITAL, *place, row["embodied_ug"], changes)

    def result(self, factors: str) -> Restatement:
        """Return the restatement, with the largest change first."""
        moved, totals = [], []
        for total in TOTALS:
            keys = [key for key in sorted(self._sums) if key[0] == total]
            by_factor: dict[str, float] = {}
            for key in keys:
                before, after = self._sums[key]
                if abs(after - before) <= LEAST_CHANGE * abs(before):
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
        return Restatement(factors=factors, totals=totals, moved=moved, not_applied=[*sorted(kept), *REFUSED.values()])

    def _add(self, total: str, region: str, month: int, amount_ug: int, changes: Iterable[Change]) -> None:
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

    def _idle(self, row: Mapping[str, Any], new: NewFactors) -> Iterator[Change]:
        """Yield the change of the modelled energy of reserved time without records."""
        if not row["unobserved_mj"] or not row["energy_mj"] or not row["unobserved"]:
            return
        time = msgspec.json.decode(row["unobserved"], type=IdleTime)
        before_j = row["run_unobserved_mj"] / MJ_PER_J
        after_j = sum(used.energy.value for used in modelled_idle(time, new.idle_w).used.values())
        if before_j <= 0 or after_j <= 0 or abs(after_j / before_j - 1) <= LEAST_CHANGE:
            return
        ratio = 1 + row["unobserved_mj"] / row["energy_mj"] * (after_j / before_j - 1)
        yield Change("idle power", ratio, f"idle reserved time: {after_j / before_j:.4g} times the energy")

    def _market(
        self, row: Mapping[str, Any], old: Factors, new: NewFactors, grid: Iterable[Change]
    ) -> Iterator[Change]:
        """Yield the change of the emissions of one kWh of the facility by contract."""
        if Contracts.of(old) is None and Contracts.of(new.factors) is None:
            yield from grid
            return
        if any(one.share is None for one in old.instruments):
            words = "market-based rate of contracts over a number of kWh: which run they serve first is not stored"
            self._kept.setdefault(words, set()).add(row["run"])
            return
        before, after = (contract_rate(one, self._scope) for one in (old, new.factors))
        if before > 0 and abs(after / before - 1) > LEAST_CHANGE:
            words = f"market-based rate {grams(before)} to {grams(after)} g/kWh"
            yield Change("market factors", after / before, words)


def _moves(found: Mapping[str, Mapping[str, float]]) -> list[FactorMove]:
    """Return the factors that moved a total, each with its reasons."""
    return [
        FactorMove(factor=factor, by_kg=sum(reasons.values()) / UG_PER_KG, reason="; ".join(reasons))
        for factor, reasons in found.items()
    ]
