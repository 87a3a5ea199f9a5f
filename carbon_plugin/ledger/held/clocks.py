"""Find out by how much the wall clock of a host was set between the files that were written on it. All functions are
pure.

Files of one boot share the clock that counts since that boot, which nobody can set. By it the labels of their times are
put right relative to each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from carbon_plugin.ledger.files import attempt_number, writer_name

CLOCK_STEP_EVENT = "clock_stepped"
"""The event of a node whose wall clock was set while it wrote: data {"ahead_s": seconds that the wall clock is now
ahead of the times in this file}. The times in the file go on as if the clock had not been set.
"""
CLOCK_STEP_S = 1.0
"""Larger differences between two clocks mean that one of them was set: NTP slews smaller ones."""
_NAMED_BY_HOSTNAME = "hostname-"


class TimedFile(Struct, frozen=True, kw_only=True):
    """Describes a file of a node with its extent by its own times. `started_boot_s` is its start in seconds since the
    boot `host_key`, None in files of versions that did not record it.
    """

    name: str
    host_key: str
    node: int
    started_unix_s: float
    end_unix_s: float
    started_boot_s: float | None

    @property
    def place(self) -> tuple[str, int]:
        """Return the name of the clock by which the file was written: its host, and a node on it."""
        return self.host_key, self.node

    @property
    def lasted_s(self) -> float:
        """Return how long the file lasted, s."""
        return max(0.0, self.end_unix_s - self.started_unix_s)


def file_offsets(files: Sequence[TimedFile], noticed: Iterable[tuple[str, Mapping[str, float]]]) -> dict[str, float]:
    """Return by how much the times of each file are ahead of those of the run, s, by file name, or 0 where nothing is
    known.

    `noticed` says by how much the times of other files are ahead of those of a file of rank 0, whose name it contains.
    An offset that was noticed for one file of a node on a host applies to the node's other files too, corrected for
    changes of the host's clock between the files.
    """
    steps_s = boot_offsets(files)
    known: dict[str, float] = {}
    for observer, offsets_s in noticed:
        known |= {name: ahead_s + steps_s.get(observer, 0.0) for name, ahead_s in offsets_s.items()}
    of_place = {file.place: known[file.name] - steps_s[file.name] for file in files if file.name in known}
    return {file.name: known.get(file.name, of_place.get(file.place, 0.0) + steps_s[file.name]) for file in files}


def boot_offsets(files: Iterable[TimedFile]) -> dict[str, float]:
    """Return by how much the labels of each file are ahead, s, by file name. They are compared with the setting of the
    host's clock under which most of that boot was recorded. The value is 0 where nothing is known or the clock was not
    set.
    """
    boots: dict[str, list[TimedFile]] = {}
    offsets = {}
    for file in files:
        offsets[file.name] = 0.0
        boots.setdefault(file.host_key, []).append(file)
    for key, group in boots.items():
        if not key.startswith(_NAMED_BY_HOSTNAME) and _is_one_boot(group):
            settings = {file.name: file.started_unix_s - (file.started_boot_s or 0.0) for file in group}
            usual = _usual([(settings[file.name], file.lasted_s) for file in group])
            differences = {name: setting - usual for name, setting in settings.items()}
            offsets |= {name: by for name, by in differences.items() if abs(by) > CLOCK_STEP_S}
    return offsets


def clock_step_message(ahead_s: float) -> str:
    """Return the sentence of the event `CLOCK_STEP_EVENT`."""
    if abs(ahead_s) <= CLOCK_STEP_S:
        return "the wall clock agrees with the times of this ledger again"
    where = "ahead of" if ahead_s > 0 else "behind"
    return (
        f"the wall clock was set: it is now {abs(ahead_s):.1f} s {where} the times of this ledger, which go on as "
        "before; energies and durations do not depend on it"
    )


def _is_one_boot(files: Sequence[TimedFile]) -> bool:
    """Return whether the clock that counts since the boot can be believed. Sandboxes and restored snapshots may share a
    boot id and begin to count anew, so that a file would begin before the file in front of it has ended.
    """
    if len(files) < 2:
        return False
    ends: dict[str, float] = {}
    for file in sorted(files, key=lambda file: attempt_number(file.name)):
        writer = writer_name(file.name)
        if file.started_boot_s is None or file.started_boot_s < ends.get(writer, 0.0) - CLOCK_STEP_S:
            return False
        ends[writer] = file.started_boot_s + file.lasted_s
    return True


def _usual(settings: Sequence[tuple[float, float]]) -> float:
    """Return the setting at the middle of the recorded time; `settings` are pairs of a setting and its time, s."""
    half_s = sum(lasted_s for _, lasted_s in settings) / 2
    passed_s = 0.0
    for setting, lasted_s in sorted(settings):
        passed_s += lasted_s
        if passed_s >= half_s:
            return setting
    return settings[0][0]
