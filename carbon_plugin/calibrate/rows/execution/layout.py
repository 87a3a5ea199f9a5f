"""Read how a published row ran its model: layout, batch, precision and software stack, with documented defaults."""

from __future__ import annotations

import re

from carbon_plugin.calibrate.rows.execution.batch import batch_of
from carbon_plugin.calibrate.rows.execution.precision import precision_of
from carbon_plugin.calibrate.rows.execution.recompute import recompute_of
from carbon_plugin.calibrate.rows.execution.sharding import OFFLOADED, hybrid_shards, usual_stage, zero_stage
from carbon_plugin.calibrate.rows.execution.training import training_plan
from carbon_plugin.calibrate.rows.fields import Fields, MissingFieldError
from carbon_plugin.calibrate.rows.software.experts import expert_recipe
from carbon_plugin.calibrate.rows.software.stacks import stack_of
from carbon_plugin.calibrate.rows.software.stated_experts import stated_experts
from carbon_plugin.errors import SpecError
from carbon_plugin.spec.defaults import usual_schedule
from carbon_plugin.spec.frameworks import UNKNOWN, Conventions
from carbon_plugin.spec.hardware.cluster import Cluster
from carbon_plugin.spec.layout import TABLES, ParallelLayout, PipelineSchedule
from carbon_plugin.spec.models.model import TransformerModel
from carbon_plugin.spec.stack import Stack
from carbon_plugin.spec.training import TrainingPlan


def row_execution(
    row: Fields, model: TransformerModel, cluster: Cluster, conventions: Conventions, assumed: list[str]
) -> tuple[ParallelLayout, TrainingPlan, Stack]:
    """Return layout, training plan and stack of a row, and append what was assumed to `assumed`.

    Raises `SpecError` naming the field that is missing or odd.
    """
    tp, pp, cp, ep, dp = _degrees(row, cluster, conventions, assumed)
    usual = usual_stage(model, cluster, tp * pp, conventions)
    stage = zero_stage(row, pp, usual, conventions, assumed) if dp * cp > 1 or _gathers_alone(row) else 0
    batch, size = batch_of(row, dp, pp, conventions, assumed)
    schedule, chunks = _schedule(row, model, pp, batch // (dp * size), conventions, assumed)
    shards = hybrid_shards(row, dp, cluster) if stage else dp
    sequence = row.flag("sp")
    precision = precision_of(row, cluster, conventions, assumed)
    experts, device = stated_experts(row), cluster.accelerator
    recipe = expert_recipe(conventions, row, experts, device, precision) if model.moe is not None else None
    if recipe is not None:
        assumed.append(recipe.said)
    recompute, modules, share = recompute_of(row, model.layers, conventions, assumed)
    layout = ParallelLayout(
        tp=tp,
        cp=cp,
        pp=pp,
        dp_replicate=dp if stage == 0 else dp // shards,
        dp_shard=1 if stage == 0 else shards,
        ep=ep,
        expert_tp=row.optional_count("etp") or 1 if ep > 1 else 1,
        zero_stage=stage,  # type: ignore[arg-type]
        sequence_parallel=(conventions.stack.shards_sequences if sequence is None else sequence) and tp > 1,
        pipeline_schedule=schedule,
        virtual_stages=chunks,
        pipeline_rounds=(row.optional_count("pipeline_rounds") or 1) if pp > 1 else 1,
        micro_batch_size=size,
        recompute=recompute,
        recompute_modules=modules,
        recompute_share=share,
        recompute_reentrant=conventions.reentrant,
        async_tp=_hides_tensor_parallel(row, conventions),
        context_parallel_kind=conventions.context_parallel,
        expert_overlap=((recipe is not None and recipe.expert_overlap) or _hides_exchange(row)) and ep > 1,
        balanced_stages=conventions.stack.balances_stages and pp > 1,
    )
    training = training_plan(row, model, cluster, layout, batch, precision, conventions, assumed)
    return layout, training, stack_of(conventions, row, experts, recipe, device, model, stage, assumed)


def _gathers_alone(row: Fields) -> bool:
    """Return whether one device gathers layer by layer too: FSDP that offloads keeps its parameters on the host."""
    sharding = row.text("sharding")
    return "fsdp" in sharding.lower() and OFFLOADED.search(sharding) is not None


def _degrees(
    row: Fields, cluster: Cluster, conventions: Conventions, assumed: list[str]
) -> tuple[int, int, int, int, int]:
    """Return tp, pp, cp, ep and the data-parallel degree that remains."""
    if not row.states("tp", "sharding") and cluster.devices > 1:
        if not conventions.shards_alone or conventions.name == UNKNOWN.name:
            raise MissingFieldError("tp")
        assumed.append("tp 1")
    tp, pp, cp, ep = (row.optional_count(axis) or 1 for axis in ("tp", "pp", "cp", "ep"))
    dp = cluster.devices // (tp * pp * cp)
    if dp * tp * pp * cp != cluster.devices:
        raise SpecError(f"tp {tp} * pp {pp} * cp {cp} does not divide n_gpus {cluster.devices}")
    if row.optional_count("dp") not in (None, dp):
        assumed.append(f"dp {dp} (stated {row.count('dp')})")
    return tp, pp, cp, ep, dp


def _hides_tensor_parallel(row: Fields, conventions: Conventions) -> bool:
    """Return whether products hide the collectives of tensor parallelism: the row says so, or the framework does it."""
    overlap = row.text("overlap")
    if "no overlap in tensor parallelism" in f"{overlap} {row.text('notes')}":  # `ub_tp_comm_overlap: false` of NeMo
        return False
    return conventions.stack.hides_tensor_traffic or "async TP" in overlap or "tp-comm-overlap" in overlap


def _hides_exchange(row: Fields) -> bool:
    """Return whether the row says that the exchange of experts runs beside the compute of another micro-batch."""
    return "expert exchange overlapped" in f"{row.text('overlap')} {row.text('notes')}"


def _schedule(
    row: Fields, model: TransformerModel, pp: int, micro_batches: int, conventions: Conventions, assumed: list[str]
) -> tuple[PipelineSchedule, int]:
    """Return the schedule of a pipeline and the model chunks that a rank holds.

    They are stated as a field or in words, else they are the default of the framework.
    """
    if pp == 1:
        return "1f1b", 1
    words = re.search(r"\b(?:VP|vpp|v) ?= ?(\d+)|virtual pipeline (?:size )?(\d+)", row.text("notes"))
    stated = row.optional_count("vp") or (int(words.group(1) or words.group(2)) if words else None)
    overlap = row.text("overlap")
    if stated is not None or "interleaved" in overlap:
        chunks = min(stated or 2, max(1, (model.layers + TABLES) // pp))
        return "interleaved" if chunks > 1 else "1f1b", chunks
    plain = re.search(r"\b1F1B\b|one-forward-one-backward|gpipe", f"{overlap} {row.text('framework')}", re.IGNORECASE)
    if plain or row.states("vp"):
        return "1f1b", 1
    schedule, taken = usual_schedule(pp, model.layers, micro_batches, conventions.stack)
    said = f"pipeline_schedule {schedule}" if schedule == "dualpipe" else f"virtual_stages {taken.value}"
    assumed.append(f"{said}: {taken.why}")
    return schedule, taken.value
