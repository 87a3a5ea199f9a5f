"""Define the spec of a job as it really runs, with the source of each field, as plain data that the ledger carries."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from carbon_plugin.detect.observed import Observed
from carbon_plugin.spec.hardware.cluster import Accelerator, Cluster, Node
from carbon_plugin.spec.models.model import CountedModel, TransformerModel
from carbon_plugin.spec.numbers.figure import Assumption
from carbon_plugin.spec.run import RunSpec
from carbon_plugin.spec.site import Site
from carbon_plugin.spec.stack import Stack


class Declared(Struct, frozen=True, kw_only=True):
    """One instance holds what the user declared in the script. `layout` and `training` hold only the fields that were
    declared.
    """

    layout: dict[str, Any] = {}
    training: dict[str, Any] = {}
    model: TransformerModel | CountedModel | None = None
    accelerator: Accelerator | None = None
    node: Node | None = None
    site: Site | None = None
    stack: Stack | None = None
    total_steps: int | None = None
    tokens_per_step: int | None = None


class World(Struct, frozen=True, kw_only=True):
    """One instance holds what launcher and drivers say of the job: ranks, nodes, devices a node, and the model of its
    GPU.
    """

    world_size: int
    nodes: int
    devices_per_node: int
    accelerator: Observed | None = None


class Effective(Struct, frozen=True, kw_only=True):
    """One instance holds the effective spec of a job.

    `spec` is None while too little is known for a prediction; `missing` says what. `cluster` is what the job computes
    on, `charged` what it has reserved: they differ when GPUs are idle while the job runs on the CPU. `fields` maps each
    name to {"value", "source", "planned", "declared", "detected"}.

    An adapter tells the clock what the script says of a step, or what it counts itself. `tokens_a_count` is what one of
    these counts stands for: 1 where they are tokens, and where they are sizes of batches the tokens of the first step
    over its size. `declared_count` says that the script declares the tokens of a step and that the counts are ours, so
    that the declaration is what counts.
    """

    spec: RunSpec | None
    fields: dict[str, dict[str, Any]]
    differences: tuple[str, ...]
    missing: tuple[str, ...]
    assumptions: tuple[Assumption, ...]
    site: Site | None
    cluster: Cluster | None
    charged: Cluster | None
    total_steps: int | None
    tokens_per_step: int | None
    tokens_a_count: float = 1.0
    declared_count: bool = False

    def tokens_of(self, *, told: int, untold_steps: int, steps: int) -> int:
        """Return the tokens of the first `steps` steps: what was told of them, and for `untold_steps` that came without
        a number the tokens of a step. What the script declares of a step comes before what an adapter counts.
        """
        each = self.tokens_per_step or 0
        if self.declared_count:
            return each * steps
        return round(told * self.tokens_a_count) + each * untold_steps

    def counted_beside(self, *, told: int, untold_steps: int, steps: int) -> float | None:
        """Return the tokens a step by our own count, where it does not count because the script declares them; None
        where nothing was counted beside a declaration.
        """
        told_steps = steps - untold_steps
        return told * self.tokens_a_count / told_steps if self.declared_count and told_steps > 0 else None
