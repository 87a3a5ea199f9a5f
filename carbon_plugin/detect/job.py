"""Define what a reader of live objects may look at, and the form of its findings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from carbon_plugin.detect.observed import Observed


class Job(Struct, frozen=True, kw_only=True):
    """One job holds what a reader may look at, read-only: no call into it may communicate, synchronise or change
    anything.

    `model` and `optimizer` are as the training loop holds them, `pipeline` is a pipeline schedule or stage where there
    is one, `framework` is the object in which an adapter's framework keeps its layout (engine, accelerator, trainer,
    strategy), and `batch` watched the calls of the first step. `known` are the fields that the adapter stated or that
    earlier readers showed. A reader that takes long stops at `deadline_s`, a moment of `time.thread_time`.
    """

    model: Any
    world_size: int
    optimizer: Any = None
    pipeline: Any = None
    framework: Any = None
    batch: Any = None
    known: Mapping[str, Observed] = {}
    deadline_s: float = float("inf")

    def degree(self, axis: str) -> int:
        """Return a degree that is known already, or 1 if it is not known."""
        seen = self.known.get(f"layout.{axis}")
        return 1 if seen is None else int(seen.value)


class StatedShape(Struct, frozen=True, kw_only=True):
    """One instance holds a model's shape as its framework states it, as fields of a `TransformerModel`.

    A source that begins with "config" describes the whole model, whatever part of it this rank holds.
    """

    name: str
    fields: Mapping[str, Any]
    source: str


class Findings(Struct, frozen=True, kw_only=True):
    """One instance holds what one reader saw.

    `fields` are named as in the effective spec: "layout.tp", "layout.recompute", "training.micro_batches",
    "training.seq_len". `problems` are (kind, sentence) that the ledger must carry. `parameters` are (all, trainable) of
    the whole model, where the framework knows better than the module's own tensors; `shape` is the model's shape where
    the framework knows it better.
    """

    fields: Mapping[str, Observed] = {}
    problems: tuple[tuple[str, str], ...] = ()
    parameters: tuple[int, int] | None = None
    shape: StatedShape | None = None
