"""Name the frameworks that people train with, and say how each runs a job unless it is told otherwise.

It is the one table of names: a plan that names a framework and a published row that names it have the same stack.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any

import msgspec
from msgspec import Struct

from carbon_plugin.spec.layout import ContextParallelKind, Recompute
from carbon_plugin.spec.models.adapters import Adapters
from carbon_plugin.spec.numbers.amounts import yaml_word
from carbon_plugin.spec.numbers.figure import Assumption
from carbon_plugin.spec.parsing.names import normalized
from carbon_plugin.spec.stack import ORDINARY, STACKS, TUNED, Stack


class Conventions(Struct, frozen=True, kw_only=True, dict=True):
    """Holds the defaults of one framework.

    `name` is its shipped stack (`spec.stack.STACKS`), for which one factor is fitted, and `fields` are those of the
    stack in which it differs. All else is what it does where a published row does not say: `zero_stage` is the stage of
    ZeRO by which it shards, `local_batch_is_split` says that a stated size of a batch is run as one micro-batch a
    stage, and `xla` that XLA compiles the whole step. `adapters` are the matrices that have adapters.
    """

    name: str
    fields: Mapping[str, Any] = {}
    dropout: float = 0.0
    zero_stage: int = 0
    recompute: Recompute = "none"
    context_parallel: ContextParallelKind = "ring"
    local_batch_is_split: bool = False
    reports_reserved_memory: bool = False
    adapters: Adapters | None = None
    xla: bool = False

    @cached_property
    def stack(self) -> Stack:
        """Return the framework's stack, or plain defaults with its fields for an unknown framework."""
        return msgspec.structs.replace(STACKS.get(self.name, Stack()), **self.fields)

    @property
    def reentrant(self) -> bool:
        """Return whether it is Megatron or has layers like Megatron's, which repeat all of what they recompute."""
        return self.stack.reentrant

    @property
    def interleaves(self) -> bool:
        """Return whether pipelines hold several model chunks per rank where nobody says how many."""
        return self.stack.interleaves

    @property
    def shards_alone(self) -> bool:
        """Return whether its jobs are data-parallel and nothing else unless they are told otherwise."""
        return self.zero_stage == 3 or (self.zero_stage == 0 and not self.stack.gradient_buffers)


def _like(other: Conventions, fields: Mapping[str, Any] = MappingProxyType({}), **changes: Any) -> Conventions:
    """Return the conventions of a relative, with further fields of its stack and other defaults."""
    return msgspec.structs.replace(other, fields={**other.fields, **fields}, **changes)


MEGATRON_2021 = Conventions(name="megatron-lm-2021", dropout=0.1, recompute="full")
MEGATRON_DEEPSPEED_2022 = Conventions(name="megatron-deepspeed-2022", dropout=0.1, recompute="full")
MEGATRON_LM = Conventions(name="megatron-lm", zero_stage=1)
MEGATRON_2023 = _like(MEGATRON_LM, {"legacy_modules": True}, dropout=0.1)
"""Until Megatron-core became the default in 2024, pretraining ran Megatron's own modules with dropout 0.1, and
FlashAttention was an option that was off (`--use-flash-attn` and `--hidden-dropout` of its arguments.py)."""
MEGATRON_CORE = Conventions(name="megatron-core", zero_stage=1)
PRIMUS = _like(MEGATRON_CORE, {"tuned_for": None})
"""AMD's, for its own devices."""
HAI_LLM = Conventions(name="hai-llm", zero_stage=1)
MEGATRON_BRIDGE = Conventions(name="megatron-bridge", zero_stage=1)
BRIDGE_FINE_TUNING = _like(MEGATRON_BRIDGE, {"interleaves": False, "hides_tensor_traffic": False})
"""Its recipes for fine-tuning leave pipelines with one chunk per rank, hide no collectives of tensor parallelism
(`comm_overlap=None` of its recipes/common.py) and reach experts by a plain all-to-all
(`virtual_pipeline_model_parallel_size = None` and `moe_token_dispatcher_type = "alltoall"` of its
recipes/qwen/qwen3_moe.py)."""
NEMO = Conventions(name="nemo", zero_stage=1, adapters="query_key_value")
"""Its adapters are those of queries, keys and values unless told otherwise (`target_modules` of
examples/nlp/language_modeling/tuning/conf/megatron_gpt_finetuning_config.yaml at 0078023)."""
NEMO_BEFORE_FLASH = Conventions(name="nemo-2023", zero_stage=1, recompute="selective")
"""NeMo introduced FlashAttention into its GPT models in release 1.20, container 23.08. In earlier releases the softmax
is fused and the scores go through memory. MLPerf's submissions run kernels of their own."""
# Step times treat every policy of MaxText that recomputes in part as one class. Memory depends on what the policy
# keeps.
MAXTEXT = Conventions(name="maxtext", zero_stage=3, recompute="operators", xla=True)
BY_XLA: Mapping[str, Any] = MappingProxyType(
    {
        "token_counts": "device",
        "pads_vocabulary": True,
        "shard_unit": "weight",
        "plain_dispatch": True,
        "gathers_ahead": False,
        "tuned_for": None,
    }
)
"""What follows from a step that XLA compiles as a whole. Its shapes are fixed, so that the host reads no count, and
what is gathered of sharded parameters is the weight of a product. On GPUs it gathers those of a layer of a scan when
the layer begins, unless flags let it pipeline the gathers (`xla_gpu_enable_pipelined_all_gather`, which is off in its
debug_options_flags.cc); the recipes of MaxText's makers set them. Its kernels are the compiler's on every device."""
XLA = Conventions(name="compiled", fields=BY_XLA, zero_stage=3, recompute="operators", xla=True)
"""Relatives of MaxText shard and recompute like it. The factor that its makers' recipes reach on their devices is not
theirs: XLA compiles their steps, and nobody says that they were tuned. AXLearn's makers make no devices."""
LEVANTER = _like(XLA, recompute="full")
"""Its models keep the inputs of their layers alone unless told otherwise (`gradient_checkpointing` of its models/,
which haliax's `ScanCheckpointPolicy` reads as carries without internals)."""
LLM_FOUNDRY = Conventions(name="llm-foundry", zero_stage=3)
TORCHTITAN = Conventions(name="torchtitan", zero_stage=3, local_batch_is_split=True, reports_reserved_memory=True)
FIRST_FSDP: Mapping[str, Any] = MappingProxyType({"shard_unit": "flat"})
"""FSDP's first form, `FullyShardedDataParallel`, which gathers a layer as one tensor."""
FMS_FSDP = _like(TORCHTITAN, FIRST_FSDP)
"""It wraps models in FSDP's first form, and so did OLMo-core before its version 2."""
DEEPSPEED = Conventions(name="deepspeed", zero_stage=3)
SWIFT = _like(DEEPSPEED, recompute="full")
"""ms-swift checkpoints every layer unless told otherwise (`gradient_checkpointing` of its command-line parameters)."""
ORDINARY_SOFTWARE = Conventions(name=ORDINARY, zero_stage=3)
PYTORCH = _like(ORDINARY_SOFTWARE, {"wraps_weights": "eager"})
"""PyTorch splits weights over tensor-parallel ranks in no other way than as DTensors
(`torch.distributed.tensor.parallel`)."""
PYTORCH_FSDP1 = _like(PYTORCH, FIRST_FSDP)
TRAINER = _like(PYTORCH, FIRST_FSDP, zero_stage=0)
"""Trainers of transformers' modules: whole copies unless a configuration shards them, and then by the first form of
FSDP (`fsdp_version` of transformers' TrainingArguments is 1 unless it is stated)."""
HF_TRAINER = _like(TRAINER, {"autocast": True})
"""`Trainer` of transformers and what is built on it: `bf16` and `fp16` are autocast over 32-bit weights."""
LIGHTNING = HF_TRAINER
"""Lightning copies models whole too, its `FSDPStrategy` is FSDP's first form, and its `16-mixed` is autocast."""
TRANSFORMER_ENGINE = Conventions(name="transformer-engine", zero_stage=3)
AUTOMODEL = Conventions(name="automodel", zero_stage=3)
"""Its layers are those of Transformer Engine, and its experts are reached by DeepEP (docs/performance-summary.mdx of
NVIDIA-NeMo/Automodel). It builds models in bf16 (its pull request 53), which PyTorch's Adam updates as they are, and
reduces gradients in bf16 (`mp_policy` of examples/llm_benchmark/)."""
INTERNEVO = Conventions(name="internevo", zero_stage=1)
"""Its gradients overlap with the backward pass, and its new parameters overlap with nothing (`hybrid_zero_optimizer` of
its configs/)."""
COMPILED = Conventions(name="pytorch-compiled", zero_stage=3)
UNSLOTH = _like(COMPILED, {"cross_entropy": "in_place"})
"""Its kernels fuse by hand what a compiler fuses, and write the gradient of the loss over the logits."""
WHOLE_COMPILED = Conventions(name="compiled", fields={"gradient_buffers": True}, zero_stage=3)
"""The whole model is compiled as one region, which holds all that it saved until its backward pass ends and returns all
gradients."""
CHUNKED_OUTPUT: Mapping[str, Any] = MappingProxyType({"cross_entropy": "chunked_output"})
ONE_KERNEL: Mapping[str, Any] = MappingProxyType({"fused_optimizer": True})
TORCHTUNE = _like(PYTORCH, {**CHUNKED_OUTPUT, **ONE_KERNEL, "pure_states": True})
"""Its recipes have a loss over chunks of the output since October 2024 (`CEWithChunkedOutputLoss`, recipes/configs).
Those that train with PyTorch's AdamW ask for its fused kernel (`fused: True` of llama3_2/3B_full.yaml at 03a1978, of
llama3_1/70B_lora.yaml at 0502cc5 and of llama3_1/8B_lora_single_device.yaml)."""
COMPILED_TORCHTUNE = _like(COMPILED, {**CHUNKED_OUTPUT, **ONE_KERNEL, "pure_states": True})
LITGPT = _like(PYTORCH_FSDP1, {**CHUNKED_OUTPUT, "plain_modules": True})
"""Its scripts for fine-tuning take head and loss in chunks of 128 tokens (`lm_head_chunk_size` in finetune/lora.py)."""
OPENLM = _like(PYTORCH_FSDP1, {"plain_modules": False})
"""Its norms are PyTorch's own kernel, its gate and its attention are those of xformers (open_lm/model.py)."""
ORDINARY_MEGATRON = Conventions(name="ordinary-megatron", zero_stage=1)
LEGACY_MEGATRON = _like(ORDINARY_MEGATRON, {"legacy_modules": True})
MEGATRON_DEEPSPEED = _like(LEGACY_MEGATRON, {"accumulates_beside": True})
MEGATRON_SWIFT = _like(ORDINARY_MEGATRON, {"shards_sequences": True, "plain_dispatch": True, "expert_loop": False})
"""It runs Megatron-core from the command line of a tool for fine-tuning, with one chunk per rank unless told otherwise
(`virtual_pipeline_model_parallel_size` is unset), and groups the products of experts (`moe_grouped_gemm` of
swift/megatron/argument/megatron_args.py). Nobody tuned it for its hardware."""
NANOTRON = _like(
    ORDINARY_MEGATRON,
    {"shards_sequences": True, "plain_modules": True, "keeps_gathered": True, "balances_stages": True},
)
"""Its column-parallel layers keep what they gathered (REDUCE_SCATTER mode), and its norms and gates are modules."""
TUNED_SOFTWARE = Conventions(name=TUNED, zero_stage=1)
"""Such as Neuron's, the library of the maker of the chip, whose Llama recipes have ZeRO-1 and sequence parallelism (NxD
Training)."""
UNKNOWN = Conventions(name="unknown", zero_stage=3)
ON_TPU = _like(UNKNOWN, BY_XLA, xla=True)
"""Software on TPUs that nobody here knows: they run nothing but what XLA compiled, and nobody says that it was tuned.
It recomputes nothing unless it says so (`jax.checkpoint`)."""
LLM_C = Conventions(name="llm.c", zero_stage=1)
"""Programs that are CUDA kernels and the loop that launches them, without a framework."""

# The first match wins.
FRAMEWORKS: tuple[tuple[str, Conventions], ...] = (
    ("megatron-deepspeed vtrain", MEGATRON_DEEPSPEED_2022),
    ("megatron-deepspeed 0.6", MEGATRON_DEEPSPEED_2022),
    ("megatron-deepspeed", MEGATRON_DEEPSPEED),
    ("gpt-neox", LEGACY_MEGATRON),  # Megatron's modules under DeepSpeed too (EleutherAI/gpt-neox, README.md)
    ("megatron-lm", MEGATRON_LM),
    ("megatron-core", MEGATRON_CORE),
    ("megatron-bridge", MEGATRON_BRIDGE),
    ("nemo automodel", AUTOMODEL),
    ("nemo", NEMO),
    ("maxtext", MAXTEXT),
    ("llm-foundry", LLM_FOUNDRY),
    ("torchtitan", TORCHTITAN),
    # Relatives of the frameworks above, of which no row was fitted.
    ("pai-megatron", MEGATRON_CORE),
    ("megascale", MEGATRON_CORE),
    ("vescale", MEGATRON_CORE),
    ("primus", PRIMUS),
    ("flagscale", MEGATRON_CORE),
    ("hai-llm", HAI_LLM),
    ("nanotron", NANOTRON),
    ("internevo", INTERNEVO),
    ("oneflow", MEGATRON_2021),
    ("olmo-core 1.", FMS_FSDP),
    ("olmo-core", TORCHTITAN),
    ("lingua", TORCHTITAN),
    ("fms-fsdp", FMS_FSDP),
    ("composer", LLM_FOUNDRY),
    ("mosaicml", LLM_FOUNDRY),
    ("megatron-swift", MEGATRON_SWIFT),
    ("megatron", MEGATRON_CORE),
    ("axlearn", XLA),
    ("levanter", LEVANTER),
    ("paxml", XLA),
    ("deepspeed", DEEPSPEED),
    ("hf trainer + deepspeed", DEEPSPEED),
    ("ms-swift + deepspeed", SWIFT),
    ("hf trainer +", TRAINER),
    ("hf trainer", HF_TRAINER),
    ("hugging face", TRAINER),
    ("huggingface", TRAINER),
    ("transformers", TRAINER),
    ("accelerate", TRAINER),
    ("trl", HF_TRAINER),
    ("axolotl", HF_TRAINER),
    ("llama-factory", HF_TRAINER),
    ("xtuner", PYTORCH),
    ("unsloth", UNSLOTH),
    ("torchtune (compile", COMPILED_TORCHTUNE),
    ("torchtune", TORCHTUNE),
    ("litgpt", LITGPT),
    ("open-lm", OPENLM),
    ("openlm", OPENLM),
    ("pytorch fsdp + transformer engine", TRANSFORMER_ENGINE),
    ("pytorch torch.compile", WHOLE_COMPILED),
    ("pytorch lightning", LIGHTNING),
    ("pytorch", PYTORCH),
    ("native pytorch + transformer engine", TRANSFORMER_ENGINE),
    ("native pytorch", PYTORCH),
    ("neuron", TUNED_SOFTWARE),
    ("lightning-thunder", WHOLE_COMPILED),
    ("lightning", LIGHTNING),
    ("llm.c", LLM_C),
    # LLM.Q's readme names llm.c as what it was written after: CUDA kernels of its own and no framework.
    ("llm.q", LLM_C),
)
"""Frameworks by the beginning of their names, to which people add a release, in lower case."""
WHOLE_NAMES: Mapping[str, Conventions] = MappingProxyType(
    {
        **{
            known.name: known
            for known in (
                ORDINARY_SOFTWARE,
                COMPILED,
                Conventions(name="compiled", zero_stage=3),
                TUNED_SOFTWARE,
                TRANSFORMER_ENGINE,
                AUTOMODEL,
                ORDINARY_MEGATRON,
                MEGATRON_2021,
                MEGATRON_DEEPSPEED_2022,
                NEMO_BEFORE_FLASH,
            )
        },
        **dict.fromkeys(("torch", "plain-pytorch", "eager-pytorch", "ddp", "fsdp2", "pytorch-fsdp2"), PYTORCH),
        **dict.fromkeys(("fsdp", "fsdp1", "pytorch-fsdp", "pytorch-fsdp1"), PYTORCH_FSDP1),
        "jax": XLA,
    }
)
"""Names with which other software's begin too, or which are stacks and no frameworks, so that they count alone."""


STACK_OF_NAME = "stack.preset"
"""Field of the assumption on the stack as which a framework is planned. The user named the framework, so that its
stack stays on other devices, where software that nobody named would be that of the device (`spec.on_cluster`)."""


def framework_named(name: str) -> Conventions | None:
    """Return the framework of exactly this name, or None where nobody here knows it."""
    wanted = normalized(name)
    if (whole := WHOLE_NAMES.get(wanted)) is not None:
        return whole
    return next((found for known, found in FRAMEWORKS if normalized(known) == wanted), None)


def planned_as(name: str, stack: Stack) -> list[Assumption]:
    """Return the assumption that software of this name is planned as this stack, where it has none of its own."""
    framework = framework_named(name)
    if framework is None or framework.name == normalized(name) or framework.stack != stack:
        return []
    fields = [f"{field} {yaml_word(value)}" for field, value in framework.fields.items()]
    said = f"{name} has no stack of its own name and is planned as what it is nearest"
    return [Assumption(STACK_OF_NAME, " + ".join((framework.name, *fields)), said)]


def framework_beginning(text: str) -> Conventions:
    """Return the framework with whose name a text begins, or the unknown one."""
    if (named := framework_named(text)) is not None:
        return named
    return next((found for known, found in FRAMEWORKS if text.lower().startswith(known)), UNKNOWN)


def names_of_frameworks() -> Iterator[str]:
    """Yield the names by which a plan may call its software, as a user types them."""
    yield from WHOLE_NAMES
    yield from (normalized(known) for known, _ in FRAMEWORKS if "(" not in known and not known.endswith(("+", ".")))
