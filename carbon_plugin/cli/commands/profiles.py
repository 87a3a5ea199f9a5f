"""`carbon-plugin profiles`: list the known devices and nodes, and show every value of one with its source."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

from msgspec import Struct, structs

from carbon_plugin.cli.options import Argument, AsJson, Option, OptionFamily
from carbon_plugin.cli.terminal import echo, echo_json
from carbon_plugin.spec.hardware.cluster import Accelerator, Die, Node
from carbon_plugin.spec.hardware.profiles import (
    ANY_ACCELERATOR,
    Profile,
    find_accelerator,
    find_node,
    list_accelerators,
    list_nodes,
    sourced_values,
)
from carbon_plugin.spec.numbers.amounts import fitting_unit, number, percent, plural
from carbon_plugin.spec.numbers.figure import CONFIDENCE_MEANS, Sourced
from carbon_plugin.spec.numbers.units import (
    BYTE_RATE_UNITS,
    BYTE_UNITS,
    CALL_TIME_UNITS,
    FLOP_RATE_UNITS,
    GIB,
    MEMORY_UNITS,
    Units,
)
from carbon_plugin.spec.parsing.names import unknown_name

NOT_PLAIN = ("name", "full_name", "sources", "notes", "efficiency", "own_software")
LISTED_DTYPES = ("bf16", "fp16", "fp32")

UNITS_BY_NAME: tuple[tuple[str, Units], ...] = (
    ("bytes_per_s", BYTE_RATE_UNITS),
    ("_flops", FLOP_RATE_UNITS),
    ("ssd_bytes", BYTE_UNITS),
    ("_bytes", MEMORY_UNITS),
    ("_latency_s", CALL_TIME_UNITS),
    ("_kg", ((1.0, "kgCO2e"),)),
    ("_w", ((1.0, "W"),)),
)
"""The units in which a value is written, by a mark in the name of its field. The first that fits is taken."""
WITHOUT_RANGE = (
    "A value without a range is of a data sheet, or a constant of the prediction, whose error is in the range of every "
    "predicted step time (docs/prediction.md)."
)

Directories = Annotated[
    list[Path] | None,
    Option("Directory with your own profiles; repeatable.", names=("--profiles",)),
]
Embodied = Annotated[bool, Option("The bill of embodied carbon, part by part.")]
Name = Annotated[str, Argument("Name or alias of an accelerator or a node.")]


def profiles(directories: Directories = None, as_json: AsJson = False) -> None:
    """List the hardware profiles, the shipped ones and your own (also those in CARBON_PLUGIN_PROFILES)."""
    searched = directories or ()
    accelerators, nodes = list_accelerators(profile_dirs=searched), list_nodes(profile_dirs=searched)
    if as_json:
        echo_json({"accelerators": accelerators, "nodes": nodes})
        return
    _print_table(
        ("accelerator", "TFLOP/s", "GiB", "GB/s", "TDP W", "embodied kgCO2e", "calibration"),
        [_accelerator_row(accelerator) for accelerator in accelerators],
    )
    echo("")
    _print_table(("node", "devices", "host W", "embodied kgCO2e", "cooling"), [_node_row(node) for node in nodes])
    echo("\nIn brackets: p10 to p90. `profiles show NAME` has the source and the confidence of every value.")


def show(
    name: Name,
    directories: Directories = None,
    embodied: Embodied = False,
    as_json: AsJson = False,
) -> None:
    """Show every value of the accelerator and node of this name, with source and confidence."""
    searched = directories or []
    found = find_profiles(name, searched)
    if embodied:
        from carbon_plugin.cli.tables.embodied import bills_of, print_bills

        bills = bills_of(found, searched)
        if as_json:
            echo_json(bills)
        else:
            print_bills(bills)
        return
    if as_json:
        echo_json({"accelerator" if isinstance(p, Accelerator) else "node": p for p in found})
        return
    for position, profile in enumerate(found):
        if position:
            echo("")
        _print_profile(profile)


family = OptionFamily(main=profiles, subcommands={"show": show})


def find_profiles(name: str, directories: Sequence[Path]) -> list[Profile]:
    """Return the accelerator and the node that have a name, one or both. Raises `SpecError` with the nearest names."""
    found: list[Profile] = []
    if accelerator := find_accelerator(name, profile_dirs=directories):
        found.append(accelerator)
    if node := find_node(name, profile_dirs=directories):
        found.append(node)
    if found:
        return found
    known: list[Profile] = [*list_accelerators(profile_dirs=directories), *list_nodes(profile_dirs=directories)]
    aliases = {profile.name: profile.aliases for profile in known}
    raise unknown_name("profile", name, aliases, aliases)


def _accelerator_row(accelerator: Accelerator) -> tuple[str, ...]:
    dtype = next((dtype for dtype in LISTED_DTYPES if dtype in accelerator.peak_flops), None)
    share = accelerator.efficiency.gemm_share
    return (
        accelerator.name,
        f"{number(accelerator.peak_flops[dtype].value / 1e12, 4)} {dtype}" if dtype else "-",
        number(accelerator.memory_bytes.value / GIB, 4),
        number(accelerator.memory_bandwidth_bytes_per_s.value / 1e9, 4),
        number(accelerator.tdp_w.value, 4),
        _span(accelerator.embodied_kg),
        share.confidence if share else "by law",
    )


def _node_row(node: Node) -> tuple[str, ...]:
    device = "any accelerator" if node.accelerator == ANY_ACCELERATOR else node.accelerator
    host = node.host
    return (
        node.name,
        f"{node.accelerators} x {device}",
        _span(host.base_power_w),
        _span(host.embodied_kg),
        node.cooling,
    )


def _span(value: Sourced) -> str:
    """Return a value with its range as text."""
    central = number(value.value, 5)
    if value.low is None or value.high is None:
        return central
    return f"{central} ({number(value.low, 5)} to {number(value.high, 5)})"


def _print_profile(profile: Profile) -> None:
    echo(f"{profile.name}: {profile.full_name}")
    plain = {name: _plain(getattr(profile, name)) for name in profile.__struct_fields__ if name not in NOT_PLAIN}
    for name, text in plain.items():
        if text:
            echo(f"  {name:<16} {text}")
    echo("")
    rows = [(n, _with_unit(n, v), v.confidence, v.source, v.note or "") for n, v in sourced_values(profile)]
    _print_table(("field", "value (p10 to p90)", "confidence", "source", "note"), rows)
    met = {value.confidence for _, value in sourced_values(profile)}
    echo(f"confidence: {'; '.join(f'{name}: {means}' for name, means in CONFIDENCE_MEANS.items() if name in met)}")
    if any(value.low is None for _, value in sourced_values(profile)):
        echo(WITHOUT_RANGE)
    echo("\nsources")
    for key, text in profile.sources.items():
        echo(f"  {key:<18} {text}")
    for note in profile.notes:
        echo(f"note: {note}")
    for own in profile.own_software if isinstance(profile, Accelerator) else ():
        layouts = f" in {plural(len(own.like.layouts), 'layout')}" if own.like else ""
        echo(
            f"own runs: {plural(own.rows, 'row')} of software '{own.framework}'{layouts}; of what clusters differ by, "
            f"a plan keeps {percent(own.faster, 0)} for shorter steps and {percent(own.slower, 0)} for longer ones"
        )


def _with_unit(field: str, value: Sourced) -> str:
    """Return a value with its range in the unit that fits it; the end of the field's name says what it is."""
    units = next((units for mark, units in UNITS_BY_NAME if mark in field), None)
    if units is None:
        return _span(value)
    size, unit = fitting_unit(value.value, units)
    ends = [None if end is None else end / size for end in (value.low, value.high)]
    return f"{_span(structs.replace(value, value=value.value / size, low=ends[0], high=ends[1]))} {unit}"


def _plain(value: Any) -> str:
    """Return a field that has no source as text, empty for a part that holds values with sources."""
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    if isinstance(value, Die):
        return f"{value.count} x {value.area_mm2:g} mm2 {value.process}"
    return "" if value is None or isinstance(value, Struct | dict) else str(value)


def _print_table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    table = [head, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    for row in table:
        echo("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
