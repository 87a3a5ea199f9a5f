"""The last answer of a function is given again for the very same objects only."""

from __future__ import annotations

from collections.abc import Iterable

from carbon_plugin.monitor.run.unchanged import Unchanged


def test_a_function_is_called_again_only_for_other_objects() -> None:
    asked: list[list[str]] = []

    def function(objects: Iterable[str]) -> int:
        asked.append(list(objects))
        return len(asked)

    remembered = Unchanged(function)
    one, other, like_one = "manifest", "other", "".join(["mani", "fest"])

    answers = [remembered(iter(objects)) for objects in ([], [one], [one], [one, other], [one, other], [like_one], [])]

    assert answers == [1, 2, 2, 3, 3, 4, 5]
    assert asked == [[], [one], [one, other], [like_one], []]
