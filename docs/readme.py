"""Write the outputs that pages show: in the README that of the command `plan`, run anew, and of the audit of a run of
the demo, in docs/goodput.md the part of a plan that says where its time goes, and in docs/search.md how likely layouts
fit.

Usage: `python docs/readme.py [runs/demo/MOMENT]`. With a run of `make demo`, its report takes the place of the one in
docs/demo, from which the README's text is made; without one that text is made anew from the report that lies there.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import shlex
import sys
import textwrap
from itertools import takewhile
from pathlib import Path
from unittest import mock

import msgspec
from marked_tables import replaced, table

from carbon_plugin.audit.report.text import render_text
from carbon_plugin.audit.report.write import render_json
from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.audit.summary import summarise
from carbon_plugin.cli.main import run
from carbon_plugin.plan.search.fullness import expected_slowdown
from carbon_plugin.predict.uncertainty.fit import fit_probability
from carbon_plugin.show.wording import percent
from carbon_plugin.spec.stack import Population

ROOT = Path(__file__).resolve().parents[1]
README, REPORT = ROOT / "README.md", ROOT / "docs" / "demo" / "report.json"
GOODPUT, SEARCH = ROOT / "docs" / "goodput.md", ROOT / "docs" / "search.md"
FILLS = (0.7, 0.8, 0.85, 0.9, 0.95, 1.0)
SOFTWARE: dict[Population, str] = {"tuned": "tuned software", "ordinary": "ordinary software"}
WIDTH = 120
PLAN = re.compile(r"(?<=\n```\n)\$ (carbon-plugin plan (?:[^\n]*\\\n)*[^\n]*\n).*?(?=\n```\n)", re.DOTALL)
AUDIT = re.compile(r"(?<=\n```\n)\$ carbon-plugin audit runs/demo/([0-9-]+)\n.*?(?=\n```\n)", re.DOTALL)


def with_outputs(text: str, name: str | None = None) -> str:
    """Return the README with both outputs as they are today. `name` is the directory of the demo's run, by default the
    one that the README names."""
    plan, audit = PLAN.search(text), AUDIT.search(text)
    assert plan is not None
    assert audit is not None
    name = name or audit[1]
    command = f"runs/demo/{name}"
    written = f"$ carbon-plugin audit {command}\n{audit_text()}\n\nreport: {command}/report.html"
    text = text.replace(audit[0], written)
    return text.replace(plan[0], f"$ {plan[1]}{plan_text(plan[1])}")


def with_goodput(text: str) -> str:
    """Return the page about goodput with the part of its plan that it shows, as it is today."""
    plan = PLAN.search(text)
    assert plan is not None
    lines = plan_text(plan[1]).splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("goodput"))
    shown = [lines[first], *takewhile(lambda line: line.startswith(" "), lines[first + 1 :])]
    return text.replace(plan[0], "\n".join([f"$ {plan[1]}...", *shown]))


def with_fits(text: str) -> str:
    """Return the page about the search with how likely layouts fit and what they are expected to take."""
    lines = []
    for population, name in SOFTWARE.items():
        probabilities = (percent(float(fit_probability(fill, population))) for fill in FILLS)
        lines.append([f"{name}: fits with a probability of", *probabilities])
        factors = (f"{float(expected_slowdown(fill, population)):.2f}" for fill in FILLS)
        lines.append([f"{name}: expected time over predicted", *factors])
    return replaced(text, {"fit": table(["predicted need over memory", *map(percent, FILLS)], lines)})


def plan_text(command: str) -> str:
    """Return what a command prints on a terminal of the README's width."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), mock.patch.dict(os.environ, COLUMNS=str(WIDTH)):
        code = run(shlex.split(command.replace("\\\n", " "))[1:])
    assert code == 0, printed.getvalue()
    return "\n".join(line.rstrip() for line in printed.getvalue().rstrip().splitlines())


def audit_text() -> str:
    """Return the audit of the demo's run as text in the README's width."""
    summary = msgspec.json.decode(REPORT.read_bytes(), type=AuditSummary)
    lines = render_text(summary).rstrip().splitlines()
    joined = (re.sub(r"(?<=\d) (?=%)", "\u00a0", line) for line in lines)  # a line never begins with a percent sign
    wrapped = (textwrap.wrap(line, WIDTH, break_long_words=False, break_on_hyphens=False) for line in joined)
    text = "\n".join("\n".join(parts) if len(parts) > 1 else line for line, parts in zip(lines, wrapped, strict=True))
    return text.replace("\u00a0", " ")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("run", nargs="?", type=Path, help="the directory of a run of make demo")
    run_dir = arguments.parse_args().run
    if run_dir is not None:
        REPORT.parent.mkdir(exist_ok=True)
        REPORT.write_bytes(render_json(summarise(run_dir)))
    README.write_text(with_outputs(README.read_text("utf-8"), run_dir.name if run_dir else None), "utf-8")
    GOODPUT.write_text(with_goodput(GOODPUT.read_text("utf-8")), "utf-8")
    SEARCH.write_text(with_fits(SEARCH.read_text("utf-8")), "utf-8")
    sys.stdout.write(f"wrote {README}, {GOODPUT} and {SEARCH}\n")


if __name__ == "__main__":
    main()
