"""Find the electricity factors for an inventory: the run's own factor, which has one basis, and those that the reporter
adds.

    upstream = lifecycle - direct                    losses = lifecycle * loss / (1 - loss)

All are in g/kWh of electricity used. `loss` is the share of what is fed into the grid that does not arrive. Without a
lifecycle factor the losses are counted at the direct one.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from carbon_plugin.audit.exports.evidence import GridFactor
from carbon_plugin.errors import ReportError
from carbon_plugin.footprint.values import Basis
from carbon_plugin.spec.numbers.amounts import percent
from carbon_plugin.spec.site import MOST_G_PER_KWH


class GhgInputs(Struct, frozen=True, kw_only=True):
    """One instance holds what a ledger cannot know: who owns electricity and hardware, when the hardware was bought,
    and further factors.

    The factors are in g/kWh and stand beside the run's own. `factor_source` says in a phrase where they come from.
    """

    organisational_boundary: Literal["own", "colo", "cloud"]
    acquisition_year: int | None = None
    direct_g_per_kwh: float | None = None
    lifecycle_g_per_kwh: float | None = None
    factor_source: str | None = None
    grid_loss: float | None = None


class Rate(Struct, frozen=True, kw_only=True):
    """An emission factor, g/kWh of electricity used, with its source and with the time and area that it is an average
    of.
    """

    g_per_kwh: float
    source: str
    granularity: str


class ElectricityFactors(Struct, frozen=True, kw_only=True):
    """The factors of a place. A factor is None where neither the run nor the reporter knows it."""

    direct: Rate | None
    lifecycle: Rate | None
    upstream: Rate | None
    losses: Rate | None


def electricity_factors(location: GridFactor, basis: Basis, inputs: GhgInputs) -> ElectricityFactors:
    """Return the factors for an inventory. The run's own factor counts for its basis, and the reporter's for the other
    basis.

    Raises `ReportError` for a factor without a source, for one that contradicts the run's, and for an impossible loss.
    """
    _check(basis, inputs)
    own = Rate(
        g_per_kwh=location.applied_g_per_kwh,
        source=location.figure.source,
        granularity=f"{location.granularity_time}; {location.granularity_area}",
    )
    direct = own if basis.scope == "direct" else _given(inputs.direct_g_per_kwh, inputs)
    lifecycle = own if basis.scope == "lifecycle" else _given(inputs.lifecycle_g_per_kwh, inputs)
    return ElectricityFactors(
        direct=direct,
        lifecycle=lifecycle,
        upstream=None if direct is None or lifecycle is None else _upstream(direct, lifecycle),
        losses=_losses(lifecycle or own, inputs.grid_loss),
    )


def _given(g_per_kwh: float | None, inputs: GhgInputs) -> Rate | None:
    if g_per_kwh is None:
        return None
    return Rate(g_per_kwh=g_per_kwh, source=inputs.factor_source or "", granularity="as its source states")


def _upstream(direct: Rate, lifecycle: Rate) -> Rate:
    if direct.g_per_kwh > lifecycle.g_per_kwh:
        raise ReportError(
            f"GHG: the direct factor is {direct.g_per_kwh:g} g/kWh, expected at most the lifecycle factor "
            f"{lifecycle.g_per_kwh:g}, which contains it"
        )
    return Rate(
        g_per_kwh=lifecycle.g_per_kwh - direct.g_per_kwh,
        source=f"lifecycle ({lifecycle.source}) minus direct ({direct.source})",
        granularity=f"lifecycle: {lifecycle.granularity}; direct: {direct.granularity}",
    )


def _losses(whole: Rate, loss: float | None) -> Rate | None:
    if loss is None:
        return None
    source = f"{percent(loss, 2)} of what is fed in does not arrive, as stated by the reporter, at {whole.source}"
    return Rate(g_per_kwh=whole.g_per_kwh * loss / (1 - loss), source=source, granularity=whole.granularity)


def _check(basis: Basis, inputs: GhgInputs) -> None:
    given = {"direct": inputs.direct_g_per_kwh, "lifecycle": inputs.lifecycle_g_per_kwh}
    for scope, value in given.items():
        if value is None:
            continue
        if not 0 <= value <= MOST_G_PER_KWH:
            raise ReportError(f"GHG: {scope}_factor is {value:g} g/kWh, expected 0 to {MOST_G_PER_KWH:g}")
        if not inputs.factor_source:
            raise ReportError(f"GHG: {scope}_factor has no source, expected --factor-source: publisher, year and zone")
        if scope == basis.scope:
            raise ReportError(f"GHG: {scope}_factor is given, but the run's own intensity is {scope} already")
    if inputs.grid_loss is not None and not 0 <= inputs.grid_loss < 1:
        raise ReportError(f"GHG: grid_loss is {inputs.grid_loss:g}, expected a share from 0 to below 1")
