"""Read whether the chains of operations of a published row are fused, and how its software computes the loss."""

from __future__ import annotations

import re
from typing import Any

from carbon_plugin.calibrate.rows.fields import Fields
from carbon_plugin.calibrate.rows.software.releases import date_of, of_today
from carbon_plugin.spec.frameworks import LEVANTER, Conventions
from carbon_plugin.spec.hardware.cluster import Accelerator
from carbon_plugin.spec.stack import CrossEntropy

HAND_KERNELS = re.compile(r"(?i)\bliger\b(?! fused linear)|\bunsloth\b|fms-acceleration fused")
"""Kernels for norms, rotary positions, gates and loss that users put in place of the modules of transformers
(linkedin/Liger-Kernel, unslothai/unsloth and those of foundation-model-stack/fms-acceleration). Their losses write the
gradient over the logits, and Liger's fused loss never holds them."""
CHUNKED_LOSS = "loss in chunks"
"""Words of a note for software that takes the head and an eager loss for some of the tokens at a time."""
HALF_LOSS = "loss over 16-bit logits"
"""Words of a note for code that hands a model's 16-bit logits to PyTorch's loss, which transformers' own loss and
autocast widen to fp32."""
FUSED_LOSS = re.compile(r"fused loss|[Ll]iger loss")
FUSED_HEAD = re.compile(r"(?i)\bcut[- ]cross[- ]entropy|fused[-_ ]linear[-_ ]cross[-_ ]entropy")
"""Words for head and loss in kernels that never hold the logits, in front of modules that are as they were: Apple's cut
cross entropy and Liger's loss alone (plugins of Axolotl and options of transformers)."""
GRUG = "Grug"
"""Levanter's models of this name take the head and the loss in blocks, and never hold the logits
(`fused_linear_softmax_cross_entropy_loss` of levanter/grug/loss.py)."""
NATIVE_LOSS = re.compile(r"(?i)\bnative (fused )?cross[- ]entropy|\bcross[-_]entropy[-_]fusion[-_]impl\W+native")
"""Words for Megatron's own fused loss, in place of Transformer Engine's (`--cross-entropy-fusion-impl`)."""
LOSS_IN_CHUNKS_SINCE = ("2026", "05")
"""torchtitan's recipes take head and loss in eight chunks since this month (`ChunkedCELoss` of pull request 2937, later
`ChunkedLossWrapper`)."""
LOSS_COMPILED_SINCE = ("2025", "04")
"""torchtitan compiles the loss with the model since this month (pull request 1033)."""
LOSS_NOT_COMPILED = re.compile(r"(?i)torchtitan 0\.0\.")
"""Releases of torchtitan that compile the layers and not the loss (before pull request 1033)."""


def loss_of(conventions: Conventions, row: Fields, device: Accelerator) -> dict[str, Any]:
    """Return whether chains are fused and how the loss is computed, where it is not as in the framework's stack."""
    framework, compiled = row.text("framework"), is_compiled(row, device)
    changes: dict[str, Any] = {"fused": True} if compiled else {}
    words = f"{row.text('overlap')} {row.text('notes')}"
    if HAND_KERNELS.search(f"{framework} {words}"):
        changes |= {"fused": True, "cross_entropy": "chunked" if FUSED_LOSS.search(words) else "in_place"}
    elif FUSED_HEAD.search(words):
        changes["cross_entropy"] = "chunked"
    elif conventions.stack.gradient_buffers and NATIVE_LOSS.search(words):
        changes["cross_entropy"] = "vocab_parallel_graphs"
    elif (loss := _own_loss(conventions, row, compiled=compiled)) is not None:
        changes["cross_entropy"] = loss
    return changes


def _own_loss(conventions: Conventions, row: Fields, *, compiled: bool) -> CrossEntropy | None:
    """Return how the row's release computes the loss, or None where it is as in its framework's stack."""
    overlap, framework = row.text("overlap"), row.text("framework")
    taken_whole = "whole cross entropy" in overlap
    torchtitan = conventions.name == "torchtitan"
    if HALF_LOSS in row.text("notes"):
        return "half"
    if conventions == LEVANTER and GRUG in framework:
        return "chunked"
    in_chunks = CHUNKED_LOSS in row.text("notes") and conventions.stack.cross_entropy == "eager"
    if in_chunks or (torchtitan and date_of(row) >= LOSS_IN_CHUNKS_SINCE and not taken_whole):
        return "chunked_head"
    if "chunked cross entropy" in overlap or conventions.stack.cross_entropy == "chunked_output":
        # torchtune's decoder returns whole logits in fp32, before anything that is compiled
        return "eager" if taken_whole else "chunked_output"
    whole = "torch.compile" in framework and not LOSS_NOT_COMPILED.match(framework)
    # Over tensor-parallel ranks the loss is a chain of collectives, and its memory is that of an eager one.
    alone = (row.optional_count("tp") or 1) == 1
    in_release = compiled and alone and date_of(row) >= LOSS_COMPILED_SINCE
    if torchtitan and not (whole or in_release or of_today(row)):
        return "eager"
    return "compiled" if conventions.stack.cross_entropy == "eager" and compiled else None


def is_compiled(row: Fields, device: Accelerator) -> bool:
    """Return whether a compiler fuses the layers: the row says so, or its device takes nothing but whole graphs."""
    return "compile" in row.text("overlap") or "torch.compile" in row.text("framework") or device.compiles_graphs
