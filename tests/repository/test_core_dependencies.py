"""How many distributions a user gets with the core, as the lock with hashes names them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements" / "core.lock"
MOST_DISTRIBUTIONS = 14
OURS = "carbon-plugin (pyproject.toml)"


def asked_by(lock: str) -> dict[str, set[str]]:
    """Return which distributions ask for each distribution of a lock, by its comments. What only another system needs
    is left out.
    """
    found: dict[str, set[str]] = {}
    name = ""
    for line in lock.splitlines():
        if line and not line.startswith((" ", "#")):
            name = "" if "sys_platform == 'win32'" in line else line.partition("==")[0]
        elif name and line.startswith("    #") and not line.endswith("# via"):
            found.setdefault(name, set()).add(line.removeprefix("    #").replace(" via ", "").strip())
    return found


def core_of(lock: str) -> set[str]:
    """Return what the dependencies in pyproject.toml bring, without what torch brings, which the lock holds too."""
    asked = asked_by(lock)
    core: set[str] = set()
    while more := {name for name, by in asked.items() if by & (core | {OURS})} - core:
        core |= more
    return core


def test_the_core_needs_few_distributions():
    core = core_of(LOCK.read_text(encoding="utf-8"))

    assert {"numpy", "msgspec", "rich", "pygments"} <= core  # what is asked for, and what those ask for
    assert len(core) + 1 <= MOST_DISTRIBUTIONS, f"with ours: {sorted(core)}"
    assert not core & {"torch", "sympy", "matplotlib", "pydantic"}


def test_the_demo_installs_what_its_commands_ask_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["calibrate"]]
    locked = asked_by((ROOT / "requirements" / "demo.lock").read_text(encoding="utf-8"))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")

    assert "calibrate" in (ROOT / "examples" / "demo" / "demo.py").read_text(encoding="utf-8")
    assert "$(call install,$(VENV),demo)" in makefile
    assert {re.split(r"[^A-Za-z0-9-]", one)[0].lower() for one in asked} <= set(locked)
