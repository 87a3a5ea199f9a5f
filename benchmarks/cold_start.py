"""Measure what a cold start costs, beside what every Python program pays: CPU of one process from its start to its end.

    make bench                                      # with the other benchmarks
    .venv/bin/python benchmarks/cold_start.py       # about a minute

Each case is a process of its own, and the cases take turns, so that what else the machine does meets all of them
alike. The least of all turns is the figure, because other work only ever adds to it. Beside each figure is its ratio
to `import numpy` of the same turns, which is the floor of a plan, so that machines can be compared.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from results_file import write_result

RESULTS = Path(__file__).parent / "results" / "cold_start.json"

PLAN = ["plan", "--model", "llama3-8b", "--accelerator", "h100-sxm", "--nodes", "16", "--tokens", "15e12",
        "--seq-len", "8192", "--global-batch-size", "1024", "--zone", "FRA", "--price", "2.5"]  # fmt: skip
"""The first question of the README."""
COMMAND = "import sys; sys.argv[0] = 'carbon-plugin'; from carbon_plugin.cli.main import main; main()"

FLOOR = "import numpy"
CASES = {
    "python -c pass": ["-c", "pass"],
    FLOOR: ["-c", "import numpy"],
    "import carbon_plugin": ["-c", "import carbon_plugin"],
    "import carbon_plugin.integrations.pytorch": ["-c", "import carbon_plugin.integrations.pytorch"],
    "carbon-plugin --version": ["-c", COMMAND, "--version"],
    "carbon-plugin --help": ["-c", COMMAND, "--help"],
    "carbon-plugin plan": ["-c", COMMAND, *PLAN],
}
"""Arguments of Python, by what they measure."""


class Cpu(NamedTuple):
    """Holds the CPU time of one process, s."""

    user_s: float
    system_s: float

    @property
    def total_s(self) -> float:
        """Return user and system time together, s."""
        return self.user_s + self.system_s


def cpu_of(arguments: list[str], environ: dict[str, str]) -> Cpu:
    """Run one process and return its CPU."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True, env=environ)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Cpu(after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime)


def measure(turns: int) -> dict[str, list[Cpu]]:
    """Return the CPU of every case in every turn.

    One turn before them compiles what was not compiled yet, as an installation does, into a folder of its own: a
    checkout that may write no bytecode would compile all of this package at each start.
    """
    found: dict[str, list[Cpu]] = {name: [] for name in CASES}
    with tempfile.TemporaryDirectory() as compiled:
        environ = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        environ["PYTHONPYCACHEPREFIX"] = compiled
        for turn in range(turns + 1):
            for name, arguments in CASES.items():
                used = cpu_of(arguments, environ)
                if turn:
                    found[name].append(used)
    return found


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description="CPU of cold starts.")
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    found = measure(options.turns)
    least = {name: min(used, key=lambda one: one.total_s) for name, used in found.items()}
    ratios = {name: used.total_s / least[FLOOR].total_s for name, used in least.items()}
    print(f"{'CPU, s (least of the turns)':42s} {'user':>6} {'system':>7} {'both':>6}   x {FLOOR}")
    for name, used in least.items():
        print(f"{name:42s} {used.user_s:6.3f} {used.system_s:7.3f} {used.total_s:6.3f} {ratios[name]:8.2f}")
    document = {
        "turns": options.turns,
        "least_s": {
            name: {
                "user": round(used.user_s, 4),
                "system": round(used.system_s, 4),
                "ratio_to_import_numpy": round(ratios[name], 3),
            }
            for name, used in least.items()
        },
        "median_total_s": {
            name: round(statistics.median(one.total_s for one in used), 4) for name, used in found.items()
        },
    }
    write_result(options.output, document)


if __name__ == "__main__":
    main()
