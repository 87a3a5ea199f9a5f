"""A thread that takes turns pauses after a while of work, and no other thread does."""

from __future__ import annotations

import threading

import pytest

from carbon_plugin.threads import turns


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    """Return the pauses as (name of the thread, seconds), on a clock on which every look takes 60 us."""
    found: list[tuple[str, float]] = []
    now_s = [0.0]

    def monotonic() -> float:
        now_s[0] += 60e-6
        return now_s[0]

    monkeypatch.setattr(turns.time, "monotonic", monotonic)
    monkeypatch.setattr(turns.time, "sleep", lambda seconds: found.append((threading.current_thread().name, seconds)))
    return found


def test_only_a_thread_that_takes_turns_pauses(pauses: list[tuple[str, float]]) -> None:
    def background() -> None:
        turns.take_turns()
        for _ in range(5):
            turns.give_way()

    thread = threading.Thread(target=background, name="background")
    thread.start()
    thread.join()
    for _ in range(5):
        turns.give_way()

    assert pauses == [("background", turns.PAUSE_S)] * 2
