"""Measure this machine in seconds and write its profile, so that predictions for it are meaningful.

A single process measures its device. Under torchrun all ranks measure at the same time, because on one machine they
share cores and memory, and they measure the collectives between them too.
"""

from __future__ import annotations

import importlib.util
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import yaml

from carbon_plugin.errors import SpecError
from carbon_plugin.probe.machine import describe_machine
from carbon_plugin.probe.profile import build_profiles, probe_source
from carbon_plugin.probe.result import Measurements, Probe, combine
from carbon_plugin.spec.hardware.cluster import Accelerator, Node
from carbon_plugin.spec.hardware.profiles import match_device_name
from carbon_plugin.spec.numbers.amounts import plural, verb
from carbon_plugin.spec.parsing.saving import save

if TYPE_CHECKING:
    import torch

DEFAULT_NAME = "this-machine"
DEFAULT_SECONDS = 10.0
MOST_SECONDS = 3600.0
COLLECTIVE_SHARE = 0.25
"""The share of the time that is given to collectives where there are several ranks."""


def is_rank_zero() -> bool:
    """Return whether this process is the one that writes and prints."""
    return int(os.environ.get("RANK", "0")) == 0


def probe(*, name: str = DEFAULT_NAME, seconds: float = DEFAULT_SECONDS) -> Probe:
    """Measure this machine for about `seconds` and return profiles of it called `name`, the same on every rank.

    Raises `SpecError` without torch, over several nodes, with more ranks than GPUs, or for a `name` or a number of
    `seconds` that is not valid.
    """
    if importlib.util.find_spec("torch") is None:
        raise SpecError("probe: measuring needs PyTorch; install it first (pip install torch)")
    from carbon_plugin.probe.collectives import measure_collectives
    from carbon_plugin.probe.measure import Bench, measure_device

    if not 0 < seconds <= MOST_SECONDS:
        raise SpecError(f"probe: seconds is {seconds:g}, expected a positive number up to {MOST_SECONDS:g}")
    if not re.fullmatch(r"\w[\w.+-]*", name):
        raise SpecError(f"probe: name is {name!r}, expected letters, digits, and . + - _ behind them: it names files")
    device, ranks = _device(), _local_ranks()
    start = time.monotonic()
    with _process_group(device, ranks) as backend:
        wait, meet = _synchroniser(device), _barrier(backend)
        share = 1 - COLLECTIVE_SHARE if backend else 1.0
        own = measure_device(Bench(device, wait, meet), share * seconds)
        if backend:
            times = measure_collectives(device, wait, ranks, COLLECTIVE_SHARE * seconds)
            own = msgspec.structs.replace(own, collectives=times)
        together = combine(_gather(own, ranks))
        machine = describe_machine(device, ranks=ranks, backend=backend)
    datasheet = match_device_name(machine.device) if machine.kind == "gpu" else None
    accelerator, node = build_profiles(name, machine, together, datasheet)
    return Probe(
        machine=machine,
        measurements=together,
        accelerator=accelerator,
        node=node,
        elapsed_s=time.monotonic() - start,
    )


def write_profiles(result: Probe, directory: Path) -> tuple[Path, Path]:
    """Write `accelerators/<name>.yaml` and `nodes/<name>.yaml` under `directory`, replacing older ones.

    Return both paths.
    """
    header = f"# Written by {probe_source(result.machine)}.\n# Use it with --profiles {directory}\n"
    written = []
    for folder, profile in (("accelerators", result.accelerator), ("nodes", result.node)):
        path = directory / folder / f"{profile.name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, header + profile_yaml(profile))
        written.append(path)
    return written[0], written[1]


def profile_yaml(profile: Accelerator | Node) -> str:
    """Return a profile as YAML, with six significant digits and without fields that are empty or unknown."""
    document = _readable(msgspec.to_builtins(profile))
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)


def _readable(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: _readable(item) for key, item in value.items()}
        return {key: item for key, item in kept.items() if item is not None and item not in ([], {})}
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _device() -> torch.device:
    import torch

    if not torch.cuda.is_available():
        return torch.device("cpu")
    index, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if index >= count:
        raise SpecError(
            f"probe: rank {index} of this machine has no GPU; {count} {verb(count, 'is', 'are')} visible, start "
            f"{plural(count, 'rank')}"
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def _local_ranks() -> int:
    world, local = (int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if world != local:
        raise SpecError(
            f"probe: {world} ranks over several nodes ({local} here); it measures one machine, start it on one node"
        )
    return world


@contextmanager
def _process_group(device: torch.device, ranks: int) -> Iterator[str | None]:
    """Provide the ranks' process group for the time of the probe.

    A group that is already initialised is used and left alone.
    """
    import torch.distributed as dist

    if ranks == 1:
        yield None
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    ours = not dist.is_initialized()
    if ours:
        dist.init_process_group(backend)
    try:
        yield backend
    finally:
        if ours:
            dist.destroy_process_group()


def _synchroniser(device: torch.device) -> Callable[[], None]:
    import torch

    return (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else _nothing


def _barrier(backend: str | None) -> Callable[[], None]:
    import torch.distributed as dist

    barrier: Callable[[], None] = dist.barrier
    return barrier if backend else _nothing


def _nothing() -> None:
    """Return at once, because a single process on a CPU has nobody to wait for."""


def _gather(own: Measurements, ranks: int) -> list[Measurements]:
    """Return the measurements of every rank, which the process group exchanges as plain data."""
    import torch.distributed as dist

    if ranks == 1:
        return [own]
    gathered: list[Any] = [None] * ranks
    dist.all_gather_object(gathered, msgspec.to_builtins(own))
    return [msgspec.convert(one, Measurements) for one in gathered]
