"""Each thing is written in one way: a unit has one table, a conversion one constant, and a class one name."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "carbon_plugin"
UNITS = PACKAGE / "spec" / "units.py"
CONVERSIONS = {3600, 86_400, 3.6e6, 3.6e9, 2**30}
"""Factors between SI and the units that people read, each of which has a name in `spec.numbers.units`."""


def modules() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path, ast.parse(path.read_text(encoding="utf-8"))


def test_conversions_between_units_have_one_home():
    found = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path, tree in modules()
        if path != UNITS
        for node in ast.walk(tree)
        if isinstance(node, ast.BinOp)
        and any(isinstance(side, ast.Constant) and side.value in CONVERSIONS for side in (node.left, node.right))
    ]

    assert not found, "use the constants of spec/numbers/units.py"


def test_a_class_has_a_name_of_its_own():
    homes = defaultdict(list)
    for path, tree in modules():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].append(str(path.relative_to(PACKAGE)))
    shared = {name: places for name, places in homes.items() if len(places) > 1}

    assert not shared
