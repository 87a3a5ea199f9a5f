"""Define the documented defaults of a framework, used where a published row does not say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

import msgspec
from msgspec import Struct

from carbon_plugin.calibrate.rows.fields import Fields
from carbon_plugin.spec.layout import Recompute
from carbon_plugin.spec.models.adapters import Adapters
from carbon_plugin.spec.parsing.names import normalized
from carbon_plugin.spec.stack import ORDINARY, STACKS, TUNED, Stack


class Conventions(Struct, frozen=True, kw_only=True):
    """Holds the defaults of one framework.

    `name` is its shipped stack (`spec.stack.STACKS`), for which one factor is fitted. `one_chunk` says that its
    pipelines do not interleave as those of its stack do, `sequence_parallel` whether tensor parallelism splits
    sequences too, `hides_tensor_traffic` whether products hide its collectives and `plain_modules` whether norms and
    gates are plain PyTorch, where these differ from its stack.
    `chunks_the_loss` says that the loss takes the logits in chunks, and `balanced_stages` that its pipelines are cut by
    work (`ParallelLayout`). `one_region` says that the whole model is compiled as one region, which holds all that it
    saved until its backward pass ends and returns all gradients. `pure` says that weights, gradients and states are
    16-bit values, without a master copy, `legacy_modules` that modules are those of Megatron before Megatron-core.
    `adapters` are the matrices that have adapters where the row does not say. `xla` says that XLA compiles the whole
    step, and `one_kernel_updates` that the optimizer updates a parameter in one kernel (`Stack.fused_optimizer`).
    """

    name: str
    dropout: float = 0.0
    zero_stage: int = 0
    sequence_parallel: bool | None = None
    recompute: Recompute = "none"
    reentrant: bool = False
    context_parallel: str = "ring"
    local_batch_is_split: bool = False
    dualpipe: bool = False
    reports_reserved_memory: bool = False
    one_chunk: bool = False
    hides_tensor_traffic: bool | None = None
    plain_modules: bool | None = None
    chunks_the_loss: bool = False
    balanced_stages: bool = False
    one_region: bool = False
    adapters: Adapters | None = None
    pure: bool = False
    legacy_modules: bool = False
    xla: bool = False
    one_kernel_updates: bool = False

    @property
    def stack(self) -> Stack:
        """Return the framework's stack, or plain defaults for an unknown framework."""
        return STACKS.get(self.name, Stack())

    @property
    def shards_sequences(self) -> bool:
        """Return whether tensor parallelism splits sequences between the blocks too where the row does not say so."""
        return self.stack.shards_sequences if self.sequence_parallel is None else self.sequence_parallel

    @property
    def hides_collectives(self) -> bool:
        """Return whether products hide the collectives of tensor parallelism where the row does not say so."""
        return self.stack.hides_tensor_traffic if self.hides_tensor_traffic is None else self.hides_tensor_traffic

    @property
    def interleaves(self) -> bool:
        """Return whether pipelines hold several model chunks per rank where the row does not say how many."""
        return self.stack.interleaves and not self.one_chunk


MEGATRON_2021 = Conventions(name="megatron-lm-2021", dropout=0.1, reentrant=True, recompute="full")
MEGATRON_DEEPSPEED_2022 = Conventions(name="megatron-deepspeed", dropout=0.1, reentrant=True, recompute="full")
MEGATRON_LM = Conventions(name="megatron-lm", zero_stage=1, reentrant=True)
MEGATRON_2023 = msgspec.structs.replace(MEGATRON_LM, dropout=0.1, legacy_modules=True)
"""Until Megatron-core became the default in 2024, pretraining ran Megatron's own modules with dropout 0.1, and
FlashAttention was an option that was off (`--use-flash-attn` and `--hidden-dropout` of its arguments.py)."""
MEGATRON_CORE = Conventions(name="megatron-core", zero_stage=1, reentrant=True)
MEGATRON_BRIDGE = Conventions(name="megatron-bridge", zero_stage=1, reentrant=True)
BRIDGE_FINE_TUNING = msgspec.structs.replace(MEGATRON_BRIDGE, one_chunk=True, hides_tensor_traffic=False)
"""Its recipes for fine-tuning leave pipelines with one chunk per rank, hide no collectives of tensor parallelism
(`comm_overlap=None` of its recipes/common.py) and reach experts by a plain all-to-all
(`virtual_pipeline_model_parallel_size = None` and `moe_token_dispatcher_type = "alltoall"` of its
recipes/qwen/qwen3_moe.py)."""
NEMO = Conventions(name="nemo", zero_stage=1, reentrant=True, adapters="query_key_value")
"""Its adapters are those of queries, keys and values unless told otherwise (`target_modules` of
examples/nlp/language_modeling/tuning/conf/megatron_gpt_finetuning_config.yaml at 0078023)."""
NEMO_BEFORE_FLASH = Conventions(name="nemo-2023", zero_stage=1, reentrant=True, recompute="selective")
"""NeMo introduced FlashAttention into its GPT models in release 1.20, container 23.08. In earlier releases the softmax
is fused and the scores go through memory. MLPerf's submissions run kernels of their own."""
# Step times treat every policy of MaxText that recomputes in part as one class. Memory depends on what the policy
# keeps.
MAXTEXT = Conventions(name="maxtext", zero_stage=3, recompute="operators", xla=True)
XLA = msgspec.structs.replace(MAXTEXT, name="compiled")
"""Relatives of MaxText shard and recompute like it. The factor that its makers' recipes reach on their devices is not
theirs: XLA compiles their steps, and nobody says that they were tuned. AXLearn's makers make no devices."""
LEVANTER = msgspec.structs.replace(XLA, recompute="full")
"""Its models keep the inputs of their layers alone unless told otherwise (`gradient_checkpointing` of its models/,
which haliax's `ScanCheckpointPolicy` reads as carries without internals)."""
LLM_FOUNDRY = Conventions(name="llm-foundry", zero_stage=3)
TORCHTITAN = Conventions(name="torchtitan", zero_stage=3, local_batch_is_split=True, reports_reserved_memory=True)
DEEPSPEED = Conventions(name="deepspeed", zero_stage=3)
SWIFT = msgspec.structs.replace(DEEPSPEED, recompute="full")
"""ms-swift checkpoints every layer unless told otherwise (`gradient_checkpointing` of its command-line parameters)."""
PYTORCH = Conventions(name="ordinary", zero_stage=3)
TRANSFORMER_ENGINE = Conventions(name="transformer-engine", zero_stage=3)
AUTOMODEL = Conventions(name="automodel", zero_stage=3, pure=True)
"""Its layers are those of Transformer Engine, and its experts are reached by DeepEP (docs/performance-summary.mdx of
NVIDIA-NeMo/Automodel). It builds models in bf16 (its pull request 53), which PyTorch's Adam updates as they are, and
reduces gradients in bf16 (`mp_policy` of examples/llm_benchmark/)."""
INTERNEVO = Conventions(name="internevo", zero_stage=1, reentrant=True)
"""Its gradients overlap with the backward pass, and its new parameters overlap with nothing (`hybrid_zero_optimizer` of
its configs/)."""
COMPILED = Conventions(name="pytorch-compiled", zero_stage=3)
WHOLE_COMPILED = Conventions(name="compiled", zero_stage=3, one_region=True)
TORCHTUNE = msgspec.structs.replace(PYTORCH, chunks_the_loss=True, pure=True, one_kernel_updates=True)
"""Its recipes have a loss over chunks of the output since October 2024 (`CEWithChunkedOutputLoss`, recipes/configs).
Those that train with PyTorch's AdamW ask for its fused kernel (`fused: True` of llama3_2/3B_full.yaml at 03a1978, of
llama3_1/70B_lora.yaml at 0502cc5 and of llama3_1/8B_lora_single_device.yaml)."""
LITGPT = msgspec.structs.replace(PYTORCH, chunks_the_loss=True, plain_modules=True)
"""Its scripts for fine-tuning take head and loss in chunks of 128 tokens (`lm_head_chunk_size` in finetune/lora.py)."""
COMPILED_TORCHTUNE = msgspec.structs.replace(COMPILED, chunks_the_loss=True, pure=True, one_kernel_updates=True)
OPENLM = msgspec.structs.replace(PYTORCH, plain_modules=False)
"""Its norms are PyTorch's own kernel, its gate and its attention are those of xformers (open_lm/model.py)."""
ORDINARY_MEGATRON = Conventions(name="ordinary-megatron", zero_stage=1, reentrant=True)
LEGACY_MEGATRON = msgspec.structs.replace(ORDINARY_MEGATRON, legacy_modules=True)
MEGATRON_SWIFT = msgspec.structs.replace(ORDINARY_MEGATRON, sequence_parallel=True)
"""It runs Megatron-core from the command line of a tool for fine-tuning, with one chunk per rank unless told otherwise
(`virtual_pipeline_model_parallel_size` is unset). Nobody tuned it for its hardware."""
NANOTRON = msgspec.structs.replace(ORDINARY_MEGATRON, sequence_parallel=True, plain_modules=True, balanced_stages=True)
"""Its column-parallel layers keep what they gathered (REDUCE_SCATTER mode), and its norms and gates are modules."""
NEURON = Conventions(name=TUNED, zero_stage=1)
"""The library of the maker of the chip, whose Llama recipes have ZeRO-1 and sequence parallelism (NxD Training)."""
UNKNOWN = Conventions(name="unknown", zero_stage=3)
ON_TPU = msgspec.structs.replace(UNKNOWN, xla=True)
"""Software on TPUs that nobody here knows: they run nothing but what XLA compiled, and nobody says that it was tuned.
It recomputes nothing unless it says so (`jax.checkpoint`)."""
LLM_C = Conventions(name="llm.c", zero_stage=1)
"""Programs that are CUDA kernels and the loop that launches them, without a framework."""

# The first match wins. The key is the start of the row's framework in lower case.
FRAMEWORKS: tuple[tuple[str, Conventions], ...] = (
    ("megatron-deepspeed vtrain", MEGATRON_DEEPSPEED_2022),
    ("megatron-deepspeed 0.6", MEGATRON_DEEPSPEED_2022),
    ("megatron-deepspeed", LEGACY_MEGATRON),
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
    ("primus", MEGATRON_CORE),
    ("flagscale", MEGATRON_CORE),
    ("hai-llm", msgspec.structs.replace(MEGATRON_CORE, name="hai-llm", dualpipe=True)),
    ("nanotron", NANOTRON),
    ("internevo", INTERNEVO),
    ("oneflow", MEGATRON_2021),
    ("olmo-core", TORCHTITAN),
    ("lingua", TORCHTITAN),
    ("fms-fsdp", TORCHTITAN),
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
    ("hf trainer", PYTORCH),
    ("hugging face", PYTORCH),
    ("torchtune (compile", COMPILED_TORCHTUNE),
    ("torchtune", TORCHTUNE),
    ("litgpt", LITGPT),
    ("openlm", OPENLM),
    ("pytorch fsdp + transformer engine", TRANSFORMER_ENGINE),
    ("pytorch torch.compile", WHOLE_COMPILED),
    ("pytorch", PYTORCH),
    ("native pytorch + transformer engine", TRANSFORMER_ENGINE),
    ("native pytorch", PYTORCH),
    ("neuron", NEURON),
    ("lightning-thunder", WHOLE_COMPILED),
    ("lightning", PYTORCH),
    ("llm.c", LLM_C),
    # LLM.Q's readme names llm.c as what it was written after: CUDA kernels of its own and no framework.
    ("llm.q", LLM_C),
)
FINE_TUNING = re.compile(r"(?i)\bfine-?tun|\bsft\b|packed (documents|sequences)")
"""Words of a note for a run that trains a finished model on, or on packed documents."""
NAMED_STACKS: Mapping[str, Conventions] = MappingProxyType(
    {
        known.name: known
        for known in (
            PYTORCH,
            COMPILED,
            Conventions(name="compiled", zero_stage=3),
            Conventions(name=TUNED, zero_stage=1),
            TRANSFORMER_ENGINE,
            AUTOMODEL,
            ORDINARY_MEGATRON,
            MEGATRON_2021,
            NEMO_BEFORE_FLASH,
        )
    }
)
"""Stacks that are named like no framework: a row that names one is read as a spec with this `stack`."""
FLASH_SINCE = (23, 8)
OLD_MEGATRON = re.compile(r"megatron-lm.*\b20(19|2[0-2])\b")
OWN_MODULES = re.compile(r"megatron-lm.*\b2023\b")
CORE_MODULES = re.compile(r"megatron-lm.*\b20(2[4-9]|[3-9]\d)\b")
"""Megatron-LM trains the modules of Megatron-core unless told otherwise since 2024 (`--use-legacy-models` of its
arguments.py)."""
MEGATRON_BY_YEAR = ((OLD_MEGATRON, MEGATRON_2021), (OWN_MODULES, MEGATRON_2023), (CORE_MODULES, MEGATRON_CORE))
FUSED_BY_HAND = re.compile(r"(?i)\bliger\b|\bunsloth\b|fms-acceleration fused|flash-attention training")
"""Libraries of kernels that fuse by hand what `torch.compile` fuses: norms, gates, rotary positions and loss
(linkedin/Liger-Kernel; unslothai/unsloth, whose kernels are those of foundation-model-stack/fms-acceleration's
plugins/fused-ops-and-kernels too; training/README.md of Dao-AILab/flash-attention)."""
OWN_KERNELS = re.compile(r"(?i)\bfused (norm|kernels)|\bown cuda kernels")
"""Words of software whose norms, rotary positions and gates are single kernels, though nobody compiled it."""
NO_FRAMEWORK = re.compile(r"\bCUDA and C(\+\+)?(?![\w+])")
"""Words of programs that are kernels and the code that launches them."""
PYTORCH_BASED = re.compile(
    r"(?i)torch|transformers|hugging|\bhf\b|lightning|accelerate|\btrl\b|\bpeft\b|axolotl|llama-?factory|xtuner|^fsdp|^ddp"
)
CURRENT = re.compile(r"\b20(2[5-9]|[3-9]\d)\b|arXiv (2[5-9]|[3-9]\d)\d\d\.")
"""Years of software, and of papers about it, from 2025 on."""
UNDER_DEEPSPEED = re.compile(r"(hf trainer|hugging face).*\bdeepspeed\b")
"""Trainers of transformers' modules that hand them to DeepSpeed, whose hooks gather what it shards module by module."""
XLA_DEVICE = re.compile(r"(?i)pytorch/?-?xla|\btorch_?xla\b")
"""PyTorch that XLA runs: a whole step is one compiled program."""
MANY_DEVICES = 1024
"""From so many devices on, software that nobody here knows counts as tuned like Megatron-core, where it cuts layers or
stages. An hour of them costs thousands of dollars, and those who published such jobs tuned code of their own for them:
Llama 3 (arXiv 2407.21783 section 3.3), MegaScale (arXiv 2402.15627 section 3) and PaLM (arXiv 2204.02311 section 4)."""


def conventions_of_row(row: Fields) -> Conventions:
    """Return the defaults of the row's framework.

    Plain PyTorch, and software that nobody here knows, is compiled software where the row says so. XLA compiles unknown
    software on TPUs, and unknown software that cuts a model over many devices is tuned.
    """
    found = conventions_of(row.text("framework"))
    cut = any((row.optional_count(axis) or 1) > 1 for axis in ("tp", "pp"))
    if found == UNKNOWN and cut and (row.optional_count("n_gpus") or 1) >= MANY_DEVICES:
        return MEGATRON_CORE
    framework = row.text("framework")
    if found == MEGATRON_BRIDGE and FINE_TUNING.search(row.text("notes")):
        return BRIDGE_FINE_TUNING
    if found == UNKNOWN and row.text("gpu").upper().startswith("TPU"):
        return ON_TPU
    if found == UNKNOWN and NO_FRAMEWORK.search(framework):
        return LLM_C
    words = " ".join(row.text(name) for name in ("framework", "overlap", "notes"))
    if found in (PYTORCH, UNKNOWN) and (FUSED_BY_HAND.search(words) or XLA_DEVICE.search(framework)):
        return COMPILED
    return COMPILED if found in (PYTORCH, UNKNOWN) and "compile" in row.text("overlap") else found


def names_stack(framework: str) -> bool:
    """Return whether a framework is the bare name of a shipped stack, as a spec names its software."""
    return normalized(framework) in STACKS


def conventions_of(framework: str) -> Conventions:
    """Return the defaults of a framework by the start of its name. An unknown one gets those of plain PyTorch FSDP."""
    text = framework.lower()
    if (named := NAMED_STACKS.get(normalized(text))) is not None:
        return named
    for dated, conventions in MEGATRON_BY_YEAR:
        if dated.match(text):
            return conventions
    if re.match(r"nemo 2[0-3]\.", text) and "mlperf" not in text and release_of(text) < FLASH_SINCE:
        return NEMO_BEFORE_FLASH
    found = next((conventions for start, conventions in FRAMEWORKS if text.startswith(start)), UNKNOWN)
    if found == PYTORCH and UNDER_DEEPSPEED.match(text):
        found = DEEPSPEED
    if "mlperf" in text and found.stack.population == ORDINARY:
        # Submissions to a benchmark are tuned for their hardware, whatever the name of the software.
        return msgspec.structs.replace(found, name=TUNED)
    return found


def release_of(text: str) -> tuple[int, int]:
    """Return year and month of a release such as 24.07, or (0, 0) where the text has none."""
    found = re.search(r"(\d\d)\.(\d\d)", text)
    return (int(found.group(1)), int(found.group(2))) if found else (0, 0)
