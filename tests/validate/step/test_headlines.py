"""The errors of collections stand in one order wherever they are shown."""

from __future__ import annotations

from carbon_plugin.validate.step.headlines import ALL, headlines
from carbon_plugin.validate.step.validated_row import ValidatedRow


def test_collections_stand_after_all_of_them_with_the_newest_first() -> None:
    rows = [
        ValidatedRow(
            id=name,
            source=name,
            origin=name,
            collection=name,
            moe=False,
            measured_step_time_s=1.0,
            predicted_step_time_s=1.1,
        )
        for name in ("first", "of a user", "tenth", "second", "fifth")
    ]

    assert [item.collection for item in headlines(rows)] == [ALL, "tenth", "fifth", "second", "first", "of a user"]
