"""Write the tables of `carbon_validation.md` and `embodied.md`, and what the README says of whole runs, between their
markers, from the shipped rows. `make docs` runs it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from marked_tables import replace_marked, table, wrapped

from carbon_plugin.cli.tables.validate_carbon import (
    HEADINGS,
    LLMCARBON,
    coverage_lines,
    lines_of,
)
from carbon_plugin.cli.tables.validate_power import HEADINGS as POWER_HEADINGS
from carbon_plugin.cli.tables.validate_power import cap_line, error_line, power_lines
from carbon_plugin.spec.numbers.amounts import percent
from carbon_plugin.validate.hardware.embodied import markdown_table
from carbon_plugin.validate.hardware.power import validate_power
from carbon_plugin.validate.hardware.servers import markdown_servers
from carbon_plugin.validate.run.carbon import CarbonRow, RangeCoverage, carbon_rows, coverage
from carbon_plugin.validate.run.real_runs import whole_runs

PAGE = Path(__file__).with_name("carbon_validation.md")
EMBODIED = Path(__file__).with_name("embodied.md")
README = Path(__file__).parents[1] / "README.md"


def skipped(rows: list[CarbonRow]) -> str:
    """Return the rows without a prediction, with the reason."""
    return "\n".join(f"- `{row.id}`: {row.skipped}" for row in rows if row.skipped)


def assumed(rows: list[CarbonRow]) -> str:
    """Return what was assumed for each row, and the layout that was found."""
    runs = [f"- `{row.id}`: {'; '.join(row.assumed)}. Layout: {row.layout}" for row in rows if not row.skipped]
    return "\n".join(runs)


def of_whole_runs(found: Sequence[RangeCoverage]) -> str:
    """Return what the README says of whole runs."""
    held = {item.quantity: percent(item.blind_inside, 0) for item in found}
    return wrapped(
        "A whole run takes longer than the best case of its layout, by a factor that is learned from "
        f"{len(whole_runs())} published runs; the 80 % range of a plan holds {held['device_hours']} of the published "
        f"hours, {held['energy_mwh']} of the energies and {held['carbon_t']} of the carbon figures when their source "
        "is left out ([docs/goodput.md](docs/goodput.md), [docs/carbon_validation.md](docs/carbon_validation.md))."
    )


def write(page: Path = PAGE) -> None:
    """Replace what stands between the markers of each part."""
    rows, power = carbon_rows(), validate_power()
    held = coverage(rows)
    parts = {
        "measured": table((*HEADINGS, LLMCARBON), lines_of(rows, circular=False)),
        "power": table(POWER_HEADINGS, power_lines(power)),
        "power errors": "\n".join(f"- {line}" for line in [*map(error_line, power.errors), cap_line(power)]),
        "power assumed": "\n".join(f"- `{row.id}`: {row.skipped or '; '.join(row.assumed)}" for row in power.rows),
        "circular": table((*HEADINGS, LLMCARBON), lines_of(rows, circular=True)),
        "coverage": "\n".join(f"- {line}" for line in coverage_lines(held)),
        "assumed": assumed(rows),
        "skipped": skipped(rows),
    }
    replace_marked(page, parts)
    replace_marked(README, {"whole runs": of_whole_runs(held)})


def write_embodied(page: Path = EMBODIED) -> None:
    """Replace the tables of published footprints of accelerators and servers."""
    replace_marked(page, {"validation": markdown_table(), "servers": markdown_servers()})


if __name__ == "__main__":
    write()
    write_embodied()
    sys.stdout.write(f"wrote {PAGE}\nwrote {EMBODIED}\n")
