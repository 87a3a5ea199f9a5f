"""Read one of the user's own measured runs as rows: the comparison spans of its ledgers together with the effective
spec.

Each attempt and effective spec gives one row. Its step time is the median over its spans, weighted by steps, which
neither a slow start nor a hiccup changes. Spans begin a few steps after the start and leave out evaluation and
checkpoints. An attempt that was too short or too slow for them has short spans, or the mean over its training windows.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct

from carbon_plugin.calibrate.rows.rows import FIRST_COLLECTION, PublishedRow, SkippedRow
from carbon_plugin.errors import LedgerError, SpecError
from carbon_plugin.ledger.held.copies import original_files
from carbon_plugin.ledger.held.counted_steps import CountedSteps
from carbon_plugin.ledger.identity import read_identity
from carbon_plugin.ledger.reader import LedgerStream
from carbon_plugin.ledger.records import Event, Manifest, Span, Window
from carbon_plugin.predict.rates.evidence import runs_of
from carbon_plugin.spec.models.model import TransformerModel
from carbon_plugin.spec.run import RunSpec
from carbon_plugin.spec.stack import STACKS, Stack

_NO_SPEC = b"null"
OWN_STACK = "calibrated"
"""Name of a stack that is none of the shipped ones."""
PARTS_OF_PLACE = 2
"""An id names so many last parts of the path of a run directory, by which its user tells runs apart (our
convention)."""


class _Steps(Struct):
    """Holds the measured steps under one effective spec."""

    spans: list[Span] = msgspec.field(default_factory=list)
    short: list[Span] = msgspec.field(default_factory=list)
    counted: CountedSteps = msgspec.field(default_factory=CountedSteps)

    @property
    def power_ratio(self) -> float | None:
        """Return measured over predicted power of the GPUs, or None where no span has both."""
        found = [
            (
                span,
                span.gpu_energy_per_step_j
                / span.step_time_s
                / (span.predicted_gpu_energy_per_step_j / span.predicted_step_time_s),
            )
            for span in self.spans
            if span.gpu_energy_per_step_j and span.predicted_gpu_energy_per_step_j and span.predicted_step_time_s
        ]
        return _median([span for span, _ in found], [ratio for _, ratio in found]) if found else None

    @property
    def step_time_s(self) -> float | None:
        """Return the seconds per step, or None where no step was measured."""
        if self.spans or self.short:
            spans = self.spans or self.short
            return _median(spans, [span.step_time_s for span in spans])
        mean = self.counted.step_time_s
        return None if mean is None else mean.value


class _Attempt(Struct):
    """Holds the content of one file: its steps by the effective spec that applied to them, as JSON, and what the spec
    lacked, a sentence each."""

    name: str
    source: str
    number: int
    specs: dict[bytes, _Steps]
    missing: dict[str, None] = msgspec.field(default_factory=dict)

    @property
    def spans(self) -> int:
        """Return how many spans are long enough."""
        return sum(len(steps.spans) for steps in self.specs.values())

    @property
    def measured(self) -> list[tuple[bytes, float]]:
        """Return step times by spec, only from spans that are long enough where there are any.

        A spec that was not complete yet counts only where no other spec was measured.
        """
        found = [
            (spec, time_s)
            for spec, steps in self.specs.items()
            if (time_s := steps.step_time_s) is not None and (steps.spans or not self.spans)
        ]
        return [pair for pair in found if pair[0] != _NO_SPEC] or found


def ledger_rows(run_dir: str | os.PathLike[str]) -> tuple[list[PublishedRow], list[SkippedRow]]:
    """Return the rows of a run directory, and the attempts that give no row with the reason.

    The id of a row names the directory, by which a reader knows the run, and the attempt.

    Raises `LedgerError` for a directory without ledgers or with a file that cannot be read.
    """
    identity = read_identity(run_dir)
    place = "/".join(Path(os.path.abspath(run_dir)).parts[-PARTS_OF_PLACE:])
    # Step times are the same on every node, so that the first file of an attempt that has spans represents it.
    attempts: dict[int, _Attempt] = {}
    for path in original_files(run_dir):
        found = _read(path, identity.run_id if identity else None, place)
        if found is not None and (found.number not in attempts or not attempts[found.number].spans):
            attempts[found.number] = found
    if not attempts:
        raise LedgerError(f"{os.fspath(run_dir)}: no ledger in this directory")
    rows: list[PublishedRow] = []
    skipped: list[SkippedRow] = []
    for attempt in attempts.values():
        if not attempt.measured:
            skipped.append(SkippedRow(id=attempt.name, source=attempt.source, reason="it ended before its first step"))
        for number, (spec, step_time_s) in enumerate(attempt.measured):
            identifier = f"{attempt.name}-spec-{number}" if number else attempt.name
            try:
                row = _row(identifier, attempt, spec, step_time_s)
                rows.append(msgspec.structs.replace(row, power_ratio=attempt.specs[spec].power_ratio))
            except SpecError as error:
                skipped.append(SkippedRow(id=identifier, source=attempt.source, reason=str(error)))
    return rows, skipped


def _read(path: Path, run_id: str | None, place: str) -> _Attempt | None:
    found: _Attempt | None = None
    spec = b""
    for record in LedgerStream(path, run_id):
        if isinstance(record, Manifest):
            spec = msgspec.json.encode(record.spec)
            name = f"{place} {record.run_id}-attempt-{record.attempt}"
            found = found or _Attempt(name, record.run_id, record.attempt, {})
        elif isinstance(record, Span | Window) and found is not None:
            steps = found.specs.setdefault(spec, _Steps())
            if isinstance(record, Window):
                steps.counted.add(record)
            else:
                (steps.short if record.short else steps.spans).append(record)
        elif isinstance(record, Event) and found is not None and record.kind == "missing":
            found.missing[record.message] = None
    return found


def _row(identifier: str, attempt: _Attempt, document: bytes, step_time_s: float) -> PublishedRow:
    try:
        spec = msgspec.json.decode(document, type=RunSpec | None)
    except msgspec.ValidationError as error:
        raise SpecError(f"the effective spec cannot be read: {error}") from error
    if spec is None or spec.layout is None:
        lacking = "; ".join(attempt.missing) or "its record does not say what is unknown"
        raise SpecError(f"the spec that ran was never known as a whole: {lacking}")
    model = spec.model
    if not isinstance(model, TransformerModel):
        raise SpecError(
            f"{model.name} is known only by its counted FLOPs, not by its layers; state them with model_spec= of watch"
        )
    return PublishedRow(
        id=identifier,
        source=attempt.source,
        origin=attempt.source,
        collection=FIRST_COLLECTION,
        accelerator=spec.cluster.accelerator.name,
        framework=_software(spec),
        model_key=f"{model.hidden}x{model.layers}",
        spec=spec,
        measured_step_time_s=step_time_s,
    )


def _software(spec: RunSpec) -> str:
    """Return the name of the software that ran, which after a calibration is the one that it had before."""
    own = runs_of(spec.cluster.accelerator, spec.stack)
    return own.framework if own is not None else stack_name(spec.stack)


def stack_name(stack: Stack) -> str:
    """Return the name of the shipped stack that equals this one, else `OWN_STACK`."""
    return next((name for name, shipped in STACKS.items() if shipped == stack), OWN_STACK)


def _median(spans: Sequence[Span], values: Sequence[float]) -> float:
    """Return the median of a value of each span, over steps: a long span counts for more."""
    steps = np.array([span.last_step - span.first_step + 1 for span in spans])
    order = np.argsort(values)
    middle = int(np.searchsorted(np.cumsum(steps[order]), steps.sum() / 2))
    return float(values[order[middle]])
