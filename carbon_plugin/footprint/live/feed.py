"""A live value over time: asked once an interval, kept on disk, and ageing into the static one when answers stop.

intensity = live                                         while the last value is fresh (3 intervals)
intensity = live + (static - live) * (age - fresh) / (day - fresh)      up to a day
intensity = static                                       after that, and before the first value
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from carbon_plugin.footprint.live.cache import DiskCache
from carbon_plugin.footprint.live.provider import IntensityProvider, LiveSample, ProviderError

Origin = Literal["live", "ageing", "static", "series"]

FRESH_INTERVALS = 3
GONE_S = 86400.0
DEADLINE_S = 3.0
FIRST_RETRY_S = 60.0
MOST_RETRY_S = 3600.0
MOST_PATIENCE_S = 86400.0


class Reading(Struct, frozen=True, kw_only=True):
    """An intensity in force, g/kWh (None: nothing is known), and where it comes from."""

    g_per_kwh: float | None
    origin: Origin


class LiveFeed:
    """Follows one provider. `refresh` may block for `DEADLINE_S`; it belongs on a thread that may wait."""

    def __init__(self, provider: IntensityProvider, cache: DiskCache) -> None:
        self.provider = provider
        self.sample: LiveSample | None = None
        self.trouble: str | None = None
        self._cache = cache
        self._slot = -1
        self._mine = False
        self._next_s = 0.0
        self._failures = 0
        self._refused = False

    def refresh(self, now_unix_s: float) -> None:
        """Take over what others fetched; ask if this process has claimed the interval. Failures are in `trouble`."""
        provider = self.provider
        slot = int(now_unix_s // provider.interval_s)
        self.take_over()
        if slot != self._slot:
            self._slot, self._mine = slot, not self._refused and self._cache.claim(slot)
        if not self._mine or now_unix_s < self._next_s:
            return
        try:
            self.sample = provider.latest(DEADLINE_S)
        except ProviderError as error:
            self._failures += 1
            self._refused = error.permanent
            self._mine = not error.permanent
            self.trouble = str(error)
            wait_s = min(FIRST_RETRY_S * 2 ** (self._failures - 1), MOST_RETRY_S)
            # A service may ask for patience, not for silence until the run is over.
            self._next_s = now_unix_s + max(wait_s, min(error.retry_after_s or 0.0, MOST_PATIENCE_S))
        else:
            self._failures, self.trouble, self._mine = 0, None, False
            self._cache.write(self.sample)

    def take_over(self) -> None:
        """The newest value that any process has fetched, where it is newer than the own; nobody is asked."""
        cached = self._cache.read()
        if (
            cached is not None
            and self._fits(cached)
            and (self.sample is None or cached.at_unix_s > self.sample.at_unix_s)
        ):
            self.sample, self.trouble = cached, None

    def at(self, now_unix_s: float, static_g_per_kwh: float | None) -> Reading:
        """The intensity in force; without a static value a stale one is none."""
        if self.sample is None:
            return Reading(g_per_kwh=static_g_per_kwh, origin="static")
        live, age_s = self.sample.g_per_kwh, now_unix_s - self.sample.at_unix_s
        fresh_s = FRESH_INTERVALS * self.provider.interval_s
        if age_s <= fresh_s:
            return Reading(g_per_kwh=live, origin="live")
        if static_g_per_kwh is None or age_s >= GONE_S:
            return Reading(g_per_kwh=static_g_per_kwh, origin="static")
        share = (age_s - fresh_s) / (GONE_S - fresh_s)
        return Reading(g_per_kwh=live + (static_g_per_kwh - live) * share, origin="ageing")

    def _fits(self, sample: LiveSample) -> bool:
        """A cached value may be of another setting, for instance of direct factors."""
        provider = self.provider
        return (sample.provider, sample.zone, sample.basis) == (provider.name, provider.zone, provider.basis)
