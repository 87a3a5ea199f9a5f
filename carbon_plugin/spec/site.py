"""Describe where a run happens, as the user states it. `footprint` looks up the emission factors of that place."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from carbon_plugin.errors import SpecError
from carbon_plugin.spec.parsing.limits import check_at_most, check_not_negative, check_positive

Provider = Literal["electricity-maps", "neso", "watttime"]
StatedKind = Literal["metered", "annual_report", "unknown"]
"""What a number that the user states comes from; the range around it depends on it (`footprint.factors.stated`)."""
MARGINAL_PROVIDERS: tuple[Provider, ...] = ("watttime",)
MOST_G_PER_KWH = 3000.0
"""This is twice what the worst coal plant emits; a larger number is probably meant per MWh."""
MOST_PUE = 10.0
"""No facility comes near this value; it refuses 12 that was written for 1.2."""
MOST_L_PER_KWH = 1000.0
"""This is far more than the reservoirs of power stations evaporate; a larger number is probably meant per MWh."""
LEAST_YEARS, MOST_YEARS = 0.01, 100.0
"""Lifetimes of hardware between which any is accepted: four days, and longer than computers exist."""


class SeriesFile(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One instance names a CSV or Parquet file of grid intensity over time, in g/kWh; docs/providers.md describes its
    format.

    `column` names the value column where several columns could be meant; `timezone` (an IANA name, or UTC) is needed
    where the timestamps carry no offset; `basis` says what is counted, as `Site.intensity_basis` does; `source` is one
    phrase.
    """

    path: str
    column: str | None = None
    timezone: str | None = None
    basis: str | None = None
    source: str | None = None


class LiveSource(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One instance names a service that is asked for the intensity at the moment.

    `zone` is the name that the service gives the area, where it does not follow from the zone of the site.
    """

    provider: Provider
    zone: str | None = None


class Instrument(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Describes a contract that gives electricity an emission rate of its own, for the market-based line only.

    `kind` is ppa (power purchase agreement), certificate (REC, GO, REGO, I-REC) or supplier (a tariff with its own
    rate). It covers a `share` of the facility's energy, or `energy_kwh` of it, at `g_per_kwh`; `source` names the
    contract and its vintage.
    """

    kind: Literal["ppa", "certificate", "supplier"]
    g_per_kwh: float
    source: str
    share: float | None = None
    energy_kwh: float | None = None

    def __post_init__(self) -> None:
        check_rates(self, "g_per_kwh", owner="instrument: ")
        if (self.share is None) == (self.energy_kwh is None):
            raise SpecError("instrument: give share or energy_kwh, one of them")
        if self.share is not None and not 0 < self.share <= 1:
            raise SpecError(f"instrument: share is {self.share}, expected more than 0 and at most 1")
        check_positive(self, "energy_kwh", owner="instrument: ")


class Site(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One site says where a run happens: the place, its grid and its facility. There is no default place.

    Args:
        zone: An ISO 3166 alpha-2 or alpha-3 code, a country, a part of one by name or code ("Texas", "US-TX"), an eGRID
            subregion ("egrid:SRVC") or a cloud region ("gcp:us-central1"). Default: None; then one of the next two.
        intensity_g_per_kwh: Grid intensity in gCO2e/kWh, in place of the one of the zone. Default: None.
        intensity_source: Where that number comes from, in one phrase. Default: "stated by the user".
        intensity_basis: What that number counts, such as "lifecycle average consumption". Default: None.
        intensity_kind: What it comes from: "metered" (a metered contract), "annual_report" or "unknown" (the default).
            The range around it depends on it.
        intensity_range: Its 10th and 90th percentile in gCO2e/kWh, in place of a usual range. Default: None.
        intensity_series: A file of intensity over time, in place of the number (docs/providers.md). Default: None.
        live: A service that is asked for the intensity during the run. Default: None. Where it does not answer, the
            series, the number or the zone counts.
        marginal_g_per_kwh: Marginal intensity in gCO2e/kWh. It is shown beside the average and is never part of a
            total. Default: None.
        marginal_source: Where it comes from. Default: "stated by the user".
        marginal_series: A file of marginal intensity. Default: None.
        live_marginal: A service that is asked for marginal intensity. Default: None.
        pue: Energy of the facility over that of its machines, 1 to 10. Default: None; then the one of the tables.
        pue_source: Where it comes from. Default: "stated by the user".
        pue_kind: What it comes from, as `intensity_kind`. Default: "unknown".
        pue_range: Its 10th and 90th percentile, in place of a usual range. Default: None.
        wue_l_per_kwh: Litres of water that evaporate on site a kWh of IT energy. Default: None.
        water_l_per_kwh: Litres of water that generating a kWh takes. Default: None.
        instruments: Contracts for electricity, for the market-based line. Default: none.
        residual_g_per_kwh: Intensity of what the contracts do not cover, in gCO2e/kWh. Default: None.
        lifetime_years: Life of the hardware over which its manufacture is charged. Default: None; then that of the
            profile.
        amortisation: "reserved_time" (the default) charges reserved time over calendar life, "active_share" over the
            share of that life in which the fleet is in use.
        fleet_utilisation: That share, above 0 and at most 1. Default: None.
        building: Whether the manufacture of the building counts. Default: False.

    Raises:
        SpecError: No place is stated, or a value cannot be used.
    """

    zone: str | None = None
    intensity_g_per_kwh: float | None = None
    intensity_source: str = "stated by the user"
    intensity_basis: str | None = None
    intensity_kind: StatedKind = "unknown"
    intensity_range: tuple[float, float] | None = None
    intensity_series: str | SeriesFile | None = None
    live: LiveSource | None = None
    marginal_g_per_kwh: float | None = None
    marginal_source: str = "stated by the user"
    marginal_series: str | SeriesFile | None = None
    live_marginal: LiveSource | None = None
    pue: float | None = None
    pue_source: str = "stated by the user"
    pue_kind: StatedKind = "unknown"
    pue_range: tuple[float, float] | None = None
    wue_l_per_kwh: float | None = None
    water_l_per_kwh: float | None = None
    instruments: tuple[Instrument, ...] = ()
    residual_g_per_kwh: float | None = None
    lifetime_years: float | None = None
    amortisation: Literal["reserved_time", "active_share"] = "reserved_time"
    fleet_utilisation: float | None = None
    building: bool = False

    def __post_init__(self) -> None:
        if self.zone is None and self.intensity_g_per_kwh is None and self.intensity_series is None:
            raise SpecError(
                "site: give zone (for instance FRA, Texas, aws:eu-north-1), intensity_g_per_kwh or intensity_series"
            )
        if self.intensity_g_per_kwh is not None and self.intensity_series is not None:
            raise SpecError("site: give intensity_g_per_kwh or intensity_series, not both")
        if self.intensity_basis is not None and self.intensity_g_per_kwh is None:
            raise SpecError(
                f"site: intensity_basis {self.intensity_basis!r} counts only with intensity_g_per_kwh; that of a file "
                "stands in intensity_series: {path, basis}"
            )
        if self.intensity_basis is not None and "marginal" in self.intensity_basis.lower():
            raise SpecError(
                f"site: intensity_basis is {self.intensity_basis!r}, and a marginal rate is never the total of a run: "
                "give the number as marginal_g_per_kwh, and an average one as intensity_g_per_kwh"
            )
        check_rates(self, "intensity_g_per_kwh", "marginal_g_per_kwh", "residual_g_per_kwh", owner="site: ")
        check_not_negative(self, "wue_l_per_kwh", "water_l_per_kwh", owner="site: ")
        check_at_most(self, MOST_L_PER_KWH, "wue_l_per_kwh", "water_l_per_kwh", owner="site: ")
        if self.pue is not None and not 1 <= self.pue <= MOST_PUE:
            raise SpecError(f"site: pue is {self.pue:g}, expected 1 to {MOST_PUE:g} (facility energy over IT energy)")
        _check_ends("intensity_range", self.intensity_range, "intensity_g_per_kwh", self.intensity_g_per_kwh, 0.0)
        _check_ends("pue_range", self.pue_range, "pue", self.pue, 1.0)
        if self.lifetime_years is not None and not LEAST_YEARS <= self.lifetime_years <= MOST_YEARS:
            raise SpecError(
                f"site: lifetime_years is {self.lifetime_years:g}, expected {LEAST_YEARS:g} to {MOST_YEARS:g}"
            )
        if self.fleet_utilisation is not None and not 0 < self.fleet_utilisation <= 1:
            raise SpecError(f"site: fleet_utilisation is {self.fleet_utilisation}, expected more than 0 and at most 1")
        if self.fleet_utilisation is not None and self.amortisation != "active_share":
            raise SpecError("site: fleet_utilisation counts only with amortisation: active_share")
        if self.live is not None and self.live.provider in MARGINAL_PROVIDERS:
            raise SpecError(f"site: {self.live.provider} gives marginal intensity, expected it as live_marginal")
        if self.live_marginal is not None and self.live_marginal.provider not in MARGINAL_PROVIDERS:
            raise SpecError(f"site: {self.live_marginal.provider} gives average intensity, expected it as live")


def check_rates(value: Struct, *fields: str, owner: str) -> None:
    """Raise `SpecError` naming the first of the fields, in g/kWh, that no electricity has. None passes."""
    check_not_negative(value, *fields, owner=owner)
    for field in fields:
        stated = getattr(value, field)
        if stated is not None and not stated <= MOST_G_PER_KWH:
            raise SpecError(f"{owner}{field} is {stated:g}, expected at most {MOST_G_PER_KWH:g} (gCO2e/kWh)")


def _check_ends(name: str, ends: tuple[float, float] | None, of: str, value: float | None, least: float) -> None:
    if ends is None:
        return
    if value is None:
        raise SpecError(f"site: {name} counts only with {of}")
    low, high = ends
    if not least <= low <= value <= high < math.inf:
        raise SpecError(f"site: {name} is {low:g} to {high:g}, expected {least:g} <= low <= {of} ({value:g}) <= high")


def stated_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a site, as plain data, that somebody stated: those that are not their defaults.

    So "stated by the user" is not said of a number that the site does not have.
    """
    defaults = msgspec.to_builtins(Site(zone="-")) | {"zone": None}
    encode = msgspec.json.encode  # a list that was read from a file equals a tuple
    return {name: value for name, value in fields.items() if encode(value) != encode(defaults.get(name))}


def relative_to(site: Site, base: Path) -> Site:
    """Return the site with the paths of the files that it names taken relative to a directory."""
    return msgspec.structs.replace(
        site,
        intensity_series=_under(base, site.intensity_series),
        marginal_series=_under(base, site.marginal_series),
    )


def _under(base: Path, file: str | SeriesFile | None) -> str | SeriesFile | None:
    if isinstance(file, SeriesFile):
        return msgspec.structs.replace(file, path=str(base / file.path))
    return None if file is None else str(base / file)
