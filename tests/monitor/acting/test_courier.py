"""A function of the user that raises is warned of once, and what cannot be delivered now arrives later."""

from __future__ import annotations

import resource
import threading
from collections.abc import Callable

import pytest

from carbon_plugin.monitor.acting.courier import Courier


def test_a_function_that_raises_is_one_warning_and_an_event_each_time(caplog):
    events: list[str] = []
    courier = Courier(events.append)

    def broken(_: object) -> None:
        raise ValueError("no\nsuch table")

    for _ in range(3):
        courier.send("the function of the budget", broken)
    courier.close()

    assert len(events) == 3
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "the function of the budget: ValueError: no" in warnings[0]
    assert "\n" not in warnings[0]


@pytest.mark.parametrize("later", [Courier.deliver, Courier.close])
def test_what_is_sent_while_no_file_can_be_opened_arrives_later(later: Callable[[Courier], None]) -> None:
    arrived = threading.Event()
    failed: list[str] = []
    courier = Courier(failed.append)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        courier.send("an alert", lambda wait: arrived.set())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not arrived.is_set()

    later(courier)
    courier.close()

    assert arrived.is_set()
    assert failed == []
