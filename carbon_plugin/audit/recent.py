"""Tell the present power of machines from the last windows of a run's ledgers."""

from __future__ import annotations

from collections import deque

from msgspec import Struct

from carbon_plugin.ledger.records import Manifest, Record, Window


class RecentPower(Struct, frozen=True, kw_only=True):
    """The mean power over the last `lasted_s` seconds of a run, W: of all machines that were read, and of each GPU by
    its key. A GPU that was not read in that time is None.
    """

    lasted_s: float
    machines_w: float
    gpus_w: dict[str, float | None]


class RecentWindows:
    """Keeps the windows of several ledgers that end within the last `recent_s` seconds of each."""

    def __init__(self, recent_s: float) -> None:
        self._recent_s = recent_s
        self._rungs: dict[str, str] = {}
        self._files: dict[str, deque[Window]] = {}

    def hear(self, file: str, record: Record) -> None:
        """Add the next record of a ledger."""
        if isinstance(record, Manifest):
            self._rungs |= {device.key: device.rung for device in record.devices}
        elif isinstance(record, Window):
            windows = self._files.setdefault(file, deque())
            windows.append(record)
            while len(windows) > 1 and _end_s(windows[0]) <= _end_s(record) - self._recent_s:
                windows.popleft()

    def power(self) -> RecentPower | None:
        """Return the mean power over the last windows, or None without any.

        Seconds in which a device was not read are left out for that device, because the windows do not hold its energy
        either. Ledgers that ended earlier do not count.
        """
        ends = [_end_s(windows[-1]) for windows in self._files.values()]
        if not ends:
            return None
        since_s = max(ends) - self._recent_s
        windows = [one for windows in self._files.values() for one in windows if _end_s(one) > since_s]
        energy_j: dict[str, float] = {}
        read_s: dict[str, float] = {}
        for window in windows:
            for energy in window.energies:
                read_s.setdefault(energy.key, 0.0)
                if energy.energy_j is not None:
                    energy_j[energy.key] = energy_j.get(energy.key, 0.0) + energy.energy_j
                    read_s[energy.key] += window.duration_s
        watts = {key: energy_j[key] / time_s if time_s > 0 else None for key, time_s in read_s.items()}
        return RecentPower(
            lasted_s=max(ends) - min(window.start_unix_s for window in windows),
            machines_w=sum(one for key, one in watts.items() if one is not None and self._rungs.get(key) != "facility"),
            gpus_w={key: watts[key] for key in sorted(watts) if self._rungs.get(key) == "gpu"},
        )


def _end_s(window: Window) -> float:
    return window.start_unix_s + window.duration_s
