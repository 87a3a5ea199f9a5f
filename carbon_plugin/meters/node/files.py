"""Read a node's power from files: the power management counters of HPE Cray machines, and the end of a growing CSV."""

from __future__ import annotations

import csv
import time
from datetime import datetime
from pathlib import Path

from carbon_plugin.meters.node.address import NodeAddress
from carbon_plugin.meters.node.source import FaultCode, NodeAnswer, SourceError
from carbon_plugin.spec.parsing.boundary import finite_number, whole_number
from carbon_plugin.spec.parsing.opening import open_ending

PM_COUNTERS = Path("/sys/cray/pm_counters")

STALE_S = 60.0
"""The age in seconds from which on the last row of a CSV says nothing about now."""

_TAIL_BYTES = 1 << 16


class PmCountersSource:
    """The source reads the files `energy` (joules since boot) and `power` (watts), which the kernel renews ten times a
    second.

    Each holds a number, its unit and a time stamp: "1234567 J 1719830000123456 us".
    """

    poll_s = 1.0

    def __init__(self, address: NodeAddress) -> None:
        self._folder = Path(address.path) if address.path else PM_COUNTERS

    def ask(self, deadline_s: float) -> NodeAnswer:
        """Return the counter and the power of the node; a file answers at once or not at all."""
        del deadline_s
        return NodeAnswer(_counter_file(self._folder / "energy", "J"), _counter_file(self._folder / "power", "W"))


class CsvSource:
    """The source reads the last row of a CSV file with a header.

    `column` holds watts, or with `unit=J` the joules of a counter; `time` (default "time") names the column with the
    row's moment, as Unix seconds or ISO 8601.
    """

    poll_s = 5.0

    def __init__(self, address: NodeAddress) -> None:
        self._file = Path(address.path)
        self._column = address.options["column"]
        self._time = address.options.get("time", "time")
        self._counts = address.options.get("unit") == "J"

    def ask(self, deadline_s: float) -> NodeAnswer:
        """Return the value of the last complete row. Raises `SourceError` if it is older than `STALE_S` or cannot be
        read.
        """
        del deadline_s
        row = self._last_row()
        missing = [column for column in (self._column, self._time) if column not in row]
        if missing:
            raise SourceError(f"{self._file}: there is no column {missing[0]!r}", "malformed")
        value, moment_s = finite_number(row[self._column]), _unix_s(row[self._time])
        if value is None or moment_s is None:
            raise SourceError(f"{self._file}: the last row holds no number and moment", "malformed")
        age_s = time.time() - moment_s
        if age_s > STALE_S:
            raise SourceError(f"{self._file}: the last row is {age_s:.0f} s old", "stale")
        return NodeAnswer(value, None) if self._counts else NodeAnswer(None, value)

    def _last_row(self) -> dict[str, str]:
        try:
            with open_ending(self._file) as file:
                header = file.readline()
                begin = file.tell()
                end = file.seek(0, 2)
                file.seek(max(begin, end - _TAIL_BYTES))
                # What follows the last line break is a row that somebody is writing.
                lines = file.read().rpartition(b"\n")[0].splitlines()
        except OSError as error:
            raise _file_error(self._file, error) from None
        if not lines:
            raise SourceError(f"{self._file}: there is no row yet", "stale")
        try:
            rows = list(csv.reader([header.decode(errors="replace"), lines[-1].decode(errors="replace")]))
        except csv.Error as error:
            raise SourceError(f"{self._file}: the last row cannot be read: {error}", "malformed") from None
        if len(rows) != 2:  # an unclosed quote joins both into one row
            raise SourceError(f"{self._file}: expected a header and a row", "malformed")
        names, values = [name.strip() for name in rows[0]], rows[1]
        if twice := next((name for name in (self._column, self._time) if names.count(name) > 1), None):
            raise SourceError(f"{self._file}: {names.count(twice)} columns are named {twice!r}", "malformed")
        return dict(zip(names, values, strict=False))


def _counter_file(path: Path, unit: str) -> float:
    try:
        words = path.read_text().split()
    except (OSError, UnicodeDecodeError) as error:
        raise _file_error(path, error) from None
    number = whole_number(words[0]) if len(words) > 1 and words[1] == unit else None
    if number is None:
        raise SourceError(f"{path}: expected a number and {unit}", "malformed")
    return float(number)


def _file_error(path: Path, error: OSError | UnicodeDecodeError) -> SourceError:
    code: FaultCode = "permission" if isinstance(error, PermissionError) else "error"
    if isinstance(error, FileNotFoundError):
        code = "not_supported"
    return SourceError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}", code)


def _unix_s(text: str) -> float | None:
    """Return Unix seconds for a number or an ISO 8601 text, or None for anything else."""
    number = finite_number(text)
    if number is not None:
        return number
    try:
        return datetime.fromisoformat(text).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
