"""`carbon-plugin list`: list the names that can be written for a model, a device, a zone, a stack or a row."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Struct

from carbon_plugin.cli.options import Argument, AsJson, ProfileDirectories
from carbon_plugin.cli.terminal import echo, echo_json
from carbon_plugin.errors import SpecError
from carbon_plugin.spec.numbers.amounts import count, number, yaml_word
from carbon_plugin.spec.numbers.units import GIB
from carbon_plugin.spec.parsing.names import normalized, unknown_name

LISTED_DTYPES = ("bf16", "fp16", "fp32")
Directories = Sequence[Path]


class ListedKind(StrEnum):
    """Lists the kinds of names that can be listed."""

    models = "models"
    accelerators = "accelerators"
    nodes = "nodes"
    zones = "zones"
    stacks = "stacks"
    frameworks = "frameworks"
    rows = "rows"


class Listed(Struct, frozen=True):
    """One name, its other names, and further columns by their heading."""

    name: str
    aliases: tuple[str, ...]
    facts: dict[str, str]


def list_names(
    kind: Annotated[
        ListedKind,
        Argument("What to list: models, accelerators, nodes, zones, stacks, frameworks or rows.", metavar="KIND"),
    ],
    wanted: Annotated[
        str | None,
        Argument("Only what holds this word in a name or a fact.", metavar="[FILTER]"),
    ] = None,
    profiles: ProfileDirectories = None,
    as_json: AsJson = False,
) -> None:
    """List the known models, accelerators, nodes, zones, stacks, frameworks or published rows by the names to write."""
    known = list(LISTS[kind](profiles or []))
    found = known if wanted is None else [one for one in known if _holds(one, wanted)]
    if not found:
        assert wanted is not None
        aliases = {one.name: one.aliases for one in known}
        raise _none(kind, wanted, aliases)
    if as_json:
        echo_json(found)
        return
    headings = list(found[0].facts)
    also = any(one.aliases for one in found)
    rows = [(kind.value.removesuffix("s"), *headings, *(["also"] if also else []))]
    rows += [(one.name, *one.facts.values(), *([", ".join(one.aliases)] if also else [])) for one in found]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        echo("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def _holds(one: Listed, wanted: str) -> bool:
    word = normalized(wanted)
    return any(word in normalized(text) for text in (one.name, *one.aliases, *one.facts.values()))


def _none(kind: ListedKind, wanted: str, aliases: dict[str, tuple[str, ...]]) -> SpecError:
    """Return the error for a filter that no name and no fact holds, with the nearest names."""
    noun = kind.value.removesuffix("s")
    if kind is ListedKind.zones:
        from carbon_plugin.footprint.factors.zones import locate

        locate(wanted)  # its error names the nearest zones
    return unknown_name(noun, wanted, aliases, aliases)


def _models(directories: Directories) -> Iterator[Listed]:
    from carbon_plugin.spec.models.presets import list_presets, preset_model

    for name, preset in sorted(list_presets().items()):
        model = preset_model(name, preset)
        active = count(model.active_parameters) if model.moe is not None else ""
        facts = {"parameters": count(model.parameters), "active": active, "source": preset.source}
        yield Listed(name, tuple(preset.aliases), facts)


def _accelerators(directories: Directories) -> Iterator[Listed]:
    from carbon_plugin.spec.hardware.profiles import default_node_for, list_accelerators

    for device in list_accelerators(profile_dirs=directories):
        dtype = next((dtype for dtype in LISTED_DTYPES if dtype in device.peak_flops), None)
        facts = {
            "kind": device.kind,
            "TFLOP/s": f"{number(device.peak_flops[dtype].value / 1e12, 4)} {dtype}" if dtype else "",
            "GiB": number(device.memory_bytes.value / GIB),
            "W": number(device.tdp_w.value, 4),
            "usual node": default_node_for(device, profile_dirs=directories).name,
        }
        yield Listed(device.name, tuple(device.aliases), facts)


def _nodes(directories: Directories) -> Iterator[Listed]:
    from carbon_plugin.spec.hardware.profiles import ANY_ACCELERATOR, list_nodes

    for node in list_nodes(profile_dirs=directories):
        device = "any accelerator" if node.accelerator == ANY_ACCELERATOR else node.accelerator
        facts = {"devices": f"{node.accelerators} x {device}", "what": node.full_name}
        yield Listed(node.name, tuple(node.aliases), facts)


def _zones(directories: Directories) -> Iterator[Listed]:
    from carbon_plugin.footprint.factors.grid import zone_intensity
    from carbon_plugin.footprint.factors.zones import every_zone

    for zone, names in every_zone():
        intensity = zone_intensity(zone)
        figure, basis = intensity.figure, intensity.basis
        facts = {
            "g/kWh": f"{number(figure.value)} ({number(figure.low)} to {number(figure.high)})",
            "year": str(intensity.year),
            "counts": "" if basis is None else basis.scope,
        }
        yield Listed(zone, names, facts)


def _stacks(directories: Directories) -> Iterator[Listed]:
    from carbon_plugin.spec.frameworks import framework_named, names_of_frameworks
    from carbon_plugin.spec.hardware.profiles import list_stacks

    stacks = list_stacks(profile_dirs=directories)
    for name, stack in stacks.items():
        stated = msgspec.to_builtins(stack)
        usual = {field.name: field.default for field in msgspec.structs.fields(stack)}
        set_to = {field: value for field, value in stated.items() if value != usual[field]}
        yield Listed(name, (), {"planned as": "", "sets": _fields(set_to)})
    for name in sorted(set(names_of_frameworks()) - stacks.keys()):
        framework = framework_named(name)
        assert framework is not None  # `names_of_frameworks` yields the names of this table
        yield Listed(name, (), {"planned as": framework.name, "sets": _fields(framework.fields)})


def _fields(values: Mapping[str, object]) -> str:
    return ", ".join(f"{field} {yaml_word(value)}" for field, value in values.items())


def _frameworks(directories: Directories) -> Iterator[Listed]:
    from importlib.resources import files

    folder = Path(str(files("carbon_plugin.integrations")))
    for path in sorted(folder.glob("[!_]*.py")):
        # Importing the module would load its framework.
        said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        first, _, _ = said.partition("\n\n")
        facts = {"module": f"carbon_plugin.integrations.{path.stem}", "how": " ".join(first.split())}
        yield Listed(path.stem, (), facts)


def _rows(directories: Directories) -> Iterator[Listed]:
    from carbon_plugin.calibrate.rows.published import all_published_rows

    rows, skipped = all_published_rows()
    for row in rows:
        devices = f"{row.spec.cluster.devices} x {row.accelerator}"
        yield Listed(row.id, (), {"model": row.spec.model.name, "devices": devices})
    for left_out in skipped:
        yield Listed(left_out.id, (), {"model": "", "devices": f"not predicted: {left_out.reason}"})


LISTS: dict[ListedKind, Callable[[Directories], Iterable[Listed]]] = {
    ListedKind.models: _models,
    ListedKind.accelerators: _accelerators,
    ListedKind.nodes: _nodes,
    ListedKind.zones: _zones,
    ListedKind.stacks: _stacks,
    ListedKind.frameworks: _frameworks,
    ListedKind.rows: _rows,
}
