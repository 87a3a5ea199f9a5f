"""Ask Electricity Maps (API v3) for the average consumption intensity of each hour.

The service needs a token. For an unknown zone it may answer for the place of the caller, so the zone of every answer is
checked.
"""

from __future__ import annotations

import time
from datetime import datetime
from typing import Literal

from msgspec import Struct

from carbon_plugin.footprint.live.http import Service
from carbon_plugin.footprint.live.provider import LiveSample, ProviderError, checked
from carbon_plugin.footprint.values import Basis

NAME = "electricity-maps"
BASE_URL = "https://api.electricitymaps.com/v3"


class _Latest(Struct, rename="camel"):
    zone: str
    carbon_intensity: float
    datetime: datetime
    emission_factor_type: str | None = None
    is_estimated: bool = False


class _Hour(Struct, rename="camel"):
    carbon_intensity: float
    datetime: datetime


class _Hours(Struct, rename="camel"):
    zone: str
    forecast: list[_Hour]
    emission_factor_type: str | None = None


class ElectricityMaps:
    """Asks Electricity Maps for one zone, as an `IntensityProvider`. `scope` says which emissions its emission factors
    count.
    """

    name = NAME
    interval_s = 3600.0
    licence = "Electricity Maps API terms: not to be redistributed"

    def __init__(
        self, zone: str, token: str, *, scope: Literal["lifecycle", "direct"] = "lifecycle", base_url: str = BASE_URL
    ) -> None:
        self.zone = zone
        self.basis = Basis(scope=scope, signal="average", boundary="consumption")
        self._token = token
        self._service = Service(NAME, base_url)

    def latest(self, deadline_s: float) -> LiveSample:
        """Return the newest value. See `IntensityProvider`."""
        latest = self._service.ask(
            "/carbon-intensity/latest",
            _Latest,
            deadline_s=deadline_s,
            params={
                "zone": self.zone,
                "emissionFactorType": self.basis.scope,
                "shouldUseFallbackCallerLookup": "false",
            },
            headers={"auth-token": self._token},
        )
        if latest.zone != self.zone:
            raise ProviderError(f"{NAME}: asked for zone {self.zone}, the answer is of another one", permanent=True)
        if latest.emission_factor_type not in (None, self.basis.scope):
            raise ProviderError(f"{NAME}: asked for {self.basis.scope} factors, the answer has others", permanent=True)
        if latest.datetime.tzinfo is None:
            raise ProviderError(f"{NAME}: the moment of the value has no offset")
        sample = LiveSample(
            provider=NAME,
            zone=latest.zone,
            g_per_kwh=latest.carbon_intensity,
            at_unix_s=latest.datetime.timestamp(),
            basis=self.basis,
            estimated=latest.is_estimated,
        )
        return checked(sample, time.time())

    def forecast(self, now_unix_s: float, deadline_s: float) -> list[tuple[float, float]]:
        """Return the forecast of the hours to come as pairs of Unix seconds and g/kWh. Raises `ProviderError`."""
        hours = self._service.ask(
            "/carbon-intensity/forecast",
            _Hours,
            deadline_s=deadline_s,
            params={"zone": self.zone, "emissionFactorType": self.basis.scope},
            headers={"auth-token": self._token},
        )
        if hours.zone != self.zone:
            raise ProviderError(f"{NAME}: asked for zone {self.zone}, the answer is of another one", permanent=True)
        if hours.emission_factor_type not in (None, self.basis.scope):
            raise ProviderError(f"{NAME}: asked for {self.basis.scope} factors, the answer has others", permanent=True)
        if any(hour.datetime.tzinfo is None for hour in hours.forecast):
            raise ProviderError(f"{NAME}: the moment of the value has no offset")
        return [(hour.datetime.timestamp(), hour.carbon_intensity) for hour in hours.forecast]
