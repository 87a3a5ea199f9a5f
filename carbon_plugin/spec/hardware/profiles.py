"""Load hardware profiles by name: the shipped ones, and the user's own, which add to them or override them.

A profile directory holds `accelerators/*.yaml` and `nodes/*.yaml`, or the files of both kinds side by side, and
software stacks of the user's own in `stacks/NAME.yaml`.
Directories are searched in order: those passed in, those of CARBON_PLUGIN_PROFILES, then the shipped one.
Only files that contain the name asked for are parsed, so that resolving one device stays in milliseconds.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Struct

from carbon_plugin.errors import SpecError
from carbon_plugin.spec.frameworks import framework_named, names_of_frameworks
from carbon_plugin.spec.hardware.cluster import Accelerator, Node
from carbon_plugin.spec.numbers.figure import Sourced
from carbon_plugin.spec.parsing.boundary import read_text
from carbon_plugin.spec.parsing.decoding import decode
from carbon_plugin.spec.parsing.document import Document, read_document
from carbon_plugin.spec.parsing.names import normalized, unknown_name
from carbon_plugin.spec.parsing.rates_of_links import devices_per_nic, is_counted, rate_bytes_per_s
from carbon_plugin.spec.stack import STACKS, Stack

PROFILES_VARIABLE = "CARBON_PLUGIN_PROFILES"
PROFILES_OPTION = "--profiles (profile_dirs)"
"""The name of the directories that are passed in, on a command line and in Python, for errors."""
GENERIC_NODE = "workstation"
GENERIC_SERVER = "pcie-8"
"""The node of cards that servers hold, and of several of those that usually sit alone in a workstation."""
USUAL_SERVER = "NVIDIA's reference design of a PCIe server holds 8 (2-8-5, AI Enterprise reference architecture)"
ANY_ACCELERATOR = "*"

NIC_RATE = "bandwidth_bytes_per_s"

Profile = Accelerator | Node
Directories = Sequence[str | Path]
P = TypeVar("P", Accelerator, Node)


def load_accelerator(name: str, *, profile_dirs: Directories = ()) -> Accelerator:
    """Return the accelerator profile with this name or alias, or that a driver calls so.

    Raises `SpecError` listing the nearest names if there is none, or naming file, line and field of a bad profile.
    """
    found = find_accelerator(name, profile_dirs=profile_dirs)
    if found is None:
        raise _unknown("accelerator", name, list_accelerators(profile_dirs=profile_dirs))
    return found


def load_node(name: str, *, profile_dirs: Directories = ()) -> Node:
    """Return the node profile with this name or alias. Errors are those of `load_accelerator`."""
    found = find_node(name, profile_dirs=profile_dirs)
    if found is None:
        raise _unknown("node", name, list_nodes(profile_dirs=profile_dirs))
    return found


def find_accelerator(name: str, *, profile_dirs: Directories = ()) -> Accelerator | None:
    """Return what `load_accelerator` returns, or None if there is no such profile."""
    searched = _search_path(profile_dirs)
    found = (_named(name, _accelerators(_parsed(d, "accelerators", mentioning=name))) for d in searched)
    by_name = next((accelerator for accelerator in found if accelerator is not None), None)
    if by_name is not None or " mig " in f" {name.lower()} ":  # a slice is no whole device to plan with
        return by_name
    return match_device_name(name, profile_dirs=profile_dirs)


def find_node(name: str, *, profile_dirs: Directories = ()) -> Node | None:
    """Return what `load_node` returns, or None if there is no such profile."""
    found = (_named(name, _nodes(_parsed(d, "nodes", mentioning=name))) for d in _search_path(profile_dirs))
    return next((node for node in found if node is not None), None)


def list_accelerators(*, profile_dirs: Directories = ()) -> list[Accelerator]:
    """Return every accelerator profile by name. Of two with one name the one found first counts."""
    return _distinct(p for d in _search_path(profile_dirs) for p in _accelerators(_parsed(d, "accelerators")))


def list_nodes(*, profile_dirs: Directories = ()) -> list[Node]:
    """Return every node profile by name. Of two with one name the one found first counts."""
    return _distinct(p for d in _search_path(profile_dirs) for p in _nodes(_parsed(d, "nodes")))


def match_device_name(device_name: str, *, profile_dirs: Directories = ()) -> Accelerator | None:
    """Return the accelerator that a driver calls `device_name` (NVML, AMD SMI, a CPU's brand string), or None.

    The name of a MIG slice matches its parent; a leading "NVIDIA", which older drivers leave out, is ignored.
    """
    wanted = _driver_name(device_name)
    for directory in _search_path(profile_dirs):
        for accelerator in _accelerators(_parsed(directory, "accelerators", mentioning=wanted)):
            if wanted in map(_driver_name, accelerator.device_names):
                return accelerator
    return None


def default_node_for(accelerator: Accelerator, *, profile_dirs: Directories = ()) -> Node:
    """Return the node that an accelerator usually sits in.

    It is the one that the accelerator's profile names; else one written for it; else a workstation with one device.
    """
    if accelerator.default_node is not None:
        return load_node(accelerator.default_node, profile_dirs=profile_dirs)
    for directory in _search_path(profile_dirs):
        for node in _nodes(_parsed(directory, "nodes", mentioning=accelerator.name)):
            if node.accelerator == accelerator.name:
                return node
    return load_node(GENERIC_NODE, profile_dirs=profile_dirs)


def usual_node(
    accelerator: Accelerator, devices: int | None, *, nodes: int = 1, profile_dirs: Directories = ()
) -> Node:
    """Return the node that an accelerator usually sits in with so many of its kind, None where nobody says how many.

    It is the default node, or a generic server for several cards that usually sit alone in a workstation. Several nodes
    of which nobody says how many cards they hold are servers too, except of cards for desktop computers.
    """
    node = default_node_for(accelerator, profile_dirs=profile_dirs)
    if node.name != GENERIC_NODE or accelerator.kind != "gpu":
        return node
    in_servers = nodes > 1 and not accelerator.consumer if devices is None else devices > node.accelerators
    return load_node(GENERIC_SERVER, profile_dirs=profile_dirs) if in_servers else node


def nodes_with_room(accelerator: Accelerator, devices: int, *, profile_dirs: Directories = ()) -> list[str]:
    """Return the names of nodes that hold at least this many of an accelerator, those made for it first."""
    nodes = [node for node in list_nodes(profile_dirs=profile_dirs) if node.accelerators >= devices]
    own = [node.name for node in nodes if node.accelerator == accelerator.name]
    # Hosts of TPUs are generic too, but hold no GPUs.
    generic = [node.name for node in nodes if node.accelerator == ANY_ACCELERATOR]
    return own + [name for name in generic if name.startswith("tpu-") == (accelerator.kind == "tpu")]


def load_stack(name: str, *, profile_dirs: Directories = ()) -> Stack:
    """Return the software stack of this name, the user's own before a shipped one and that of a framework.

    Errors are as for accelerators.
    """
    wanted = normalized(name)
    folders = [directory / "stacks" for directory in _search_path(profile_dirs)]
    for folder in folders:
        path = folder / f"{wanted}.yaml"
        if os.path.isfile(path):  # the method of the path raises for a name that is too long for a file
            return decode(read_document(path), Stack)
    if wanted in STACKS:
        return STACKS[wanted]
    if (framework := framework_named(wanted)) is not None:
        return framework.stack
    own = [path.stem for folder in folders for path in folder.glob("*.yaml")]
    raise unknown_name("stack", name, [*own, *STACKS, *names_of_frameworks()])


def list_stacks(*, profile_dirs: Directories = ()) -> dict[str, Stack]:
    """Return every software stack by name. Of two with one name the one found first counts."""
    own = [path.stem for directory in _search_path(profile_dirs) for path in (directory / "stacks").glob("*.yaml")]
    return {name: load_stack(name, profile_dirs=profile_dirs) for name in sorted({*own, *STACKS})}


def sourced_values(value: Any, name: str = "") -> Iterator[tuple[str, Sourced]]:
    """Return every sourced value of a profile by dotted field name, in the order of its fields."""
    if isinstance(value, Sourced):
        yield name, value
    elif isinstance(value, Struct):
        for field in value.__struct_fields__:
            yield from sourced_values(getattr(value, field), f"{name}.{field}" if name else field)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from sourced_values(item, f"{name}.{key}")


def check_stated_directories(profile_dirs: Directories = ()) -> None:
    """Raise `SpecError`, with the name of what states it, for a directory that is none.

    A reader of a spec asks this first, because an error of a later search has the place of the field that is looked up.
    """
    _search_path(profile_dirs)


def directory_of_profiles(entry: str | Path, stated_by: str) -> Path:
    """Return a directory with profiles. Raises `SpecError` that begins with what states it if it is none."""
    if not os.path.isdir(entry):
        raise SpecError(f"{stated_by}: {entry} is not a directory; expected one with profiles (*.yaml)")
    return Path(entry)


def _search_path(profile_dirs: Directories) -> list[Path]:
    variable = os.environ.get(PROFILES_VARIABLE, "")
    passed_in = [directory_of_profiles(entry, PROFILES_OPTION) for entry in profile_dirs]
    of_variable = [directory_of_profiles(entry, PROFILES_VARIABLE) for entry in variable.split(os.pathsep) if entry]
    return [*passed_in, *of_variable, Path(str(files("carbon_plugin.hardware_profiles")))]


def _parsed(directory: Path, kind: str, mentioning: str = "") -> Iterator[Profile]:
    """Return the profiles of `directory` whose text mentions a name. An exact file name comes first."""
    found = [*_files_in(directory / kind), *_files_in(directory)]
    wanted = normalized(mentioning)
    found.sort(key=lambda file: file.name.rpartition(".")[0] != wanted)
    for file in found:
        stamp = file.stat().st_mtime_ns
        if wanted in _searchable(file.path, stamp):
            yield _profile(file.path, stamp)


def _files_in(folder: Path) -> list[os.DirEntry[str]]:
    """Return the YAML files of a folder by name. There are none where there is no such folder."""
    try:
        with os.scandir(folder) as entries:  # some hundred paths cost a monitor more than a turn
            found = [entry for entry in entries if entry.name.endswith((".yaml", ".yml"))]
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []
    return sorted(found, key=lambda entry: entry.name)


# The time stamp is part of the caches' key: an edited profile is read again.


@lru_cache(maxsize=1024)
def _searchable(path: str, stamp_ns: int) -> str:
    return normalized(read_text(Path(path), SpecError))


@lru_cache(maxsize=1024)
def _profile(path: str, stamp_ns: int) -> Profile:
    document = read_document(Path(path))
    fields = document.value if isinstance(document.value, dict) else {}
    if "peak_flops" not in fields and "host" not in fields:
        raise SpecError(f"{path}: neither an accelerator profile (peak_flops) nor a node profile (host)")
    if "peak_flops" in fields:
        profile: Profile = decode(document, Accelerator)
    else:
        profile = decode(_with_shares_of_nics(document), Node)
    for field, value in sourced_values(profile):
        if value.source not in profile.sources:
            known = ", ".join(profile.sources)
            raise SpecError(f"{path}: {field}: source is {value.source!r}, expected a key of sources: {known}")
    return profile


def _accelerators(profiles: Iterable[Profile]) -> Iterator[Accelerator]:
    return (profile for profile in profiles if isinstance(profile, Accelerator))


def _nodes(profiles: Iterable[Profile]) -> Iterator[Node]:
    return (profile for profile in profiles if isinstance(profile, Node))


def _named(name: str, profiles: Iterable[P]) -> P | None:
    """Return the profile of this name, else the first with this alias."""
    wanted, by_alias = normalized(name), None
    for profile in profiles:
        if normalized(profile.name) == wanted:
            return profile
        if by_alias is None and wanted in map(normalized, profile.aliases):
            by_alias = profile
    return by_alias


def _unknown(kind: str, name: str, profiles: Sequence[Profile]) -> SpecError:
    aliases = {profile.name: profile.aliases for profile in profiles}
    own = (
        f"; carbon-plugin probe writes one of this machine, and {PROFILES_VARIABLE} names its folder"
        if kind == "accelerator"
        else ""
    )
    return SpecError(f"{unknown_name(kind, name, aliases, aliases)}{own}")


def _distinct(profiles: Iterable[P]) -> list[P]:
    found: dict[str, P] = {}
    for profile in profiles:
        found.setdefault(normalized(profile.name), profile)
    return sorted(found.values(), key=lambda profile: profile.name)


def _driver_name(name: str) -> str:
    """Return a driver's name for comparison, without the vendor's prefix and the slice of a MIG device."""
    return normalized(name).removeprefix("nvidia-").split("-mig-")[0]


def _with_shares_of_nics(document: Document) -> Document:
    """Return a node's document with counted NICs ("8x 400 Gb/s") as the bytes/s that each of its devices
    has of them, and as the number of devices that share one, where the document does not state it.
    """
    node = document.value
    network, devices = node.get("network"), node.get("accelerators")
    stated = network.get(NIC_RATE) if isinstance(network, Mapping) else None
    if not isinstance(stated, Mapping) or not isinstance(devices, int) or devices < 1:
        return document
    shares, shared = dict(stated), {}
    for key, text in stated.items():
        if key in ("value", "low", "high") and isinstance(text, str) and is_counted(text):
            with document.located(("network", NIC_RATE, key), field=True):
                shares[key] = rate_bytes_per_s(text) / devices
            if key == "value":
                shared = {"devices_per_nic": devices_per_nic(text, devices)}
    return Document(node | {"network": {**shared, **network, NIC_RATE: shares}}, document.origin, document.places)
