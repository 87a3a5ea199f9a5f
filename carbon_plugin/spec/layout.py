"""Describe how a step is laid out over devices: the degrees of each kind of parallelism and the schedule."""

from __future__ import annotations

import math
from typing import Any, Literal

from msgspec import Struct

from carbon_plugin.errors import InfeasibleLayoutError, SpecError

Recompute = Literal["none", "selective", "operators", "full"]
RecomputedModule = Literal["core_attn", "layernorm", "moe_act", "mla_up_proj", "mlp", "moe", "shared_experts"]
"""The parts of a layer that selective recompute can name, as Megatron-core's `recompute_modules`."""
SHARED_OUT: tuple[Recompute, ...] = ("full", "operators")
"""The kinds of recompute that may take some layers and leave others."""
PipelineSchedule = Literal["gpipe", "1f1b", "interleaved", "zero_bubble", "dualpipe"]
ContextParallelKind = Literal["ring", "all_to_all"]
AXES = ("tp", "cp", "pp", "dp_replicate", "dp_shard")
"""Degrees that multiply to the number of devices."""
DEGREES = (*AXES, "ep", "expert_tp")
"""All degrees of parallelism; those of experts share out ranks that the axes have already made."""
TABLES = 2
"""Embedding and head, which pipelines may count as layers (Megatron-core, `account_for_embedding_in_pipeline_split` and
`account_for_loss_in_pipeline_split`: 126 layers in 16 stages of 8 chunks)."""
COUNTS = (*DEGREES, "virtual_stages", "pipeline_rounds", "micro_batch_size")


class StatedLayout(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One instance holds what a user states of a layout: any fields of `ParallelLayout`, None where nothing is stated.

    It is a whole layout where its degrees multiply to the devices of the cluster; else the rest is searched.
    """

    tp: int | None = None
    cp: int | None = None
    pp: int | None = None
    dp_replicate: int | None = None
    dp_shard: int | None = None
    ep: int | None = None
    expert_tp: int | None = None
    zero_stage: Literal[0, 1, 2, 3] | None = None
    sequence_parallel: bool | None = None
    context_parallel_kind: ContextParallelKind | None = None
    pipeline_schedule: PipelineSchedule | None = None
    virtual_stages: int | None = None
    pipeline_rounds: int | None = None
    micro_batch_size: int | None = None
    recompute: Recompute | None = None
    recompute_modules: tuple[RecomputedModule, ...] | None = None
    recompute_share: float | None = None
    recompute_reentrant: bool | None = None
    async_tp: bool | None = None
    expert_overlap: bool | None = None
    balanced_stages: bool | None = None

    def __post_init__(self) -> None:
        _check_numbers(self)

    @property
    def held(self) -> dict[str, Any]:
        """Return the fields that are stated, by name."""
        values = {field: getattr(self, field) for field in self.__struct_fields__}
        return {field: value for field, value in values.items() if value is not None}

    def is_whole(self, devices: int) -> bool:
        """Return whether nothing is left to be searched: the stated degrees use all devices, or no further degrees
        could.
        """
        degrees = [getattr(self, axis) for axis in AXES]
        product = math.prod(degree or 1 for degree in degrees)
        if None not in degrees or devices % product:
            return True
        return product == devices and ((self.dp_shard or 1) == 1 or self.zero_stage is not None)


class ParallelLayout(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One layout holds the degrees of parallelism and how a micro-batch runs.

    The number of ranks is `tp * cp * pp * dp_replicate * dp_shard`. `ep` divides `dp_replicate * dp_shard * cp * tp`
    and never multiplies it. `expert_tp` splits each expert further and needs `ep` above 1 (with `ep` 1 experts are
    split over `tp` like any layer). `zero_stage` says what `dp_shard` shards: 0 nothing, 1 optimizer states, 2 also
    gradients, 3 also parameters (FSDP); with `dp_replicate` > 1 beside it that is HSDP.

    `recompute` says what is computed again in the backward pass: "selective" the attention core (Megatron), "operators"
    cheap operations but not matrix products (torchtitan's per-op policy), "full" whole layers. `recompute_modules` are
    the parts that "selective" computes again where these are not the attention core alone, as in Megatron-core.
    `recompute_share` is the share of the layers that "full" or "operators" computes again, the others keep everything:
    0.5 where every second layer does (torchtitan's `selective_ac_option` 2), 0.25 for 2 of the 8 layers of each stage
    (Megatron-core's `recompute_method` block with `recompute_num_layers` 2).

    `virtual_stages` is the number of model chunks that a pipeline rank holds. `pipeline_rounds` says how often in a
    step the pipeline fills and drains: once in Megatron, and once for each batch of the data loader where gradients are
    accumulated over several calls of a schedule (`torch.distributed.pipelining`). `micro_batch_size` is in sequences.
    `expert_overlap` hides the experts' all-to-all under the compute of another micro-batch; the schedule "dualpipe"
    always does so (DeepSeek-V3, arXiv 2412.19437 section 3.2.1). `async_tp` overlaps tensor-parallel traffic with
    compute. `balanced_stages` says that the layers were cut into pipeline stages so that embedding and head count as
    work of their stage (Megatron's account_for_loss_in_pipeline_split); else layers are dealt out evenly and the head
    comes on top.
    """

    tp: int = 1
    cp: int = 1
    pp: int = 1
    dp_replicate: int = 1
    dp_shard: int = 1
    ep: int = 1
    expert_tp: int = 1
    zero_stage: Literal[0, 1, 2, 3] = 0
    sequence_parallel: bool = False
    context_parallel_kind: ContextParallelKind = "ring"
    pipeline_schedule: PipelineSchedule = "1f1b"
    virtual_stages: int = 1
    pipeline_rounds: int = 1
    micro_batch_size: int = 1
    recompute: Recompute = "none"
    recompute_modules: tuple[RecomputedModule, ...] = ()
    recompute_share: float = 1.0
    recompute_reentrant: bool = False
    async_tp: bool = False
    expert_overlap: bool = False
    balanced_stages: bool = False

    def __post_init__(self) -> None:
        _check_numbers(self)
        if self.dp_shard > 1 and self.zero_stage == 0:
            raise InfeasibleLayoutError(
                f"layout: dp_shard {self.dp_shard} shards nothing while zero_stage is 0; "
                f"use dp_replicate for plain data parallelism, or zero_stage 1, 2 or 3"
            )
        if self.recompute_modules and self.recompute != "selective":
            raise InfeasibleLayoutError(
                f"layout: recompute_modules {', '.join(self.recompute_modules)} need recompute selective, "
                f"got {self.recompute}"
            )
        if self.virtual_stages > 1 and self.pipeline_schedule not in ("interleaved", "zero_bubble"):
            raise InfeasibleLayoutError(
                f"layout: virtual_stages {self.virtual_stages} needs pipeline_schedule interleaved or zero_bubble, "
                f"got {self.pipeline_schedule}"
            )
        if self.expert_tp > 1 and self.ep == 1:
            raise InfeasibleLayoutError(
                f"layout: expert_tp {self.expert_tp} needs ep above 1; with ep 1 experts are split over tp {self.tp}"
            )
        if self.pipeline_schedule == "dualpipe" and (self.pp < 2 or self.pp % 2):
            raise InfeasibleLayoutError(f"layout: pipeline_schedule dualpipe needs an even pp, got pp {self.pp}")
        ranks, wanted = self.dp * self.cp * self.tp, self.ep * self.expert_tp
        if ranks % wanted:
            name = f"ep {self.ep}" if self.expert_tp == 1 else f"ep {self.ep} * expert_tp {self.expert_tp} = {wanted}"
            raise InfeasibleLayoutError(f"layout: {name} does not divide dp_replicate*dp_shard*cp*tp = {ranks}")

    @property
    def dp(self) -> int:
        """Return the data-parallel degree: replicas times shards."""
        return self.dp_replicate * self.dp_shard

    @property
    def world_size(self) -> int:
        """Return the number of ranks that this layout needs."""
        return self.tp * self.cp * self.pp * self.dp

    def micro_batches(self, global_batch_size: int) -> int:
        """Return the number of micro-batches in a step on each data-parallel rank.

        Raises `InfeasibleLayoutError` if the global batch is no multiple of `dp * micro_batch_size`.
        """
        per_round = self.dp * self.micro_batch_size
        if global_batch_size % per_round:
            raise InfeasibleLayoutError(
                f"layout: global_batch_size {global_batch_size} is not a multiple of "
                f"dp {self.dp} * micro_batch_size {self.micro_batch_size} = {per_round}"
            )
        return global_batch_size // per_round


def runs_from_both_ends(pp: int, micro_batches: int) -> bool:
    """Return whether DualPipe can run: stages come in pairs, and each end of the pipeline is fed with at least as many
    micro-batches as there are stages.
    """
    return pp % 2 == 0 and micro_batches % 2 == 0 and micro_batches >= 2 * pp


def _check_numbers(layout: StatedLayout | ParallelLayout) -> None:
    for field in COUNTS:
        value = getattr(layout, field)
        if value is not None and value < 1:
            raise SpecError(f"layout: {field} is {value}, expected a positive integer")
    share = layout.recompute_share
    if share is None or share == 1:
        return
    if not 0 < share < 1:
        raise SpecError(f"layout: recompute_share is {share:g}, expected more than 0 and at most 1")
    if layout.recompute not in (None, *SHARED_OUT):
        raise InfeasibleLayoutError(
            f"layout: recompute_share {share:g} needs recompute {' or '.join(SHARED_OUT)}, got {layout.recompute}"
        )
