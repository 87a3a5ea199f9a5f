"""The table of who may import whom, read from the source of every module.

The table is the design's; a place may also import what the places that it imports may import, since it deals with
their values. `carbon_plugin.errors` is everybody's.
"""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

MAY_IMPORT = {
    "spec": set(),
    "show": {"spec"},
    "sinks": {"spec", "show", "threads"},
    "predict": {"spec"},
    "net": {"spec"},
    "threads": set(),
    "footprint": {"spec", "net", "threads"},
    "meters": {"spec", "net", "threads"},
    "detect": {"spec"},
    "ledger": {"spec", "footprint"},
    "plan": {"predict", "ledger"},
    "probe": {"predict", "footprint"},
    "calibrate": {"predict", "ledger", "probe"},
    "validate": {"calibrate", "plan"},
    "monitor": {"plan", "meters", "detect", "ledger", "show", "sinks"},
    "audit": {"plan", "ledger", "show"},
    "fleet": {"audit", "ledger", "show"},
    "integrations": {"monitor", "detect", "spec", "show", "sinks"},
}
MAY_IMPORT["cli"] = set(MAY_IMPORT)

LAYERED = {"integrations"}
"""Places that may import only what the table names, not what those may import."""

TORCH = {"detect", "integrations", "probe"}
"""Places that may import torch; always inside a function, but for `integrations`, which a script imports when its
framework is there."""

FRAMEWORKS = {"torch", "lightning", "pytorch_lightning", "transformers", "deepspeed", "megatron"}
HEAVY = {"numpy", "scipy", "pandas", "matplotlib", "jinja2", "rich", "yaml", "psutil", "pynvml"} | FRAMEWORKS


def place_of(path: Path) -> str:
    relative = path.relative_to(ROOT)
    return relative.parts[1] if relative.parts[0] == "carbon_plugin" else relative.parts[0]


@functools.cache
def modules() -> list[Path]:
    package = (path for path in (ROOT / "carbon_plugin").rglob("*.py") if path.parent != ROOT / "carbon_plugin")
    return sorted([*package, *(ROOT / "integrations").rglob("*.py")])


@functools.cache
def allowed(place: str) -> set[str]:
    direct = MAY_IMPORT[place]
    return direct | {place} | (set() if place in LAYERED else set().union(*(allowed(other) for other in direct)))


def imports(tree: ast.AST, *, at_import_only: bool = False) -> Iterator[tuple[str, int]]:
    """Yield the names of imported modules with their lines. `at_import_only` leaves out functions and TYPE_CHECKING
    blocks.
    """
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative imports hide which place is meant"
            yield node.module or "", node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
        elif at_import_only and (_is_function(node) or _is_type_checking(node)):
            continue
        else:
            yield from imports(node, at_import_only=at_import_only)


def _is_function(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


@functools.cache
def imports_of(path: Path, *, at_import_only: bool = False) -> list[tuple[str, int]]:
    return list(imports(parsed(path), at_import_only=at_import_only))


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def test_every_place_is_in_the_table():
    assert {place_of(path) for path in modules()} == set(MAY_IMPORT)


def test_the_table_has_no_cycle():
    def reachable(place: str) -> set[str]:
        return MAY_IMPORT[place].union(*(reachable(other) for other in MAY_IMPORT[place]))

    assert not [place for place in MAY_IMPORT if place in reachable(place)]


def dotted(path: Path) -> str:
    relative = path.relative_to(ROOT).with_suffix("")
    parts = [part for part in relative.parts if part != "__init__"]
    return ".".join(parts if parts[0] == "carbon_plugin" else ["carbon_plugin", *parts])


@functools.cache
def file_graph() -> dict[str, set[str]]:
    """Return for each module of ours the modules of ours that it imports, also inside functions."""
    paths = {dotted(path): path for path in modules()}
    return {
        module: {name for name, _ in imports_of(path) if name in paths and name != module}
        for module, path in paths.items()
    }


def room_graph(files: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return the same graph with each sub-package (such as `meters.gpu`) as one node. Files beside sub-packages are
    nodes too.
    """

    def room(module: str) -> str:
        parts = module.split(".")
        return ".".join(parts[:3]) + ("/" if len(parts) > 3 else "")

    graph: dict[str, set[str]] = {}
    for module, used in files.items():
        graph.setdefault(room(module), set()).update(room(name) for name in used)
    return {node: {other for other in used if other.strip("/") != node.strip("/")} for node, used in graph.items()}


def first_circle(graph: dict[str, set[str]]) -> list[str]:
    """Return one path that comes back to where it began, or an empty list if there is none."""
    done: set[str] = set()

    def walk(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        for other in sorted(graph.get(node, ())):
            if found := walk(other, [*path, node]):
                return found
        done.add(node)
        return []

    return next((found for node in sorted(graph) if (found := walk(node, []))), [])


def test_no_circle_of_files():
    assert not first_circle(file_graph())


def test_no_circle_of_sub_packages():
    assert not first_circle(room_graph(file_graph()))


@pytest.mark.parametrize(
    ("graph", "circle"),
    [({"a": {"b"}, "b": {"c"}, "c": {"b"}}, ["b", "c", "b"]), ({"a": {"b", "c"}, "b": {"c"}, "c": set()}, [])],
)
def test_a_circle_is_found(graph, circle):
    assert first_circle(graph) == circle


@pytest.mark.parametrize("place", sorted(MAY_IMPORT))
def test_modules_import_only_what_their_place_may(place):
    broken = sorted(
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in modules()
        if place_of(path) == place
        for name, line in imports_of(path)
        if name.startswith("carbon_plugin.")
        and name.split(".")[1] in MAY_IMPORT
        and name.split(".")[1] not in allowed(place)
    )

    assert not broken, f"{place} may import only {sorted(allowed(place))}"


def test_records_know_nothing_of_carbon():
    """Of the ledger, only what says what a run held may use the values of the accounting."""
    users = {
        path.relative_to(ROOT / "carbon_plugin" / "ledger").parts[0]
        for path in modules()
        if place_of(path) == "ledger"
        and any(name.startswith("carbon_plugin.footprint") for name, _ in imports_of(path))
    }

    assert users == {"held"}


def frameworks_of(place: str, *, at_import_only: bool) -> list[str]:
    """Return where the modules of a place import frameworks."""
    return [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in modules()
        if place_of(path) == place
        for name, line in imports_of(path, at_import_only=at_import_only)
        if name.split(".")[0] in FRAMEWORKS
    ]


@pytest.mark.parametrize("place", sorted(MAY_IMPORT))
def test_frameworks_are_imported_only_where_they_belong_and_late(place):
    assert place in TORCH or not frameworks_of(place, at_import_only=False)
    assert place == "integrations" or not frameworks_of(place, at_import_only=True), "import it inside a function"


def newly_loaded(statement: str) -> set[str]:
    """Return the top-level packages that a fresh interpreter has after one statement and has not without it."""
    script = f"import sys; before = set(sys.modules); {statement}; print(*(set(sys.modules) - before), sep='\\n')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd="/")
    return {name.split(".")[0] for name in done.stdout.split()}


def test_importing_the_package_loads_nothing_heavy():
    assert not newly_loaded("import carbon_plugin") & HEAVY


@pytest.mark.parametrize(
    "module",
    ["carbon_plugin.cli.main", "carbon_plugin.plan.forecast", "carbon_plugin.spec.loading", "carbon_plugin.monitor",
     "carbon_plugin.probe.probe", "carbon_plugin.audit.summary", "carbon_plugin.ledger.reader"],
)  # fmt: skip
def test_importing_a_module_loads_no_framework(module):
    assert not newly_loaded(f"import {module}") & FRAMEWORKS


def test_a_monitor_is_imported_without_what_it_needs_only_when_it_measures():
    loaded = newly_loaded("from carbon_plugin import CarbonMonitor")

    assert "carbon_plugin" in loaded
    assert not loaded & HEAVY


def test_the_command_line_starts_without_numpy():
    assert not newly_loaded("import carbon_plugin.cli.main") & {"numpy", "scipy", "matplotlib", "jinja2"}
