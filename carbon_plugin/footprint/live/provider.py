"""What a service of live grid intensity is: one value of one zone with what it counts, or an error that says why."""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from carbon_plugin.errors import FootprintError
from carbon_plugin.footprint.values import Basis

# A value from the future or of another week is a mistake of the service, not an intensity of the moment.
MOST_AHEAD_S = 3600.0
MOST_BEHIND_S = 7 * 86400.0
# No grid comes near this: a value above it is in another unit.
MOST_G_PER_KWH = 3000.0


class LiveSample(Struct, frozen=True, kw_only=True):
    """Intensity of a zone (as the provider calls it) at a moment, g/kWh. `estimated`: the provider says that it was
    not measured."""

    provider: str
    zone: str
    g_per_kwh: float
    at_unix_s: float
    basis: Basis
    estimated: bool = False


class ProviderError(FootprintError):
    """A provider could not be asked or gave no usable answer. Never holds a token or a part of the answer.

    `retry_after_s` is when it may be asked again, as far as it said so. With `permanent` asking again is no use: the
    token is refused, or the answer is of another zone.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None, permanent: bool = False) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.permanent = permanent


class IntensityProvider(Protocol):
    """One zone of one service. `interval_s` is how often its value changes, `licence` what may be done with it."""

    name: str
    zone: str
    basis: Basis
    interval_s: float
    licence: str

    def latest(self, deadline_s: float) -> LiveSample:
        """The newest value. Blocks for about `deadline_s` seconds at most. Raises `ProviderError`."""
        ...


def checked(sample: LiveSample, now_unix_s: float) -> LiveSample:
    """The sample, if it can be the intensity of the moment; else `ProviderError`."""
    if not 0 <= sample.g_per_kwh <= MOST_G_PER_KWH:
        raise ProviderError(f"{sample.provider}: {sample.g_per_kwh:g} g/kWh for {sample.zone} cannot be an intensity")
    age_s = now_unix_s - sample.at_unix_s
    if not -MOST_AHEAD_S <= age_s <= MOST_BEHIND_S:
        raise ProviderError(f"{sample.provider}: the value for {sample.zone} is {age_s / 3600:,.1f} hours old")
    return sample
