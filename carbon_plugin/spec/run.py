"""Define one run with everything that a prediction needs, and check that its parts fit one another.

A run holds model, cluster, layout, training, stack and site, with what had to be assumed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import msgspec
from msgspec import Struct

from carbon_plugin.errors import InfeasibleLayoutError, SpecError
from carbon_plugin.spec.degrees import divisors, listed, splits_heads, what_would_do
from carbon_plugin.spec.hardware.cluster import Cluster
from carbon_plugin.spec.layout import TABLES, ParallelLayout, runs_from_both_ends
from carbon_plugin.spec.models.model import CountedModel, TransformerModel
from carbon_plugin.spec.numbers.amounts import plural
from carbon_plugin.spec.numbers.figure import Assumption
from carbon_plugin.spec.parsing.moment import unix_s
from carbon_plugin.spec.site import Site
from carbon_plugin.spec.stack import Stack
from carbon_plugin.spec.training import TrainingPlan


class RunSpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One spec holds a run with everything that a prediction needs. `load_run_spec` makes it from a file.

    Args:
        name: What the run is called.
        model: The model.
        cluster: The devices, nodes and network.
        training: Sequence length, batch, precision, optimizer and length of the run.
        site: Where it runs.
        layout: Degrees of parallelism. Default: None, which means that the layout is searched.
        layout_held: Fields of `ParallelLayout` that a searched layout has to keep to. Default: none.
        stack: The software. Default: ordinary software, as published runs used it.
        start: The planned launch, ISO 8601 with an offset ("2026-01-01T00:00Z"); it picks the hours of an intensity
            series. Default: None.
        price_usd_per_device_hour: Price in US dollars. Default: None, so that no cost is stated.
        programme: Name of the released model that the run counts towards. Default: None.
        role: As what it counts: final, ablation, failed, sweep, evaluation or data. Default: None.
        assumptions: Values that nobody stated, with the reason for each. Default: none.

    Raises:
        SpecError: `start` is no time.
    """

    name: str
    model: TransformerModel | CountedModel
    cluster: Cluster
    training: TrainingPlan
    site: Site
    layout: ParallelLayout | None = None
    layout_held: dict[str, int | str | bool | tuple[str, ...]] = {}
    stack: Stack = Stack()
    start: str | None = None
    price_usd_per_device_hour: float | None = None
    programme: str | None = None
    role: str | None = None
    assumptions: tuple[Assumption, ...] = ()

    def __post_init__(self) -> None:
        if self.start is not None:
            unix_s(self.start, "start")

    @property
    def start_unix_s(self) -> float | None:
        """Return the planned launch in Unix seconds, or None where it is not stated."""
        return None if self.start is None else unix_s(self.start, "start")


def check_is_spec(spec: object) -> None:
    """Raise `SpecError` if something else than a `RunSpec`, such as the path of its file, was given as the run."""
    if not isinstance(spec, RunSpec):
        raise SpecError(
            f"spec is a {type(spec).__name__}, expected a RunSpec; load_run_spec(path) reads one from a file"
        )


def with_layout(spec: RunSpec, layout: ParallelLayout | None) -> RunSpec:
    """Return the run with this layout and nothing left to be searched."""
    return msgspec.structs.replace(spec, layout=layout, layout_held={})


def check_layout(model: TransformerModel | CountedModel, cluster: Cluster, layout: ParallelLayout) -> None:
    """Raise `InfeasibleLayoutError` naming the rule and the numbers if the layout does not fit model and cluster."""
    if layout.world_size != cluster.devices:
        raise InfeasibleLayoutError(
            f"layout: tp {layout.tp} * cp {layout.cp} * pp {layout.pp} * dp_replicate {layout.dp_replicate} * "
            f"dp_shard {layout.dp_shard} = {plural(layout.world_size, 'rank')}, but the cluster has "
            f"{plural(cluster.nodes, 'node')} * "
            f"{plural(cluster.devices_per_node, 'device')} = {cluster.devices}; give degrees whose product is "
            f"{cluster.devices}, or `layout: auto` to search them"
        )
    if layout.virtual_stages > 1 and layout.pp == 1:
        raise InfeasibleLayoutError(f"layout: virtual_stages {layout.virtual_stages} needs pp above 1, got pp 1")
    if layout.pipeline_rounds > 1 and layout.pp == 1:
        raise InfeasibleLayoutError(f"layout: pipeline_rounds {layout.pipeline_rounds} needs pp above 1, got pp 1")
    if isinstance(model, CountedModel):
        if layout.tp * layout.cp * layout.pp * layout.ep > 1:
            raise InfeasibleLayoutError(
                f"layout: {model.name} is known only by its counted FLOPs; tp, cp, pp and ep must be 1, got "
                f"tp {layout.tp}, cp {layout.cp}, pp {layout.pp}, ep {layout.ep}"
            )
        return
    tp = functools.partial(what_would_do, "tp", layout.tp, model, cluster.devices)
    _check_divides("tp", layout.tp, "heads", model.heads, tp)
    if layout.cp > 1 and layout.context_parallel_kind == "all_to_all":
        # Each rank gets whole heads (Ulysses, arXiv 2309.14509).
        _check_divides("tp * cp =", layout.tp * layout.cp, "heads", model.heads, lambda: _whole_heads(model, layout))
    _check_divides("tp", layout.tp, "ffn", model.ffn, tp)
    if model.kv_heads % layout.tp and layout.tp % model.kv_heads:
        raise InfeasibleLayoutError(
            f"layout: tp {layout.tp} and kv_heads {model.kv_heads} do not divide one another; {tp()}"
        )
    chunks = layout.pp * layout.virtual_stages
    # Embedding and head may take a chunk each (Megatron counts them as layers: 126 layers in 128 chunks).
    if chunks > model.layers + (TABLES if layout.virtual_stages > 1 else 0):
        raise InfeasibleLayoutError(
            f"layout: pp {layout.pp} * virtual_stages {layout.virtual_stages} = {chunks} chunks, "
            f"but {model.name} has only {plural(model.layers, 'layer')}"
            f"{'' if layout.virtual_stages > 1 else '; ' + what_would_do('pp', layout.pp, model, cluster.devices)}"
        )
    if model.moe is None and (layout.ep > 1 or layout.expert_overlap):
        asked = f"ep {layout.ep}" if layout.ep > 1 else "expert_overlap"
        raise InfeasibleLayoutError(f"layout: {asked}, but {model.name} has no experts")
    if model.moe is not None and layout.ep > 1:
        ranks = layout.dp * layout.cp * layout.tp
        _check_divides(
            "ep", layout.ep, "experts", model.moe.experts, lambda: what_would_do("ep", layout.ep, model, ranks)
        )
        width = model.moe.expert_ffn
        _check_divides("expert_tp", layout.expert_tp, "expert_ffn", width, lambda: _whole_widths(width, layout))


def _whole_heads(model: TransformerModel, layout: ParallelLayout) -> str:
    """Return which degrees of context parallelism by all-to-all leave whole heads beside tp, for an error message."""
    whole = [cp for cp in divisors(layout.world_size // layout.tp) if splits_heads(model, layout.tp * cp)]
    return f"beside tp {layout.tp} they allow cp {listed(whole, layout.cp)}; a ring needs no whole heads"


def _whole_widths(width: int, layout: ParallelLayout) -> str:
    """Return over how many ranks an expert of this width can be split beside ep, for an error message."""
    ranks = layout.dp * layout.cp * layout.tp // layout.ep
    whole = [degree for degree in divisors(ranks) if width % degree == 0]
    return f"beside ep {layout.ep} it allows expert_tp {listed(whole, layout.expert_tp)}"


def check_input(model: TransformerModel | CountedModel, training: TrainingPlan) -> None:
    """Raise `SpecError` if a model cannot be trained at the plan's sequence length.

    That is so where its table of learned positions has fewer rows, or where it was counted at another length: FLOPs and
    activations of a sample do not grow in proportion to its length, so that only another count can tell them. A count
    that states no length holds for samples without tokens, which are planned with a length of 1.
    """
    if not isinstance(model, CountedModel):
        _check_positions(model, training.seq_len)
        _check_encoder(model, training)
        return
    if training.seq_len == (model.seq_len or 1):
        return
    if model.seq_len is None:
        raise SpecError(
            f"model {model.name}: counted without a sequence length, so that a sample has no tokens, but "
            f"training.seq_len is {training.seq_len}; plan with seq_len 1, where training.tokens is the number of "
            "samples; if its samples do have tokens, state their number at the count as seq_len of the model"
        )
    raise SpecError(
        f"model {model.name}: counted at {model.seq_len} tokens a sample, but training.seq_len is {training.seq_len}; "
        f"count it at that length ({_count_command(model, training.seq_len)}), or plan with seq_len {model.seq_len}"
    )


def _check_encoder(model: TransformerModel, training: TrainingPlan) -> None:
    if model.has_encoder and not training.inputs_per_sequence:
        raise SpecError(
            f"training: inputs_per_sequence is 0, and {model.name} has an encoder; expected 1 or more inputs a sequence"
        )
    if model.has_encoder and training.input_len is None:
        raise SpecError(
            f"model {model.name}: it has an encoder, and training.input_len is missing; state the tokens of the "
            "encoder's input, beside seq_len of the decoder"
        )
    if training.input_len is not None and not (model.has_encoder or model.has_towers):
        raise SpecError(
            f"training: input_len is {training.input_len}, but {model.name} has neither an encoder nor a tower"
        )


def _check_positions(model: TransformerModel, seq_len: int) -> None:
    longest = model.made_for_seq_len
    if not model.learned_positions or longest is None or seq_len <= longest:
        return
    raise SpecError(
        f"model {model.name}: its table of learned positions holds sequences of at most {longest} tokens, but "
        f"training.seq_len is {seq_len}; plan with seq_len {longest}, or state with the model what it has otherwise: "
        f"learned_positions and longest_seq_len of a longer table, or longest_seq_len {seq_len} alone where positions "
        "begin anew within a packed sample"
    )


def _count_command(model: CountedModel, seq_len: int) -> str:
    inputs = " ".join(f"--input {text}" for text in inputs_at(model, seq_len)) or f"--input SAMPLES,{seq_len}:int64"
    return f"carbon-plugin count {model.target or 'PACKAGE.MODULE:FUNCTION'} {inputs}"


def inputs_at(model: CountedModel, seq_len: int) -> list[str]:
    """Return the inputs of a count as they are written for another sequence length.

    In each input the second size is replaced where it is the length that was counted.
    """
    found = []
    for text in model.inputs:
        sizes, colon, dtype = text.partition(":")
        parts = sizes.split(",")
        if len(parts) > 1 and parts[1] == str(model.seq_len):
            parts[1] = str(seq_len)
        found.append(",".join(parts) + colon + dtype)
    return found


def check_work(layout: ParallelLayout, training: TrainingPlan) -> int:
    """Return the number of micro-batches in a step on each data-parallel rank.

    Raises `InfeasibleLayoutError` if batch or sequence cannot be shared out as the layout says.
    """
    micro_batches = layout.micro_batches(training.global_batch_size)
    if training.seq_len % layout.cp:
        whole = [cp for cp in divisors(layout.world_size) if training.seq_len % cp == 0]
        raise InfeasibleLayoutError(
            f"layout: cp {layout.cp} does not divide seq_len {training.seq_len}; "
            f"{plural(layout.world_size, 'device')} and seq_len {training.seq_len} allow cp {listed(whole, layout.cp)}"
        )
    if micro_batches % layout.pipeline_rounds:
        raise InfeasibleLayoutError(
            f"layout: pipeline_rounds {layout.pipeline_rounds} does not divide the number of micro-batches of a step, "
            f"{micro_batches} (global_batch_size {training.global_batch_size} over dp {layout.dp} * micro_batch_size "
            f"{layout.micro_batch_size}); use {listed(divisors(micro_batches), layout.pipeline_rounds)}"
        )
    if layout.pipeline_schedule == "dualpipe" and not runs_from_both_ends(layout.pp, micro_batches):
        raise InfeasibleLayoutError(
            f"layout: pipeline_schedule dualpipe needs an even number of micro-batches, at least 2 * pp = "
            f"{2 * layout.pp}, got {micro_batches} (global_batch_size {training.global_batch_size} over dp {layout.dp} "
            f"* micro_batch_size {layout.micro_batch_size})"
        )
    return micro_batches


def _check_divides(axis: str, degree: int, field: str, value: int, instead: Callable[[], str]) -> None:
    if value % degree:
        raise InfeasibleLayoutError(f"layout: {axis} {degree} does not divide the model's {field} {value}; {instead()}")
