"""What a cold start costs: user CPU of `import carbon_plugin`, `--help` and `plan`, beside that of what they stand on.

    make bench                                      # with the other benchmarks
    .venv/bin/python benchmarks/cold_start.py       # about half a minute

Each is a process of its own, in turns, so that what else the machine does meets all of them alike. `import numpy` and
the command-line library are the floor of a plan. The least of all turns is
the figure, because other work only ever adds to it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "cold_start.json"

PLAN = ["plan", "--model", "llama3-8b", "--accelerator", "h100-sxm", "--nodes", "1", "--steps", "100", "--zone", "FRA"]
COMMAND = "import sys; sys.argv[0] = 'carbon-plugin'; from carbon_plugin.cli.main import main; main()"

CASES = {
    "python": ["-c", "pass"],
    "import numpy": ["-c", "import numpy"],
    "import click": ["-c", "import click"],
    "import carbon_plugin": ["-c", "import carbon_plugin"],
    "carbon-plugin --help": ["-c", COMMAND, "--help"],
    "carbon-plugin plan": ["-c", COMMAND, *PLAN],
}
"""Arguments of Python, by what they measure."""


def user_s(arguments: list[str], environ: dict[str, str]) -> float:
    """User CPU of one process, s."""
    before_s = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True, env=environ)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before_s


def measure(turns: int) -> dict[str, list[float]]:
    """User CPU of every case in every turn, s.

    One turn before them compiles what was not compiled yet, as an installation does, into a folder of its own: a
    checkout that may write no bytecode would compile all of this package at each start.
    """
    found: dict[str, list[float]] = {name: [] for name in CASES}
    with tempfile.TemporaryDirectory() as compiled:
        environ = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        environ["PYTHONPYCACHEPREFIX"] = compiled
        for turn in range(turns + 1):
            for name, arguments in CASES.items():
                used_s = user_s(arguments, environ)
                if turn:
                    found[name].append(used_s)
    return found


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description="User CPU of cold starts.")
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    found = measure(options.turns)
    for name, times_s in found.items():
        print(f"{name:24s} {min(times_s):.3f} s least, {statistics.median(times_s):.3f} s median")
    document = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "turns": options.turns,
        "user_s": {
            name: {"least": round(min(times_s), 4), "median": round(statistics.median(times_s), 4)}
            for name, times_s in found.items()
        },
    }
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
