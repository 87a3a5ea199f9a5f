"""Writes the tables of `goodput.md` between its markers, from the published whole runs. Run by `make docs`."""

from __future__ import annotations

import sys
from pathlib import Path

from marked_tables import replace_marked, table

from carbon_plugin.spec.numbers.amounts import percent
from carbon_plugin.validate.run.real_runs import POPULATIONS, WholeRun, class_overruns, whole_runs

PAGE = Path(__file__).with_name("goodput.md")
RUN_HEADINGS = (
    "run",
    "source",
    "published h",
    "best case h, ordinary",
    "published / it",
    "best case h, tuned",
    "published / it",
)
OVERRUN_HEADINGS = (
    "model, software",
    "real run / best case (p10 to p90)",
    "runs",
    "sources",
    "inside",
    "inside, source left out",
)


def run_line(run: WholeRun) -> list[str]:
    """Return the cells of a run under `RUN_HEADINGS`."""
    cells = [run.id, run.origin, f"{run.published_device_hours:,.0f}"]
    for population in POPULATIONS:
        known = population in run.best_case_device_hours
        hours = f"{run.best_case_device_hours[population]:,.0f}" if known else ""
        cells += [hours, f"{run.over_predicted(population):.2f}" if known else ""]
    return cells


def write(page: Path = PAGE) -> None:
    """Replace what stands between the markers of each part."""
    runs = sorted(
        whole_runs(), key=lambda run: (run.mixture, run.over_predicted(next(iter(run.best_case_device_hours))))
    )
    overruns = [
        (
            item.kind,
            f"{item.overrun.central:.2f} ({item.overrun.low:.2f} to {item.overrun.high:.2f})",
            str(item.overrun.runs),
            str(item.overrun.sources),
            percent(item.coverage, 0),
            percent(item.blind_coverage, 0),
        )
        for item in class_overruns(runs)
    ]
    parts = {
        "overruns": table(OVERRUN_HEADINGS, overruns),
        "runs": table(RUN_HEADINGS, [run_line(run) for run in runs]),
    }
    replace_marked(page, parts)


if __name__ == "__main__":
    write()
    sys.stdout.write(f"wrote {PAGE}\n")
