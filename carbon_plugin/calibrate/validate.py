"""How good is the model? Every published row predicted, beside the baselines, with the error summed up a source.

Rows that the shipped constants were fitted to are marked, and for them the headline is the prediction of constants
that never saw the row's model (leave one model out). Rows of a file of the user's are predicted with the shipped
constants as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from carbon_plugin.calibrate import baselines
from carbon_plugin.calibrate.fit import fit, leave_one_model_out
from carbon_plugin.calibrate.parameters import calibration_rows, shipped_parameters
from carbon_plugin.calibrate.rows import PublishedRow, SkippedRow, read_rows
from carbon_plugin.calibrate.table import Table, predict, tabulate
from carbon_plugin.predict.interval import SPREADS, accuracy_class
from carbon_plugin.predict.memory import memory_bytes, peak_bytes
from carbon_plugin.predict.rates import combine

Floats = NDArray[np.float64]


class ValidatedRow(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One row: measured, predicted with its 80 % interval, the baselines, or why it was skipped.

    `left_out_step_time_s` is the prediction of constants that saw no row of this model (fitted rows only).
    Memory in bytes where the source measured it."""

    id: str
    source: str
    accelerator: str | None = None
    framework: str | None = None
    moe: bool | None = None
    measured_step_time_s: float | None = None
    predicted_step_time_s: float | None = None
    left_out_step_time_s: float | None = None
    low_s: float | None = None
    high_s: float | None = None
    fitted: bool | None = None
    assumed: tuple[str, ...] = ()
    baselines: dict[str, float] = {}
    measured_memory_bytes: float | None = None
    predicted_memory_bytes: float | None = None
    skipped: str | None = None


class ErrorSummary(Struct, frozen=True, kw_only=True):
    """Errors of one source, percent of the measured value unless said otherwise; `coverage` of the 80 % interval."""

    source: str
    n: int
    mape: float
    median: float
    p90: float
    worst: float
    bias: float
    abs_log_ratio: float
    coverage: float
    left_out: bool
    baseline_mape: dict[str, float]


class MemorySummary(Struct, frozen=True, kw_only=True):
    """Error of allocated memory a device of one source, percent."""

    source: str
    n: int
    mape: float
    worst: float
    bias: float


class Validation(Struct, frozen=True, kw_only=True):
    """The whole comparison; `macro_mape` is the mean over sources, each counted once."""

    summary: tuple[ErrorSummary, ...]
    memory: tuple[MemorySummary, ...]
    macro_mape: float
    macro_baseline_mape: dict[str, float]
    rows: tuple[ValidatedRow, ...]


def published_rows() -> tuple[list[PublishedRow], list[SkippedRow]]:
    """All shipped rows."""
    folder = resources.files("carbon_plugin.calibrate") / "published"
    rows: list[PublishedRow] = []
    skipped: list[SkippedRow] = []
    with resources.as_file(folder) as path:
        for file in sorted(path.iterdir()):
            if file.suffix in (".yaml", ".csv") and file.name != "architectures.yaml":
                found, missing = read_rows(file)
                rows += found
                skipped += missing
    return rows, skipped


def validate(records: Path | None = None) -> Validation:
    """Validate on the shipped rows, or on a records file with the shipped constants.

    Raises `SpecError` for a file that is not in the schema."""
    rows, skipped = published_rows() if records is None else read_rows(records)
    if not rows:
        return _report((), [_skipped(row) for row in skipped])
    table = tabulate(rows)
    predicted = np.asarray(predict(table, table.shipped).total)
    fitted = calibration_rows(table) if records is None else np.zeros(len(rows), dtype=bool)
    left_out = predicted.copy()
    if records is None:
        parameters = shipped_parameters()
        whole = fit(table, parameters, keep=fitted)
        left_out = np.where(fitted, leave_one_model_out(table, parameters, whole), predicted)
    validated = _validated(table, predicted, left_out, fitted)
    return _report(validated, [_skipped(row) for row in skipped])


def _validated(
    table: Table, predicted: Floats, left_out: Floats, fitted: NDArray[np.bool_]
) -> tuple[ValidatedRow, ...]:
    constant = baselines.constant_mfu(table, fitted)
    terms = predict(table, table.shipped).terms
    host = np.asarray(terms["host"]) / predicted
    parts = memory_bytes(table.shape, table.layout, table.work, combine(table.sheet, table.shipped))
    peaks = {reserved: np.asarray(peak_bytes(parts, reserved=reserved)) for reserved in (False, True)}
    found = []
    for i, row in enumerate(table.rows):
        device = row.spec.cluster.accelerator
        spread = SPREADS[accuracy_class(row.spec.model, device, row.spec.training.precision, float(host[i]))]
        central = float(left_out[i])
        memory = row.measured_memory_bytes
        found.append(
            ValidatedRow(
                id=row.id,
                source=row.source,
                accelerator=row.accelerator,
                framework=row.framework,
                moe=bool(table.sparse[i]),
                measured_step_time_s=row.measured_step_time_s,
                predicted_step_time_s=float(predicted[i]),
                left_out_step_time_s=central if fitted[i] else None,
                low_s=central * spread.p10,
                high_s=central * spread.p90,
                fitted=bool(fitted[i]),
                assumed=row.assumed,
                baselines={
                    "llmcarbon": baselines.llmcarbon(row),
                    "constant_mfu": float(constant[i]),
                    "6nd_40": baselines.six_nd(row),
                },
                measured_memory_bytes=memory,
                predicted_memory_bytes=float(peaks[row.memory_is_reserved][i]) if memory is not None else None,
            )
        )
    return tuple(found)


def _skipped(row: SkippedRow) -> ValidatedRow:
    return ValidatedRow(id=row.id, source=row.source, skipped=row.reason)


def _report(rows: Sequence[ValidatedRow], skipped: Sequence[ValidatedRow]) -> Validation:
    sources = dict.fromkeys(_group(row) for row in rows)
    summary = tuple(_summary(name, [row for row in rows if _group(row) == name]) for name in sources)
    names = summary[0].baseline_mape if summary else {}
    return Validation(
        summary=summary,
        memory=tuple(_memory(rows)),
        macro_mape=_mean([item.mape for item in summary]),
        macro_baseline_mape={name: _mean([item.baseline_mape[name] for item in summary]) for name in names},
        rows=(*rows, *skipped),
    )


def _group(row: ValidatedRow) -> str:
    """Source, split by framework where one source has several, and dense from sparse."""
    name = row.source if row.source != "dgxc" else f"{row.source}-{row.framework}"
    return f"{name}-moe" if row.moe else name


def _summary(name: str, rows: Sequence[ValidatedRow]) -> ErrorSummary:
    measured = np.array([row.measured_step_time_s for row in rows], dtype=np.float64)
    used = [row.left_out_step_time_s or row.predicted_step_time_s for row in rows]
    predicted = np.array(used, dtype=np.float64)
    error = predicted / measured - 1
    low = np.array([row.low_s for row in rows], dtype=np.float64)
    high = np.array([row.high_s for row in rows], dtype=np.float64)
    return ErrorSummary(
        source=name,
        n=len(rows),
        mape=100 * float(np.mean(np.abs(error))),
        median=100 * float(np.median(np.abs(error))),
        p90=100 * float(np.quantile(np.abs(error), 0.9)),
        worst=100 * float(error[np.argmax(np.abs(error))]),
        bias=100 * float(np.mean(error)),
        abs_log_ratio=float(np.mean(np.abs(np.log(predicted / measured)))),
        coverage=float(np.mean((low <= measured) & (measured <= high))),
        left_out=all(bool(row.fitted) for row in rows),
        baseline_mape={
            key: 100 * float(np.mean(np.abs(np.array([row.baselines[key] for row in rows]) / measured - 1)))
            for key in rows[0].baselines
        },
    )


def _memory(rows: Sequence[ValidatedRow]) -> list[MemorySummary]:
    known = [row for row in rows if row.measured_memory_bytes is not None]
    found = []
    for source in dict.fromkeys(row.source for row in known):
        pairs = [
            (row.predicted_memory_bytes or 0.0, row.measured_memory_bytes or 1.0)
            for row in known
            if row.source == source
        ]
        error = np.array([predicted / measured - 1 for predicted, measured in pairs])
        found.append(
            MemorySummary(
                source=source,
                n=error.size,
                mape=100 * float(np.mean(np.abs(error))),
                worst=100 * float(error[np.argmax(np.abs(error))]),
                bias=100 * float(np.mean(error)),
            )
        )
    return found


def _mean(numbers: Sequence[float]) -> float:
    return float(np.mean(numbers)) if numbers else float("nan")
