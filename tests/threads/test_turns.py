"""A thread that takes turns pauses after a while of work, and no other thread does."""

from __future__ import annotations

import threading

import pytest

from carbon_plugin.threads import turns


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    """Return the pauses as (name of the thread, seconds), on a clock on which every look takes most of a turn."""
    found: list[tuple[str, float]] = []
    now_s = [0.0]

    def monotonic() -> float:
        now_s[0] += 0.6 * turns.TURN_S
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


def test_a_thread_that_the_training_waits_for_pauses_no_more(pauses: list[tuple[str, float]]) -> None:
    def background() -> None:
        turns.take_turns()
        turns.stop_taking_turns()
        for _ in range(5):
            turns.give_way()

    thread = threading.Thread(target=background, name="background")
    thread.start()
    thread.join()

    assert pauses == []


def test_pauses_are_no_work(pauses: list[tuple[str, float]]) -> None:
    found: list[float] = []

    def background() -> None:
        turns.take_turns()
        begun_s = turns.worked_s()
        for _ in range(5):
            turns.give_way()
        found.append(turns.worked_s() - begun_s)

    thread = threading.Thread(target=background, name="background")
    thread.start()
    thread.join()

    looks = 5 + 1  # each pause takes one more look, which is not counted
    assert len(pauses) == 3
    assert found == [pytest.approx(looks * 0.6 * turns.TURN_S)]
