"""Ask one reader per framework what the live objects show, in order. The first reader that shows a field is believed.

A framework that was never imported cannot be in use, so that its reader is not even loaded.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from importlib import import_module

import msgspec
from msgspec import Struct

from carbon_plugin.detect.job import Findings, Job
from carbon_plugin.printable import brief


class Reader(Struct, frozen=True):
    """One reader is a module with `read(job: Job) -> Findings | None`, loaded only when the package `needs` is."""

    needs: str
    module: str

    def read(self, job: Job) -> Findings | None:
        """Return what the reader sees, or None if the job does not use its framework. Raises whatever the objects
        raise.
        """
        if self.needs not in sys.modules:
            return None
        read: Callable[[Job], Findings | None] = import_module(self.module).read
        return read(job)


READERS = (
    Reader("deepspeed.runtime.engine", "carbon_plugin.detect.readers.deepspeed"),
    Reader("megatron.core.parallel_state", "carbon_plugin.detect.readers.megatron"),
    Reader("torchtitan.distributed.parallel_dims", "carbon_plugin.detect.readers.torchtitan"),
    Reader("accelerate.state", "carbon_plugin.detect.readers.accelerate"),
    Reader("transformers.modeling_utils", "carbon_plugin.detect.readers.transformers"),
    Reader("torch", "carbon_plugin.detect.readers.lightning"),
    Reader("torch.distributed.pipelining.schedules", "carbon_plugin.detect.readers.pipeline"),
    Reader("torch", "carbon_plugin.detect.readers.context_parallel"),
    Reader("torch", "carbon_plugin.detect.readers.layout"),
    Reader("torch", "carbon_plugin.detect.readers.groups"),
    Reader("torch.distributed.pipelining.schedules", "carbon_plugin.detect.readers.pipeline_search"),
    Reader("torch", "carbon_plugin.detect.readers.step"),
    Reader("torch", "carbon_plugin.detect.readers.recompute"),
)
"""The readers in order of precedence: a framework's own objects state what torch objects only show, so that they come
first.
"""


def read_all(job: Job, readers: tuple[Reader, ...] = READERS) -> Findings:
    """Return the fields of all readers together. A reader that raises is a problem in the result, never an
    exception.
    """
    fields = dict(job.known)
    problems: list[tuple[str, str]] = []
    parameters = shape = None
    for reader in readers:
        if time.thread_time() > job.deadline_s:
            problems.append(("not_detected", f"{reader.module}: no time was left for it"))
            continue
        try:
            reading = reader.read(msgspec.structs.replace(job, known=fields))
        except Exception as error:  # private attributes differ between releases; the rest must still be read
            problems.append(("not_detected", f"{reader.module}: {brief(error)}"))
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
    return Findings(fields=fields, problems=tuple(problems), parameters=parameters, shape=shape)
