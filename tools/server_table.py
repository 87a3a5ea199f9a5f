"""Write the table of servers whose footprints were published, to which the host model is fitted.

    python -m tools.rebuild embodied_servers

Two of its sources have the form of the collections that they were read in: `boavizta_servers.csv` holds the servers of
Boavizta's `boavizta-data-us.csv` (head and rows as they are, any version of it), and `hpe_servers.csv` is SCARIF's
`original_data/HP_data.csv`. `other_servers.csv` has a row a study. A server of a new release counts as soon as its row
is there, if the row states all of its parts; `LEFT_OUT` says which do not count although it does, and why.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "tools" / "sources"
TABLE = ROOT / "carbon_plugin" / "footprint" / "factors" / "data" / "embodied_servers.yaml"

HEAD = """\
# Published footprints of whole servers, kgCO2e of manufacture, with the parts that they state. The host model is fitted
# to them (validate/hardware/servers.py). Each is predicted by fits that have not seen it (table in docs/embodied.md).
# Written by tools/server_table.py from tools/sources/boavizta_servers.csv, hpe_servers.csv and other_servers.csv, where
# each row has its address. Fields: kg, sockets, dram_gb, ssd_gb, hard disks.
# Left out: blades and sleds, whose totals hold a share of an enclosure that is not stated, and sheets without the size
# of DRAM or disks. Where the collection gives a share of manufacture, kg is total * share.
"""

LEFT_OUT = {"PowerEdge C6420": "four sleds share one chassis"}

SOCKETS = {"PowerEdge R330": 1, "PowerEdge R6415": 1, "PowerEdge R7415": 1}
"""Servers of one socket that the collection gives two. Dell's names tell: series 1 to 3 have one socket, and the third
digit of four counts them (https://cylab.be/blog/403/dell-servers-generations-cheatsheet).
"""

_DRIVES = re.compile(r"x(\d+) ([\d.]+)([GT])B [\d.]+in (SSD|HDD)")
_GB = {"G": 1, "T": 1000}

DELL = {
    "2019": "Dell product carbon footprints (PAIA), January and February 2019",
    "2021": "Dell product carbon footprints, January 2021; the sheets give shares in whole percent",
}
BOAVIZTA = "Boavizta, environmental-footprint-data (boavizta-data-us.csv), free to use for any purpose"
HPE = "HPE product carbon footprints (PAIA), 2017 to 2022"
HPE_FIRST = "HPE product carbon footprints (PAIA), first sheets of Gen10, 2017"
SCARIF = "SCARIF (Ji et al. 2024, MIT licence), original_data/HP_data.csv"

Server = dict[str, str]


def rows_of(name: str) -> list[dict[str, str]]:
    """Return the rows of a source file."""
    with (SOURCES / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def dell_servers(rows: Iterable[dict[str, str]], year: str) -> dict[str, Server]:
    """Return Dell's servers whose sheets are of a year, from rows in Boavizta's form."""
    found = {}
    for row in rows:
        name = row["name"]
        ours = (row["manufacturer"], row["subcategory"], row["report_date"][-4:]) == ("Dell", "Server", year)
        if not ours or row["server_type"] == "Blade" or name in LEFT_OUT or not row["memory"]:
            continue
        ssd_gb, disks = _drives(row["hard_drive"])
        kg = round(float(row["gwp_total"]) * _share(row["gwp_manufacturing_ratio"]))
        found[f"Dell {name}"] = _server(kg, SOCKETS.get(name, row["number_cpu"]), row["memory"], ssd_gb, disks)
    return found


def hpe_servers(rows: Iterable[dict[str, str]], *, first: bool) -> dict[str, Server]:
    """Return HPE's servers from rows in SCARIF's form: of the first sheets, which name parts, or of the others."""
    found = {}
    for row in rows:
        if not row["size per SSD"] or bool(row["Mainboard carbon"]) != first:
            continue
        ssd_gb = int(row["SSD quant"]) * float(row["size per SSD"])
        name = row["Model"].replace("Proliant", "ProLiant").replace("gen", "Gen").replace("plus", "Plus")
        kg = float(row["Embodied Carbon "])
        parts = _server(kg, row["CPU quant"], row["DRAM"], ssd_gb, 0)
        found[f"HPE {name.replace('main stream', 'mainstream')}"] = parts
    return found


def table() -> str:
    """Return the YAML text of the table for the source files."""
    boavizta, hpe = rows_of("boavizta_servers.csv"), rows_of("hpe_servers.csv")
    lines = [HEAD]
    for year, source in DELL.items():
        lines += _sheets("Dell", source, BOAVIZTA, year, dell_servers(boavizta, year))
    for row in rows_of("other_servers.csv"):
        study = {row["name"]: {key: row[key] for key in ("kg", "sockets", "dram_gb", "ssd_gb", "disks")}}
        lines += _sheets(row["name"].partition(" ")[0], row["source"], row["collection"], row["year"], study)
    lines += _sheets("HPE", HPE, SCARIF, "2022", hpe_servers(hpe, first=False))
    lines += _sheets("HPE", HPE_FIRST, SCARIF, "2017", hpe_servers(hpe, first=True))
    return "".join(lines)


def _sheets(manufacturer: str, source: str, collection: str, year: str, servers: dict[str, Server]) -> Iterable[str]:
    yield f'- manufacturer: {manufacturer}\n  source: "{source}"\n  collection: "{collection}"\n  year: {year}\n'
    yield "  servers:\n"
    for name, parts in servers.items():
        yield f'    "{name}": {{{", ".join(f"{key}: {value}" for key, value in parts.items())}}}\n'


def _server(kg: float, sockets: int | str, dram_gb: str, ssd_gb: float, disks: int) -> Server:
    amounts = {"kg": f"{kg:g}", "sockets": str(sockets), "dram_gb": dram_gb}
    return amounts | {"ssd_gb": f"{ssd_gb:g}", "disks": str(disks)}


def _drives(words: str) -> tuple[float, int]:
    """Return GB of SSD and the number of hard disks of `x2 300GB 2.5in HDD  x1 480GB 2.5in SSD`."""
    drives = _DRIVES.findall(words)
    ssd_gb = sum(int(count) * float(size) * _GB[unit] for count, size, unit, kind in drives if kind == "SSD")
    return ssd_gb, sum(int(count) for count, _, _, kind in drives if kind == "HDD")


def _share(words: str) -> float:
    """Return a share that older versions of the collection give in percent and newer ones as a fraction."""
    return float(words[:-1]) / 100 if words.endswith("%") else float(words)
