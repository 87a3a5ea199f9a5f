"""Ask WattTime for the marginal emission rate (MOER) of each five minutes. The service needs an account.

The marginal rate is the change in emissions for one kWh more or less. It never enters a total and is recorded beside
the average.
"""

from __future__ import annotations

import time
from datetime import datetime

from msgspec import Struct

from carbon_plugin.footprint.live.http import Service
from carbon_plugin.footprint.live.provider import LiveSample, ProviderError, checked
from carbon_plugin.footprint.values import Basis
from carbon_plugin.net.connection import basic
from carbon_plugin.spec.numbers.units import G_PER_KWH_OF_LB_PER_MWH

NAME = "watttime"
BASE_URL = "https://api.watttime.org"
SIGNAL = "co2_moer"
UNITS = "lbs_co2_per_mwh"
# A token lives for half an hour.
TOKEN_S = 25 * 60.0


class _Token(Struct):
    token: str


class _Point(Struct):
    point_time: datetime
    value: float


class _Meta(Struct):
    region: str
    signal_type: str
    units: str


class _Answer(Struct):
    data: list[_Point]
    meta: _Meta


class WattTime:
    """Asks WattTime for one region, as an `IntensityProvider`."""

    name = NAME
    interval_s = 300.0
    licence = "WattTime API terms: not to be redistributed"
    basis = Basis(scope="direct", signal="marginal", boundary="generation")

    def __init__(self, zone: str, user: str, password: str, *, base_url: str = BASE_URL) -> None:
        self.zone = zone
        self._account = {"Authorization": basic(user, password)}
        self._service = Service(NAME, base_url)
        self._token = ""
        self._token_end_s = 0.0

    def latest(self, deadline_s: float) -> LiveSample:
        """Return the value of this moment, which is the first of the newest forecast. See `IntensityProvider`."""
        end_s = time.monotonic() + deadline_s
        if time.monotonic() >= self._token_end_s:
            login = self._service.ask("/login", _Token, deadline_s=deadline_s, headers=self._account)
            self._token, self._token_end_s = login.token, time.monotonic() + TOKEN_S
        answer = self._service.ask(
            "/v3/forecast",
            _Answer,
            deadline_s=max(0.1, end_s - time.monotonic()),
            params={"region": self.zone, "signal_type": SIGNAL, "horizon_hours": "1"},
            headers={"Authorization": f"Bearer {self._token}"},
        )
        meta = answer.meta
        if meta.region != self.zone:
            raise ProviderError(f"{NAME}: asked for region {self.zone}, the answer is of another one", permanent=True)
        if (meta.signal_type, meta.units) != (SIGNAL, UNITS):
            raise ProviderError(f"{NAME}: expected {SIGNAL} in {UNITS}, the answer has others", permanent=True)
        if not answer.data or answer.data[0].point_time.tzinfo is None:
            raise ProviderError(f"{NAME}: no value with a moment in the answer")
        point = answer.data[0]
        sample = LiveSample(
            provider=NAME,
            zone=meta.region,
            g_per_kwh=point.value * G_PER_KWH_OF_LB_PER_MWH,
            at_unix_s=point.point_time.timestamp(),
            basis=self.basis,
            estimated=True,
        )
        return checked(sample, time.time())
