"""Find changes of a layout that does not fit in memory with which it would, by predicting each of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from carbon_plugin.errors import SpecError
from carbon_plugin.predict.step import predict_step
from carbon_plugin.spec.degrees import divisors
from carbon_plugin.spec.run import RunSpec

MOST_SHARDED = 3
"""The ZeRO stage that shards parameters too."""


def with_more_room(spec: RunSpec) -> list[str]:
    """Return the changes of which each alone makes the layout of `spec` fit, in words.

    Where none does, return the first of them that do so together, as one change; the list is empty where all of them
    together do not.
    """
    changes = list(_changes(spec))
    alone = [words for words, layout, training in changes if _fits(spec, layout, training)]
    if alone:
        return alone
    for count in range(2, len(changes) + 1):
        some = changes[:count]
        layout = {key: value for _, changed, _ in some for key, value in changed.items()}
        training = {key: value for _, _, changed in some for key, value in changed.items()}
        if _fits(spec, layout, training):
            return [" and ".join(words for words, _, _ in some)]
    return []


def _changes(spec: RunSpec) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Yield (words, changed fields of the layout, changed fields of the training) of every change that is tried."""
    layout = spec.layout
    assert layout is not None
    smaller = [size for size in divisors(layout.micro_batch_size) if size < layout.micro_batch_size]
    if smaller:  # the largest that fits, else the smallest
        fitting = (size for size in reversed(smaller) if _fits(spec, {"micro_batch_size": size}, {}))
        size = next(fitting, smaller[0])
        yield f"micro_batch_size {size}", {"micro_batch_size": size}, {}
    if layout.recompute != "full":
        yield "recompute full", {"recompute": "full", "recompute_modules": (), "recompute_share": 1.0}, {}
    if layout.dp_shard > 1 and layout.zero_stage < MOST_SHARDED and layout.pp == 1:
        yield f"zero_stage {MOST_SHARDED}", {"zero_stage": MOST_SHARDED}, {}
    if not spec.training.optimizer_offload:
        yield "training.optimizer_offload: true", {}, {"optimizer_offload": True}


def _fits(spec: RunSpec, layout: dict[str, Any], training: dict[str, Any]) -> bool:
    """Return whether a run with these changes can be and fits in memory."""
    assert spec.layout is not None
    try:
        changed = msgspec.structs.replace(
            spec,
            layout=msgspec.structs.replace(spec.layout, **layout),
            training=msgspec.structs.replace(spec.training, **training),
        )
        return predict_step(changed).memory.fits
    except SpecError:  # a rule of the layout, which is an error of the spec too, forbids the change
        return False
