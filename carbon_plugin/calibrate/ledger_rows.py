"""A measured run of our own as rows: the comparison spans of its ledgers against the effective spec.

One row for each attempt and effective spec: the median step time of its spans, weighted by steps, which neither a
slow start nor a hiccup moves. Spans exist from a few steps after the start on, and leave out
evaluation and checkpoints.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from carbon_plugin.calibrate.rows import PublishedRow, SkippedRow
from carbon_plugin.errors import LedgerError
from carbon_plugin.ledger.files import ledger_files
from carbon_plugin.ledger.identity import read_identity
from carbon_plugin.ledger.reader import LedgerStream
from carbon_plugin.ledger.records import Manifest, Span
from carbon_plugin.spec.model import TransformerModel
from carbon_plugin.spec.run import RunSpec
from carbon_plugin.spec.stack import STACKS, Stack

OWN_STACK = "calibrated"
"""Name of a stack that is none of the shipped ones."""


def ledger_rows(run_dir: str | os.PathLike[str]) -> tuple[list[PublishedRow], list[SkippedRow]]:
    """Rows of a run directory, and attempts without one with the reason.

    Raises `LedgerError` for a directory without ledgers or with a file that cannot be read."""
    identity = read_identity(run_dir)
    files = ledger_files(run_dir)
    if not files:
        raise LedgerError(f"{os.fspath(run_dir)}: no ledger in this directory")
    rows: list[PublishedRow] = []
    skipped: list[SkippedRow] = []
    attempts: set[int] = set()
    for path in files:
        manifest: Manifest | None = None
        spans: dict[bytes, list[Span]] = {}
        specs: dict[bytes, dict[str, Any] | None] = {}
        for record in LedgerStream(path, identity.run_id if identity else None):
            if isinstance(record, Manifest):
                manifest = record
            elif isinstance(record, Span) and manifest is not None:
                key = msgspec.json.encode(manifest.spec)
                specs[key] = manifest.spec
                spans.setdefault(key, []).append(record)
        # Step times are the same on every node; the first file of an attempt that has spans stands for it.
        if manifest is None or manifest.attempt in attempts:
            continue
        name = f"{manifest.run_id}-attempt-{manifest.attempt}"
        if not spans:
            skipped.append(SkippedRow(id=name, source=manifest.run_id, reason="it ended before a comparison span"))
            continue
        attempts.add(manifest.attempt)
        for number, (key, of_spec) in enumerate(spans.items()):
            identifier = f"{name}-layout-{number}" if number else name
            row = _row(identifier, manifest.run_id, specs[key], of_spec)
            (rows if isinstance(row, PublishedRow) else skipped).append(row)  # type: ignore[arg-type]
    return rows, [row for row in skipped if row.id not in {f"{row.source}-attempt-{done}" for done in attempts}]


def _row(
    identifier: str, source: str, document: dict[str, Any] | None, spans: Sequence[Span]
) -> PublishedRow | SkippedRow:
    if document is None:
        return SkippedRow(id=identifier, source=source, reason="the effective spec is not complete")
    try:
        spec = msgspec.convert(document, RunSpec)
    except msgspec.ValidationError as error:
        return SkippedRow(id=identifier, source=source, reason=f"the effective spec cannot be read: {error}")
    model = spec.model
    if not isinstance(model, TransformerModel):
        return SkippedRow(
            id=identifier, source=source, reason=f"{model.name} is known only by its counted FLOPs, not by its layers"
        )
    return PublishedRow(
        id=identifier,
        source=source,
        accelerator=spec.cluster.accelerator.name,
        framework=stack_name(spec.stack),
        model_key=f"{model.hidden}x{model.layers}",
        spec=spec,
        measured_step_time_s=_median(spans),
    )


def stack_name(stack: Stack) -> str:
    """The shipped stack that this is, else `OWN_STACK`."""
    return next((name for name, shipped in STACKS.items() if shipped == stack), OWN_STACK)


def _median(spans: Sequence[Span]) -> float:
    """Median step time over steps, seconds."""
    times = np.array([span.step_time_s for span in spans])
    steps = np.array([span.last_step - span.first_step + 1 for span in spans])
    order = np.argsort(times)
    middle = int(np.searchsorted(np.cumsum(steps[order]), steps.sum() / 2))
    return float(times[order][middle])
