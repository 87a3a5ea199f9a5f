"""Write accounts as sentences and rows for people, the same for the terminal and for the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from carbon_plugin.fleet.accounts import AccountLine, Accounts
from carbon_plugin.fleet.inventory import CAPITAL_GOODS
from carbon_plugin.fleet.restate.restatement import Restatement
from carbon_plugin.show import wording
from carbon_plugin.spec.numbers.amounts import fitting_unit, plural
from carbon_plugin.spec.numbers.range import Range
from carbon_plugin.spec.numbers.units import CARBON_UNITS, ENERGY_UNITS, JOULES_PER_KWH

MOVED_SHOWN = 12
REASON_SHOWN = 160
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def month_name(month: int | None) -> str:
    """Return a month such as "Nov 2025"."""
    return f"{MONTHS[month % 100 - 1]} {month // 100}" if month else "all"


def label_of(line: AccountLine) -> str:
    """Return the name of a line's group, or of its month where it has no group."""
    return " / ".join(line.group.values()) or month_name(line.month)


def summary_lines(accounts: Accounts) -> list[str]:
    """Return a summary of a fleet's energy and carbon in a few lines."""
    totals = accounts.totals
    first, last = month_name(accounts.first_month), month_name(accounts.last_month)
    period = first if first == last else f"{first} to {last}"
    measured = totals.measured_kwh / totals.energy_kwh if totals.energy_kwh else 0.0
    total = "total unknown"
    if totals.total_kg is not None:
        whole = Range.of(totals.total_kg, totals.total_low_kg, totals.total_high_kg)
        total = f"{mass(totals.total_kg)} ({wording.carbon_range(whole)})"
    found = [
        f"{plural(totals.runs, 'run')}, {period}: {wording.energy(totals.energy_kwh * JOULES_PER_KWH)} of the "
        f"machines, "
        f"{wording.percent(measured)} measured",
        f"{total}: operational {mass(totals.location_kg)} ({accounts.counts}, "
        f"location-based; market-based {mass(totals.market_kg)}), embodied "
        f"{mass(totals.embodied_kg)} "
        f"({accounts.embodied_rule})",
        *lacking_sentences(totals),
        waste_sentence(totals),
    ]
    found += coverage_sentences(accounts)
    for one in accounts.forecasts[-1:]:
        found.append(
            f"forecasts of {plural(one.runs, 'run')} of {month_name(one.month)}: {wording.off_by(1 + one.bias)} in "
            f"sum, a "
            f"usual run {wording.percent(one.median_absolute_error)} off"
        )
    if accounts.restatement is not None:
        found += restatement_sentences(accounts.restatement)
    return found + inventory_lines(accounts)


def inventory_lines(accounts: Accounts) -> list[str]:
    """Return the lines of a GHG Protocol inventory below a heading, or no lines where no inventory was asked for."""
    if not accounts.years:
        return []
    lines = [
        f"  {line.year}, scope {line.scope}{f' category {line.category}' if line.category else ''}, {line.name}"
        f"{f' ({line.method})' if line.method else ''}: {mass(line.kg)}"
        for line in accounts.years
    ]
    heading = (
        "Lines for a GHG Protocol inventory, by year (location- and market-based are two views of one electricity):"
    )
    if all(line.category != CAPITAL_GOODS for line in accounts.years):
        return [heading, *lines]
    return [
        heading,
        *lines,
        "  Capital goods are whole devices, booked in the year in which a run first used them. They are not comparable "
        "with the embodied carbon above, which is the runs' share of them; never add the two.",
    ]


def restatement_sentences(restated: Restatement) -> list[str]:
    """Return which totals moved with other factors, by how much and through which factor, and which factors were not
    applied.
    """
    found = []
    for one in restated.totals:
        if not one.before_kg and not one.after_kg:
            continue
        by = ", ".join(f"{factor} {signed(by_kg)}" for factor, by_kg in one.by_factor_kg.items())
        found.append(
            f"restated with other factors ({restated.factors}): {one.total} {wording.carbon(one.before_kg)} to "
            f"{wording.carbon(one.after_kg)}{f' ({by})' if by else ', nothing moved'}"
        )
    found += [
        f"  {one.total}, {one.region} {month_name(one.month)}: {wording.carbon(one.before_kg)} to "
        f"{wording.carbon(one.after_kg)}, {short(one.reason)}"
        for one in restated.moved[:MOVED_SHOWN]
    ]
    more = len(restated.moved) - MOVED_SHOWN
    if more > 0:
        found.append(f"  and {plural(more, 'more total')} of regions and months, in the JSON document")
    return [*found, *(f"  not applied: {words}" for words in restated.not_applied)]


def short(reason: str) -> str:
    """Return a reason that is cut to fit a table. The JSON document has the whole text."""
    return reason if len(reason) <= REASON_SHOWN else f"{reason[: REASON_SHOWN - 1].rstrip()}…"


def signed(mass_kg: float) -> str:
    """Return a change of carbon in words, with its sign."""
    return f"{'-' if mass_kg < 0 else '+'}{wording.carbon(abs(mass_kg))}"


def coverage_sentences(accounts: Accounts) -> list[str]:
    """Return which part of the scheduler's device time the ledgers recorded, or no sentences without the scheduler's
    account.
    """
    coverage = accounts.coverage
    if coverage is None:
        return []
    share = wording.percent(coverage.share)
    return [
        f"the scheduler gave {coverage.allocated_h:,.4g} device-hours ({coverage.source}), of which ledgers recorded "
        f"{share}",
        *(
            f"  {month_name(one.month)}: {wording.percent(one.share)} of {one.allocated_h:,.4g} device-hours"
            for one in coverage.months
            if one.allocated_h
        ),
        *([f"  no start is told of {coverage.undated_h:,.4g} device-hours"] if coverage.undated_h else []),
    ]


def mass(kilograms: float | None) -> str:
    """Return a mass of carbon in words, "unknown" for None."""
    return "unknown" if kilograms is None else wording.carbon(kilograms)


def cell(value: float | None, size: float = 1.0) -> str:
    """Return a number for a table in a unit of this size, or "-" where it is not known."""
    return "-" if value is None else wording.number(value / size)


def column(values: Sequence[float | None], size: float = 1.0) -> list[str]:
    """Return the numbers of one column in a unit of this size, with as many decimals as the largest number needs for
    three digits. A number that is not known is "-", and one that is too small to be shown is "<0.1".
    """
    largest = max((abs(value) / size for value in values if value is not None), default=0.0)
    decimals = max(0, 2 - math.floor(math.log10(largest))) if largest > 0 else 0
    least = 10.0**-decimals

    def text(value: float | None) -> str:
        if value is None:
            return "-"
        return f"<{least:.{decimals}f}" if 0 < value / size < least / 2 else f"{value / size:,.{decimals}f}"

    return list(map(text, values))


def lacking_sentences(line: AccountLine) -> list[str]:
    """Return what the carbon of a line does not contain, in sentences."""
    found = []
    if line.without_carbon_kwh > 0:
        without = wording.energy(line.without_carbon_kwh * JOULES_PER_KWH)
        found.append(f"the operational carbon of {without} is not known and in no sum")
    if line.without_embodied_h > 0:
        found.append(f"the embodied carbon of {line.without_embodied_h:,.3g} device-hours is not known and in no sum")
    return found


def waste_sentence(line: AccountLine) -> str:
    """Return the waste of a line by kind, as shares of its energy."""
    waste = line.waste
    if not waste.kwh or not line.energy_kwh:
        return "nothing was wasted: no run failed, restarted or waited"
    parts = {
        "failed runs": waste.failed_kwh,
        "steps done again": waste.redone_kwh,
        "starting up again": waste.restart_kwh,
        "idle": waste.idle_kwh,
    }
    shares = ", ".join(f"{name} {wording.percent(kwh / line.energy_kwh)}" for name, kwh in parts.items() if kwh)
    total = wording.percent(waste.kwh / line.energy_kwh)
    return f"waste {total} of the energy, {mass(waste.operational_kg)}: {shares}"


def rows_of(
    title: str, lines: Sequence[AccountLine], name_of: Callable[[int | None], str] = month_name
) -> tuple[list[str], list[list[str]]]:
    """Return the headings and rows of a table of lines, with one unit a column."""
    energy_size, energy_unit = fitting_unit(max(line.energy_kwh for line in lines) * JOULES_PER_KWH, ENERGY_UNITS)
    carbon_size, carbon_unit = fitting_unit(
        max(line.total_kg or line.location_kg or line.embodied_kg or 0.0 for line in lines), CARBON_UNITS
    )
    headings = [
        title,
        "runs",
        "device-hours",
        f"energy, {energy_unit}",
        f"location, {carbon_unit}",
        f"market, {carbon_unit}",
        f"embodied, {carbon_unit}",
        f"total, {carbon_unit}",
        "p10",
        "p90",
        "waste",
    ]
    columns = [
        [" / ".join(line.group.values()) or name_of(line.month) for line in lines],
        [f"{line.runs:,}" for line in lines],
        column([line.device_hours for line in lines]),
        column([line.energy_kwh * JOULES_PER_KWH for line in lines], energy_size),
        column([line.location_kg for line in lines], carbon_size),
        column([line.market_kg for line in lines], carbon_size),
        column([line.embodied_kg for line in lines], carbon_size),
        column([line.total_kg for line in lines], carbon_size),
        column([line.total_low_kg for line in lines], carbon_size),
        column([line.total_high_kg for line in lines], carbon_size),
        [wording.percent(line.waste.kwh / line.energy_kwh if line.energy_kwh else 0.0) for line in lines],
    ]
    return headings, [list(row) for row in zip(*columns, strict=True)]
