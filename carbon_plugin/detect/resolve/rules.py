"""Make one effective spec of the planned, declared and detected values. Observed values win; nothing is guessed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from carbon_plugin.detect.batch_sizes import FIRST_SIZE
from carbon_plugin.detect.observed import BY_ELIMINATION, DEGREES, Detected, Observed
from carbon_plugin.detect.resolve.cluster import resolve_clusters
from carbon_plugin.detect.resolve.effective import Declared, Effective, World
from carbon_plugin.detect.resolve.fields import DEFAULT, PLANNED, FieldTable
from carbon_plugin.detect.resolve.model import resolve_model, with_seen_length
from carbon_plugin.detect.resolve.tokens import TOKENS, note_tokens
from carbon_plugin.errors import SpecError
from carbon_plugin.spec.defaults import with_usual_states
from carbon_plugin.spec.frameworks import STACK_OF_NAME
from carbon_plugin.spec.layout import SHARED_OUT, ParallelLayout
from carbon_plugin.spec.models.model import CountedModel, TransformerModel
from carbon_plugin.spec.numbers.figure import Assumption
from carbon_plugin.spec.run import RunSpec
from carbon_plugin.spec.site import Site
from carbon_plugin.spec.stack import PLAIN_STACK, STACKS, Stack
from carbon_plugin.spec.stated_layout import left_to_stack, with_fields_of_stack
from carbon_plugin.spec.training import TrainingPlan

SEEN_OF_STACKS = (
    "fused", "grad_reduce_dtype", "cuda_graphs", "fused_experts", "expert_dispatch", "expert_loop", "sorted_loop",
    "shard_unit",
)  # fmt: skip
"""The fields of a stack that live objects may show."""

# A run may be measured and predicted before anybody has said where it is. This place has no factors, so that asking
# for them fails with its name.
NOWHERE = Site(zone="(no site was given)")


def resolve(planned: RunSpec | None, declared: Declared, detected: Detected | None, world: World) -> Effective:
    """Return the effective spec of a job.

    `planned` is the plan, if the run carries one; `declared` is what the script declared; `detected` is what live
    objects showed (None before the first step); `world` is what launcher and drivers say. Never raises for an
    inconsistent job; the result says what is missing.
    """
    table = FieldTable()
    missing: list[str] = []
    assumptions: list[Assumption] = []
    table.choose("world_size", planned=planned and planned.cluster.devices, detected=_by_launcher(world.world_size))
    stack = _stack(table, planned, declared, detected)
    if table.rows["stack"]["source"] == DEFAULT:
        assumptions.append(PLAIN_STACK if stack == Stack() else COMPILED_JOB)
    layout, of_stack = _layout(table, planned, declared, detected, world, stack, missing)
    assumptions += of_stack
    model, assumed = resolve_model(
        table, planned.model if planned else None, declared.model, detected.model if detected else None, missing
    )
    assumptions += assumed
    clusters = resolve_clusters(table, planned.cluster if planned else None, declared, detected, world, missing)
    assumptions += clusters.assumptions
    tokenless = model is not None and has_no_tokens(model)
    training = _training(table, planned, declared, detected, layout, missing, model)
    if training is not None and planned is None:
        training, states = with_usual_states(training, stack, declared.training)
        assumptions += states
    if model is not None and training is not None and table.is_seen("training.seq_len"):
        model = with_seen_length(table, model, training.seq_len)
    if training is not None and table.rows["training.optimizer"]["source"] == DEFAULT:
        assumptions.append(Assumption("training.optimizer", training.optimizer, "usual for transformers"))
    assumptions += _still_assumed(table, planned)
    site = table.choose("site", planned=planned and planned.site, declared=declared.site)
    if site is None:
        missing.append("site: not given, so energy is measured but carbon is not computed")
    spec = None
    if layout is not None and model is not None and clusters.computing is not None and training is not None:
        spec = RunSpec(
            name=planned.name if planned else model.name,
            model=model,
            cluster=clusters.computing,
            layout=layout,
            training=training,
            site=site or NOWHERE,
            stack=stack,
            assumptions=tuple(assumptions),
        )
    _note_the_rest(table, detected)
    total_steps = table.rows["training.steps"]["value"]
    places = training.tokens_per_step if training and not tokenless else None
    first_size = table.rows.get(FIRST_SIZE, {}).get("value")
    tokens = note_tokens(table, declared.tokens_per_step, places, sized=first_size is not None)
    return Effective(
        spec=spec,
        fields=table.rows,
        differences=tuple(table.differences),
        missing=tuple(missing),
        assumptions=tuple(assumptions),
        site=site,
        cluster=clusters.computing,
        charged=clusters.charged,
        total_steps=total_steps,
        tokens_per_step=tokens.a_step,
        tokens_a_count=(tokens.of_first_step or 0) / first_size if first_size else 1.0,
        declared_count=declared.tokens_per_step is not None and TOKENS in table.rows,
    )


def _note_the_rest(table: FieldTable, detected: Detected | None) -> None:
    """Note what live objects showed of fields that no spec has, because the record has them too."""
    for name, observed in detected.fields.items() if detected else ():
        if name not in table.rows:
            table.note(name, observed.value, f"detected: {observed.source}")


def _still_assumed(table: FieldTable, planned: RunSpec | None) -> tuple[Assumption, ...]:
    """Return the assumptions of the plan about fields that nothing in the job has shown or declared."""
    unseen = {f"training.{name}" for name in UNSEEN}
    rows = {STACK_OF_NAME: table.rows["stack"], **table.rows}
    return tuple(
        item
        for item in (planned.assumptions if planned else ())
        if item.field in unseen or rows.get(item.field, {}).get("source") == PLANNED
    )


UNSEEN = ("master_weights", "optimizer_state_dtype", "optimizer_in_backward", "activation_offload", "scored_len")
"""The fields of the training plan that no reader looks for: their planned values count."""


def _by_launcher(value: int) -> Observed:
    return Observed(value, "the launcher's environment")


def _layout(
    table: FieldTable,
    planned: RunSpec | None,
    declared: Declared,
    detected: Detected | None,
    world: World,
    stack: Stack,
    missing: list[str],
) -> tuple[ParallelLayout | None, list[Assumption]]:
    plan = _asdict(planned.layout) if planned and planned.layout else {}
    seen = _without_declared_context(detected.fields, declared) if detected else {}
    values: dict[str, Any] = {}
    for field in msgspec.structs.fields(ParallelLayout):
        values[field.name] = table.choose(
            f"layout.{field.name}",
            planned=plan.get(field.name),
            declared=declared.layout.get(field.name),
            detected=seen.get(f"layout.{field.name}"),
            default=field.default,
        )
    if values["recompute"] != "selective":
        # The modules in a plan belong to its kind of recompute; where another kind is seen, there are none.
        values["recompute_modules"] = ()
    if values["recompute"] not in SHARED_OUT:
        values["recompute_share"] = 1.0  # that of the plan belongs to its kind of recompute, too
    ranks = 1
    for axis in DEGREES:
        ranks *= values[axis]
    if ranks != world.world_size:
        degrees = " * ".join(f"{axis} {values[axis]}" for axis in DEGREES)
        table.note("layout.unexplained", world.world_size / ranks, "world size over the product of the axes")
        missing.append(
            f"layout: {degrees} = {ranks} of {world.world_size} ranks; a factor {world.world_size / ranks:g} is "
            "unexplained, declare it with layout={...}"
        )
        return None, []
    try:
        layout = ParallelLayout(**values)
    except SpecError as error:
        missing.append(str(error))
        return None, []
    untold = [name for name in left_to_stack(layout) if table.rows[f"layout.{name}"]["source"] == DEFAULT]
    return with_fields_of_stack(layout, stack, untold)


def _is_shown(observed: Observed | None) -> bool:
    """Return whether an object showed an axis, and its value does not only follow from all other axes."""
    return observed is not None and not observed.source.startswith(BY_ELIMINATION)


def _without_declared_context(seen: Mapping[str, Observed], declared: Declared) -> Mapping[str, Observed]:
    """Return the layout seen, with a declared context-parallel degree taken out of the data parallelism that contains
    it.

    Parameters are the same along the context-parallel axis, so that wrappers shard or copy over both axes together.
    """
    cp = declared.layout.get("cp", 1)
    if cp == 1 or "layout.cp" not in seen or _is_shown(seen["layout.cp"]):
        return seen
    others = {name: observed for name, observed in seen.items() if name != "layout.cp"}
    for axis in ("layout.dp_shard", "layout.dp_replicate"):
        both = seen.get(axis)
        if both is not None and both.value > 1 and both.value % cp == 0:
            return {**others, axis: Observed(both.value // cp, f"{both.source}, without the declared cp {cp}")}
    return seen


def _stack(table: FieldTable, planned: RunSpec | None, declared: Declared, detected: Detected | None) -> Stack:
    """Return the stated stack with the fields that were seen in it."""
    plan = planned.stack if planned and planned.stack != Stack() else None
    seen = detected.fields if detected else {}
    compiled = "stack.fused" in seen and bool(seen["stack.fused"].value)
    stack: Stack = table.choose(
        "stack", planned=plan, declared=declared.stack, default=_compiled_stack() if compiled else Stack()
    )
    for name in SEEN_OF_STACKS:
        if f"stack.{name}" in seen:
            said = {"planned": plan, "declared": declared.stack}
            stated = {who: getattr(what, name) for who, what in said.items() if what is not None}
            value = table.choose(f"stack.{name}", **stated, detected=seen[f"stack.{name}"])
            stack = msgspec.structs.replace(stack, **{name: value})
    if "stack.wraps_weights" in seen and stack.wraps_weights == "never":
        # Tensors show that they are wrapped, and not whether a compiler or somebody's kernels issue their operations,
        # which a stack says that knows of them.
        value = table.choose(
            "stack.wraps_weights",
            planned=plan and plan.wraps_weights,
            declared=declared.stack and declared.stack.wraps_weights,
            detected=seen["stack.wraps_weights"],
        )
        stack = msgspec.structs.replace(stack, wraps_weights=value)
    return stack


COMPILED_JOB = Assumption(
    "stack", "ordinary software, compiled", "no stack was named, and the model is compiled; its loss is not seen"
)


def _compiled_stack() -> Stack:
    """Return the stack of a job whose model is compiled and of which nothing is stated. Its loss is not seen."""
    return msgspec.structs.replace(STACKS["pytorch-compiled"], cross_entropy=Stack().cross_entropy)


def _training(
    table: FieldTable,
    planned: RunSpec | None,
    declared: Declared,
    detected: Detected | None,
    layout: ParallelLayout | None,
    missing: list[str],
    model: TransformerModel | CountedModel | None,
) -> TrainingPlan | None:
    plan: Mapping[str, Any] = _asdict(planned.training) if planned else {}
    seen = _seen_of_training(detected, layout, model)

    def chosen(name: str, default: Any = None) -> Any:
        return table.choose(
            f"training.{name}",
            planned=plan.get(name),
            declared=declared.training.get(name),
            detected=seen.get(f"training.{name}"),
            default=default,
        )

    seq_len = chosen("seq_len")
    if seq_len is None and (follows := _length_without_tokens(model)) is not None:
        seq_len, why = follows
        table.note("training.seq_len", seq_len, why)
    batch = table.choose(
        "training.global_batch_size",
        planned=plan.get("global_batch_size"),
        declared=_declared_batch(declared, seq_len),
        detected=_detected_batch(seen, layout),
    )
    defaults: dict[str, Any] = {"precision": None, "optimizer": "adamw", "optimizer_offload": False}
    if isinstance(model, TransformerModel) and (model.has_encoder or model.has_towers):
        defaults |= {"input_len": model.input_tokens, "inputs_per_sequence": 1}
    others = {name: chosen(name, default) for name, default in defaults.items()}
    others |= {name: value for name, value in plan.items() if name in UNSEEN}
    steps = table.choose(
        "training.steps",
        planned=planned and planned.training.total_steps,
        declared=declared.total_steps,
        detected=seen.get("training.steps"),
    )
    needed = {"seq_len": seq_len, "global_batch_size": batch, "precision": others["precision"]}
    absent = [name for name, value in needed.items() if value is None]
    if absent:
        missing.extend(f"training.{name}: neither seen nor given" for name in absent)
        return None
    try:
        # A step does not depend on the length of the run; where that is unknown, the ledger's field stays empty.
        return TrainingPlan(seq_len=seq_len, global_batch_size=batch, steps=steps or 1, **others)
    except SpecError as error:
        missing.append(str(error))
        return None


def _seen_of_training(
    detected: Detected | None, layout: ParallelLayout | None, model: TransformerModel | CountedModel | None
) -> dict[str, Observed]:
    """Return the fields that live objects showed, without those that say something else in this job."""
    seen = dict(detected.fields) if detected else {}
    if layout is not None and layout.cp > 1 and not _is_shown(seen.get("layout.cp")):
        seen.pop("training.seq_len", None)  # a rank may see only its part of the sequence
    if isinstance(model, TransformerModel) and has_no_tokens(model):
        seen.pop("training.seq_len", None)  # whole numbers in a batch of images or sounds are its labels
    if isinstance(model, TransformerModel) and model.has_encoder:
        seen.pop("training.inputs_per_sequence", None)
    return seen


def has_no_tokens(model: TransformerModel | CountedModel) -> bool:
    """Return whether the samples of a model are images, sounds or graphs and no text."""
    return model.seq_len is None if isinstance(model, CountedModel) else not model.vocab


def _length_without_tokens(model: TransformerModel | CountedModel | None) -> tuple[int, str] | None:
    """Return the length of a sample of images, sounds or graphs with its reason, or None where the model does not fix
    it. A plan of a counted model has the length 1 (`check_input`).
    """
    if model is None or not has_no_tokens(model):
        return None
    if isinstance(model, CountedModel):
        return 1, "the model was counted with samples that have no tokens"
    return None if model.input_tokens is None else (model.input_tokens, "fixed by the model's config")


def _declared_batch(declared: Declared, seq_len: int | None) -> int | None:
    """Return the sequences per step as stated, or from the declared tokens per step if they divide evenly."""
    stated: int | None = declared.training.get("global_batch_size")
    if stated is not None or seq_len is None or declared.tokens_per_step is None:
        return stated
    batch, rest = divmod(declared.tokens_per_step, seq_len)
    return batch if batch > 0 and rest == 0 else None


def _detected_batch(seen: Mapping[str, Observed], layout: ParallelLayout | None) -> Observed | None:
    micro, calls = seen.get("layout.micro_batch_size"), seen.get("training.micro_batches")
    if layout is None or micro is None or calls is None:
        return None
    return Observed(
        micro.value * calls.value * layout.dp, f"micro-batch {micro.value} x {calls.value} a step x dp {layout.dp}"
    )


def _asdict(struct: msgspec.Struct) -> dict[str, Any]:
    return msgspec.structs.asdict(struct)
