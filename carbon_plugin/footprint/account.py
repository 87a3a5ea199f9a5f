"""Compute carbon with a range from energy and reserved device time. Plan, monitor and audit all use this module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from carbon_plugin.errors import FootprintError
from carbon_plugin.footprint.values import (
    BUILDING,
    CarbonTotals,
    CentralCarbon,
    EnergyItem,
    Factors,
    Footprint,
    MarketBased,
    Reservation,
)
from carbon_plugin.spec.numbers.figure import Figure, Kind
from carbon_plugin.spec.numbers.range import Range
from carbon_plugin.threads.turns import give_way

if TYPE_CHECKING:
    from carbon_plugin.footprint.propagation import Outcome, UncertainInputs
    from carbon_plugin.footprint.uncertainty import Floats

DRAWS, SEED = 2000, 0
"""Forecast, spent carbon and audit sample with these, so that the same inputs have the same range everywhere."""


def account(
    energies: Sequence[EnergyItem],
    reservations: Sequence[Reservation],
    factors: Factors,
    *,
    duration_spread: tuple[float, float] = (1.0, 1.0),
    draws: int = DRAWS,
    seed: int = SEED,
) -> Footprint:
    """Return the carbon of energy and of reserved device time under the given factors.

    Central values are exact arithmetic: operational kg = sum(E_it * PUE * I) / 3.6e9 with E in J and I in g/kWh;
    embodied kg = sum(kg * units * time / (lifetime * utilisation)), and of the building kg a device-year * device time.
    Low and high are the p10 and p90 of seeded sampling, one draw per scope for the whole run. `duration_spread` is the
    p10 and p90 of a factor on the time of the whole run: one draw that multiplies every energy and every reservation (a
    forecast's step time is uncertain, a past is not).

    The same inputs, `draws` and `seed` give the same ranges, in any order of the items; a scope draws the same numbers
    in every call, so that differences between two accounts are differences of their inputs. Where the range of a sum
    lies beside its central value (the medians of skewed parts do not add up to the median of the sum), the range is
    widened to contain it. Raises `FootprintError` for values that cannot be, naming the scope.
    """
    from carbon_plugin.footprint import propagation

    inputs = _inputs(energies, reservations, factors, duration_spread)
    outcome = propagation.evaluate(inputs, _scores(inputs, draws, seed))
    give_way()
    means = propagation.central_and_mean(inputs)
    give_way()
    return _footprint(outcome, means, energies, factors)


def carbon_totals(
    energies: Sequence[EnergyItem],
    reservations: Sequence[Reservation],
    factors: Factors,
    *,
    duration_spread: tuple[float, float] = (1.0, 1.0),
    draws: int = DRAWS,
    seed: int = SEED,
) -> CarbonTotals:
    """Return the sums of the footprint that `account` returns for the same arguments, without its parts.

    A live monitor asks for them once a window. Raises `FootprintError` as `account` does.
    """
    return _totals(_inputs(energies, reservations, factors, duration_spread).of_carbon, draws, seed)


def make_ready(draws: int) -> None:
    """Compute the totals of an invented run once, so that the first of a live monitor are not the ones that load code
    and fill caches. The scores of all inputs but the energies are drawn here for good.
    """
    from carbon_plugin.footprint import propagation

    _totals(propagation.certain_inputs(), draws, SEED)


def _totals(inputs: UncertainInputs, draws: int, seed: int) -> CarbonTotals:
    """Return the sums of the carbon of some inputs, with the ranges of their samples."""
    import numpy as np

    from carbon_plugin.footprint import propagation
    from carbon_plugin.footprint.uncertainty import percentiles

    outcome = propagation.sampled_carbon(inputs, _scores(inputs, draws, seed))
    give_way()
    table = np.stack([outcome.energy_j["it"], outcome.operational_kg, outcome.embodied_kg, outcome.total_kg])
    give_way()
    _, p10, p90, _ = percentiles(table[:, 1:]).tolist()
    energy_j, operational_kg, embodied_kg, total_kg = map(Range.of, table[:, 0].tolist(), p10, p90)
    give_way()
    known = bool(outcome.embodied_parts_kg)
    return CarbonTotals(
        energy_j=energy_j,
        operational_kg=operational_kg,
        embodied_kg=embodied_kg if known else None,
        total_kg=total_kg if known else None,
    )


def central_carbon(
    energies: Sequence[EnergyItem], reservations: Sequence[Reservation], factors: Factors
) -> CentralCarbon:
    """Return the central values of the footprint that `account` returns for the same arguments, without sampling.

    Raises `FootprintError` as `account` does.
    """
    from carbon_plugin.footprint import propagation

    outcome = propagation.central(_inputs(energies, reservations, factors, (1.0, 1.0)))
    known = bool(outcome.embodied_parts_kg)
    return CentralCarbon(
        operational_kg=outcome.operational_kg,
        embodied_kg=outcome.embodied_kg if known else None,
        total_kg=outcome.total_kg if known else None,
    )


def _inputs(
    energies: Sequence[EnergyItem],
    reservations: Sequence[Reservation],
    factors: Factors,
    duration_spread: tuple[float, float],
) -> UncertainInputs:
    # numpy is loaded here, so that reading a forecast or a ledger needs none.
    from carbon_plugin.footprint import propagation

    inputs = propagation.gather(energies, reservations, factors, duration_spread)
    give_way()
    return inputs


def _scores(inputs: UncertainInputs, draws: int, seed: int) -> Floats:
    """Return the scores at which the inputs are evaluated. The first column is the central values, and `draws` samples
    follow.
    """
    whole = all(isinstance(number, int) and not isinstance(number, bool) for number in (draws, seed))
    if not whole or draws < 1 or seed < 0:
        raise FootprintError(f"draws is {draws!r} and seed {seed!r}, expected at least 1 draw and a seed of 0 or more")
    from carbon_plugin.footprint import uncertainty

    scores = uncertainty.score_table(inputs.scopes, draws, seed)
    give_way()
    return scores


def _footprint(outcome: Outcome, means: Outcome, energies: Sequence[EnergyItem], factors: Factors) -> Footprint:
    """Return an outcome as figures. Its first column holds the central values, and the other columns the samples. The
    last column of `means` holds the means.
    """
    import numpy as np

    from carbon_plugin.footprint.uncertainty import percentiles

    energy, parts, water = outcome.energy_j, outcome.embodied_parts_kg, outcome.water_l
    totals = (outcome.operational_kg, outcome.embodied_kg, outcome.total_kg)
    market = () if outcome.market is None else (outcome.market.operational_kg,)
    table: Floats = np.stack([*energy.values(), *parts.values(), *totals, *water.values(), *market])
    central = table[:, 0].tolist()
    ranges = iter(zip(central, *percentiles(table[:, 1:]).tolist(), strict=True))
    give_way()
    wide: dict[str, tuple[float, float]] = {}

    def figure(unit: str, kind: Kind, source: str, name: str = "") -> Figure:
        value, p2, p10, p90, p98 = next(ranges)
        if name:
            wide[name] = (min(p2, value), max(p98, value))
        return Figure(value, min(p10, value), max(p90, value), unit, kind, source)

    where = factors.intensity.zone_name
    return Footprint(
        energy_j={rung: figure("J", *_energy_provenance(rung, energies, factors)) for rung in energy},
        embodied_parts_kg={scope: figure("kgCO2e", "modelled", _embodied_source(scope, factors)) for scope in parts},
        operational_kg=figure("kgCO2e", "modelled", f"facility energy x intensity of {where}", "operational_kg"),
        embodied_kg=figure("kgCO2e", "modelled", "sum of the embodied parts", "embodied_kg"),
        total_kg=figure("kgCO2e", "modelled", "operational + embodied", "total_kg"),
        water_l={
            place: figure("L", "modelled", f"energy x {factors.water_l_per_kwh[place].source}") for place in water
        },
        market=None
        if outcome.market is None
        else MarketBased(
            operational_kg=figure("kgCO2e", "modelled", "facility energy x contractual rates"),
            lines=outcome.market.lines,
        ),
        interval_95=wide,
        means={name: float(getattr(means, name)[-1]) for name in ("operational_kg", "embodied_kg", "total_kg")},
    )


def _embodied_source(scope: str, factors: Factors) -> str:
    if scope == BUILDING and factors.building_kg is not None:
        return f"{factors.building_kg.source}, by reserved time"
    return f"{factors.embodied_kg[scope].source}, {factors.amortisation}"


def _energy_provenance(rung: str, energies: Sequence[EnergyItem], factors: Factors) -> tuple[Kind, str]:
    if rung == "facility":
        return "modelled", f"IT energy x PUE {factors.pue.value:g} ({factors.pue.source})"
    kinds = {item.kind for item in energies if rung in (item.rung, "it")}
    kind = kinds.pop() if len(kinds) == 1 else "modelled"
    return kind, "sum of the rungs" if rung == "it" else f"sum of the {rung} energies"
