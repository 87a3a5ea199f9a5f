"""Files of one boot are set in order by the clock that nobody can set."""

from __future__ import annotations

import pytest

from carbon_plugin.ledger.held.clocks import TimedFile, boot_offsets, file_offsets

BOOT_UNIX_S = 1_700_000_000.0
DAY_S = 86400.0


def timed(
    attempt: int, boot_s: float | None, ahead_s: float = 0.0, lasted_s: float = 600.0, **place: object
) -> TimedFile:
    """Return a file that begins `boot_s` after the boot of its host, whose clock is then ahead."""
    node = place.get("node", 0)
    started_s = BOOT_UNIX_S + (boot_s or 0.0) + ahead_s
    return TimedFile(
        name=f"node-{node}.attempt-{attempt}.jsonl",
        host_key=str(place.get("host_key", "boot")),
        node=int(str(node)),
        started_unix_s=started_s,
        end_unix_s=started_s + lasted_s,
        started_boot_s=boot_s,
    )


@pytest.mark.parametrize("step_s", [-3600.0, 3600.0, 365 * DAY_S])
def test_clock_that_was_set_between_attempts_is_put_right_by_the_setting_that_stood_longest(step_s):
    files = [timed(0, 100.0, lasted_s=3000.0), timed(1, 4000.0, step_s), timed(2, 5000.0)]

    assert list(boot_offsets(files).values()) == [0.0, pytest.approx(step_s), 0.0]


def test_small_differences_and_single_files_are_left_alone():
    assert set(boot_offsets([timed(0, 100.0), timed(1, 800.0, 0.9)]).values()) == {0.0}
    assert boot_offsets([timed(0, 100.0, 3600.0)]) == {"node-0.attempt-0.jsonl": 0.0}


@pytest.mark.parametrize(
    "second",
    [
        timed(1, 5.0, 4000.0),  # a sandbox or a snapshot, whose clock begins anew under the same boot id
        timed(1, None, 4000.0),  # a version that did not record it
        timed(1, 9000.0, -3600.0, host_key="another boot"),
    ],
)
def test_files_without_a_common_clock_are_left_alone(second):
    assert set(boot_offsets([timed(0, 100.0, lasted_s=3000.0), second]).values()) == {0.0}


def test_host_without_a_boot_id_is_left_alone():
    files = [timed(0, 100.0, host_key="hostname-a"), timed(1, 4000.0, -3600.0, host_key="hostname-a")]

    assert set(boot_offsets(files).values()) == {0.0}


def test_what_was_noticed_of_a_node_goes_for_its_other_files_but_for_steps_between_them():
    own = timed(0, 100.0)
    others = [timed(0, 50.0, 120.0, node=1, host_key="b"), timed(1, 4000.0, -3480.0, lasted_s=60, node=1, host_key="b")]

    found = file_offsets([own, *others], [(own.name, {others[0].name: 120.0})])

    assert list(found.values()) == pytest.approx([0.0, 120.0, -3480.0])
