"""Describe the software stack that a published row ran, by its framework, release, recipe and notes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, cast, get_args

import msgspec

from carbon_plugin.calibrate.rows.conventions import (
    CURRENT,
    OWN_KERNELS,
    PYTORCH_BASED,
    XLA_DEVICE,
    release_of,
)
from carbon_plugin.calibrate.rows.experts import Recipe, experts_of
from carbon_plugin.calibrate.rows.fields import Fields
from carbon_plugin.calibrate.rows.routing import ONE_WORD
from carbon_plugin.calibrate.rows.stated_experts import StatedExperts
from carbon_plugin.errors import SpecError
from carbon_plugin.predict.rates.datasheet import TPU_LANES
from carbon_plugin.predict.rates.laws import XE, default_attention_kernel
from carbon_plugin.spec.frameworks import (
    AUTOMODEL,
    BRIDGE_FINE_TUNING,
    LEVANTER,
    MEGATRON_BRIDGE,
    MEGATRON_CORE,
    NEMO,
    TRANSFORMER_ENGINE,
    UNKNOWN,
    Conventions,
    framework_named,
)
from carbon_plugin.spec.hardware.cluster import Accelerator
from carbon_plugin.spec.models.model import TransformerModel
from carbon_plugin.spec.parsing.names import normalized
from carbon_plugin.spec.stack import AttentionKernel, CrossEntropy, ShardUnit, Stack

HOPPER_KERNELS_SINCE = (25, 1)
"""Containers from this release on have attention kernels of the third generation for Hopper (cuDNN 9, FlashAttention
3), and so has software that is `CURRENT`."""
CUDNN_FIRST = ("2025", "12")
"""From this month on PyTorch's nightly builds for CUDA 13 take cuDNN for attention on Hopper and Blackwell: they have
the order of backends of release 2.10 (`check_prefer_cudnn_attention` of its sdp_utils.cpp) and a cuDNN beyond 9.15."""
CUDNN_KEPT_SINCE = ("2025", "12")
"""From this month on torchtitan's policy of recompute keeps the result of cuDNN's attention (pull request 2095).
Before, cuDNN in place of FlashAttention on a B200 saved 1.8 of 46 GiB (pull request 1196)."""
HAND_KERNELS = re.compile(r"(?i)\bliger\b|\bunsloth\b|fms-acceleration fused")
"""Kernels for norms, rotary positions, gates and loss that users put in place of the modules of transformers
(linkedin/Liger-Kernel, unslothai/unsloth and those of foundation-model-stack/fms-acceleration). Their losses write the
gradient over the logits, and Liger's fused loss never holds them."""
CHUNKED_LOSS = "loss in chunks"
"""Words of a note for software that takes the head and an eager loss for some of the tokens at a time."""
HALF_LOSS = "loss over 16-bit logits"
"""Words of a note for code that hands a model's 16-bit logits to PyTorch's loss, which transformers' own loss and
autocast widen to fp32."""
FUSED_LOSS = re.compile(r"fused loss|[Ll]iger loss")
GRUG = "Grug"
"""Levanter's models of this name take the head and the loss in blocks, and never hold the logits
(`fused_linear_softmax_cross_entropy_loss` of levanter/grug/loss.py)."""
NATIVE_LOSS = re.compile(r"(?i)\bnative (fused )?cross[- ]entropy|\bcross[-_]entropy[-_]fusion[-_]impl\W+native")
"""Words for Megatron's own fused loss, in place of Transformer Engine's (`--cross-entropy-fusion-impl`)."""
WEIGHT_PRODUCTS = re.compile(r"(?i)\bminimal(?P<core>_flash|_with_context)?\b|\b(checkpoint_)?dots(_saveable)?\b")
"""Policies of JAX that keep the result of every product with weights: `checkpoint_dots_with_no_batch_dims`, which is
MaxText's "minimal", and with the core's output its "minimal_flash" (`get_remat_policy` of its layers/decoders.py)."""
KEPT_PROJECTIONS = re.compile(r"(?i)\bq, ?k,? (and )?v\b|\bsave_qkv_proj\b")
"""Words for a policy that keeps Q, K and V, in the device or on the host, and repeats the other products. The name is
that of MaxText's (`get_remat_policy` of its layers/decoders.py)."""
GRAPH_TRAINER = "GraphTrainer"
"""torchtitan's trainer that traces the whole step: its policy keeps the result of every product in the list, and not of
every second one (`_make_default_memory_policy` of its experiments/graph_trainer/memory_policy.py)."""
LOSS_IN_CHUNKS_SINCE = ("2026", "05")
"""torchtitan's recipes take head and loss in eight chunks since this month (`ChunkedCELoss` of pull request 2937, later
`ChunkedLossWrapper`)."""
LOSS_COMPILED_SINCE = ("2025", "04")
"""torchtitan compiles the loss with the model since this month (pull request 1033)."""
LOSS_NOT_COMPILED = re.compile(r"(?i)torchtitan 0\.0\.")
"""Releases of torchtitan that compile the layers and not the loss (before pull request 1033)."""
BEFORE_FLASH = re.compile(r"megatron-deepspeed.*\b202[0-2]\b|megatron-lm.*\b2023\b")
"""Megatron-DeepSpeed took FlashAttention in 2023, and Megatron-LM's default took it in 2024. Before, the softmax is
fused and the scores go through memory."""
BEFORE_ANY_FLASH = re.compile(r"(?i)^(?!.*mlperf).*\b20(1\d|2[01])\b")
"""Software of a year before FlashAttention (arXiv 2205.14135, May 2022), whose scores go through memory whatever runs
it. NVIDIA's submissions to MLPerf had a fused kernel for BERT then."""
WIDE_HEADS_SINCE = (25, 7)
"""Containers from this release on have cuDNN 9.11 (from memory), the first whose backward pass on Blackwell takes the
heads of latent attention (192 wide, with values of 128). Before, Transformer Engine has no fused kernel for them there,
where on Hopper it has one since cuDNN 9.5 (`nvte_get_fused_attn_backend` of its common/fused_attn/fused_attn.cpp)."""
WIDEST_USUAL_HEAD = 128
ENGINE_BASED = (MEGATRON_CORE, MEGATRON_BRIDGE, BRIDGE_FINE_TUNING, NEMO, TRANSFORMER_ENGINE, AUTOMODEL)
"""Frameworks whose attention is that of Transformer Engine."""
XLA_ATTENTION = re.compile(r"(?i)paxml(?!.*transformer engine)|axlearn.*\b202[0-4]\b")
"""Paxml has no fused kernel of its own: its attention is what XLA compiles, with the scores in memory
(praxis/layers/attentions.py, `DotProductAttention`). Transformer Engine brings cuDNN's. AXLearn's models had XLA's
attention too unless a configuration ends in "-flash" (`flash_attention` of its experiments/text/gpt/fuji.py of 2024);
those of 2025 recompute around a flash kernel."""
WHOLE_COPIES = re.compile(r"(?i)(none|ddp)\b")
"""Start of a `sharding` that splits nothing, for which software that shards by hooks hooks nothing (DeepSpeed without a
stage of ZeRO; on one device ZeRO-3 has its hooks all the same)."""
OWN_SOFTMAX = re.compile(r"(?i)\bfused kernels|\bown cuda kernels")
"""Words of software whose softmax is one kernel, as its norms are."""
ALIKE = re.compile(rf"{ONE_WORD}|every token is the same")
"""Words of a note for a batch whose tokens are all alike."""
APEX = re.compile(r"(?i)\bapex\b|DeepLearningExamples")
"""Software whose mixed precision and optimizers are apex's: the model is 16 bit (O2), and one kernel updates the states
(`amp.initialize`, `FusedLAMB` and `FusedAdam` of NVIDIA/DeepLearningExamples PyTorch/LanguageModeling/BERT)."""
FUSED_OPTIMIZER = re.compile(r"(?i)(?<!not )\bfused (adamw?|optimizer)\b|optimizer in one kernel")
NORMS_APART = re.compile(r"(?i)\bnorms (are )?not fused\b")
"""Words of a note for norms that run as single operations in software which else is read as having kernels of its
own."""
LIST_OPTIMIZER = re.compile(r"(?i)\boptimizer not fused\b")
"""Words of a note for an optimizer that updates in several operations over lists of parameters, in software whose usual
one is a single kernel."""
AUTOCAST = re.compile(r"(?i)\bamp\b|\bautocast\b")
NARROW_WEIGHTS = re.compile(r"\bO2\b")
"""The level of mixed precision at which the weights themselves are 16 bit and the optimizer keeps their masters, in
apex and in PaddlePaddle (`paddle.amp.decorate` at level O2); autocast is level O1."""
AUTOCAST_BY_DEFAULT = re.compile(r"PyTorch DDP \(nanoGPT")
"""A trainer whose 16-bit precision is autocast over 32-bit weights unless it says "true" (`ctx` of its train.py)."""
FLASH_ATTENTION = re.compile(r"(?i)(?:flash[-_ ]?(?:attention|attn)|fa)[-_ ]?v?([23])")
"""FlashAttention by its release, as transformers' `attn_implementation` and people write it."""
SDPA = ("sdpa", "scaled-dot-product-attention")
"""PyTorch's own attention, which takes the kernel that suits the device (`scaled_dot_product_attention`)."""
UNNUMBERED = ("xformers", "flash-attention", "flash-attn", "splash", "splash-attention")
"""FlashAttention of no stated release, and xformers, whose `memory_efficient_attention` takes FlashAttention before its
own CUTLASS kernel, which devices before Ampere get (`_dispatch_fw_priority_list` of ops/fmha/dispatch.py at 038444a;
FlashAttention 3 on Hopper is not taken here, because no row says that its build had it). JAX's splash attention is the
one of TPUs."""
SAME_KERNELS: Mapping[str, AttentionKernel] = MappingProxyType(
    {
        "fused": "cudnn",
        "cudnn-flash-te": "cudnn",
        "dot-product": "eager",
        "math": "eager",
        "mem-efficient": "flash",
        "memory-efficient": "flash",
        "efficient-attention": "flash",
    }
)
"""What Megatron (`--attention-backend`), MaxText (`attention`) and PyTorch (`SDPBackend`) call kernels of other names
here. Megatron's "fused" is cuDNN's through Transformer Engine (`AttnBackend` of its core/transformer/enums.py).
PyTorch's memory-efficient kernel is as fast on an A100 as FlashAttention 1 (`ATTENTION_SHARE`)."""
OF_THE_MAKER = re.compile(r"(?i)\bmlperf\b|\bprimus\b|\bneuron\b|\bhabana\b")
"""Software that makers of devices wrote for their own, and submissions to a benchmark, which are tuned for their
hardware whatever the name of the software. What XLA compiles counts as tuned for every device, because its kernels are
the compiler's."""
REDUCE_DTYPES = {
    "bf16": "bf16",
    "bfloat16": "bf16",
    "fp16": "bf16",
    "float16": "bf16",
    "fp32": "fp32",
    "float32": "fp32",
}
"""Types in which gradients are reduced, as rows write them: what counts is how wide they are."""
CUDA_KERNELS = frozenset(("nvidia", "amd"))
"""Makers of devices on which Megatron's and apex's fused kernels compile, which are CUDA code. On others its relatives
run plain modules and switch fusions off (`--no-bias-gelu-fusion` and others of ALCF/helpers.sh in
argonne-lcf/Megatron-DeepSpeed)."""


FSDP_FORM = re.compile(r"FSDP([12])\b")
FSDP_FORMS: Mapping[str, ShardUnit] = MappingProxyType({"1": "flat", "2": "layer"})
"""The two forms of PyTorch's FSDP by their number, and what each gathers at a time (`Stack.shard_unit`)."""
FULLY_SHARD_SINCE = 2025
"""The year from which on PyTorch's FSDP is its second form, unless somebody says otherwise: `fully_shard` is public
since release 2.6 of January 2025, and its makers call the first form deprecated."""
YEAR = re.compile(r"(?<![\w.])(20[12]\d)(?![\w.])")
ARXIV = re.compile(r"arXiv (\d\d)\d\d\.")


def stack_of(
    conventions: Conventions,
    row: Fields,
    experts: StatedExperts,
    recipe: Recipe | None,
    device: Accelerator,
    model: TransformerModel,
    stage: int,
    assumed: list[str],
) -> Stack:
    """Return the framework's stack as the row's release and recipe have it, and append what was assumed to `assumed`.

    The model says which heads the attention kernel has to take, and the stage of ZeRO whether parameters are sharded.
    Raises `SpecError` naming an odd field.
    """
    changes = _kernels(conventions, row, device, model) | experts_of(conventions, row, experts, device, model)
    changes |= _sharded(conventions, row, stage, assumed)
    if ALIKE.search(row.text("notes")):
        changes["uniform_tokens"] = True
    changes |= _reduced(row)
    changes |= _modules(conventions, row, device)
    if "CUDA_LAUNCH_BLOCKING=1" in row.text("notes"):
        changes["launch_blocking"] = True
    changes |= _mixed_precision(conventions, row)
    changes |= _wrapped(conventions, row, device)
    if "rowwise" in row.text("precision"):
        changes["fp8_recipe"] = "rowwise"
    changes |= _kept_by_policy(conventions, row, device, model)
    if conventions.xla:
        changes |= _pipelined(row)
    if OF_THE_MAKER.search(row.text("framework")):
        changes["tuned_for"] = None
    if recipe is not None:
        changes |= recipe.stack
    return msgspec.structs.replace(conventions.stack, **changes)


def _wrapped(conventions: Conventions, row: Fields, device: Accelerator) -> dict[str, Any]:
    """Return whether weights that tensor parallelism splits are DTensors, where it is not as in the row's stack."""
    if "DTensor" in row.text("notes"):
        return {"wraps_weights": "eager"}
    by_stack = conventions.stack.wraps_weights
    return {"wraps_weights": "eager"} if by_stack == "always" and _compiled(row, device) else {}


def _modules(conventions: Conventions, row: Fields, device: Accelerator) -> dict[str, Any]:
    """Return whether norms and gates are single operations, where the row, its software or its device says so."""
    if "plain_modules" in conventions.fields:
        return {}
    if NORMS_APART.search(row.text("notes")):
        return {"plain_modules": True}
    if _has_kernels(conventions, row):
        return {"plain_modules": False}
    if conventions.reentrant and device.vendor not in CUDA_KERNELS:
        return {"plain_modules": True}
    return {}


def _reduced(row: Fields) -> dict[str, Any]:
    """Return the type in which the row says that gradients are reduced. Raises `SpecError` for an unknown one."""
    said = row.text("reduce_dtype").lower() or ("bf16" if "PURE" in row.text("sharding") else "")
    if said and said not in REDUCE_DTYPES:
        raise SpecError(f"reduce_dtype is {said!r}, expected one of {', '.join(REDUCE_DTYPES)}")
    return {"grad_reduce_dtype": REDUCE_DTYPES[said]} if said else {}


def _kept_by_policy(
    conventions: Conventions, row: Fields, device: Accelerator, model: TransformerModel
) -> dict[str, Any]:
    """Return what recompute of single operations keeps of a layer, where it is not as in the framework's stack."""
    # MaxText's policy "custom" keeps what it names, which may be the inputs of layers alone.
    if row.text("remat_policy") == "full" or row.text("activation_offload").startswith("layer inputs ("):
        return {"operators_keep": "inputs"}
    policy = f"{row.text('recompute')} {row.text('remat_policy')}"
    if conventions.xla and (named := WEIGHT_PRODUCTS.search(policy)):
        return {"operators_keep": "every_product" if named.group("core") else "every_product_alone"}
    if KEPT_PROJECTIONS.search(f"{policy} {row.text('activation_offload')}"):
        return {"operators_keep": "projections"}
    if conventions.name == "torchtitan" and GRAPH_TRAINER in row.text("notes"):
        return {"operators_keep": "every_product"}
    if _prefers_cudnn(conventions, device, model) and _date_of(row) < CUDNN_KEPT_SINCE and not _of_today(row):
        return {"operators_keep": "products_alone"}
    return {}


def _prefers_cudnn(conventions: Conventions, device: Accelerator, model: TransformerModel) -> bool:
    """Return whether torchtitan takes cuDNN for attention: it puts it first among PyTorch's kernels from compute
    capability 10 on (models/attention.py), where cuDNN takes the heads, and those of latent attention are too wide (its
    pull request 1610).
    """
    blackwell = device.architecture.startswith("blackwell")
    return conventions.name == "torchtitan" and blackwell and model.mla is None


def _mixed_precision(conventions: Conventions, row: Fields) -> dict[str, Any]:
    """Return the fields of autocast and of the optimizer's kernels, where the row or its framework says them."""
    said = " ".join(row.text(name) for name in ("framework", "overlap", "notes"))
    if APEX.search(said):
        return {"autocast": False, "fused_optimizer": True}
    changes: dict[str, Any] = {}
    if FUSED_OPTIMIZER.search(said) or not (_is_pytorch(conventions, row) or LIST_OPTIMIZER.search(said)):
        changes["fused_optimizer"] = True
    elif LIST_OPTIMIZER.search(said):
        changes["fused_optimizer"] = False
    if AUTOCAST.search(row.text("precision")) or AUTOCAST_BY_DEFAULT.match(row.text("framework")):
        changes["autocast"] = True
    if "true" in row.text("precision") or NARROW_WEIGHTS.search(row.text("precision")):
        changes["autocast"] = False
    return changes


def _sharded(conventions: Conventions, row: Fields, stage: int, assumed: list[str]) -> dict[str, Any]:
    """Return the fields that follow from how the row shards parameters, and append what was assumed to `assumed`.

    A form of FSDP that is named is that one. Else it is the framework's, and PyTorch's of the row's date, which is that
    of a plan where the row has none.
    """
    sharding, framework = row.text("sharding"), row.text("framework")
    changes: dict[str, Any] = {"shard_host_ops": 0.0} if WHOLE_COPIES.match(sharding) else {}
    form = FSDP_FORM.search(f"{framework} {sharding}")
    by_fsdp = conventions.stack.shard_unit in (None, "layer", "flat") and not conventions.stack.gradient_buffers
    if not by_fsdp:
        return changes
    if form is not None:
        return changes | {"shard_unit": FSDP_FORMS[form[1]]}
    if conventions.stack.shard_unit is not None:
        return changes
    year = _year_of(row)
    if XLA_DEVICE.search(framework):
        why = "XLA's has no second"
    elif year is not None and year < FULLY_SHARD_SINCE:
        why = f"PyTorch of {year}"
    else:
        return changes
    if stage == 3:
        assumed.append(f"FSDP's first form: {why}")
    return changes | {"shard_unit": "flat"}


def _pipelined(row: Fields) -> dict[str, Any]:
    """Return whether XLA pipelines the collectives of the step, where the row says so."""
    said = f"{row.text('overlap')} {row.text('notes')}"
    if "pipelined collectives" not in said:
        return {}
    return {"gathers_ahead": "no pipelined collectives" not in said}


def _is_pytorch(conventions: Conventions, row: Fields) -> bool:
    """Return whether modules and optimizer may be PyTorch's own: its software is known here, or is named after it."""
    return conventions.name != UNKNOWN.name or PYTORCH_BASED.search(row.text("framework")) is not None


def _has_kernels(conventions: Conventions, row: Fields) -> bool:
    """Return whether norms and gates are kernels of their own: the row says so, or its software is not PyTorch's."""
    if not _is_pytorch(conventions, row):
        return True
    said = f"{row.text('framework')} {row.text('overlap')} {row.text('notes')}"
    return OWN_KERNELS.search(said) is not None


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
    if _prefers_cudnn(conventions, device, model):
        changes["attention_kernel"] = "cudnn"
    if XLA_ATTENTION.match(framework):
        changes["attention_kernel"] = "eager"
    elif framework.startswith("Paxml"):
        changes["attention_kernel"] = "cudnn"
    # Its attention on TPUs is jax's splash attention, which took in 2025 only heads of whole lanes (jax issue 30861).
    # For others it falls back to blocks of plain JAX over the full square, which XLA compiles
    # (`_try_tpu_splash_attention` and `flash_attention` of its layers/attention.py at 98f257a).
    not_splash = conventions == LEVANTER and device.kind == "tpu" and model.head_dim % TPU_LANES
    # Megatron's relatives have kernels of their own on Intel's GPUs, and a fused softmax before FlashAttention.
    without = device.architecture.startswith(XE) or BEFORE_ANY_FLASH.match(framework)
    if not_splash or (without and not conventions.reentrant):
        changes["attention_kernel"] = "eager"
    if BEFORE_FLASH.match(framework.lower()) or _has_no_kernel_for_heads(conventions, framework, device, model):
        changes["attention_kernel"] = "unfused"
    if row.states("attention_kernel") and not (conventions.name == "torchtitan" and _says_sdpa(row)):
        said = _attention_kernel(row, device)
        # Megatron and its relatives have a fused softmax, and so has software with kernels of its own; elsewhere plain
        # attention is a chain of single operations.
        one_kernel = conventions.reentrant or OWN_SOFTMAX.search(f"{framework} {row.text('notes')}")
        changes["attention_kernel"] = "eager" if said == "unfused" and not one_kernel else said
    compiled = _compiled(row, device)
    if compiled:
        changes["fused"] = True
    words = f"{row.text('overlap')} {row.text('notes')}"
    if HAND_KERNELS.search(f"{framework} {words}"):
        changes |= {"fused": True, "cross_entropy": "chunked" if FUSED_LOSS.search(words) else "in_place"}
    elif conventions.stack.gradient_buffers and NATIVE_LOSS.search(words):
        changes["cross_entropy"] = "vocab_parallel_graphs"
    elif (loss := _loss_of(conventions, row, compiled=compiled)) is not None:
        changes["cross_entropy"] = loss
    return changes


def _compiled(row: Fields, device: Accelerator) -> bool:
    return "compile" in row.text("overlap") or "torch.compile" in row.text("framework") or device.compiles_graphs


def _has_no_kernel_for_heads(
    conventions: Conventions, framework: str, device: Accelerator, model: TransformerModel
) -> bool:
    """Return whether Transformer Engine of the release that the framework names cannot fuse heads of this width."""
    wide = model.qk_head_dim > WIDEST_USUAL_HEAD and device.architecture.startswith("blackwell")
    return wide and conventions in ENGINE_BASED and (0, 0) < release_of(framework) < WIDE_HEADS_SINCE


def _stated_kernel(row: Fields) -> str:
    """Return the attention kernel that the row names, without a remark in brackets behind it."""
    return re.sub(r"\s*\(.*\)$", "", row.text("attention_kernel").strip())


def _says_sdpa(row: Fields) -> bool:
    """Return whether the row leaves the choice of a kernel to PyTorch, as torchtitan does in each of its releases."""
    return normalized(_stated_kernel(row)) in SDPA


def _attention_kernel(row: Fields, device: Accelerator) -> AttentionKernel | None:
    """Return the kernel class that the row states, None where PyTorch chooses one for the device.

    Raises `SpecError` naming the field for an unknown one.
    """
    if _says_sdpa(row):
        return None
    said = _stated_kernel(row)
    if normalized(said) in UNNUMBERED:
        return "flash" if device.kind == "tpu" or default_attention_kernel(device) == "flash" else "flash2"
    said = SAME_KERNELS.get(normalized(said), said)
    numbered = FLASH_ATTENTION.fullmatch(said)
    kernel = f"flash{numbered[1]}" if numbered else said
    for known in get_args(AttentionKernel):
        if kernel == known:
            return cast("AttentionKernel", known)
    known = (*get_args(AttentionKernel), SDPA[0], *UNNUMBERED)
    raise SpecError(f"attention_kernel is {said!r}, expected one of {', '.join(known)}")


def _loss_of(conventions: Conventions, row: Fields, *, compiled: bool) -> CrossEntropy | None:
    """Return how the row's release computes the loss, or None where it is as in its framework's stack."""
    overlap, framework = row.text("overlap"), row.text("framework")
    taken_whole = "whole cross entropy" in overlap
    torchtitan = conventions.name == "torchtitan"
    if HALF_LOSS in row.text("notes"):
        return "half"
    if conventions == LEVANTER and GRUG in framework:
        return "chunked"
    in_chunks = CHUNKED_LOSS in row.text("notes") and conventions.stack.cross_entropy == "eager"
    if in_chunks or (torchtitan and _date_of(row) >= LOSS_IN_CHUNKS_SINCE and not taken_whole):
        return "chunked_head"
    if "chunked cross entropy" in overlap or conventions.stack.cross_entropy == "chunked_output":
        # torchtune's decoder returns whole logits in fp32, before anything that is compiled
        return "eager" if taken_whole else "chunked_output"
    whole = "torch.compile" in framework and not LOSS_NOT_COMPILED.match(framework)
    # Over tensor-parallel ranks the loss is a chain of collectives, and its memory is that of an eager one.
    alone = (row.optional_count("tp") or 1) == 1
    in_release = compiled and alone and _date_of(row) >= LOSS_COMPILED_SINCE
    if torchtitan and not (whole or in_release or _of_today(row)):
        return "eager"
    return "compiled" if conventions.stack.cross_entropy == "eager" and compiled else None


def _of_today(row: Fields) -> bool:
    """Return whether the row names software and no release or date, so that it is that of a spec's `stack`."""
    return framework_named(row.text("framework")) is not None and not _date_of(row)


def _date_of(row: Fields) -> tuple[str, ...]:
    """Return year and month of a release that the framework or the source of the row names, or nothing."""
    dates = (
        re.search(r"(?<![0-9a-f])(20\d\d)-?(0[1-9]|1[0-2])(?!\d)", row.text(name)) for name in ("framework", "source")
    )
    return next((date.groups() for date in dates if date is not None), ())


def _year_of(row: Fields) -> int | None:
    """Return the year that the framework or the source of the row names, or None."""
    for name in ("framework", "source"):
        if (found := YEAR.search(row.text(name))) is not None:
            return int(found[1])
    paper = ARXIV.search(row.text("source"))
    return None if paper is None else 2000 + int(paper[1])
