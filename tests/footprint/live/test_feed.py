"""A live value over time: who asks, what is kept, and how it ages when answers stop."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from carbon_plugin.footprint.live.cache import DiskCache, cache_dir
from carbon_plugin.footprint.live.feed import LiveFeed
from carbon_plugin.footprint.live.provider import LiveSample, ProviderError
from carbon_plugin.footprint.values import Basis

HOUR = 3600.0
T0 = 480_000 * HOUR
BASIS = Basis(scope="lifecycle", signal="average", boundary="consumption")


class Scripted:
    """A provider that says what it is told to say next, and counts how often it was asked."""

    name, zone, basis, interval_s, licence = "scripted", "FR", BASIS, HOUR, "none"

    def __init__(self, *answers: float | ProviderError) -> None:
        self.answers = list(answers)
        self.asked = 0
        self.now = T0

    def latest(self, deadline_s: float) -> LiveSample:
        self.asked += 1
        answer = self.answers.pop(0) if self.answers else ProviderError("scripted: answers with status 500")
        if isinstance(answer, ProviderError):
            raise answer
        return LiveSample(provider="scripted", zone="FR", g_per_kwh=answer, at_unix_s=self.now, basis=self.basis)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def feed(provider: Scripted, folder: Path | None) -> LiveFeed:
    return LiveFeed(provider, DiskCache(folder, provider.name, provider.zone))


def test_one_process_asks_once_an_interval_and_the_others_read(folder: Path) -> None:
    provider = Scripted(40, 50)
    first, second = feed(provider, folder), feed(provider, folder)

    for seconds in range(0, 3600, 600):
        first.refresh(T0 + seconds)
        second.refresh(T0 + seconds)

    assert provider.asked == 1
    assert first.sample == second.sample
    provider.now = T0 + HOUR
    second.refresh(T0 + HOUR)
    first.refresh(T0 + HOUR)
    assert provider.asked == 2
    assert first.at(T0 + HOUR, 300).g_per_kwh == 50


def test_a_value_ages_into_the_static_one_within_a_day(folder: Path) -> None:
    live = feed(Scripted(40), folder)
    assert (live.at(T0, 300).g_per_kwh, live.at(T0, 300).origin) == (300, "static")

    live.refresh(T0)

    assert (live.at(T0 + 3 * HOUR, 300).g_per_kwh, live.at(T0 + 3 * HOUR, 300).origin) == (40, "live")
    halfway = live.at(T0 + 13.5 * HOUR, 300)
    assert (halfway.g_per_kwh, halfway.origin) == (pytest.approx(170), "ageing")
    assert (live.at(T0 + 24 * HOUR, 300).g_per_kwh, live.at(T0 + 24 * HOUR, 300).origin) == (300, "static")


def test_without_a_static_value_a_stale_one_is_none(folder: Path) -> None:
    live = feed(Scripted(40), folder)
    live.refresh(T0)

    assert live.at(T0 + HOUR, None).g_per_kwh == 40
    assert live.at(T0 + 4 * HOUR, None).g_per_kwh is None


def test_failures_are_retried_ever_more_slowly_and_a_service_may_say_when(folder: Path) -> None:
    failing = [ProviderError("scripted: answers with status 500")] * 2
    provider = Scripted(*failing, ProviderError("scripted: answers with status 429", retry_after_s=600), 40)
    live = feed(provider, folder)
    asked_at = []
    for seconds in range(0, 3600, 10):
        before = provider.asked
        live.refresh(T0 + seconds)
        if provider.asked > before:
            asked_at.append(seconds)

    assert asked_at == [0, 60, 180, 780]
    assert live.trouble is None
    assert live.sample is not None


def test_a_service_cannot_ask_for_silence_until_the_run_is_over(folder: Path) -> None:
    live = feed(Scripted(ProviderError("scripted: answers with status 429", retry_after_s=1e12), 40), folder)
    live.refresh(T0)
    live.refresh(T0 + 25 * HOUR)

    assert live.sample is not None


def test_a_refusal_is_not_repeated(folder: Path) -> None:
    provider = Scripted(ProviderError("scripted: refuses the credentials", permanent=True), 40)
    live = feed(provider, folder)

    for hour in range(5):
        live.refresh(T0 + hour * HOUR)

    assert provider.asked == 1
    assert live.trouble == "scripted: refuses the credentials"


def test_the_cache_outlives_a_process_is_private_and_forgives_damage(folder: Path) -> None:
    feed(Scripted(40), folder).refresh(T0)
    assert all(file.stat().st_mode & 0o077 == 0 for file in (folder, *folder.iterdir()))

    restarted = feed(Scripted(), folder)
    restarted.refresh(T0 + 60)
    assert restarted.sample is not None

    (folder / "scripted-FR.json").write_bytes(b"{torn")
    damaged = feed(Scripted(), folder)
    damaged.refresh(T0 + 60)
    assert damaged.sample is None


def test_a_cached_value_of_another_basis_is_not_taken(folder: Path) -> None:
    feed(Scripted(40), folder).refresh(T0)
    other = Scripted()
    other.basis = Basis(scope="direct", signal="average", boundary="consumption")
    live = feed(other, folder)

    live.refresh(T0 + 60)

    assert live.sample is None


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_cache_that_cannot_be_written_costs_questions_only(folder: Path) -> None:
    folder.mkdir(mode=0o500)
    live = feed(Scripted(40), folder)

    live.refresh(T0)

    assert live.sample is not None


def test_a_cache_folder_that_is_a_file_costs_questions_only(folder: Path) -> None:
    folder.write_text("not a folder")
    live = feed(Scripted(40), folder)

    live.refresh(T0)

    assert live.at(T0, 300).g_per_kwh == 40


def test_without_a_home_directory_the_source_is_asked_without_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_entry(user: int) -> None:
        raise KeyError(user)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", no_entry)  # as in a container that runs under any user id
    live = feed(Scripted(40), cache_dir({}))

    live.refresh(T0)

    assert cache_dir({}) is None
    assert live.at(T0, 300).g_per_kwh == 40


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/scratch/home")
    assert cache_dir({"CARBON_PLUGIN_CACHE": "/scratch/x"}) == Path("/scratch/x")
    assert cache_dir({"XDG_CACHE_HOME": "/scratch/y"}) == Path("/scratch/y/carbon_plugin")
    assert cache_dir({}) == Path("/scratch/home/.cache/carbon_plugin")
