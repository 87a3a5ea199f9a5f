"""Which electricity factors an inventory can use: the run's own by its basis, and those that the reporter adds.

    upstream = lifecycle - direct                    losses = lifecycle * loss / (1 - loss)

All in g/kWh of electricity used; `loss` is the share of what is fed into the grid that does not arrive. Without a
lifecycle factor the losses are counted at the direct one.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.audit.view import grid_g_per_kwh
from carbon_plugin.errors import ReportError
from carbon_plugin.footprint.account import Basis, Factors


class GhgInputs(Struct, frozen=True, kw_only=True):
    """What a ledger cannot know: whose electricity and hardware it is, when that was bought, and factors beside the
    run's own, g/kWh, with one phrase on where they come from."""

    organisational_boundary: Literal["own", "colo", "cloud"]
    acquisition_year: int | None = None
    direct_g_per_kwh: float | None = None
    lifecycle_g_per_kwh: float | None = None
    factor_source: str | None = None
    grid_loss: float | None = None


class ElectricityFactors(Struct, frozen=True, kw_only=True):
    """Factors of a place, g/kWh of electricity used, None where neither run nor reporter knows one."""

    direct_g_per_kwh: float | None
    direct_source: str
    lifecycle_g_per_kwh: float | None
    lifecycle_source: str
    upstream_g_per_kwh: float | None
    upstream_source: str
    losses_g_per_kwh: float | None
    losses_source: str


def electricity_factors(summary: AuditSummary, factors: Factors, basis: Basis, inputs: GhgInputs) -> ElectricityFactors:
    """Factors for an inventory. What the run itself used counts for its basis, what the reporter gave for the other.

    Raises `ReportError` for a factor given without source, one that contradicts the run's, or an impossible loss.
    """
    _check(basis, inputs)
    own, own_source = grid_g_per_kwh(summary), factors.intensity.figure.source
    given = inputs.factor_source or ""
    direct, direct_source = (own, own_source) if basis.scope == "direct" else (inputs.direct_g_per_kwh, given)
    lifecycle, life_source = (own, own_source) if basis.scope == "lifecycle" else (inputs.lifecycle_g_per_kwh, given)
    upstream = None if direct is None or lifecycle is None else lifecycle - direct
    if upstream is not None and upstream < 0:
        raise ReportError(
            f"GHG: the direct factor is {direct:g} g/kWh, expected at most the lifecycle factor {lifecycle:g}, which "
            "contains it"
        )
    loss, whole = inputs.grid_loss, lifecycle if lifecycle is not None else direct
    losses = None if loss is None or whole is None else whole * loss / (1 - loss)
    return ElectricityFactors(
        direct_g_per_kwh=direct,
        direct_source=direct_source,
        lifecycle_g_per_kwh=lifecycle,
        lifecycle_source=life_source,
        upstream_g_per_kwh=upstream,
        upstream_source=f"lifecycle ({life_source}) minus direct ({direct_source})",
        losses_g_per_kwh=losses,
        losses_source=f"{loss or 0:.2%} of what is fed in does not arrive, as stated by the reporter",
    )


def _check(basis: Basis, inputs: GhgInputs) -> None:
    given = {"direct": inputs.direct_g_per_kwh, "lifecycle": inputs.lifecycle_g_per_kwh}
    for scope, value in given.items():
        if value is None:
            continue
        if value < 0:
            raise ReportError(f"GHG: {scope}_factor is {value:g} g/kWh, expected 0 or more")
        if not inputs.factor_source:
            raise ReportError(f"GHG: {scope}_factor has no source, expected --factor-source: publisher, year and zone")
        if scope == basis.scope:
            raise ReportError(f"GHG: {scope}_factor is given, but the run's own intensity is {scope} already")
    if inputs.grid_loss is not None and not 0 <= inputs.grid_loss < 1:
        raise ReportError(f"GHG: grid_loss is {inputs.grid_loss:g}, expected a share from 0 to below 1")
