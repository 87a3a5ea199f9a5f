"""Describe the software stack that a published row ran, by its framework, release, recipe and notes."""

from __future__ import annotations

import re
from typing import Any, cast, get_args

import msgspec
from msgspec import Struct

from carbon_plugin.calibrate.rows.conventions import (
    AUTOMODEL,
    LEVANTER,
    MAXTEXT,
    MEGATRON_BRIDGE,
    MEGATRON_CORE,
    MEGATRON_SWIFT,
    NEMO,
    ON_TPU,
    OWN_KERNELS,
    PYTORCH_BASED,
    TRANSFORMER_ENGINE,
    UNKNOWN,
    Conventions,
    release_of,
)
from carbon_plugin.calibrate.rows.fields import Fields
from carbon_plugin.calibrate.rows.routing import ONE_WORD
from carbon_plugin.errors import SpecError
from carbon_plugin.predict.rates.laws import XE
from carbon_plugin.predict.rates.resolve import TPU_LANES
from carbon_plugin.spec.hardware.cluster import Accelerator
from carbon_plugin.spec.models.model import TransformerModel
from carbon_plugin.spec.stack import ORDINARY, ROUTING_SPREAD, AttentionKernel, CrossEntropy, Stack

HOPPER_KERNELS_SINCE = (25, 1)
"""Containers from this release on have attention kernels of the third generation for Hopper (cuDNN 9, FlashAttention
3)."""
CURRENT = re.compile(r"\b20(2[5-9]|[3-9]\d)\b|arXiv (2[5-9]|[3-9]\d)\d\d\.")
"""Years of software, and of papers about it, whose containers have these kernels."""
CUDNN_FIRST = ("2025", "12")
"""From this month on PyTorch's nightly builds for CUDA 13 take cuDNN for attention on Hopper and Blackwell: they have
the order of backends of release 2.10 (`check_prefer_cudnn_attention` of its sdp_utils.cpp) and a cuDNN beyond 9.15."""
CUDNN_KEPT_SINCE = ("2025", "12")
"""From this month on torchtitan's policy of recompute keeps the result of cuDNN's attention (pull request 2095).
Before, cuDNN in place of FlashAttention on a B200 saved 1.8 of 46 GiB (pull request 1196)."""
GROUPED_TRANSFORMERS = re.compile(r"(?i)transformers v?([5-9]|\d\d)\b")
"""Releases of transformers whose experts are grouped products (`grouped_mm`, its default since version 5)."""
HAND_KERNELS = re.compile(r"(?i)\bliger\b|\bunsloth\b|fms-acceleration fused")
"""Kernels for norms, rotary positions, gates and loss that users put in place of the modules of transformers
(linkedin/Liger-Kernel, unslothai/unsloth and those of foundation-model-stack/fms-acceleration). Their losses write the
gradient over the logits, and Liger's fused loss never holds them."""
HALF_LOSS = "loss over 16-bit logits"
"""Words of a note for code that hands a model's 16-bit logits to PyTorch's loss, which transformers' own loss and
autocast widen to fp32."""
FUSED_LOSS = re.compile(r"fused loss|[Ll]iger loss")
GRUG = "Grug"
"""Levanter's models of this name take the head and the loss in blocks, and never hold the logits
(`fused_linear_softmax_cross_entropy_loss` of levanter/grug/loss.py)."""
GROUPED_EXPERTS = re.compile(r"(?i)(?<!un)grouped (products?|kernels?)|scattermoe|megablocks|sonic-?moe")
"""Words by which a row says that all experts of a layer are one product, whoever's modules are around them: the kernels
that users put in place of a loop are named ScatterMoE (arXiv 2403.08245), MegaBlocks (arXiv 2211.15841) or SonicMoE."""
SCATTERING = re.compile(r"(?i)scattermoe|megablocks|sonic-?moe")
"""Those of them that sort tokens and add them up in kernels of their own."""
HOST_COUNTS = re.compile(r"(?i)megablocks")
"""Grouped products whose callers read back to the host how many rows they get (`padded_gather` of MegaBlocks)."""
SYNC_FREE = re.compile(r"(?i)sync-?free")
"""Experts whose counts stay on the device in software that would read them (`turbo_sync_free_moe_stage` of Primus)."""
SORTED_EXPERTS = re.compile(r"experts of (Granite|JetMoe)")
"""Models of transformers before its version 5 whose experts loop over rows that were sorted before
(`GraniteMoeParallelExperts`, `JetMoeParallelExperts`)."""
COMPUTES_ALL = re.compile(r"(?i)llama[ -]?4")
"""Models of transformers before its version 5 whose experts all take every token, with zeros for those that are not
theirs (`Llama4TextMoe.forward`)."""
EINSUM_EXPERTS = re.compile(r"(?i)megatron-deepspeed|deepspeed-moe")
"""Frameworks whose experts are DeepSpeed's: products with one-hot matrices over the tokens of a micro-batch send these
to them and back (`MOELayer.forward` of its moe/sharded_moe.py, which takes Tutel's kernels only where told to)."""
TRANSFORMERS = re.compile(r"(?i)hf trainer|hugging face|ms-swift \+")
"""Frameworks that train modules of transformers, whose experts run in a Python loop before its version 5."""
LOOP_TRANSFORMERS = re.compile(r"(?i)transformers v?4\b|\b4\.\d\d|\b20(1\d|2[0-5])\b")
"""Releases of transformers before its version 5 (December 2025), and years of software that had them."""
LOOPED_EXPERTS = re.compile(r"(?i)experts (in a |run in a )?loop|loop (over|runs|pads) |ungrouped (products|experts)")
"""Words by which a row says that experts run one after the other."""
LOSS_COMPILED_SINCE = ("2025", "04")
"""torchtitan compiles the loss with the model since this month (pull request 1033)."""
LOSS_NOT_COMPILED = re.compile(r"(?i)torchtitan 0\.0\.")
"""Releases of torchtitan that compile the layers and not the loss (before pull request 1033)."""
BEFORE_FLASH = re.compile(r"megatron-deepspeed.*\b202[0-2]\b|megatron-lm.*\b2023\b")
"""Megatron-DeepSpeed took FlashAttention in 2023, and Megatron-LM's default took it in 2024. Before, the softmax is
fused and the scores go through memory."""


WIDE_HEADS_SINCE = (25, 7)
"""Containers from this release on have cuDNN 9.11 (from memory), the first whose backward pass on Blackwell takes the
heads of latent attention (192 wide, with values of 128). Before, Transformer Engine has no fused kernel for them there,
where on Hopper it has one since cuDNN 9.5 (`nvte_get_fused_attn_backend` of its common/fused_attn/fused_attn.cpp)."""
WIDEST_USUAL_HEAD = 128
ENGINE_BASED = (MEGATRON_CORE, MEGATRON_BRIDGE, NEMO, TRANSFORMER_ENGINE, AUTOMODEL)
"""Frameworks whose attention is that of Transformer Engine."""


XLA_ATTENTION = re.compile(r"(?i)paxml(?!.*transformer engine)|axlearn.*\b202[0-4]\b")
"""Paxml has no fused kernel of its own: its attention is what XLA compiles, with the scores in memory
(praxis/layers/attentions.py, `DotProductAttention`). Transformer Engine brings cuDNN's. AXLearn's models had XLA's
attention too unless a configuration ends in "-flash" (`flash_attention` of its experiments/text/gpt/fuji.py of 2024);
those of 2025 recompute around a flash kernel."""


WEIGHTED_SINCE = (25, 1)
"""Releases of Megatron-core's relatives from this month on have its experts whose activation is weighted.
Pai-Megatron-Patch 25.04 takes Megatron-LM of 28 March 2025, whose recompute knows `moe_act` as its rows do."""
ALIKE = re.compile(rf"{ONE_WORD}|every token is the same")
"""Words of a note for a batch whose tokens are all alike."""
SENT_ONCE = re.compile(r"DeepEP|HybridEP")
"""Dispatchers that send a token once to each rank and node that has some of its experts (DeepEP; Megatron-core's
`HybridEPBuffer`)."""
DROPPED_CAPACITY = 1.0
"""Capacity factor of NVIDIA's recipes that drop tokens (`apply_moe_token_drop` of Megatron-Bridge, for what its tables
label "tokendrop", and `MegatronTokenDropCallback` of NeMo)."""
DROPPING_MODELS = re.compile(r"(?i)mixtral|grok|deepseek|qwen")
"""Mixtures whose recipes in NeMo 2 add `MegatronTokenDropCallback` (scripts/performance/llm/pretrain_*.py at 01b83a7
and recipes/mixtral_8x7b.py). Those of Llama 4 do not."""
DROPPING_SINCE = (25, 1)
"""Containers of NeMo 2, whose benchmark pages are of these recipes."""


CUDA_KERNELS = frozenset(("nvidia", "amd"))
"""Makers of devices on which Megatron's and apex's fused kernels compile, which are CUDA code. On others its relatives
run plain modules and switch fusions off (`--no-bias-gelu-fusion` and others of ALCF/helpers.sh in
argonne-lcf/Megatron-DeepSpeed)."""


class Recipe(Struct, frozen=True, kw_only=True):
    """Holds the settings that a vendor's recipe for mixtures of experts makes from a container release on. Rows leave
    them out.
    """

    said: str
    since: tuple[int, int]
    stack: dict[str, Any]
    expert_overlap: bool = False


RACK = 72
SCOPED_GRAPHS = Recipe(said="scoped CUDA graphs", since=(25, 11), stack={"cuda_graphs": "scoped"})
"""Megatron-Bridge's recipes for rack-scale devices capture attention and routing
(scripts/performance/configs/{deepseek,qwen}/*_workload_base_configs.py at 0426418 and 01b2977). Two exceptions are not
followed here: GPT-OSS on GB200 captures nothing, and some recipes for 8-GPU nodes capture too."""
WHOLE_ITERATIONS = Recipe(
    said="CUDA graphs of whole iterations, fused experts, attention in fp8, expert exchange overlapped",
    since=(26, 6),
    stack={"cuda_graphs": "iteration", "fused_experts": True, "attention_kernel": "cudnn_fp8"},
    expert_overlap=True,
)
"""Megatron-Bridge's MXFP8 recipes for Blackwell (issue 2885, pull requests 3983, 4226, 4249 and 4606, and
src/megatron/bridge/perf_recipes/{qwen,gpt_oss}/common.py at 134e903 and 3564acf)."""


def stack_of(
    conventions: Conventions, row: Fields, recipe: Recipe | None, device: Accelerator, model: TransformerModel
) -> Stack:
    """Return the framework's stack as the row's release and recipe have it. Raises `SpecError` naming an odd field.

    The model says which heads the attention kernel has to take.
    """
    changes = _kernels(conventions, row, device, model) | _experts(conventions, row, device, model)
    if ALIKE.search(row.text("notes")):
        changes["uniform_tokens"] = True
    if "PURE" in row.text("sharding") or row.text("reduce_dtype") == "bf16":
        changes["grad_reduce_dtype"] = "bf16"
    if conventions.one_region:
        changes["gradient_buffers"] = True
    if conventions.plain_modules is not None:
        changes |= {"plain_modules": conventions.plain_modules, "keeps_gathered": conventions.plain_modules}
    elif _has_kernels(conventions, row):
        changes["plain_modules"] = False
    elif conventions.reentrant and device.vendor not in CUDA_KERNELS:
        changes["plain_modules"] = True
    if row.text("framework").lower().startswith("megatron-deepspeed") and not conventions.interleaves:
        changes["accumulates_beside"] = True
    if "CUDA_LAUNCH_BLOCKING=1" in row.text("notes"):
        changes["launch_blocking"] = True
    if "rowwise" in row.text("precision"):
        changes["fp8_recipe"] = "rowwise"
    # MaxText's policy "custom" keeps what it names, which may be the inputs of layers alone.
    if row.text("remat_policy") == "full" or row.text("activation_offload").startswith("layer inputs ("):
        changes["operators_keep"] = "inputs"
    if conventions.xla:
        changes |= _compiled_by_xla(conventions, row, device)
    if recipe is not None:
        changes |= recipe.stack
    return msgspec.structs.replace(conventions.stack, **changes)


def _compiled_by_xla(conventions: Conventions, row: Fields, device: Accelerator) -> dict[str, Any]:
    """Return the fields that follow from a step that XLA compiles as a whole.

    Its shapes are fixed, so that the host reads no count, and what is gathered of sharded parameters is the weight of a
    product. On GPUs it gathers those of a layer of a scan when the layer begins, unless flags let it pipeline the
    gathers (`xla_gpu_enable_pipelined_all_gather`, which is off in its debug_options_flags.cc). The recipes of
    MaxText's makers set them, and TPUs are taken to need none.
    """
    said = f"{row.text('overlap')} {row.text('notes')}"
    ahead = conventions == MAXTEXT or device.kind != "gpu" or "pipelined collectives" in said
    changes = {"token_counts": "device", "gathers_ahead": ahead and "no pipelined collectives" not in said}
    fused = {"fused": True, "cross_entropy": "compiled"} if conventions == ON_TPU else {}
    return changes | {"shard_unit": "weight", **fused}


def _has_kernels(conventions: Conventions, row: Fields) -> bool:
    """Return whether norms and gates are kernels of their own: the row says so, or its software is not PyTorch's."""
    framework = row.text("framework")
    if conventions.name == UNKNOWN.name and not PYTORCH_BASED.search(framework):
        return True
    return OWN_KERNELS.search(f"{framework} {row.text('overlap')} {row.text('notes')}") is not None


def _kernels(conventions: Conventions, row: Fields, device: Accelerator, model: TransformerModel) -> dict[str, Any]:
    """Return the fields of attention, fusion and loss in which the row's release differs from its framework's stack."""
    changes: dict[str, Any] = {}
    framework = row.text("framework")
    on_hopper = conventions.stack.attention_kernel == "cudnn" and device.architecture.startswith("hopper")
    engine = conventions in (TRANSFORMER_ENGINE, AUTOMODEL)
    current = CURRENT.search(f"{framework} {row.text('source')}") is not None
    nightly = conventions.name == "torchtitan" and device.architecture.startswith("hopper")
    if nightly and _date_of(row) >= CUDNN_FIRST:
        changes["attention_kernel"] = "flash3"
    if on_hopper and (engine or release_of(framework) >= HOPPER_KERNELS_SINCE or current):
        changes["attention_kernel"] = "flash3"
    if conventions.name == "torchtitan" and device.architecture.startswith("blackwell") and model.mla is None:
        # It puts cuDNN first among PyTorch's kernels from compute capability 10 on (models/attention.py), where cuDNN
        # takes the heads: those of latent attention are too wide (its pull request 1610).
        changes["attention_kernel"] = "cudnn"
        if _date_of(row) < CUDNN_KEPT_SINCE:
            changes["operators_keep"] = "products_alone"
    if XLA_ATTENTION.match(framework):
        changes["attention_kernel"] = "eager"
    elif framework.startswith("Paxml"):
        changes["attention_kernel"] = "cudnn"
    # Its attention on TPUs is jax's splash attention, which took in 2025 only heads of whole lanes (jax issue 30861).
    # For others it falls back to blocks of plain JAX over the full square, which XLA compiles
    # (`_try_tpu_splash_attention` and `flash_attention` of its layers/attention.py at 98f257a).
    not_splash = conventions == LEVANTER and device.kind == "tpu" and model.head_dim % TPU_LANES
    # Megatron's relatives have kernels of their own on Intel's GPUs.
    if not_splash or (device.architecture.startswith(XE) and not conventions.reentrant):
        changes["attention_kernel"] = "eager"
    if BEFORE_FLASH.match(framework.lower()) or _has_no_kernel_for_heads(conventions, framework, device, model):
        changes["attention_kernel"] = "unfused"
    if row.states("attention_kernel"):
        said = _attention_kernel(row)
        # Megatron and its relatives have a fused softmax; elsewhere plain attention is a chain of single operations.
        plain = said == "unfused" and not conventions.reentrant
        changes["attention_kernel"] = "eager" if plain else said
    compiled = "compile" in row.text("overlap") or "torch.compile" in framework
    if compiled:
        changes["fused"] = True
    words = f"{row.text('overlap')} {row.text('notes')}"
    if HAND_KERNELS.search(f"{framework} {words}"):
        changes |= {"fused": True, "cross_entropy": "chunked" if FUSED_LOSS.search(words) else "in_place"}
    elif (loss := _loss_of(conventions, row, compiled=compiled)) is not None:
        changes["cross_entropy"] = loss
    return changes


def _has_no_kernel_for_heads(
    conventions: Conventions, framework: str, device: Accelerator, model: TransformerModel
) -> bool:
    """Return whether Transformer Engine of the release that the framework names cannot fuse heads of this width."""
    wide = model.qk_head_dim > WIDEST_USUAL_HEAD and device.architecture.startswith("blackwell")
    return wide and conventions in ENGINE_BASED and (0, 0) < release_of(framework) < WIDE_HEADS_SINCE


def _experts(conventions: Conventions, row: Fields, device: Accelerator, model: TransformerModel) -> dict[str, Any]:
    """Return the fields by which the row says how experts run and how tokens reach them."""
    said = f"{row.text('framework')} {row.text('notes')}"
    grouped = GROUPED_TRANSFORMERS.search(row.text("framework")) or GROUPED_EXPERTS.search(said)
    changes = _expert_products(conventions, row, model, grouped=grouped is not None)
    changes |= _routing(conventions, row) | _dispatch(conventions, row, device)
    # A Megatron that groups no experts fuses no permutation either. torchtitan gathers, multiplies in fp32 and adds up
    # by `scatter_add` (its models/moe.py). MaxText sorts, takes and sums (`permute` of its layers/moe.py), and so do
    # others that XLA compiles (levanter/grug/_moe/ep_ring.py).
    single = conventions.xla or conventions.name == "torchtitan"
    # transformers sorts, gathers, multiplies, puts back and sums (`grouped_mm_experts_forward` of integrations/moe.py).
    by_transformers = TRANSFORMERS.match(row.text("framework")) and grouped and not SCATTERING.search(said)
    unfused = "ungrouped experts" in said or "permutation not fused" in said
    if unfused or conventions == MEGATRON_SWIFT or single or by_transformers:
        changes["plain_dispatch"] = True
    if by_transformers:
        changes["indexed_biases"] = True  # `gate_up_proj_bias[expert_ids_g]` of its integrations/moe.py
    current = CURRENT.search(f"{row.text('framework')} {row.text('source')}")
    if conventions.name == MEGATRON_CORE.name and (current or release_of(row.text("framework")) >= WEIGHTED_SINCE):
        changes["weighted_experts"] = True
    return changes


def _expert_products(
    conventions: Conventions, row: Fields, model: TransformerModel, *, grouped: bool
) -> dict[str, Any]:
    """Return the fields by which the row says what multiplies the rows of its experts, and what starts this."""
    changes: dict[str, Any] = {}
    notes = row.text("notes")
    looped = False if grouped else _loops_over_experts(conventions, row)
    if looped and model.moe is not None and COMPUTES_ALL.search(row.text("model")):
        changes |= {"expert_loop": False, "capacity_factor": model.moe.experts / model.moe.top_k}
        changes |= {"static_dispatch": True, "plain_dispatch": True}
        looped = False
    elif looped is not None:
        changes |= {"expert_loop": looped, "sorted_loop": looped and SORTED_EXPERTS.search(notes) is not None}
    if looped or HOST_COUNTS.search(f"{row.text('framework')} {notes}"):
        changes["token_counts"] = "host"
    if SYNC_FREE.search(notes):
        changes["token_counts"] = "device"
    if "fused experts" in notes:
        changes["fused_experts"] = True
    if "full-iteration CUDA graphs" in notes:
        changes["cuda_graphs"] = "iteration"
    elif re.search(r"CUDA graphs of (attention and )?router", notes):
        changes["cuda_graphs"] = "scoped"
    return changes


def _routing(conventions: Conventions, row: Fields) -> dict[str, Any]:
    """Return the fields by which the row says how its tokens fall on experts."""
    changes: dict[str, Any] = {}
    notes = row.text("notes")
    if "natural routing" in notes:
        changes["routing_spread"] = ROUTING_SPREAD
    elif "balanced by force" in notes:
        changes["routing_spread"] = 0.0
    if _deals_in_turn(conventions, notes):
        changes["round_robin"] = True
    return changes


def _dispatch(conventions: Conventions, row: Fields, device: Accelerator) -> dict[str, Any]:
    """Return the fields by which the row says how tokens are sent to experts, and which are dropped."""
    changes: dict[str, Any] = {}
    notes = row.text("notes")
    capacity = re.search(r"capacity factor (?:of )?(\d+(?:\.\d+)?)|\(tokendrop\)", notes)
    # Megatron-Bridge's recipes use DeepEP where the exchange leaves the node (its docs/training/moe-optimization.md),
    # and a plain all-to-all where tokens are dropped (`apply_moe_token_drop`).
    leaves = conventions == MEGATRON_BRIDGE and (row.optional_count("ep") or 1) > device.scaleup.domain
    if (leaves and capacity is None) or conventions.dualpipe or SENT_ONCE.search(notes):
        changes["expert_dispatch"] = "deepep"
    if capacity is None and conventions == NEMO and _drops_by_recipe(row):
        changes |= {"capacity_factor": DROPPED_CAPACITY, "static_dispatch": True}
    elif capacity is not None:
        changes["capacity_factor"] = float(capacity.group(1) or DROPPED_CAPACITY)
        # NVIDIA's callbacks for dropped tokens pad too, and so does XLA, whose shapes are fixed. Without padding the
        # host waits for the number of rows that are left (`MoEAlltoAllTokenDispatcher.preprocess` of Megatron-core).
        changes["static_dispatch"] = "not padded" not in notes
    einsum = EINSUM_EXPERTS.match(row.text("framework"))
    if einsum or "one-hot dispatch" in notes:
        changes |= {"one_hot_dispatch": True, "one_hot_batch": einsum is not None}
    return changes


def _loops_over_experts(conventions: Conventions, row: Fields) -> bool | None:
    """Return whether a loop runs the experts of a row that names no grouped products, or None where it does not say."""
    framework = row.text("framework")
    transformers = TRANSFORMERS.match(framework)
    if conventions == MEGATRON_SWIFT:
        return False  # `moe_grouped_gemm` is on unless told otherwise (swift/megatron/argument/megatron_args.py)
    if not transformers and conventions.stack.population != ORDINARY:
        return None
    old = transformers and LOOP_TRANSFORMERS.search(f"{framework} {row.text('source')}")
    return True if old or LOOPED_EXPERTS.search(f"{framework} {row.text('notes')}") else None


def _deals_in_turn(conventions: Conventions, notes: str) -> bool:
    """Return whether a benchmark gave its tokens to the experts in turn, in place of the router.

    The row says so, or its framework does it: AutoModel's benchmarks set `fake_balanced_gate`
    (examples/llm_benchmark/), and torchtitan balances by force in this way alone
    (`_debug_force_load_balance_routing` of its models/moe.py). Megatron draws random scores instead
    (`apply_random_logits`).
    """
    if conventions == AUTOMODEL:
        return "natural routing" not in notes
    return "in turn" in notes or (conventions.name == "torchtitan" and "balanced by force" in notes)


def _drops_by_recipe(row: Fields) -> bool:
    """Return whether the row is of a recipe of NeMo 2 that drops tokens and says nothing else of its experts."""
    framework, notes = row.text("framework"), row.text("notes")
    if "dropless" in notes or SENT_ONCE.search(notes) or not DROPPING_MODELS.search(row.text("model")):
        return False
    return release_of(framework) >= DROPPING_SINCE or CURRENT.search(framework) is not None


def _attention_kernel(row: Fields) -> AttentionKernel:
    """Return the kernel class that the row states. Raises `SpecError` naming the field for an unknown one."""
    said = row.text("attention_kernel")
    for known in get_args(AttentionKernel):
        if said == known:
            return cast("AttentionKernel", known)
    raise SpecError(f"attention_kernel is {said!r}, expected one of {', '.join(get_args(AttentionKernel))}")


def _loss_of(conventions: Conventions, row: Fields, *, compiled: bool) -> CrossEntropy | None:
    """Return how the row's release computes the loss, or None where it is as in its framework's stack."""
    overlap, framework = row.text("overlap"), row.text("framework")
    if HALF_LOSS in row.text("notes"):
        return "half"
    if "whole cross entropy" in overlap and conventions.chunks_the_loss:
        return "eager"  # torchtune's decoder returns whole logits in fp32, before anything that is compiled
    if conventions == LEVANTER and GRUG in framework:
        return "chunked"
    if "chunked cross entropy" in overlap or conventions.chunks_the_loss:
        return "chunked_output"
    whole = "torch.compile" in framework and not LOSS_NOT_COMPILED.match(framework)
    # Over tensor-parallel ranks the loss is a chain of collectives, and its memory is that of an eager one.
    alone = (row.optional_count("tp") or 1) == 1
    in_release = compiled and alone and _date_of(row) >= LOSS_COMPILED_SINCE
    if conventions.name == "torchtitan" and not (whole or in_release):
        return "eager"
    return "compiled" if conventions.stack.cross_entropy == "eager" and compiled else None


def _date_of(row: Fields) -> tuple[str, ...]:
    """Return year and month of a release that the framework or the source of the row names, or nothing."""
    dates = (
        re.search(r"(?<![0-9a-f])(20\d\d)-?(0[1-9]|1[0-2])(?!\d)", row.text(name)) for name in ("framework", "source")
    )
    return next((date.groups() for date in dates if date is not None), ())


def expert_recipe(conventions: Conventions, row: Fields, device: Accelerator, precision: str) -> Recipe | None:
    """Return how the row's release of Megatron-Bridge runs mixtures of experts on this device, where the row cannot
    say.

    Return None where no recipe applies.
    """
    if conventions.name != "megatron-bridge" or not device.architecture.startswith("blackwell"):
        return None
    if precision == "mxfp8" and _release(row) >= WHOLE_ITERATIONS.since:
        return WHOLE_ITERATIONS
    stated = "CUDA graphs" in row.text("notes")
    captures = device.scaleup.domain >= RACK and _release(row) >= SCOPED_GRAPHS.since
    return SCOPED_GRAPHS if captures and not stated else None


def _release(row: Fields) -> tuple[int, int]:
    """Return the container release that the row's framework names, or (0, 0) if it names none."""
    found = re.search(r"container (\d+)\.(\d+)", row.text("framework"))
    return (int(found.group(1)), int(found.group(2))) if found else (0, 0)
