"""Ask a provider for the intensity of the hours to come, as a trace."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from carbon_plugin.errors import FootprintError
from carbon_plugin.footprint.live.electricity_maps import ElectricityMaps
from carbon_plugin.footprint.live.neso import Neso
from carbon_plugin.footprint.live.open import open_provider
from carbon_plugin.footprint.live.provider import ProviderError
from carbon_plugin.spec.site import MOST_G_PER_KWH, Site

if TYPE_CHECKING:
    from carbon_plugin.footprint.series.trace import Trace

DEADLINE_S = 10.0
FORECASTING = "electricity-maps and neso"


def forecast_trace(site: Site, environ: Mapping[str, str]) -> Trace:
    """Return the forecast of the site's live service. The call blocks for about ten seconds at most.

    Raises `FootprintError` for a site without a live service, or one whose service forecasts no average intensity, and
    its subclass `ProviderError` for an answer that cannot be used.
    """
    import numpy as np

    from carbon_plugin.footprint.series.trace import make_trace

    if site.live is None:
        raise FootprintError(
            "no forecast of the grid is known for this run: give a file with --forecast (a column of times and one of "
            "gCO2e/kWh), or name a service in the run spec, for instance site: {live: {provider: electricity-maps}}; "
            f"those that forecast are {FORECASTING}"
        )
    provider = open_provider(site.live, site, environ)
    if not isinstance(provider, ElectricityMaps | Neso):
        raise FootprintError(f"{provider.name} forecasts no average intensity, expected {FORECASTING} or a file")
    values = provider.forecast(time.time(), DEADLINE_S)
    if len(values) < 2:
        raise ProviderError(f"{provider.name}: {len(values)} hours in the forecast, expected at least 2")
    wrong = next((value for _, value in values if not 0 <= value <= MOST_G_PER_KWH), None)
    if wrong is not None:
        raise ProviderError(f"{provider.name}: {wrong:g} g/kWh in the forecast cannot be an intensity")
    moments, rates = zip(*sorted(dict(values).items()), strict=True)
    asked = datetime.now(UTC).strftime("%Y-%m-%dT%H:%MZ")
    source = f"{provider.name}, forecast for {provider.zone} of {asked}"
    return make_trace(np.array(moments), np.array(rates), source=source, basis=provider.basis)
