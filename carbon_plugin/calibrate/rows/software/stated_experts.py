"""Read what a published row states of how its experts run, in fields of its own or in words of its notes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, TypeVar

from msgspec import Struct

from carbon_plugin.calibrate.rows.fields import Fields
from carbon_plugin.errors import SpecError
from carbon_plugin.spec.parsing.names import normalized

Routing = Literal["natural", "balanced_in_training", "forced", "in_turn"]
"""Which experts tokens go to: those that a router chooses, or one that a loss or biases balanced in training, those
that are drawn at random by force, or those whose turn it is."""
Dispatcher = Literal["all_to_all", "deepep", "hybridep"]
"""What carries tokens to experts: a plain exchange of every copy, or one that sends a token once to each rank and node
that has some of its experts (DeepEP; Megatron-core's `HybridEPBuffer`)."""
CudaGraphs = Literal["none", "scoped", "iteration", "other"]
"""What CUDA graphs hold: nothing, attention and router, the whole step, or what no equation here prices."""

DROPPED_CAPACITY = 1.0
"""Capacity factor of NVIDIA's recipes that drop tokens (`apply_moe_token_drop` of Megatron-Bridge, for what its tables
label "tokendrop", and `MegatronTokenDropCallback` of NeMo)."""
ROUTINGS: Mapping[str, Routing] = {
    "natural": "natural",
    "learned": "natural",
    "balanced": "forced",
    "forced": "forced",
    "force-balanced": "forced",
}
DISPATCHERS: Mapping[str, Dispatcher] = {
    "deepep": "deepep",
    "flex": "deepep",  # Megatron-core's, whose backend is DeepEP unless told otherwise (`moe_flex_dispatcher_backend`)
    "hybridep": "hybridep",
    "alltoall": "all_to_all",
    "all-to-all": "all_to_all",
}
CUDA_GRAPHS: Mapping[str, CudaGraphs] = {
    "none": "none",
    "no": "none",
    "scoped": "scoped",
    "iteration": "iteration",
    "full-iteration": "iteration",
}
ROUTING_NOTES: tuple[tuple[str, Routing], ...] = (
    (r"balanced by (an auxiliary loss|biases)", "balanced_in_training"),
    (r"natural routing", "natural"),
    (r"balanced by force,? in turn", "in_turn"),
    (r"balanced by force", "forced"),
)
DISPATCHER_NOTES: tuple[tuple[str, Dispatcher], ...] = (
    (r"HybridEP", "hybridep"),
    (r"DeepEP", "deepep"),
    (r"plain all-to-all", "all_to_all"),
)
CUDA_GRAPHS_NOTES: tuple[tuple[str, CudaGraphs], ...] = (
    (r"full-iteration CUDA graphs", "iteration"),
    (r"CUDA graphs of (attention and )?router", "scoped"),
    (r"[Nn]o CUDA graphs", "none"),
    (r"CUDA graphs", "other"),
)
CAPACITY_NOTE = re.compile(r"capacity factor (?:of )?(\d+(?:\.\d+)?)|\(tokendrop\)")
"""Words of notes for tokens that are dropped beyond a capacity, or NVIDIA's label for its recipes that do so."""

Kind = TypeVar("Kind", Routing, Dispatcher, CudaGraphs)


class StatedExperts(Struct, frozen=True, kw_only=True):
    """Holds what a row states of how its experts run. None is what it leaves open.

    Experts take at most `capacity_factor` times their mean share of tokens; `padded` says that they are filled up to
    it. `dropless` says in so many words that no token is dropped.
    """

    routing: Routing | None
    dispatcher: Dispatcher | None
    cuda_graphs: CudaGraphs | None
    capacity_factor: float | None
    padded: bool
    dropless: bool


def stated_experts(row: Fields) -> StatedExperts:
    """Return what the row states. A field of its own goes before what `notes` say, which may speak of other runs too.

    Raises `SpecError` naming the field for a value that nothing here knows.
    """
    notes = row.text("notes")
    padded = row.flag("pad_to_capacity")
    return StatedExperts(
        routing=_word(row, "routing", ROUTINGS) or _noted(notes, ROUTING_NOTES),
        dispatcher=_word(row, "dispatcher", DISPATCHERS) or _noted(notes, DISPATCHER_NOTES),
        cuda_graphs=_word(row, "cuda_graphs", CUDA_GRAPHS) or _noted(notes, CUDA_GRAPHS_NOTES),
        capacity_factor=row.number("capacity_factor") if row.states("capacity_factor") else _noted_capacity(notes),
        padded="not padded" not in notes if padded is None else padded,
        dropless="dropless" in notes,
    )


def _word(row: Fields, name: str, known: Mapping[str, Kind]) -> Kind | None:
    if not row.states(name):
        return None
    said = row.text(name)
    if normalized(said) not in known:
        raise SpecError(f"{name} is {said!r}, expected one of {', '.join(known)}")
    return known[normalized(said)]


def _noted(notes: str, patterns: tuple[tuple[str, Kind], ...]) -> Kind | None:
    return next((kind for pattern, kind in patterns if re.search(pattern, notes)), None)


def _noted_capacity(notes: str) -> float | None:
    found = CAPACITY_NOTE.search(notes)
    return float(found.group(1) or DROPPED_CAPACITY) if found else None
