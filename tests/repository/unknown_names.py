"""Find names that tests, benchmarks, tools, examples and scripts of the documentation use and that are not there.

A rename leaves such names behind in code that is not typed. Run by `make types` and by the tests of the repository.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLACES = ("tests", "benchmarks", "tools", "examples", "docs")
OURS = ("carbon_plugin", *PLACES)
CODES = ("attr-defined", "call-arg")
"""The kinds of error that a rename leaves behind: a name that a module or a class has not, and a wrong argument."""


def unknown_names() -> list[str]:
    """Return a line for each use of a name that is not there, with file and line; empty if there is none."""
    # With a cache of its own, since other options make the one of the package's types void.
    options = ["--explicit-package-bases", "--implicit-reexport", "--cache-dir=.mypy_cache/names"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, *PLACES],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if is_of_a_rename(line)]


def is_of_a_rename(line: str) -> bool:
    """Return whether mypy tells in this line of a name, an argument or a module of ours that is not there."""
    missing = re.search(r'module named "(\w+)[\w.]*"  \[import-not-found\]$', line)
    return missing[1] in OURS if missing else line.endswith(tuple(f"[{code}]" for code in CODES))


if __name__ == "__main__":
    found = unknown_names()
    sys.stdout.write("".join(f"{line}\n" for line in found))
    sys.exit(bool(found))
