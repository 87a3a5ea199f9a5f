"""How far rows were off that were predicted before anything was chosen or fitted in sight of them.

A line of a set is a source, or the adapters of a source apart from its other rows. Every line counts once.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from msgspec import Struct

from carbon_plugin.calibrate.rows.published import BlindSet, ModelKind, blind_predictions, blind_sets, published_rows


class BlindError(Struct, frozen=True, kw_only=True):
    """Errors of the blind predictions of one set and kind of model, in percent.

    `mean` and `bias` are means over the lines, and `bias` is negative where predictions are too fast. `median` is that
    over the rows, without their signs.
    """

    blind_set: BlindSet
    kind: ModelKind
    lines: int
    rows: int
    mean: float
    bias: float
    median: float
    inside_range: float


def blind_errors() -> tuple[BlindError, ...]:
    """Return the errors of all blind sets in the order in which they were predicted."""
    predicted = blind_predictions()
    rows, _ = published_rows()
    errors: dict[tuple[str, ModelKind], dict[str, list[float]]] = {}
    for row in rows:
        if row.id in predicted:
            kind: ModelKind = "mixtures" if getattr(row.spec.model, "moe", None) is not None else "dense"
            lines = errors.setdefault((row.collection, kind), {})
            lines.setdefault(row.source, []).append(predicted[row.id] / row.measured_step_time_s - 1)
    return tuple(
        _error(one, kind, inside, errors[one.collection, kind])
        for one in blind_sets()
        for kind, inside in one.inside_range_percent.items()
    )


def _error(blind_set: BlindSet, kind: ModelKind, inside_range: float, lines: Mapping[str, list[float]]) -> BlindError:
    rows = np.concatenate([np.array(line) for line in lines.values()])
    return BlindError(
        blind_set=blind_set,
        kind=kind,
        lines=len(lines),
        rows=rows.size,
        mean=100 * float(np.mean([np.mean(np.abs(line)) for line in lines.values()])),
        bias=100 * float(np.mean([np.mean(line) for line in lines.values()])),
        median=100 * float(np.median(np.abs(rows))),
        inside_range=inside_range,
    )
