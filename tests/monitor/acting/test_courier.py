"""A function of the user that raises is warned of once, and is an event each time."""

from __future__ import annotations

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
