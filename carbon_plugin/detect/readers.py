"""Who reads the live objects: one module a framework, asked in order. The first that shows a field is believed.

A framework that was never imported cannot be in use, so that its reader is not even loaded.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import msgspec
from msgspec import Struct

from carbon_plugin.detect.observed import Observed


class Job(Struct, frozen=True, kw_only=True):
    """What a reader may look at, read-only: no call into it may communicate, synchronise, or change anything.

    `model` and `optimizer` as the training loop holds them, `pipeline` a pipeline schedule or stage where there is one,
    `framework` the object in which an adapter's framework keeps its layout (engine, accelerator, trainer, strategy),
    `batch` what watched the calls of the first step. `known` are the fields that were told or that readers before this
    one showed. A reader that walks anything long stops at `deadline_s`, a `time.monotonic` moment.
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
        """A degree that is known already, 1 if it is not."""
        seen = self.known.get(f"layout.{axis}")
        return 1 if seen is None else int(seen.value)


class Shape(Struct, frozen=True, kw_only=True):
    """A model's shape as its framework states it: fields of a `TransformerModel`. A source that begins with "config"
    is of the whole model, whatever part of it this rank holds."""

    name: str
    fields: Mapping[str, Any]
    source: str


class Reading(Struct, frozen=True, kw_only=True):
    """What one reader saw.

    `fields` are named as in the effective spec: "layout.tp", "layout.recompute", "training.micro_batches",
    "training.seq_len". `problems` are (kind, sentence) that the ledger must say. `parameters` are (all, trainable) of
    the whole model, where the framework knows better than the module's own tensors; `shape` likewise.
    """

    fields: Mapping[str, Observed] = {}
    problems: tuple[tuple[str, str], ...] = ()
    parameters: tuple[int, int] | None = None
    shape: Shape | None = None


class Reader(Struct, frozen=True):
    """A module with `read(job: Job) -> Reading | None`, loaded only when the package `needs` is."""

    needs: str
    module: str

    def read(self, job: Job) -> Reading | None:
        """What the reader sees, None if the job does not use its framework. Raises whatever the objects raise."""
        if self.needs not in sys.modules:
            return None
        read: Callable[[Job], Reading | None] = import_module(self.module).read
        return read(job)


READERS = (
    Reader("deepspeed.runtime.engine", "carbon_plugin.detect.deepspeed"),
    Reader("megatron.core.parallel_state", "carbon_plugin.detect.megatron"),
    Reader("torchtitan.distributed.parallel_dims", "carbon_plugin.detect.torchtitan"),
    Reader("accelerate.state", "carbon_plugin.detect.accelerate"),
    Reader("transformers.modeling_utils", "carbon_plugin.detect.transformers"),
    Reader("torch", "carbon_plugin.detect.lightning"),
    Reader("torch.distributed.pipelining.schedules", "carbon_plugin.detect.pipeline"),
    Reader("torch", "carbon_plugin.detect.context_parallel"),
    Reader("torch", "carbon_plugin.detect.layout"),
    Reader("torch", "carbon_plugin.detect.groups"),
    Reader("torch.distributed.pipelining.schedules", "carbon_plugin.detect.pipeline_search"),
    Reader("torch", "carbon_plugin.detect.step"),
    Reader("torch", "carbon_plugin.detect.recompute"),
)
"""In order of precedence: a framework's own objects state what torch objects only show, so that they come first."""


def read_all(job: Job, readers: tuple[Reader, ...] = READERS) -> Reading:
    """The fields of all readers together. A reader that raises is a problem in the result, never an exception."""
    fields = dict(job.known)
    problems: list[tuple[str, str]] = []
    parameters = shape = None
    for reader in readers:
        if time.monotonic() > job.deadline_s:
            problems.append(("not_detected", f"{reader.module}: no time was left for it"))
            continue
        try:
            reading = reader.read(msgspec.structs.replace(job, known=fields))
        except Exception as error:  # private attributes differ between releases; the rest must still be read
            problems.append(("not_detected", f"{reader.module}: {type(error).__name__}: {error}"))
            continue
        if reading is None:
            continue
        problems += reading.problems
        parameters, shape = parameters or reading.parameters, shape or reading.shape
        for name, seen in reading.fields.items():
            believed = fields.setdefault(name, seen)
            if believed.value != seen.value:
                sentence = f"{name}: {believed.value} by {believed.source}, but {seen.value} by {seen.source}"
                problems.append(("conflict", sentence))
    return Reading(fields=fields, problems=tuple(problems), parameters=parameters, shape=shape)
