"""Write shipped tables from their source files.

    python -m tools.rebuild                    # lists the tables and their source files
    python -m tools.rebuild TABLE... | all     # writes them
    python -m tools.rebuild --check            # says which shipped tables are not what their source files give
    python -m tools.rebuild TABLE FILE         # takes FILE as the new release of the table's source, then writes it

`make tables` writes every table. What docs/tables.md says of each (source, year, licence) stands here, and is written
to the page with every table.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from carbon_plugin.spec.hardware.profiles import list_nodes
from tools import (
    consumption_table,
    egrid_table,
    facility_tables,
    grid_tables,
    hardware_tables,
    host_model,
    region_table,
    server_table,
)
from tools.release import RELEASED_AS, ReleaseError, adopted

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "tools" / "sources"
DATA = ROOT / "carbon_plugin" / "footprint" / "factors" / "data"
PAGE = ROOT / "docs" / "tables.md"

MARKED = re.compile(r"(<!-- tables -->\n).*?(<!-- end -->)", re.DOTALL)

Texts = Mapping[Path, str]


class Table(NamedTuple):
    """A shipped table: what it tells, what its files should say, its source files, what they were published in."""

    tells: str
    texts: Callable[[], Texts]
    sources: tuple[str, ...]
    published: str
    licence: str
    confidence: str


def _grid(name: str) -> Callable[[], Texts]:
    return lambda: {DATA / f"{name}.yaml": grid_tables.written(name)}


def _facility(name: str) -> Callable[[], Texts]:
    return lambda: {DATA / f"{name}.yaml": facility_tables.TABLES[name](facility_tables.rows_of(name))}


def _hardware() -> Texts:
    rows = hardware_tables.by_place(hardware_tables.read_rows())
    return {path: hardware_tables.written(path, rows) for path in hardware_tables.profiles()}


def _hosts() -> Texts:
    paths = {host_model.NODES / f"{node.name}.yaml": node for node in list_nodes()}
    return {path: host_model.written(node, path.read_text(encoding="utf-8")) for path, node in paths.items()}


TABLES = {
    "grid_countries": Table(
        "grid intensity of countries, generation",
        _grid("grid_countries"),
        ("owid.csv",),
        "Our World in Data on Ember, April 2026",
        "CC BY 4.0",
        "a copy of the release; 191 countries agree with a second copy",
    ),
    "grid_gcp": Table(
        "grid intensity of Google's regions",
        _grid("grid_gcp"),
        ("google.csv",),
        "GoogleCloudPlatform/region-carbon-info, 2025",
        "Apache 2.0",
        "read at the source",
    ),
    "grid_canada": Table(
        "grid intensity of Canadian provinces",
        _grid("grid_canada"),
        ("canada.csv",),
        "Environment and Climate Change Canada, Fuel LCA Model, 2021 (year assumed)",
        "Open Government Licence - Canada",
        "one public transcription",
    ),
    "grid_australia": Table(
        "grid intensity of Australian states",
        _grid("grid_australia"),
        ("australia.csv",),
        "National Greenhouse Accounts Factors, August 2024",
        "CC BY 4.0",
        "two public transcriptions that agree",
    ),
    "grid_china": Table(
        "grid intensity of Chinese provinces",
        _grid("grid_china"),
        ("china.csv",),
        "MEE, announcement 33 of 2024",
        "announcement of a government, facts",
        "one public transcription, two values checked",
    ),
    "grid_consumption": Table(
        "grid intensity of countries, consumption",
        lambda: {consumption_table.TABLE: consumption_table.table()},
        ("electricity_maps.csv",),
        "Electricity Maps, yearly values 2025, by CO2.js 0.19",
        "ODbL 1.0",
        "read in the package",
    ),
    "grid_egrid": Table(
        "grid intensity of US subregions",
        lambda: {egrid_table.TABLE: egrid_table.table()},
        ("egrid.csv",),
        "EPA eGRID2024, Emission Factors Hub of May 2026",
        "public domain",
        "a public transcription, five rows checked",
    ),
    "pue": Table(
        "PUE of providers and their regions",
        _facility("pue"),
        ("pue.csv",),
        "reports and fact sheets of providers, 2022 to 2025; Uptime Institute 2025",
        "single facts",
        "a quotation of each that was read again in November 2026: all but those of Scaleway, OVHcloud and the Uptime "
        "Institute",
    ),
    "water": Table(
        "water of data centres and of generation",
        _facility("water"),
        ("water.csv",),
        "reports and fact sheets of providers, 2022 to 2025",
        "single facts",
        "a quotation of each that was read again in November 2026: all but those of Scaleway, of Google (for language "
        "models) and of the average of US generation",
    ),
    "cloud_regions": Table(
        "the area that stands for a cloud region",
        lambda: {region_table.TABLE: region_table.table()},
        ("cloud_regions.csv",),
        "lists of codes of the providers and their SDKs, 2025 and 2026",
        "facts; the matching is our own",
        "a test holds the codes against the published lists",
    ),
    "embodied_servers": Table(
        "published footprints of servers",
        lambda: {server_table.TABLE: server_table.table()},
        ("boavizta_servers.csv", "hpe_servers.csv", "other_servers.csv"),
        "sheets of Dell and HPE, 2017 to 2022, as Boavizta and SCARIF collected them",
        "free to use (Boavizta), MIT (SCARIF)",
        "read in the collections",
    ),
    "hardware": Table(
        "numbers of accelerators and nodes",
        _hardware,
        ("hardware.csv",),
        "data sheets, papers and Epoch AI's dataset, each with its year",
        "CC BY 4.0 (Epoch AI), else single facts",
        "each number has its own; `memory` means unchecked",
    ),
    "hosts": Table(
        "embodied carbon of the shipped nodes without accelerators",
        _hosts,
        ("../../carbon_plugin/footprint/factors/data/embodied_servers.yaml",),
        "the host model, fitted to the table of servers",
        "our own",
        "docs/embodied.md: errors out of sample and coverage of the range",
    ),
}
"""Every table that a file of `tools/sources/` renews, in the order in which they are written."""


def texts_of(names: Sequence[str]) -> Texts:
    """Return what the files of some tables, and the page about all of them, should say."""
    texts = {path: text for name in names for path, text in TABLES[name].texts().items()}
    return texts | {PAGE: MARKED.sub(lambda found: f"{found[1]}{markdown()}\n{found[2]}", PAGE.read_text("utf-8"))}


def differing(texts: Texts) -> list[Path]:
    """Return the files that do not say what they should."""
    return [path for path, text in texts.items() if path.read_text(encoding="utf-8") != text]


def take(name: str, release: Path) -> None:
    """Put a new release in the place of the source file of a table.

    Raises:
        ReleaseError: if the table has several source files, or the release has not the columns of the present one.
    """
    sources = TABLES[name].sources
    named = RELEASED_AS.get(release.name, release.name)
    matching = [source for source in sources if source == named] or list(sources)
    if len(matching) != 1 or matching[0].startswith(".."):
        raise ReleaseError(
            f"{release}: {name} is made of {', '.join(sources)}; name the file as the one of these that it replaces."
        )
    path = SOURCES / matching[0]
    path.write_text(adopted(path.stem, release, path), encoding="utf-8")


def markdown() -> str:
    """Return the tables as docs/tables.md shows them."""
    head = "| table | what it tells | source file | published in | licence | how it was read |\n|" + "---|" * 6
    lines = [
        f"| `{name}` | {table.tells} | {', '.join(f'`{Path(source).name}`' for source in table.sources)} | "
        f"{table.published} | {table.licence} | {table.confidence} |"
        for name, table in TABLES.items()
    ]
    return "\n".join([head, *lines])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line of the module's head, and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.rebuild", description="Write shipped tables anew.")
    parser.add_argument("names", nargs="*", metavar="TABLE", help="tables, or `all`; last, the file of a new release")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where a table differs")
    options = parser.parse_args(arguments)
    names, files = _split(options.names, parser)
    if not names and not options.check:
        width = max(map(len, TABLES))
        sys.stdout.writelines(f"{name:{width}}  {', '.join(table.sources)}\n" for name, table in TABLES.items())
        return 0
    names = names or list(TABLES)
    if options.check:
        different = differing(texts_of(names))
        sys.stdout.writelines(f"{path.relative_to(ROOT)} is not what its source gives\n" for path in different)
        return int(bool(different))
    for file in files:
        try:
            take(names[0], file)
        except ReleaseError as error:
            sys.stderr.write(f"{error}\n")
            return 2
    for name in names:  # one after the other, since hosts are written into the profiles that hardware writes
        texts = texts_of([name])
        for path in differing(texts):
            path.write_text(texts[path], encoding="utf-8")
            sys.stdout.write(f"wrote {path.relative_to(ROOT)}\n")
    if files:
        sys.stdout.write("Now change the year and the publication in the head of the table and in tools/rebuild.py.\n")
    return 0


def _split(words: Sequence[str], parser: argparse.ArgumentParser) -> tuple[list[str], list[Path]]:
    """Return the tables and the new release that a command line names."""
    if "all" in words:
        return list(TABLES), []
    names = [word for word in words if word in TABLES]
    files = [Path(word) for word in words if word not in TABLES]
    for file in files:
        if not file.is_file():
            parser.error(f"{file} is neither a table ({', '.join(TABLES)}) nor a file.")
    if files and (len(files) > 1 or len(names) != 1):
        parser.error("a new release goes with one table: TABLE FILE.")
    return names, files


if __name__ == "__main__":
    sys.exit(main())
