"""Read in which numeric formats a published row computed and kept its states."""

from __future__ import annotations

import re

from carbon_plugin.calibrate.rows.fields import Fields
from carbon_plugin.errors import SpecError
from carbon_plugin.predict.rates.laws import peak_of, wide_precision
from carbon_plugin.spec.defaults import usual_precision
from carbon_plugin.spec.frameworks import Conventions
from carbon_plugin.spec.hardware.cluster import Cluster
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.models.model import TransformerModel
from carbon_plugin.spec.training import PRECISION_NAMES, Precision

PURE_BYTES, STATE_BYTES = 4, 12
"""Bytes per parameter of 16-bit values and gradients, and of Adam's fp32 states with the master weight."""


def precision_of(row: Fields, cluster: Cluster, conventions: Conventions, assumed: list[str]) -> Precision:
    """Return the precision of the row's products, or the usual one of its device, and append what was assumed.

    Raises `SpecError` for one that is unknown or that the device has no units for.
    """
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


def row_precision(text: str) -> Precision:
    """Return the precision with which a phrase such as "bf16 (amp, fp32 master)" or "fp8-mx" begins.

    Raises `SpecError` for an unknown one.
    """
    words = text.lower()
    if words.startswith("fp8-mx"):
        return "mxfp8"
    if compute := re.match(r"nf4 base, (\w+) compute", words):  # QLoRA: weights in 4 bit, products in 16
        words = compute.group(1)
    known = PRECISION_NAMES.get(re.split(r"[\s/,(_-]", words, maxsplit=1)[0])
    if known is None:
        raise SpecError(f"precision {text!r} is not one that the model knows")
    return known


def is_pure(row: Fields, model: TransformerModel, layout: ParallelLayout, cluster: Cluster, assumed: list[str]) -> bool:
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
