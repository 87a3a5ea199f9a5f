"""Read how a published row ran its model: layout, batch, precision and software stack, with documented defaults."""

from __future__ import annotations

import re
from typing import get_args

from carbon_plugin.calibrate.rows.experts import expert_recipe
from carbon_plugin.calibrate.rows.fields import Fields, MissingFieldError
from carbon_plugin.calibrate.rows.stacks import stack_of
from carbon_plugin.calibrate.rows.stated_experts import stated_experts
from carbon_plugin.errors import SpecError
from carbon_plugin.predict.rates.laws import peak_of, wide_precision
from carbon_plugin.spec.defaults import Taken, pipeline_chunks, usual_precision
from carbon_plugin.spec.frameworks import UNKNOWN, Conventions
from carbon_plugin.spec.hardware.cluster import Cluster
from carbon_plugin.spec.layout import TABLES, ParallelLayout, Recompute, RecomputedModule
from carbon_plugin.spec.models.model import TransformerModel
from carbon_plugin.spec.stack import Stack
from carbon_plugin.spec.training import Optimizer, Precision, TrainingPlan

NAMED_STAGE = re.compile(r"(?i)(?:zero|stage)[\s_-]?(?:stage[\s_-]?)?(\d+)|^\s*(\d+)\s*$")
"""A stage of ZeRO by its number: "ZeRO-3", "ZeRO stage 2", "stage 1" of Megatron-DeepSpeed's arguments, or the number
alone.
"""
HYBRID = r"HSDP|(?:\b|_)hybrid"
HYBRID_SHARDING = re.compile(rf"(?i){HYBRID}")
"""Shards within an island, and copies of these between islands (`HYBRID_SHARD` of PyTorch's `ShardingStrategy`)."""
SHARDINGS: tuple[tuple[re.Pattern[str], int], ...] = (
    (re.compile(r"(?i)distributed optimizer|optimizer[\s-]states?"), 1),
    (re.compile(r"(?i)shard[\s_]grad[\s_]op"), 2),
    (re.compile(rf"(?i)fsdp|full(?:y)?[\s_-]?shard|{HYBRID}"), 3),
    (re.compile(r"(?i)\b(?:no|none|ddp|dp|data[\s-]parallel(?:ism)?|replicate[ds]?|no[\s_-]shard(?:ing)?)\b"), 0),
)
"""The words for how parameters are shared out, each with its stage of ZeRO; the first that a text has counts. They are
those of Megatron, of PyTorch's `ShardingStrategy` and of papers.
"""
OFFLOADED = re.compile(r"(?i)(?<!no )\boffload")
PARTLY = re.compile(r"\d+ (?:layers|blocks)|\bexcept\b|\bnot\b")
"""Words that take something of a kind of recompute away, or give it to some layers alone."""
CHECKPOINTED = ("checkpointing", "gradient checkpointing", "activation checkpointing")
"""What transformers and PyTorch call recompute of whole layers, where nothing says that it is selective."""
ORDINALS = {"other": 2, "second": 2, "third": 3, "fourth": 4}
"""Strides in words, by which a row says that every n-th layer is recomputed."""
MAX_UNSPLIT_BATCH = 16
"""The largest number of sequences per rank that count as one micro-batch where neither micro-batch nor accumulation is
stated.
"""
PRECISIONS: dict[str, Precision] = {
    "bf16": "bf16",
    "bfloat16": "bf16",
    "fp16": "fp16",
    "float16": "fp16",
    "fp32": "fp32",
    "float32": "fp32",
    "tf32": "tf32",
    "half": "fp16",
    "16": "fp16",
    "32": "fp32",
    "fp8": "fp8",
    "float8": "fp8",
    "mxfp8": "mxfp8",
    "nvfp4": "nvfp4",
}


PURE_BYTES, STATE_BYTES = 4, 12
"""Bytes per parameter of 16-bit values and gradients, and of Adam's fp32 states with the master weight."""
RECOMPUTED_PARTS: dict[str, RecomputedModule] = {
    "core_attn": "core_attn",
    "layernorm": "layernorm",
    "norm": "layernorm",
    "act": "moe_act",
    "moe_act": "moe_act",
    "mla_up_proj": "mla_up_proj",
    "moe": "moe",
    "mlp": "mlp",
    "shared_experts": "shared_experts",
}
"""The parts in a list of recomputed modules, as Megatron-core and torchtitan's relatives write them."""
NOTHING_KEPT = re.compile(r"\b(nothing_saveable|save_nothing)\b")
"""JAX's and Paxml's names for the policy that repeats all of a layer (`jax.checkpoint_policies`, praxis'
`AutodiffCheckpointType`)."""


def row_execution(
    row: Fields, model: TransformerModel, cluster: Cluster, conventions: Conventions, assumed: list[str]
) -> tuple[ParallelLayout, TrainingPlan, Stack]:
    """Return layout, training plan and stack of a row, and append what was assumed to `assumed`.

    Raises `SpecError` naming the field that is missing or odd.
    """
    tp, pp, cp, ep, dp = _degrees(row, cluster, conventions, assumed)
    usual = _usual_stage(model, cluster, tp * pp, conventions)
    stage = _zero_stage(row, pp, usual, conventions, assumed) if dp * cp > 1 or _gathers_alone(row) else 0
    batch, size = _batch(row, dp, pp, conventions, assumed)
    chunks = _chunks(row, model, pp, batch // (dp * size), conventions, assumed)
    shards = _hybrid_shards(row, dp, cluster) if stage else dp
    sequence = row.flag("sp")
    dualpipe = conventions.dualpipe and pp % 2 == 0 and not row.states("vp")
    precision = _precision(row, cluster, conventions, assumed)
    experts, device = stated_experts(row), cluster.accelerator
    recipe = expert_recipe(conventions, row, experts, device, precision) if model.moe is not None else None
    if recipe is not None:
        assumed.append(recipe.said)
    recompute, modules, share = _recompute(row, model.layers, conventions, assumed)
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
        pipeline_schedule="dualpipe" if dualpipe else "interleaved" if chunks > 1 else "1f1b",
        virtual_stages=1 if dualpipe else chunks,
        pipeline_rounds=(row.optional_count("pipeline_rounds") or 1) if pp > 1 else 1,
        micro_batch_size=size,
        recompute=recompute,
        recompute_modules=modules,
        recompute_share=share,
        recompute_reentrant=conventions.reentrant,
        async_tp=_hides_tensor_parallel(row, conventions),
        context_parallel_kind=conventions.context_parallel,
        expert_overlap=((recipe is not None and recipe.expert_overlap) or _hides_exchange(row)) and ep > 1,
        balanced_stages=conventions.balanced_stages and pp > 1,
    )
    training = _training_plan(row, model, cluster, layout, batch, precision, conventions, assumed)
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


def _precision(row: Fields, cluster: Cluster, conventions: Conventions, assumed: list[str]) -> Precision:
    usual = usual_precision(cluster.accelerator)
    if not row.states("precision"):
        assumed.append(f"precision {usual}")
    precision = row_precision(row.text("precision") or usual)
    if precision == "fp32" and conventions.reentrant and "tf32" in cluster.accelerator.peak_flops:
        # Megatron runs in NVIDIA's containers, whose PyTorch uses tf32 for fp32 products by default.
        assumed.append("precision tf32 for fp32 products")
        precision = "tf32"
    for needed in (precision, wide_precision(precision)):
        peak_of(cluster.accelerator, needed)  # refuses what the device has no units for
    return precision


def _training_plan(
    row: Fields,
    model: TransformerModel,
    cluster: Cluster,
    layout: ParallelLayout,
    batch: int,
    precision: Precision,
    conventions: Conventions,
    assumed: list[str],
) -> TrainingPlan:
    pure = conventions.pure or _pure(row, model, layout, cluster, assumed)
    optimizer = row.text("optimizer").lower()
    eight_bit = re.search(r"8[- ]?bit", optimizer) is not None
    if model.has_encoder and not row.states("input_len"):
        raise MissingFieldError("input_len")
    return TrainingPlan(
        seq_len=row.count("seq_len"),
        global_batch_size=batch,
        steps=1,
        precision=precision,
        optimizer=next((known for known in get_args(Optimizer) if optimizer.startswith(known)), "adamw"),
        master_weights=not pure,
        optimizer_state_dtype="fp8" if eight_bit else "bf16" if pure or "bf16 moments" in optimizer else "fp32",
        optimizer_in_backward="in backward" in optimizer,
        optimizer_offload=OFFLOADED.search(row.text("sharding")) is not None,
        activation_offload=_activation_offload(row, model),
        input_len=row.optional_count("input_len"),
        scored_len=row.optional_count("scored_len"),
    )


def _hides_tensor_parallel(row: Fields, conventions: Conventions) -> bool:
    """Return whether products hide the collectives of tensor parallelism: the row says so, or the framework does it."""
    overlap = row.text("overlap")
    if "no overlap in tensor parallelism" in f"{overlap} {row.text('notes')}":  # `ub_tp_comm_overlap: false` of NeMo
        return False
    return conventions.stack.hides_tensor_traffic or "async TP" in overlap or "tp-comm-overlap" in overlap


def _hides_exchange(row: Fields) -> bool:
    """Return whether the row says that the exchange of experts runs beside the compute of another micro-batch."""
    return "expert exchange overlapped" in f"{row.text('overlap')} {row.text('notes')}"


def _activation_offload(row: Fields, model: TransformerModel) -> float:
    """Return the share of layers whose activations wait in host memory.

    It comes from a stated number of layers, and is 1 where the row says that all are offloaded.
    """
    if "activation offload" in row.text("recompute") or row.states("activation_offload"):
        return 1.0
    return min(1.0, (row.optional_count("cpu_offload_layers") or 0) / model.layers)


def _pure(row: Fields, model: TransformerModel, layout: ParallelLayout, cluster: Cluster, assumed: list[str]) -> bool:
    """Return whether parameters, gradients and states are all 16-bit values.

    This is so where the row says it, or where they do not fit in the device otherwise.
    """
    if "true" in row.text("precision"):
        return True
    if model.trainable_fraction < 1 or "offload" in row.text("sharding").lower() or row.flag("oom"):
        return False
    shards = layout.dp_shard * layout.cp if layout.zero_stage >= 1 else 1
    held = layout.tp * layout.pp * (shards if layout.zero_stage == 3 else 1)
    split = layout.tp * layout.pp * shards * (layout.ep if model.moe is not None and layout.zero_stage == 0 else 1)
    if model.moe is not None and layout.ep > 1:
        held *= layout.ep
    need = model.parameters * (PURE_BYTES / held + STATE_BYTES / split)
    if need <= cluster.accelerator.memory_bytes.value:
        return False
    assumed.append("pure 16-bit states: fp32 ones do not fit in the device")
    return True


def row_precision(text: str) -> Precision:
    """Return the precision with which a phrase such as "bf16 (amp, fp32 master)" or "fp8-mx" begins.

    Raises `SpecError` for an unknown one.
    """
    words = text.lower()
    if words.startswith("fp8-mx"):
        return "mxfp8"
    if compute := re.match(r"nf4 base, (\w+) compute", words):  # QLoRA: weights in 4 bit, products in 16
        words = compute.group(1)
    known = PRECISIONS.get(re.split(r"[\s/,(_-]", words, maxsplit=1)[0])
    if known is None:
        raise SpecError(f"precision {text!r} is not one that the model knows")
    return known


def _usual_stage(model: TransformerModel, cluster: Cluster, split: int, conventions: Conventions) -> Taken:
    """Return the stage of ZeRO by which a framework shards unless it is told otherwise, and why.

    Trainers that copy models whole are told to shard those of which a device cannot hold weights, gradients and states.
    """
    usual = conventions.zero_stage
    trained = model.trainable_fraction
    held = model.parameters * (2 * (1 - trained) + (PURE_BYTES + STATE_BYTES) * trained) / split
    if conventions.shards_alone and usual == 0 and held > cluster.accelerator.memory_bytes.value:
        return Taken(3, "whole copies do not fit in the device")
    return Taken(usual, "")


def _zero_stage(row: Fields, pp: int, usual: Taken, conventions: Conventions, assumed: list[str]) -> int:
    """Return the stage of ZeRO that the row states in words, or the usual one where it states none.

    Raises `SpecError` for words that say nothing of how parameters are shared out.
    """
    text = row.text("sharding")
    if not text:
        assumed.append(f"sharding ZeRO-{usual.value}{': ' * bool(usual.why)}{usual.why}")
        return usual.value
    if (match := NAMED_STAGE.search(text)) is not None:
        named = int(match.group(1) or match.group(2))
        if named > 3:
            raise SpecError(f"sharding {text!r} names a stage {named} of ZeRO, expected 0, 1, 2 or 3")
        if named == 2 and pp > 1 and conventions.reentrant:
            # Megatron-DeepSpeed accumulates whole gradients over a pipeline's micro-batches and exchanges them once.
            assumed.append("gradients exchanged once a step")
            return 1
        return named
    for words, stage in SHARDINGS:
        if words.search(text):
            return 1 if stage == 0 and pp > 1 and _shards_by_bf16_optimizer(row) else stage
    raise SpecError(f"sharding {text!r} is not understood; expected none, DDP, ZeRO-1, ZeRO-2, ZeRO-3, FSDP or HSDP")


def _shards_by_bf16_optimizer(row: Fields) -> bool:
    """Return whether a pipeline of Megatron-DeepSpeed without a stage of ZeRO shards its optimizer states all the same.

    Its bf16 optimizer gives every data-parallel rank a share of the fp32 weights and states (`BF16_Optimizer` of
    DeepSpeed's runtime/bf16_optimizer.py, which runtime/engine.py takes for bf16 under a pipeline). BLOOM's script sets
    `ZERO_STAGE=0` for it. The fp16 optimizer shards nothing.
    """
    megatron = row.text("framework").lower().startswith("megatron-deepspeed")
    return megatron and not row.text("precision").lower().startswith(("fp16", "fp32"))


def _chunks(
    row: Fields, model: TransformerModel, pp: int, micro_batches: int, conventions: Conventions, assumed: list[str]
) -> int:
    """Return the model chunks that a pipeline rank holds.

    They are stated as a field or in words, else they are the default of the framework.
    """
    if pp == 1:
        return 1
    words = re.search(r"\b(?:VP|vpp|v) ?= ?(\d+)|virtual pipeline (?:size )?(\d+)", row.text("notes"))
    stated = row.optional_count("vp") or (int(words.group(1) or words.group(2)) if words else None)
    overlap = row.text("overlap")
    if stated is not None or "interleaved" in overlap:
        return min(stated or 2, max(1, (model.layers + TABLES) // pp))
    plain = re.search(r"\b1F1B\b|one-forward-one-backward|gpipe", f"{overlap} {row.text('framework')}", re.IGNORECASE)
    if plain or row.states("vp"):
        return 1
    taken = pipeline_chunks(pp, model.layers, micro_batches, interleaves=conventions.interleaves)
    assumed.append(f"virtual_stages {taken.value}: {taken.why}")
    return taken.value


def _hybrid_shards(row: Fields, dp: int, cluster: Cluster) -> int:
    """Return the size of the shard group of a hybrid layout.

    It comes from MaxText's "DP n" replicas, from a stated group ("over n", "within groups of n"), or from the island in
    the case of HSDP and of "inside a pod" or slice. Raises `SpecError` where it does not divide the data-parallel
    ranks.
    """
    text = row.text("sharding")
    shards = dp
    if match := re.search(r"DP (\d+)$", text):
        shards = dp // max(1, int(match.group(1)))
    elif match := re.search(r"over (\d+)$|within groups of (\d+)", text):
        shards = min(dp, int(match.group(1) or match.group(2)))
    elif HYBRID_SHARDING.search(text) or re.search(r"inside a (pod|slice)", text):
        shards = min(dp, cluster.devices_per_node)
    if shards < 1 or dp % shards:
        raise SpecError(f"sharding {text!r} does not divide the {dp} data-parallel ranks")
    return shards


def _batch(row: Fields, dp: int, stages: int, conventions: Conventions, assumed: list[str]) -> tuple[int, int]:
    """Return global batch and micro-batch in sequences."""
    size, batch, rounds = (row.optional_count(name) for name in ("mbs", "gbs", "grad_accum"))
    if size is not None and stages > 1 and conventions.local_batch_is_split:
        # The stated size is the batch of a data-parallel rank, run as one micro-batch a stage.
        assumed.append(f"mbs {max(1, size // stages)}")
        return batch or size * dp, max(1, size // stages)
    if batch is None:
        if size is None:
            raise MissingFieldError("gbs")
        assumed.append(f"gbs {size * dp * (rounds or 1)}")
        return size * dp * (rounds or 1), size
    if size is None:
        share = max(1, batch // dp)
        # Megatron's relatives split a rank's share into micro-batches of one unless they are told otherwise.
        whole = rounds is None and stages == 1 and share <= MAX_UNSPLIT_BATCH and not conventions.interleaves
        size = share if whole else max(1, share // rounds) if rounds else 1
        assumed.append(f"mbs {size}")
    return batch, size


def _recompute(
    row: Fields, layers: int, conventions: Conventions, assumed: list[str]
) -> tuple[Recompute, tuple[RecomputedModule, ...], float]:
    """Return the kind of recompute, the modules that it repeats where they are listed, and the share of the layers."""
    if number := _recomputed_layers(row.text("recompute").lower(), layers):
        return "full", (), number / layers
    words = re.split(r"[\s,+/]+", row.text("recompute").lower())
    if parts := dict.fromkeys(RECOMPUTED_PARTS[word] for word in words if word in RECOMPUTED_PARTS):
        return "selective", tuple(parts), 1.0
    return _recompute_kind(row, conventions, assumed), (), 1.0


def _recomputed_layers(text: str, layers: int) -> int | None:
    """Return how many whole layers are recomputed where a phrase says so: "every second layer", "8 of 32 layers", or
    torchtitan's "selective ac 2", whose wrapper takes the layers whose number from 1 on is a multiple of 2.

    Raises `SpecError` where the model has fewer layers.
    """
    counted = re.search(r"(\d+) of (\d+) layers", text)
    stride = re.search(r"every ([a-z]+|\d+)(?:nd|rd|th)? layers?\b|selective ac (\d+)\b", text)
    if counted is None and stride is None:
        return None
    if counted is not None:
        number = int(counted.group(1))
        if int(counted.group(2)) != layers or not 0 < number <= layers:
            raise SpecError(f"recompute {text!r} does not match the {layers} layers of the model")
        return number
    word = stride.group(1) or stride.group(2) if stride else ""
    step = ORDINALS.get(word) or (int(word) if word.isdigit() else 0)
    if not 0 < step <= layers:
        raise SpecError(f"recompute {text!r} does not match the {layers} layers of the model")
    return layers // step


def _recompute_kind(row: Fields, conventions: Conventions, assumed: list[str]) -> Recompute:
    text = row.text("recompute").lower()
    if not text:
        assumed.append(f"recompute {conventions.recompute}")
        return conventions.recompute
    if PARTLY.search(text):
        raise SpecError(
            f"recompute {row.text('recompute')!r} is not understood; expected such words as full, none, 8 of 32 layers"
        )
    if re.search(r"per[- ]op|selective ac|operators|\bminimal|\bdots", text):
        return "operators"
    if text in ("no", "off", "disabled", "false"):
        return "none"
    if NOTHING_KEPT.search(text):
        return "full"
    kinds: tuple[Recompute, ...] = ("none", "full", "selective")
    for word in kinds:
        if word in text:
            return word
    if text in ("yes", "on", "enabled", "true", *CHECKPOINTED):
        assumed.append("recompute full")
        return "full"
    raise SpecError(f"recompute {row.text('recompute')!r} is none of none, selective, operators, full")
