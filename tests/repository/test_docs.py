"""The documentation names what is there."""

from __future__ import annotations

import re
from pathlib import Path

from carbon_plugin.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parents[2]


def test_every_command_is_on_the_page_of_commands():
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")

    sections = re.findall(r"^## carbon-plugin (\S+)$", page, flags=re.MULTILINE)

    assert sections == list(COMMANDS), "run `make docs`"


def test_every_link_to_a_file_leads_somewhere():
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    links = [(page, target) for page in pages for target in re.findall(r"\]\(([^)#\s]+)", page.read_text("utf-8"))]

    broken = [
        (page.name, target) for page, target in links if "://" not in target and not (page.parent / target).exists()
    ]

    assert not broken


def test_every_target_of_the_makefile_is_explained():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")

    phony = re.search(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE)

    assert phony
    assert set(re.findall(r"^([a-z-]+):.*## ", makefile, flags=re.MULTILINE)) == set(phony[1].split())
