"""Where the run happens, as the user states it. Factors are looked up in `footprint`."""

from __future__ import annotations

from msgspec import Struct

from carbon_plugin.errors import SpecError


class Site(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Location and facility.

    `zone` is an ISO 3166 alpha-2 or alpha-3 code, a country name, an eGRID subregion ("egrid:SRVC") or a cloud
    region ("gcp:us-central1"). There is no default zone. `intensity_g_per_kwh` and `pue` override the tables and
    then need `intensity_source` / `pue_source`, one phrase each (default "stated by the user").
    """

    zone: str | None = None
    intensity_g_per_kwh: float | None = None
    intensity_source: str = "stated by the user"
    pue: float | None = None
    pue_source: str = "stated by the user"
    lifetime_years: float | None = None

    def __post_init__(self) -> None:
        if self.zone is None and self.intensity_g_per_kwh is None:
            raise SpecError("site: give zone (for instance FRA, egrid:SRVC, gcp:us-central1) or intensity_g_per_kwh")
        if self.intensity_g_per_kwh is not None and self.intensity_g_per_kwh < 0:
            raise SpecError(f"site: intensity_g_per_kwh is {self.intensity_g_per_kwh}, expected 0 or more")
        if self.pue is not None and self.pue < 1:
            raise SpecError(f"site: pue is {self.pue}, expected 1 or more (facility energy over IT energy)")
        if self.lifetime_years is not None and self.lifetime_years <= 0:
            raise SpecError(f"site: lifetime_years is {self.lifetime_years}, expected a positive number")
