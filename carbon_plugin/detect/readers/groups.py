"""Read axes that no live object showed from the descriptions of this rank's process groups, as the last resort.

Meshes and frameworks describe their groups, and a script can too: `new_group(ranks, group_desc="expert_parallel")`.
"""

from __future__ import annotations

from math import prod

from carbon_plugin.detect.job import Findings, Job
from carbon_plugin.detect.names import axis_of_group
from carbon_plugin.detect.observed import DEGREES, Observed


def read(job: Job) -> Findings | None:
    """Return axes that are still unknown, by described groups. Those that multiply count only if they explain the
    world.
    """
    groups = _described_groups()
    fields: dict[str, Observed] = {}
    problems: list[tuple[str, str]] = []
    for axis, sizes in groups.items():
        if f"layout.{axis}" in job.known:
            continue
        if len(sizes) > 1:
            said = ", ".join(f"{size} of {description!r}" for size, description in sorted(sizes.items()))
            problems.append(("conflict", f"{axis}: process groups of several sizes: {said}; none counts"))
            continue
        (size, description), *_ = sizes.items()
        fields[f"layout.{axis}"] = Observed(size, f"process group {description!r}")
    left = job.world_size / prod(job.degree(axis) for axis in DEGREES)
    if prod(int(fields[f"layout.{axis}"].value) for axis in DEGREES if f"layout.{axis}" in fields) != left:
        fields = {name: seen for name, seen in fields.items() if name == "layout.ep"}
    return Findings(fields=fields, problems=tuple(problems)) if fields or problems else None


def _described_groups() -> dict[str, dict[int, str]]:
    """Return for each axis the descriptions of this rank's groups of several ranks, by size.

    The registry of groups is private to torch.
    """
    from torch import distributed as dist
    from torch.distributed import distributed_c10d

    found: dict[str, dict[int, str]] = {}
    if not (dist.is_available() and dist.is_initialized()):
        return found
    for group in distributed_c10d._world.pg_names:
        axis = axis_of_group(group.group_desc)
        if axis is not None and group.size() > 1:
            # The data parallelism is made by hand. Nothing that shards was found, so that its ranks hold copies.
            found.setdefault("dp_replicate" if axis == "dp" else axis, {})[group.size()] = group.group_desc
    return found
