"""Define what a provider of live grid intensity returns: a value of one zone with its basis, or an error."""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from carbon_plugin.errors import FootprintError
from carbon_plugin.footprint.values import Basis
from carbon_plugin.spec.numbers.amounts import number
from carbon_plugin.spec.numbers.units import SECONDS_PER_DAY, SECONDS_PER_HOUR
from carbon_plugin.spec.site import MOST_G_PER_KWH

# A value of the future or of last week is an error of the service.
MOST_AHEAD_S = SECONDS_PER_HOUR
MOST_BEHIND_S = 7 * SECONDS_PER_DAY


class LiveSample(Struct, frozen=True, kw_only=True):
    """Holds the intensity of a zone at a moment, g/kWh. `zone` is the provider's name of it. `estimated` is True if the
    provider says that the value was not measured.
    """

    provider: str
    zone: str
    g_per_kwh: float
    at_unix_s: float
    basis: Basis
    estimated: bool = False


class ProviderError(FootprintError):
    """A provider could not be asked, or gave no usable answer. The message never holds a token or a part of the answer.

    `retry_after_s` is the time after which the provider may be asked again, if it stated one. `permanent` means that
    asking again is useless, because the token is refused or the answer belongs to another zone.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None, permanent: bool = False) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.permanent = permanent


class IntensityProvider(Protocol):
    """Defines a provider for one zone of one service. Its value changes every `interval_s`; `licence` says what may be
    done with it.
    """

    name: str
    zone: str
    basis: Basis
    interval_s: float
    licence: str

    def latest(self, deadline_s: float) -> LiveSample:
        """Return the newest value. Blocks for about `deadline_s` seconds at most. Raises `ProviderError`."""
        ...


def checked(sample: LiveSample, now_unix_s: float) -> LiveSample:
    """Return the sample. Raises `ProviderError` if it cannot be the intensity of a grid at the moment `now_unix_s`."""
    if not 0 <= sample.g_per_kwh <= MOST_G_PER_KWH:
        raise ProviderError(f"{sample.provider}: {sample.g_per_kwh:g} g/kWh for {sample.zone} cannot be an intensity")
    age_s = now_unix_s - sample.at_unix_s
    if not -MOST_AHEAD_S <= age_s <= MOST_BEHIND_S:
        raise ProviderError(
            f"{sample.provider}: the value for {sample.zone} is {number(age_s / SECONDS_PER_HOUR)} hours old"
        )
    return sample
