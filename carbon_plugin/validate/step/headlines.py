"""Sum up the validation in a few figures. Every source counts once, and dense models and mixtures are separate.

A source is who published the rows (`rows.origin_of`), so that four tables of one laboratory do not count four times.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from carbon_plugin.calibrate.parameters import HELD_OUT_COLLECTIONS
from carbon_plugin.calibrate.rows.published import ModelKind
from carbon_plugin.calibrate.rows.rows import FIRST_COLLECTION
from carbon_plugin.validate.step.validated_row import ValidatedRow

ALL = "all"
ORDER = (ALL, *reversed(HELD_OUT_COLLECTIONS), FIRST_COLLECTION)
"""The collections in the order in which they are shown, the newest first. Others follow."""


class CollectionError(Struct, frozen=True, kw_only=True):
    """Errors of one collection of sources in percent. Each figure is the mean over its sources.

    `source_left_out` is the error of constants that saw no row of the source, `model_left_out` that of constants that
    saw no row of the model (None where nothing was fitted). `bias` is negative where predictions are too fast.
    `coverage` is the share of rows inside the 80 % interval around the prediction without the source.
    """

    collection: str
    kind: ModelKind
    rows: int
    sources: int
    source_left_out: float
    model_left_out: float | None
    bias: float
    coverage: float
    baseline_mape: dict[str, float]


def headlines(rows: Sequence[ValidatedRow]) -> tuple[CollectionError, ...]:
    """Return one line for each collection and kind, and lines for all collections together if there are several."""
    names = list(dict.fromkeys(row.collection for row in rows if row.collection is not None))
    groups = sorted([ALL, *names] if len(names) > 1 else names, key=_place)
    found = []
    for name in groups:
        for kind in ("dense", "mixtures"):
            members = [row for row in rows if name in (ALL, row.collection) and row.moe == (kind == "mixtures")]
            if members:
                found.append(_headline(name, kind, members))
    return tuple(found)


def _place(collection: str) -> int:
    return ORDER.index(collection) if collection in ORDER else len(ORDER)


def _headline(collection: str, kind: ModelKind, rows: Sequence[ValidatedRow]) -> CollectionError:
    sources = [[row for row in rows if row.origin == name] for name in dict.fromkeys(row.origin for row in rows)]
    errors = [np.array([_error(row) for row in group]) for group in sources]
    seen = [
        np.array([abs((row.model_left_out_step_time_s or 0) / (row.measured_step_time_s or 1) - 1) for row in group])
        for group in sources
        if all(row.model_left_out_step_time_s is not None for row in group)
    ]
    names = (rows[0].baselines or {}).keys()
    return CollectionError(
        collection=collection,
        kind=kind,
        rows=len(rows),
        sources=len(sources),
        source_left_out=100 * float(np.mean([np.mean(np.abs(error)) for error in errors])),
        model_left_out=100 * float(np.mean([np.mean(error) for error in seen])) if seen else None,
        bias=100 * float(np.mean([np.mean(error) for error in errors])),
        coverage=float(np.mean([np.mean([_inside(row) for row in group]) for group in sources])),
        baseline_mape={
            name: 100 * float(np.mean([np.mean([_baseline(row, name) for row in group]) for group in sources]))
            for name in names
        },
    )


def _error(row: ValidatedRow) -> float:
    """Return the relative error of the prediction without the source, with its sign."""
    predicted = row.left_out_step_time_s or row.predicted_step_time_s or np.nan
    return predicted / (row.measured_step_time_s or np.nan) - 1


def _inside(row: ValidatedRow) -> bool:
    measured = row.measured_step_time_s or np.nan
    return (row.low_s or np.nan) <= measured <= (row.high_s or np.nan)


def _baseline(row: ValidatedRow, name: str) -> float:
    return abs((row.baselines or {})[name] / (row.measured_step_time_s or np.nan) - 1)
