"""Group the files of a run by launch of the job, and put the launches in order, even where clocks disagree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from carbon_plugin.ledger.held.clocks import TimedFile, file_offsets
from carbon_plugin.ledger.held.outline import Outline, find_events
from carbon_plugin.ledger.records import Event

RANK_0_FILES = "node-0."
"""The names of the files that the node of rank 0 has written begin so."""

SKEW_EVENT = "clock_skew"
"""The event of rank 0 when clocks of other nodes disagree with its own: data {"offsets_s": {file name: seconds}},
positive where the other one is ahead, 0 when they agree again.
"""

HANDOVER_S = 1.0
"""A file that was handed over ends within so many seconds of the start of the one that continues it."""

ANOTHER_JOB_EVENT = "another_job"
"""The event of a process that has noticed that another job writes into its run directory at the same time."""


def clock_offsets(outlines: Sequence[Outline]) -> dict[str, float]:
    """Return by how much the times of each file are ahead of those of the run, s, by file name.

    The times of the run are those of the clock of rank 0, as it was set for most of the time. A file may differ because
    the clock of its host was set between two files, or because rank 0 has noticed that clocks of nodes disagree.
    """
    noticed = [
        (outline.path.name, offsets_in(event))
        for outline in outlines
        if outline.path.name.startswith(RANK_0_FILES)
        for event in find_events(outline.path, SKEW_EVENT)
    ]
    return file_offsets([outline.timed for outline in outlines], noticed)


def offsets_in(event: Event) -> dict[str, float]:
    """Return the seconds by which clocks are ahead according to an event of rank 0, by file name. Any other event gives
    none.
    """
    stated = event.data.get("offsets_s") if event.kind == SKEW_EVENT else None
    if not isinstance(stated, Mapping):
        return {}
    return {str(file): float(ahead_s) for file, ahead_s in stated.items() if isinstance(ahead_s, int | float)}


def launches_of(outlines: Sequence[Outline], offsets_s: Mapping[str, float]) -> dict[str, int]:
    """Return the number of the launch of the job that each file belongs to, from 0 on, by file name.

    Attempts are counted by each node for itself, and a node may be new. Files are of one launch when they trained at
    the same time for at least half as long as the shorter of them: a process that outlives its launch for a while, and
    clocks that are a little apart, join no two launches. A file that another one continues or follows is of the launch
    of that one, so it counts as going on until the end of that one.
    """
    until = _ends_with_followers(outlines, offsets_s)

    def extent(outline: Outline) -> tuple[float, float]:
        name = outline.path.name
        return outline.started_unix_s - offsets_s[name], until[name]

    launches: dict[str, int] = {}
    number, start_s, end_s = -1, 0.0, 0.0
    for outline in sorted(outlines, key=extent):
        began_s, until_s = extent(outline)
        together_s = min(until_s, end_s) - began_s  # the launch began before it
        if number >= 0 and together_s >= 0 and together_s >= min(until_s - began_s, end_s - start_s) / 2:
            end_s = max(end_s, until_s)
        else:
            number, start_s, end_s = number + 1, began_s, until_s
        launches[outline.path.name] = number
    return launches


def _ends_with_followers(outlines: Sequence[Outline], offsets_s: Mapping[str, float]) -> dict[str, float]:
    """Return when each file and all that go on from it end, s by the clock of the run, by file name."""
    takers = [outline.timed for outline in outlines if not outline.left]
    ends: dict[str, float] = {}
    # The latest one first, because a file that follows another begins after it.
    for outline in sorted(outlines, key=lambda one: one.started_unix_s - offsets_s[one.path.name], reverse=True):
        name = outline.path.name
        last = successor(outline.timed, takers) if outline.left else outline.timed
        known = (ends.get(one, float("-inf")) for one in (name, last.name))
        ends[name] = max(last.end_unix_s - offsets_s[name], *known)
        for before in outline.follows:
            ends[before] = max(ends[name], ends.get(before, float("-inf")))
    return ends


def successor(left: TimedFile, takers: Iterable[TimedFile]) -> TimedFile:
    """Return the file that continues one that was handed over: of `takers`, which were not handed over, the one that
    begins on the same host where that one ends. Return that one itself where there is none.
    """
    following = [one for one in takers if one.place == left.place]
    nearest = min(following, key=lambda one: abs(one.started_unix_s - left.end_unix_s), default=left)
    return nearest if abs(nearest.started_unix_s - left.end_unix_s) <= HANDOVER_S else left


def earlier_steps(outlines: Sequence[Outline], launches: Mapping[str, int]) -> dict[str, int]:
    """Return how many optimizer steps earlier launches had done when that of each file began, by file name."""
    reached: dict[int, int] = {}
    for outline in outlines:
        number = launches[outline.path.name]
        reached[number] = max(reached.get(number, 0), outline.last_step)
    before, furthest = {}, 0
    for number in sorted(reached):
        before[number] = furthest
        furthest = max(furthest, reached[number])
    return {name: before[number] for name, number in launches.items()}
