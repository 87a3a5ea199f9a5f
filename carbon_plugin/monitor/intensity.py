"""Find the grid intensity in force in each window, and the event for the ledger when that changes.

The intensity comes from the site's live service, else from its series, else from the factors. Only the monitor thread
of a node leader asks the services, between windows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from carbon_plugin.errors import FootprintError
from carbon_plugin.footprint.live.cache import DiskCache, cache_dir
from carbon_plugin.footprint.live.feed import IntensityReading, LiveFeed, SampleOrigin
from carbon_plugin.footprint.live.open import open_provider
from carbon_plugin.footprint.values import RunPeriod
from carbon_plugin.ledger.records import BY_HOUR, GRID_EVENT
from carbon_plugin.spec.parsing.moment import iso_utc
from carbon_plugin.spec.site import LiveSource, Site

if TYPE_CHECKING:
    from carbon_plugin.footprint.series.trace import Trace

Note = tuple[str, str, dict[str, Any]]


class InForce(NamedTuple):
    """Holds the average intensity of a window with its origin, and the marginal intensity, g/kWh. Each is None where
    nothing is known.
    """

    g_per_kwh: float | None
    origin: SampleOrigin | None
    marginal_g_per_kwh: float | None


class IntensityWatch:
    """Follows the intensities of a site over time. Raises `FootprintError` for a live source or a series that cannot be
    used."""

    def __init__(self, site: Site | None, environ: Mapping[str, str]) -> None:
        self._feed = _feed(site, site.live, environ) if site else None
        self._marginal_feed = _feed(site, site.live_marginal, environ) if site else None
        self._trace = _trace(site, "intensity_series") if site else None
        self._marginal_trace = _trace(site, "marginal_series") if site else None
        self._marginal_static = site.marginal_g_per_kwh if site else None
        self._origin: SampleOrigin = "static"
        self._troubles: dict[str, str | None] = {}
        self._notes: list[Note] = []

    def refresh(self, now_unix_s: float) -> None:
        """Ask the services that are due. The call blocks for a few seconds at most."""
        for feed in filter(None, (self._feed, self._marginal_feed)):
            feed.refresh(now_unix_s)
            name = feed.provider.name
            if feed.trouble is not None and feed.trouble != self._troubles.get(name):
                self._notes.append((f"{GRID_EVENT}_trouble", feed.trouble, {"provider": name}))
            self._troubles[name] = feed.trouble

    def of_window(self, start_unix_s: float, end_unix_s: float, static_g_per_kwh: float | None) -> InForce:
        """Return the average and marginal intensity in force over a window, which is given in Unix s."""
        for feed in filter(None, (self._feed, self._marginal_feed)):
            if feed.sample is None:  # another process asks for this node as well and may have its first answer
                feed.take_over()
        reading = _reading(self._feed, self._trace, start_unix_s, end_unix_s, static_g_per_kwh)
        if reading.origin != self._origin:
            self._notes.append((GRID_EVENT, *self._change(reading, end_unix_s)))
            self._origin = reading.origin
        marginal = _reading(self._marginal_feed, self._marginal_trace, start_unix_s, end_unix_s, self._marginal_static)
        origin = None if reading.g_per_kwh is None else reading.origin
        return InForce(reading.g_per_kwh, origin, marginal.g_per_kwh)

    def drain(self) -> list[Note]:
        """Return the new events for the ledger as (kind, sentence, data), each once."""
        notes, self._notes = self._notes, []
        return notes

    def _change(self, reading: IntensityReading, now_unix_s: float) -> tuple[str, dict[str, Any]]:
        value = "unknown" if reading.g_per_kwh is None else f"{reading.g_per_kwh:.4g} g/kWh"
        data: dict[str, Any] = {"origin": reading.origin, "g_per_kwh": reading.g_per_kwh}
        feed = self._feed
        sample = feed.sample if feed else None
        if reading.origin == "series" and self._trace is not None:
            data[BY_HOUR] = self._trace.by_hour()
        if feed is None or sample is None or reading.origin == "series":
            source = "of the site's series" if reading.origin == "series" else "static, of the factors"
            return f"intensity is {source} from now on: {value}", data
        data |= {
            "provider": sample.provider,
            "zone": sample.zone,
            "at_unix_s": sample.at_unix_s,
            "estimated": sample.estimated,
            "scope": sample.basis.scope,
            "boundary": sample.basis.boundary,
            "interval_s": feed.provider.interval_s,
            "licence": feed.provider.licence,
        }
        age = f"the last value of {sample.provider} for {sample.zone} is of {iso_utc(sample.at_unix_s)}"
        words: dict[SampleOrigin, str] = {
            "live": f"intensity is live from now on: {age}, {value}",
            "ageing": f"{age} and ages into the static one: {value}",
            "static": f"{age} and too old: the static intensity counts, {value}",
        }
        return words[reading.origin], data


def expected_g_per_kwh(site: Site | None, start_unix_s: float, duration_s: float) -> float | None:
    """Return the mean of the site's series over hours to come, g/kWh, or None if it has no series that covers them."""
    if site is None or site.intensity_series is None or duration_s <= 0:
        return None
    from carbon_plugin.footprint.series.over_run import series_intensity

    try:
        intensity = series_intensity(site.intensity_series, site.zone, RunPeriod(start_unix_s, duration_s))
    except FootprintError:  # the mean of the whole series counts then
        return None
    return intensity.figure.value


def check_live(site: Site, environ: Mapping[str, str]) -> None:
    """Raise `FootprintError` before training for a live source or a series of a site that cannot be used."""
    IntensityWatch(site, environ)


def _reading(
    feed: LiveFeed | None, trace: Trace | None, start_unix_s: float, end_unix_s: float, static: float | None
) -> IntensityReading:
    base = IntensityReading(g_per_kwh=static, origin="static")
    if trace is not None:
        mean, known = trace.mean(start_unix_s, max(end_unix_s - start_unix_s, 1.0))
        if known > 0:
            base = IntensityReading(g_per_kwh=mean, origin="series")
    if feed is None:
        return base
    reading = feed.at(end_unix_s, base.g_per_kwh)
    return base if reading.origin == "static" else reading


def _feed(site: Site, source: LiveSource | None, environ: Mapping[str, str]) -> LiveFeed | None:
    if source is None:
        return None
    provider = open_provider(source, site, environ)
    # Each scope has its own cache: a job with factors of the other scope cannot use the value of this one.
    cache = DiskCache(cache_dir(environ), provider.name, f"{provider.zone}-{provider.basis.scope}")
    return LiveFeed(provider, cache)


def _trace(site: Site, field: str) -> Trace | None:
    file = getattr(site, field)
    if file is None:
        return None
    from carbon_plugin.footprint.series.file import load_trace

    return load_trace(file, "marginal" if field == "marginal_series" else "average")
