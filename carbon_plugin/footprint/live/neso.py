"""Ask the Carbon Intensity API of the British system operator (NESO) for the average of Great Britain.

The value is of half an hour, and the service needs no key.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime

import msgspec
from msgspec import Struct

from carbon_plugin.footprint.live.http import Service
from carbon_plugin.footprint.live.provider import LiveSample, ProviderError, checked
from carbon_plugin.footprint.values import Basis

NAME = "neso"
BASE_URL = "https://api.carbonintensity.org.uk"
ZONE = "GB"


class _Intensity(Struct):
    forecast: float | None = None
    actual: float | None = None


class _HalfHour(Struct):
    intensity: _Intensity
    start: str = msgspec.field(name="from")


class _Answer(Struct):
    data: list[_HalfHour]


class Neso:
    """Asks the Carbon Intensity API as an `IntensityProvider`."""

    name = NAME
    zone = ZONE
    interval_s = 1800.0
    licence = "CC-BY-4.0, National Energy System Operator"
    basis = Basis(scope="direct", signal="average", boundary="consumption")

    def __init__(self, *, base_url: str = BASE_URL) -> None:
        self._service = Service(NAME, base_url)

    def latest(self, deadline_s: float) -> LiveSample:
        """Return the value of this half-hour, or its forecast, marked as estimated, until the value is published."""
        answer = self._service.ask("/intensity", _Answer, deadline_s=deadline_s)
        if len(answer.data) != 1:
            raise ProviderError(f"{NAME}: {len(answer.data)} half-hours in the answer, expected 1")
        half_hour = answer.data[0]
        actual, forecast = half_hour.intensity.actual, half_hour.intensity.forecast
        value = forecast if actual is None else actual
        if value is None:
            raise ProviderError(f"{NAME}: neither an actual nor a forecast value in the answer")
        sample = LiveSample(
            provider=NAME,
            zone=ZONE,
            g_per_kwh=value,
            at_unix_s=_unix_s(half_hour.start),
            basis=self.basis,
            estimated=actual is None,
        )
        return checked(sample, time.time())

    def forecast(self, now_unix_s: float, deadline_s: float) -> list[tuple[float, float]]:
        """Return the forecast of the next 48 hours as pairs of Unix seconds and g/kWh. Raises `ProviderError`."""
        start = datetime.fromtimestamp(now_unix_s, UTC).strftime("%Y-%m-%dT%H:%MZ")
        answer = self._service.ask(f"/intensity/{start}/fw48h", _Answer, deadline_s=deadline_s)
        return [
            (_unix_s(half_hour.start), half_hour.intensity.forecast)
            for half_hour in answer.data
            if half_hour.intensity.forecast is not None
        ]


def _unix_s(text: str) -> float:
    """Return the Unix seconds of a moment in an answer. Raises `ProviderError` where it is missing or has no offset."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ProviderError(f"{NAME}: the moment of the value is no date") from None
    if moment.tzinfo is None:
        raise ProviderError(f"{NAME}: the moment of the value has no offset")
    return moment.timestamp()
