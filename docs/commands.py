"""Writes `commands.md`: the help of every command, as the terminal shows it. Run by `make docs`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from carbon_plugin.cli.commands import fleet, profiles
from carbon_plugin.cli.main import COMMANDS, EXIT_CODES

OUTPUT = Path(__file__).with_name("commands.md")
SUBCOMMANDS = {"fleet": fleet.family.subcommands, "profiles": profiles.family.subcommands}
HEAD = """# Commands

The help of every command, written by `make docs`.

| exit code | meaning |
|---|---|
"""


def help_of(*words: str) -> str:
    """Return what `carbon-plugin WORDS --help` prints."""
    done = subprocess.run(
        [sys.executable, "-c", "from carbon_plugin.cli.main import main; main()", *words, "--help"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"COLUMNS": "80", "TERM": "dumb"},
    )
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())


def page() -> str:
    """Return the whole page."""
    sections = [f"## carbon-plugin\n\n```\n{help_of()}\n```\n"]
    for name in COMMANDS:
        sections.append(f"## carbon-plugin {name}\n\n```\n{help_of(name)}\n```\n")
        for sub in SUBCOMMANDS.get(name, ()):
            sections.append(f"### carbon-plugin {name} {sub}\n\n```\n{help_of(name, sub)}\n```\n")
    codes = "".join(f"| {code} | {meaning} |\n" for code, meaning in EXIT_CODES.items())
    return "\n".join([HEAD + codes, *sections])


if __name__ == "__main__":
    OUTPUT.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"wrote {OUTPUT}\n")
