"""Describe the software stack that a published row ran, by its framework, release, recipe and notes."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from carbon_plugin.calibrate.rows.fields import Fields
from carbon_plugin.calibrate.rows.routing import ONE_WORD
from carbon_plugin.calibrate.rows.software.attention import attention_of, prefers_cudnn
from carbon_plugin.calibrate.rows.software.experts import Recipe, experts_of
from carbon_plugin.calibrate.rows.software.loss import loss_of
from carbon_plugin.calibrate.rows.software.modules import gate_of, mixed_precision, modules_of, reduced
from carbon_plugin.calibrate.rows.software.releases import date_of, of_today, release_of, year_of
from carbon_plugin.calibrate.rows.software.stated_experts import StatedExperts
from carbon_plugin.calibrate.rows.software.weights import pipelined, sharded, wrapped
from carbon_plugin.spec.frameworks import Conventions
from carbon_plugin.spec.hardware.cluster import Accelerator
from carbon_plugin.spec.models.model import TransformerModel
from carbon_plugin.spec.stack import Stack

CUDNN_KEPT_SINCE = ("2025", "12")
"""From this month on torchtitan's policy of recompute keeps the result of cuDNN's attention (pull request 2095).
Before, cuDNN in place of FlashAttention on a B200 saved 1.8 of 46 GiB (pull request 1196)."""
PLACEHOLDERS_SINCE = (2025, 5)
"""From this month on Transformer Engine keeps the empty gradients that stand for those in buffers (its pull request
1651 of April 2025). Before, it made one for each weight and let it go (pull request 507)."""
EXCHANGE_KEPT_SINCE = ("2025", "09")
EXCHANGE_KEPT_BY_ALL_SINCE = ("2026", "03")
"""From these months on torchtitan's policy of recompute keeps what the all-to-all of experts returns (pull request
1672), and so does that of Qwen 3, which had a list without it (pull request 2357 of February 2026)."""
EXCHANGE_REPEATED = re.compile(r"(?i)\bqwen")
"""Models whose own list of operations had no exchange (`_op_sac_save_list` of models/qwen3/infra/parallelize.py at
057fedd; that of models/deepseek_v3/infra/parallelize.py at 018740b has it)."""
WEIGHT_PRODUCTS = re.compile(r"(?i)\bminimal(?P<core>_flash|_with_context)?\b|\b(checkpoint_)?dots(_saveable)?\b")
"""Policies of JAX that keep the result of every product with weights: `checkpoint_dots_with_no_batch_dims`, which is
MaxText's "minimal", and with the core's output its "minimal_flash" (`get_remat_policy` of its layers/decoders.py)."""
KEPT_PROJECTIONS = re.compile(r"(?i)\bq, ?k,? (and )?v\b|\bsave_qkv_proj\b")
"""Words for a policy that keeps Q, K and V, in the device or on the host, and repeats the other products. The name is
that of MaxText's (`get_remat_policy` of its layers/decoders.py)."""
GRAPH_TRAINER = "GraphTrainer"
"""torchtitan's trainer that traces the whole step: its policy keeps the result of every product in the list, and not of
every second one (`_make_default_memory_policy` of its experiments/graph_trainer/memory_policy.py)."""
ALIKE = re.compile(rf"{ONE_WORD}|every token is the same")
"""Words of a note for a batch whose tokens are all alike."""
OF_THE_MAKER = re.compile(r"(?i)\bmlperf\b|\bprimus\b|\bneuron\b|\bhabana\b")
"""Software that makers of devices wrote for their own, and submissions to a benchmark, which are tuned for their
hardware whatever the name of the software. What XLA compiles counts as tuned for every device, because its kernels are
the compiler's."""


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
    changes = attention_of(conventions, row, device, model) | loss_of(conventions, row, device)
    changes |= experts_of(conventions, row, experts, device, model)
    changes |= sharded(conventions, row, stage, assumed)
    if ALIKE.search(row.text("notes")):
        changes["uniform_tokens"] = True
    changes |= reduced(row)
    changes |= modules_of(conventions, row, device) | gate_of(conventions, model)
    if "CUDA_LAUNCH_BLOCKING=1" in row.text("notes"):
        changes["launch_blocking"] = True
    changes |= mixed_precision(conventions, row)
    changes |= wrapped(conventions, row, device)
    if "rowwise" in row.text("precision"):
        changes["fp8_recipe"] = "rowwise"
    changes |= _kept_by_policy(conventions, row, device, model)
    if conventions.stack.gradient_placeholders:
        changes["gradient_placeholders"] = _keeps_placeholders(row)
    if conventions.name == "torchtitan" and not of_today(row):
        changes["keeps_exchange"] = _keeps_exchange(row, model)
    if conventions.xla:
        changes |= pipelined(row)
    if OF_THE_MAKER.search(row.text("framework")):
        changes["tuned_for"] = None
    if recipe is not None:
        changes |= recipe.stack
    return msgspec.structs.replace(conventions.stack, **changes)


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
    if prefers_cudnn(conventions, device, model) and date_of(row) < CUDNN_KEPT_SINCE and not of_today(row):
        return {"operators_keep": "products_alone"}
    return {}


def _keeps_placeholders(row: Fields) -> bool:
    """Return whether Transformer Engine keeps empty gradients in the row's release. Without a date it is today's."""
    release, date = release_of(row.text("framework")), date_of(row)
    if release != (0, 0):
        return (2000 + release[0], release[1]) >= PLACEHOLDERS_SINCE
    if date:
        return tuple(int(part) for part in date) >= PLACEHOLDERS_SINCE
    return (year_of(row) or PLACEHOLDERS_SINCE[0]) >= PLACEHOLDERS_SINCE[0]


def _keeps_exchange(row: Fields, model: TransformerModel) -> bool:
    """Return whether torchtitan's policy of recompute keeps what experts receive and return.

    Until 2026 each model had a list of its own.
    """
    own_list = EXCHANGE_REPEATED.search(model.name) is not None
    return date_of(row) >= (EXCHANGE_KEPT_BY_ALL_SINCE if own_list else EXCHANGE_KEPT_SINCE)
