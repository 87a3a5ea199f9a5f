"""Follow a live intensity: ask once an interval, keep the value, and move to the static one when answers stop.

intensity = live                                         while the last value is fresh (3 intervals)
intensity = live + (static - live) * (age - fresh) / (day - fresh)      up to a day
intensity = static                                       after that, and before the first value
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from carbon_plugin.footprint.live.cache import DiskCache
from carbon_plugin.footprint.live.provider import IntensityProvider, LiveSample, ProviderError

SampleOrigin = Literal["live", "ageing", "static", "series"]

FRESH_INTERVALS = 3
GONE_S = 86400.0
DEADLINE_S = 3.0
FIRST_RETRY_S = 60.0
MOST_RETRY_S = 3600.0
MOST_PATIENCE_S = 86400.0


class IntensityReading(Struct, frozen=True, kw_only=True):
    """Holds the intensity in force, g/kWh, and its origin. The intensity is None if it is not known."""

    g_per_kwh: float | None
    origin: SampleOrigin


class LiveFeed:
    """Follows one provider. `refresh` may block for `DEADLINE_S`, so it belongs on a thread that may wait."""

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
        """Take the value that another process fetched, and ask the provider if this process has claimed the interval.

        A failure raises nothing; `trouble` holds the message of the last one.
        """
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
            # A service may ask us to wait, but not until the run is over.
            self._next_s = now_unix_s + max(wait_s, min(error.retry_after_s or 0.0, MOST_PATIENCE_S))
        else:
            self._failures, self.trouble, self._mine = 0, None, False
            self._cache.write(self.sample)

    def take_over(self) -> None:
        """Take the value that another process has fetched if it is newer than this process's own. The provider is not
        asked.
        """
        cached = self._cache.read()
        if (
            cached is not None
            and self._fits(cached)
            and (self.sample is None or cached.at_unix_s > self.sample.at_unix_s)
        ):
            self.sample, self.trouble = cached, None

    def at(self, now_unix_s: float, static_g_per_kwh: float | None) -> IntensityReading:
        """Return the intensity in force at a moment. Without a static value, a stale live value counts as none."""
        if self.sample is None:
            return IntensityReading(g_per_kwh=static_g_per_kwh, origin="static")
        live, age_s = self.sample.g_per_kwh, now_unix_s - self.sample.at_unix_s
        fresh_s = FRESH_INTERVALS * self.provider.interval_s
        if age_s <= fresh_s:
            return IntensityReading(g_per_kwh=live, origin="live")
        if static_g_per_kwh is None or age_s >= GONE_S:
            return IntensityReading(g_per_kwh=static_g_per_kwh, origin="static")
        share = (age_s - fresh_s) / (GONE_S - fresh_s)
        return IntensityReading(g_per_kwh=live + (static_g_per_kwh - live) * share, origin="ageing")

    def _fits(self, sample: LiveSample) -> bool:
        """Return whether a cached value is of this provider, zone and basis; another setting may have written it."""
        provider = self.provider
        return (sample.provider, sample.zone, sample.basis) == (provider.name, provider.zone, provider.basis)
