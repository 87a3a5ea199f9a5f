"""Take a new release of a source file: in the columns of the present one, or as its publisher writes it.

Where the present file has a row an area with the value of the year before, and the release has not, that value comes
from the present file: the release of 2026 becomes the newest year, and what was the newest the year before.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from tools.egrid_table import g_per_kwh_of

Row = dict[str, str]

HEADINGS = {
    "google": {
        "Google Cloud Region": "code",
        "Location": "name",
        "Grid carbon intensity (gCO2eq / kWh)": "g_per_kwh",
    }
}
"""What publishers call the columns of a source file."""

RELEASED_AS = {"boavizta-data-us.csv": "boavizta_servers.csv", "HP_data.csv": "hpe_servers.csv"}
"""What collections call the files of which a source file has the rows of servers."""

PREVIOUS, YEAR = "previous_g_per_kwh", "year"
OWID = ("Entity", "Code", "Year")
"""The first columns of Our World in Data's downloads; the fourth is called after its values."""


class ReleaseError(Exception):
    """A new release that cannot take the place of a source file."""


def adopted(source: str, release: Path, present: Path) -> str:
    """Return the text of a source file after its new release.

    Args:
        source: name of the source file without its ending.
        release: the new file.
        present: the file that it replaces.

    Raises:
        ReleaseError: if the release has not the columns that the table needs, or does not tell its year.
    """
    columns, before = read(present)
    found, rows = read(release)
    if tuple(columns[:3]) == OWID:
        return _text(columns, _newest_two_years(release, found, rows, columns))
    names = HEADINGS.get(source, {})
    rows = [{names.get(column, column): _stated(value) for column, value in row.items() if column} for row in rows]
    known = {names.get(column, column) for column in found}
    filled = {column for column in (PREVIOUS, YEAR) if column in columns}
    missing = [column for column in columns if column not in known | filled]
    if missing or not rows:
        raise ReleaseError(
            f"{release}: {', '.join(missing) or 'every row'} is missing; expected the columns {', '.join(columns)}, as "
            f"in {present.name}. Rename the columns of the file."
        )
    if YEAR in columns and YEAR not in known:
        year = _year_in_name(release)
        rows = [{**row, YEAR: year} for row in rows]
    if PREVIOUS in columns and PREVIOUS not in known:
        rows = _with_previous(rows, before, columns[0])
    if "subcategory" in columns:
        rows = [row for row in rows if row["subcategory"] == "Server"]
    return _text(columns, rows)


def read(path: Path) -> tuple[Sequence[str], list[Row]]:
    """Return the columns and the rows of a CSV file."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        return list(reader.fieldnames or ()), list(reader)


def _with_previous(rows: Sequence[Row], before: Sequence[Row], key: str) -> list[Row]:
    """Return the rows with the value of the year before, which is that of `before` if it is of that year."""
    known = {row[key]: row for row in before}
    return [{**row, PREVIOUS: _previous(row, known.get(row[key]))} for row in rows]


def _previous(row: Row, old: Row | None) -> str:
    if old is None:
        return ""
    if old[YEAR] == row[YEAR]:  # a corrected release of the same year
        return old[PREVIOUS]
    if int(old[YEAR]) != int(row[YEAR]) - 1:
        return ""
    return old["g_per_kwh"] if "g_per_kwh" in old else f"{g_per_kwh_of(old):g}"


def _stated(value: str | None) -> str:
    """Return a value, empty where the publisher has none."""
    return "" if value in (None, "N/A") else value


def _year_in_name(release: Path) -> str:
    years = re.findall(r"(?<!\d)20\d\d(?!\d)", release.stem)
    if len(years) != 1:
        raise ReleaseError(
            f"{release}: the year of its values is missing; expected a column `{YEAR}`, or one year in the file's "
            "name. Rename the file, for instance to 2026.csv."
        )
    return str(years[0])


def _newest_two_years(release: Path, found: Sequence[str], rows: Sequence[Row], columns: Sequence[str]) -> list[Row]:
    if tuple(found[:3]) != OWID or len(found) < 4:
        raise ReleaseError(
            f"{release}: its columns are {', '.join(found)}; expected {', '.join(OWID)} and a value, as Our World in "
            "Data writes them. Take the download of its chart."
        )
    newest: dict[str, int] = {}
    for row in rows:
        newest[row["Code"]] = max(newest.get(row["Code"], 0), int(row["Year"]))
    kept = [row for row in rows if row["Code"] and int(row["Year"]) >= newest[row["Code"]] - 1]
    return [{**{column: row[column] for column in OWID}, columns[3]: row[found[3]]} for row in kept]


def _text(columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
