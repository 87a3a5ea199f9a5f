"""Turn a run's model, layout and training plan into the inputs of the step-time equations (`predict.case.inputs`).

Every field of `Shape`, `Layout` and `StepWork` is read or derived here from what the user's spec says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from carbon_plugin.predict.arrays import values
from carbon_plugin.predict.case.inputs import Layout, Shape, StepWork
from carbon_plugin.predict.case.kinds import index_numbers, kind_numbers, plain_kind
from carbon_plugin.spec.layout import DEGREES, ParallelLayout, Recompute, RecomputedModule
from carbon_plugin.spec.models.model import TransformerModel
from carbon_plugin.spec.stack import WHOLE_UNITS, CrossEntropy, KeptOperators, Stack, narrow_reduce_stage, shard_unit_of
from carbon_plugin.spec.training import Precision, StateDtype, TrainingPlan

AGAIN: dict[RecomputedModule, str] = {
    "core_attn": "recompute_selective",
    "layernorm": "again_norms",
    "moe_act": "again_act",
    "mla_up_proj": "again_latent",
    "mlp": "again_mlp",
    "moe": "again_moe",
    "shared_experts": "again_shared",
}
"""Flag of `Layout` for each part that selective recompute can name."""
ACTIVATION_BYTES = {"bf16": 2, "fp16": 2, "fp8": 2, "mxfp8": 2, "nvfp4": 2, "fp32": 4, "tf32": 4}


def shape_of(model: TransformerModel) -> Shape:
    """Return the dimensions of one model."""
    moe, mla = model.moe, model.mla
    numbers = {
        "layers": model.layers,
        "moe_layers": model.moe_layers,
        "first_dense": moe.first_dense_layers if moe else 0,
        "hidden": model.hidden,
        "heads": model.heads,
        "kv_heads": model.kv_heads,
        "qk_dim": model.qk_head_dim,
        "v_dim": model.v_head_dim,
        "ffn": model.ffn,
        "gated": model.gated,
        "vocab": model.vocab,
        "table_width": model.table_width,
        "outputs": model.vocab if model.outputs is None else model.outputs,
        "head_width": model.table_width if model.outputs is None else model.hidden,
        "tied": model.tied_embeddings and model.outputs is None,
        "positions": model.learned_positions,
        "dropout": model.dropout > 0,
        "window": model.sliding_window or np.inf,
        "windowed_share": _windowed_share(model),
        "mla": mla is not None,
        "qk_norm": model.qk_norm and mla is None,
        "q_rank": (mla.q_lora_rank or 0) if mla else 0,
        "kv_rank": mla.kv_lora_rank if mla else 0,
        "rope_dim": mla.qk_rope_head_dim if mla else 0,
        "experts": moe.experts if moe else 0,
        "top_k": moe.top_k if moe else 0,
        "group_share": moe.groups_per_token / moe.groups if moe else 1.0,
        "expert_ffn": moe.expert_ffn if moe else 0,
        "expert_hidden": model.hidden,
        "shared_ffn": moe.shared_ffn if moe else 0,
        "imbalance": moe.imbalance if moe else 1.0,
        "expert_bias": moe.bias if moe else False,
        "mtp": model.mtp_layers,
        "attention_params": model.attention_parameters,
        "trainable": model.trainable_fraction,
        "frozen_bits": model.frozen_bits,
        "adapted_query_value": model.adapted != "none",
        "adapted_key": model.adapted not in ("none", "query_value"),
        "adapted_output": model.adapted in ("all_matrices", "attention"),
        "adapted_ffn": model.adapted == "all_matrices",
        "adapter_dropout": model.adapted != "none" and model.adapter_dropout > 0,
        "bidirectional": not model.causal,
        "written_gelu": model.written_gelu and not model.gated,
        "beside": sum(part.parameters for part in model.parts if not part.layers),
        "beside_products": sum(part.products for part in model.parts if not part.of_input),
        "input_products": sum(part.products for part in model.parts if part.of_input),
        **plain_kind(),
        **index_numbers(mla.indexer if mla else None),
    }
    return _shape(numbers, tuple(_shape(numbers | own) for own in kind_numbers(model)))


def _shape(numbers: Mapping[str, float], kinds: tuple[Shape, ...] = ()) -> Shape:
    columns: dict[str, Any] = {name: values(number) for name, number in numbers.items()}
    return Shape(**columns, kinds=kinds)


def _windowed_share(model: TransformerModel) -> float:
    if model.sliding_window is None:
        return 0.0
    return 1.0 if model.sliding_window_layers is None else model.sliding_window_layers / model.layers


def layout_of(layout: ParallelLayout) -> Layout:
    """Return the degrees, flags and schedule of one layout."""
    numbers = {
        **{degree: getattr(layout, degree) for degree in DEGREES},
        "zero_stage": layout.zero_stage,
        "sequence_parallel": layout.sequence_parallel and layout.tp > 1,
        "ring": layout.context_parallel_kind == "ring",
        "zero_bubble": layout.pipeline_schedule == "zero_bubble",
        "dualpipe": layout.pipeline_schedule == "dualpipe",
        "gpipe": layout.pipeline_schedule == "gpipe",
        "virtual_stages": layout.virtual_stages,
        "pipeline_rounds": layout.pipeline_rounds,
        "micro_batch_size": layout.micro_batch_size,
        "recompute_operators": (layout.recompute == "operators") * layout.recompute_share,
        "recompute_full": (layout.recompute == "full") * layout.recompute_share,
        "reentrant": layout.recompute_reentrant,
        "async_tp": layout.async_tp,
        "balanced_stages": layout.balanced_stages,
        "expert_overlap": layout.expert_overlap or layout.pipeline_schedule == "dualpipe",
        **again_flags(layout.recompute, layout.recompute_modules),
    }
    return Layout(**{name: values(number) for name, number in numbers.items()})


def again_flags(recompute: Recompute, modules: Sequence[RecomputedModule]) -> dict[str, bool]:
    """Return the flags of `AGAIN`.

    Selective recompute that names no part repeats the attention core (Megatron's default).
    """
    named = (modules or ("core_attn",)) if recompute == "selective" else ()
    return {flag: module in named for module, flag in AGAIN.items()}


NARROW_BYTES: dict[Precision, float] = {"fp8": 1.0, "mxfp8": 33 / 32, "nvfp4": 9 / 16}
"""Bytes of a value including its share of the scales: 32 values share a byte in MXFP8, and 16 in NVFP4."""
OPTIMIZER_STATE_BYTES = {"adamw": 8.0, "adam": 8.0, "sgd": 4.0, "muon": 4.0, "adafactor": 1.0}
"""Bytes of fp32 state per element: two moments of Adam, one momentum, or Adafactor's factored second moment, which
needs almost none."""
STATE_BYTES: dict[StateDtype, float] = {"fp32": 4.0, "bf16": 2.0, "fp8": 1.0}


def optimizer_state_bytes(training: TrainingPlan) -> float:
    """Return the bytes of optimizer state per parameter, without the master weight."""
    return OPTIMIZER_STATE_BYTES[training.optimizer] * STATE_BYTES[training.optimizer_state_dtype] / 4


LOGIT_BYTES: dict[CrossEntropy, tuple[float, float]] = {
    "eager": (14.0, 16.0),
    "compiled": (6.0, 6.0),
    "fused": (6.0, 6.0),
    "vocab_parallel": (6.0, 6.0),
    "vocab_parallel_graphs": (12.0, 12.0),
    "chunked": (0.25, 0.25),
    "chunked_head": (14.0 / 8, 16.0 / 8),
    "chunked_output": (2.25, 2.25),
    "in_place": (2.0, 2.0),
    "half": (8.0, 8.0),
    "narrow_kernel": (4.0, 4.0),
}
"""Bytes per logit at the peak, first whole and then split over tensor-parallel ranks.

They consist of the 16-bit value, its gradient, and what the loss keeps in fp32 (copy, softmax, gradient). A loss in
chunks of the head holds as many elements as the hidden states (Liger's rule for `chunk_size`), a sixteenth of the
logits or less, at 4 bytes each. Eight chunks of the head whose loss is PyTorch's hold an eighth of what an eager loss
does (torchtitan's `ChunkedLossWrapper`). A chunked output holds all logits in 16 bit, and the gradient of one of eight
chunks (torchtune's `CEWithChunkedOutputLoss`, whose chunks are compiled). An eager loss over whole logits holds three
fp32 values (`EAGER_VALUES`) beside the logits, which the outputs of a model keep; this also fits the memory that
torchtitan reported in 2024. Over 16-bit logits ("half") the three are 16-bit values. A kernel that reads 16-bit logits
keeps them and writes their gradient beside them (apex's and flash-attention's, which llm-foundry takes unless told
otherwise: `loss_fn` of its models). A loss on DTensors holds four fp32 values in its backward pass: the logarithm of
the softmax, a gradient of zeros, and two steps of their sum (`torch.distributed.tensor.parallel.loss`); torchtitan,
which has it, lets its logits go before. Megatron's loss in graphs holds at its peak the 16-bit logit and its gradient,
the softmax, and the copy into which the compiler writes what the code changes in place. One user's 1.7B and 8B on H100
needed 11 and 12 bytes more than a loss in place does.
"""
HEAD_GRADIENTS: dict[CrossEntropy, float] = {"chunked": 2.0, "chunked_head": 2.0, "chunked_output": 2.0}
"""Gradients of the head that exist at the peak of a loss in chunks: the sum over chunks and that of the last chunk."""
ENTROPY_BYTES: dict[CrossEntropy, float] = {
    "in_place": 8.0,
    "compiled": 14.0,
    "chunked_output": 14.0,
    "vocab_parallel": 52.0,
    "vocab_parallel_graphs": 48.0,
}
"""Bytes per logit that the loss moves, forward and backward together, for the losses where this is known.

A loss in place reads the logit twice and writes its gradient over it. A compiled loss writes the 16-bit logit, reads it
for maximum and sum and again for the gradient, then writes the gradient, which two products read. Megatron's loss over
tensor-parallel ranks is a chain of operations on an fp32 copy, on one rank too (its core/tensor_parallel/
cross_entropy.py): the copy (6), the maximum (4), a difference, an exponential and a quotient in place (8 each) and a
sum (4), and backward a product in place (8) and the cast of the gradient (6). In graphs of the compiler each change in
place beside a sum or a scatter writes a new copy and copies it back (the note of core/fusions/fused_cross_entropy.py at
0cb4a9c8, which ended it in 2026): copy and maximum (6), difference and exponential (16), quotient (8), and backward
the scatter and the product (16) and the cast (2). Other losses take 20 bytes where elementwise chains are fused and 40
(a round figure) where single operations run. Chains on an fp32 copy count alike for logits in fp32, although these
spare the two casts (12). The others move values of the width of the logits.
"""
SOFTMAX_BYTES: dict[Precision, tuple[float, float]] = {"fp16": (20.0, 20.0), "tf32": (24.0, 20.0), "fp32": (24.0, 20.0)}
SOFTMAX_BYTES_BF16 = (28.0, 28.0)
"""Bytes per score that scale, mask and softmax of plain PyTorch move, forward and backward.

Autocast runs the softmax in fp32. In bf16 these are scale and mask (4 each), a cast (6), the softmax (8) and a cast
(6), and backward a cast (6), the softmax (12), a cast (6) and the scale (4). The scale is an operation of its own
(`eager_attention_forward` of transformers, `CausalSelfAttention` of nanoGPT). In fp16 on GPUs the
softmax takes its input in 16 bit and gives its gradient in 16 bit, so that one cast is left each way (`softmax` of
PyTorch's native/SoftMax.cpp, where `half_to_float` is true). In fp32 nothing is cast.
"""
EAGER_VALUES = 3
"""fp32 values per logit beside the logit at the peak of an eager loss: the logarithm of the softmax, and the gradients
of the loss and of that logarithm. Under autocast in fp16 the last one is a 16-bit value: on GPUs the softmax takes
16-bit logits and gives their gradient (`half_to_float` of PyTorch's native/SoftMax.cpp), which it does not in bf16."""
FREED_LOGIT_BYTES = 3.0
"""Bytes per whole logit that single operations have freed before the peak and the allocator still holds. They count in
what it reserves where there is room, and not in what a step needs."""


def work_of(training: TrainingPlan, stack: Stack) -> StepWork:
    """Return the work and the numeric formats of one training plan under a software stack."""
    activation, unit = ACTIVATION_BYTES[training.precision], shard_unit_of(stack)
    narrow = NARROW_BYTES.get(training.precision, activation)
    split = LOGIT_BYTES[stack.cross_entropy][1]
    softmax = SOFTMAX_BYTES.get(training.precision, SOFTMAX_BYTES_BF16)
    # PyTorch's data parallelism reduces copies in 16 bit (`bf16_compress_hook`), and its gradients are as its weights.
    kept_wide = training.master_weights and (stack.grad_reduce_dtype != "bf16" or is_plain_pytorch(stack))
    kept = _kept_operators(training, stack)
    freed = FREED_LOGIT_BYTES if stack.cross_entropy == "eager" and not stack.fused else 0.0
    return StepWork(
        head_gradients=values(HEAD_GRADIENTS.get(stack.cross_entropy, 0.0)),
        input_len=values((training.input_len or 0) if training.inputs_per_sequence else 0),
        inputs=values(training.inputs_per_sequence),
        scored_share=values((training.scored_len or training.seq_len) / training.seq_len),
        seq_len=values(training.seq_len),
        batch=values(training.global_batch_size),
        activation_bytes=values(activation),
        dispatch_bytes=values(narrow if stack.narrow_dispatch else activation),
        kept_bytes=values(narrow if stack.narrow_kept else activation),
        input_bytes=values(narrow if stack.narrow_inputs else activation),
        parameter_bytes=values(activation),
        gradient_bytes=values(activation if stack.accumulates_beside else 4 if kept_wide else activation),
        reduce_bytes=values(4.0),
        narrow_reduce_stage=values(narrow_reduce_stage(stack, master_weights=training.master_weights)),
        entropy_bytes=values(_entropy_bytes(stack, activation)),
        softmax_forward_bytes=values(softmax[0]),
        softmax_backward_bytes=values(softmax[1]),
        logit_bytes=values(_whole_logit_bytes(training, stack)),
        freed_logit_bytes=values(freed),
        split_logit_bytes=values(split),
        optimizer_bytes=values(optimizer_state_bytes(training)),
        master=values(training.master_weights),
        gradients_kept=values(not training.optimizer_in_backward),
        muon=values(training.optimizer == "muon"),
        offload=values(training.optimizer_offload),
        eager=values(written_out(stack)),
        single_gate=values(written_out(stack) or stack.legacy_modules or stack.single_gate),
        copies_core=values(stack.legacy_modules),
        autocast=values(under_autocast(training, stack)),
        list_bytes=values(list_bytes(training, stack)),
        list_copy_bytes=values(list_bytes(training, stack) / LIST_PASSES),
        bucket_bytes=values((4 if kept_wide else activation) if is_plain_pytorch(stack) else 0.0),
        pads_vocabulary=values(stack.pads_vocabulary),
        offloaded=values(training.activation_offload),
        weighted=values(stack.weighted_experts),
        accumulated_bytes=values(4.0 if stack.accumulates_beside and training.precision == "bf16" else 0.0),
        widened_bytes=values(4.0 if stack.accumulates_beside and activation < 4 and training.master_weights else 0.0),
        gradient_buffers=values(stack.gradient_buffers),
        gradient_placeholders=values(stack.gradient_placeholders and not stack.legacy_modules),
        keeps_gathered=values(stack.keeps_gathered),
        adapters_in_products=values(stack.adapters_in_products),
        keeps_products=values(KEPT_PRODUCTS.get(kept, 0.0)),
        keeps_core=values(kept in KEPT_CORE),
        keeps_projections=values(kept == "projections"),
        keeps_exchange=values(stack.keeps_exchange),
        gathers_weights=values(unit == "weight"),
        gathers_buckets=values(unit == "bucket"),
        keeps_whole=values(unit in WHOLE_UNITS),
        copies_gathered=values(unit == "layer" and not stack.gradient_buffers),
        packs_gradients=values(unit in ("layer", "flat") and not stack.gradient_buffers),
    )


def _whole_logit_bytes(training: TrainingPlan, stack: Stack) -> float:
    """Return the bytes per logit at the peak of a loss over whole logits."""
    if stack.cross_entropy != "eager":
        return LOGIT_BYTES[stack.cross_entropy][0]
    activation, wide = ACTIVATION_BYTES[training.precision], ACTIVATION_BYTES["fp32"]
    narrow_gradient = training.precision == "fp16" and under_autocast(training, stack)
    return activation + EAGER_VALUES * wide - (wide - activation if narrow_gradient else 0)


def _entropy_bytes(stack: Stack, activation_bytes: float) -> float:
    """Return the bytes per logit that the loss moves, forward and backward together."""
    known = ENTROPY_BYTES.get(stack.cross_entropy)
    single = known is None and not stack.fused
    whole = known if known is not None else 40.0 if single else 20.0
    on_a_copy = single or stack.cross_entropy.startswith("vocab_parallel")
    return whole if on_a_copy else whole * activation_bytes / ACTIVATION_BYTES["bf16"]


KEPT_PRODUCTS: dict[KeptOperators, float] = {
    "products": 0.5,
    "products_alone": 0.5,
    "every_product": 1.0,
    "every_product_alone": 1.0,
}
"""Share of the products of a layer whose results a policy of recompute for single operations keeps."""
KEPT_CORE: tuple[KeptOperators, ...] = ("products", "every_product", "core")


def _kept_operators(training: TrainingPlan, stack: Stack) -> KeptOperators:
    """Return what recompute of single operations keeps of a layer.

    Lists of operations whose results are kept have `aten.mm` and `aten._scaled_mm` (PyTorch's
    `get_default_op_list`), and products in NVFP4 are neither, but `_scaled_mm_v2` (`nvfp4_mm_triton` of torchao's
    nvfp4_training), so that the backward pass repeats them.
    """
    lists_products = stack.operators_keep in KEPT_PRODUCTS
    return "core" if training.precision == "nvfp4" and lists_products else stack.operators_keep


def written_out(stack: Stack) -> bool:
    """Return whether norms and gates run as single operations.

    Where the stack does not state it, an eager loss is taken as the sign: Megatron and its relatives fuse norms and
    gates without a compiler, and they fuse their loss too.
    """
    if stack.plain_modules is not None:
        return stack.plain_modules
    return not stack.fused and stack.cross_entropy in ("eager", "chunked_head", "half")


def is_plain_pytorch(stack: Stack) -> bool:
    """Return whether modules, optimizer and mixed precision are PyTorch's own, and not those of a library."""
    return stack.population == "ordinary" and written_out(stack) and not stack.gradient_buffers


def under_autocast(training: TrainingPlan, stack: Stack) -> bool:
    """Return whether whole copies of a model keep 32-bit weights and run their products in 16 bit by autocast.

    A compiler fuses the casts and removes none of them. Where nobody says how fp16 is mixed, it is autocast in plain
    PyTorch alone.
    """
    wide = training.master_weights and training.precision in ("bf16", "fp16")
    if stack.autocast is None:
        return wide and training.precision == "fp16" and is_plain_pytorch(stack)
    return wide and stack.autocast and stack.population == "ordinary" and not stack.gradient_buffers


LIST_PASSES = 14
"""Times that an Adam step of PyTorch's list kernels (`foreach`, the default) reads or writes a value per parameter
beyond those of one fused kernel: 21 against 7 (`tests/predict/test_plain_pytorch.py` counts them)."""


def list_bytes(training: TrainingPlan, stack: Stack) -> float:
    """Return the bytes per parameter that list kernels move beyond an update in one pass."""
    fused = not is_plain_pytorch(stack) if stack.fused_optimizer is None else stack.fused_optimizer
    if fused or training.optimizer not in ("adam", "adamw"):
        return 0.0
    return LIST_PASSES * ACTIVATION_BYTES["fp32" if training.master_weights else training.precision]
