"""Name the matrices of a layer that have low-rank adapters, and give the rule where a spec does not state them."""

from __future__ import annotations

from typing import Literal

Adapters = Literal["all_matrices", "attention", "query_key_value", "query_value", "none"]
"""The matrices of every layer that have an adapter.

`attention` stands for the projections to queries, keys, values and output, `query_key_value` for the first three of
them and `query_value` for those to queries and values, which PEFT takes for most models where a user names none
(`TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING` of its utils/constants.py). `none` says that the trained share
consists of the model's own weights, such as some of its layers.
"""
ADAPTER_FRACTION = 0.1
"""A model with a smaller trained share than this is taken to have adapters on all matrices where nothing is stated.

It is a convention. Adapters of rank 64 on all matrices are 2 % of an 8B model (rank * (inputs + outputs) a matrix, Hu
et al. 2021, arXiv 2106.09685), and a trained tenth of the weights themselves is three of its 32 layers.
"""


def usual_adapters(trainable_fraction: float) -> Adapters:
    """Return the adapters that a model with this trained share is taken to have where they are not stated."""
    return "all_matrices" if trainable_fraction < ADAPTER_FRACTION else "none"


def why_usual(trainable_fraction: float) -> str:
    """Return the reason for the result of `usual_adapters`, as a phrase for the list of assumptions."""
    if trainable_fraction < ADAPTER_FRACTION:
        return (
            f"trainable_fraction {trainable_fraction:g} is below {ADAPTER_FRACTION:g}, which is taken as low-rank "
            "adapters beside every matrix of a layer (convention; QLoRA, arXiv 2305.14314 section 4)"
        )
    return (
        f"trainable_fraction {trainable_fraction:g} is at least {ADAPTER_FRACTION:g}, which is taken as a part of the "
        "model's own weights without adapters; gradients still pass through all layers (convention)"
    )
