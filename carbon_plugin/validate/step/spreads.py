"""Compute the spreads of intervals, from predictions of rows whose source the constants never saw.

`python -m carbon_plugin.validate.step.spreads` writes them into `predict/uncertainty/interval.py` of a source checkout,
and those of memory into `predict/uncertainty/fit.py`. It runs after `carbon_plugin.calibrate.shipped` and in a process
of its own, because it validates the constants that are shipped.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from carbon_plugin.calibrate.random_effects import sided_effects
from carbon_plugin.calibrate.rows.published import blind_classes, blind_predictions
from carbon_plugin.predict.result import AccuracyClass
from carbon_plugin.predict.uncertainty import fit, interval
from carbon_plugin.predict.uncertainty.fit import PeakErrors
from carbon_plugin.predict.uncertainty.interval import NOT_VALIDATED, Effects, Spread, factors
from carbon_plugin.spec.stack import Population
from carbon_plugin.validate.hardware.memory import ValidatedMemory, peak_errors
from carbon_plugin.validate.step.step_time import validate
from carbon_plugin.validate.step.validated_row import ValidatedRow

Mask = NDArray[np.bool_]
"""Which of the rows count."""
DIGITS = 3
FEWEST_SOURCES = 3
"""With fewer sources nothing is known of how sources differ."""
RELATED: dict[AccuracyClass, AccuracyClass] = {"host_bound": "calibrated"}
"""Classes with few sources, for which the rows of another class count too until `FEWEST_BLIND` sources tell enough of
their own: three of them gave a range of a factor of fifty."""
FEWEST_BLIND = 9
"""From so many sources that were predicted blind on, they alone count: of fewer no tenth lies beyond either end."""


class RangeShares(Struct, frozen=True, kw_only=True):
    """The shares of rows below, inside and above the 80 % range, with every source counted once."""

    below: float
    inside: float
    above: float


class ClassSpread(Struct, frozen=True, kw_only=True):
    """One instance says how far predictions of a class lie from what was measured, where the constants have not seen
    the source.

    `rows` and `sources` are those that are of the class today; `effects` come from those that were predicted blind, as
    they were predicted then, or from all and related ones where these are few. `error` is the mean relative error of
    predictions without the source and `coverage` the share of rows inside the shipped 80 % range about them, with every
    source counted once. `held_blind` has the shares about the prediction that `effects` count, with the spread computed
    without the row's source, None where the other sources are too few.
    """

    kind: AccuracyClass
    rows: int
    sources: int
    effects: Effects
    error: float
    coverage: float
    held_blind: RangeShares | None


class _Errors(NamedTuple):
    """Holds an array over rows of each thing that spreads are computed from.

    `now` is ln(measured / predicted) of the prediction without the row's source, and `class_now` the class of today.
    `then` and `class_then` are those of the moment when the row was predicted blind, where `blind` says that it was,
    and those of today for other rows.
    """

    sources: NDArray[np.str_]
    class_now: NDArray[np.str_]
    class_then: NDArray[np.str_]
    blind: Mask
    then: NDArray[np.float64]
    now: NDArray[np.float64]


def class_spreads(
    rows: Sequence[ValidatedRow],
    predicted_blind: Mapping[str, float] | None = None,
    blind_class: Mapping[str, str] | None = None,
) -> tuple[ClassSpread, ...]:
    """Return each class with predicted published rows, in the order of the classes.

    `predicted_blind` holds, by the id of the row, the seconds that were predicted before the model was changed with
    knowledge of the row. By default these are those of the shipped blind sets. A change that is made with knowledge of
    a source improves the predictions of that source, and says little about the next one. How far the next one may lie
    is shown by predictions that were made without knowledge of it, and where `FEWEST_BLIND` sources or more have some,
    by them alone: a source that was in sight when equations were chosen lies nearer, even if no constant saw it. Such
    an error counts in the class in which the row was predicted, which `blind_class` names where the row has another one
    by now: who is told that software is tuned is not exposed to errors that were made while it was taken for ordinary.
    """
    known = blind_predictions() if predicted_blind is None else predicted_blind
    told = blind_classes() if blind_class is None else blind_class
    found = _errors_of([row for row in rows if row.skipped is None], known, told)
    return tuple(_class_spread(found, kind) for kind in get_args(AccuracyClass) if np.any(_telling(found, kind)))


def _errors_of(
    rows: Sequence[ValidatedRow], predicted_blind: Mapping[str, float], blind_class: Mapping[str, str]
) -> _Errors:
    return _Errors(
        sources=np.array([row.origin for row in rows]),
        class_now=np.array([row.accuracy_class for row in rows]),
        class_then=np.array([blind_class.get(row.id, row.accuracy_class) for row in rows]),
        blind=np.array([row.id in predicted_blind for row in rows]),
        then=np.log([_measured_over_predicted(row, predicted_blind.get(row.id)) for row in rows]),
        now=np.log([_measured_over_predicted(row) for row in rows]),
    )


def _class_spread(errors: _Errors, kind: AccuracyClass) -> ClassSpread:
    own, today = _telling(errors, kind), errors.class_now == kind
    counted, few = _with_related(errors, kind, own)
    return ClassSpread(
        kind=kind,
        rows=int(np.sum(today)),
        sources=int(np.unique(errors.sources[today]).size),
        effects=_effects(errors, counted, few),
        error=_by_source(np.abs(np.expm1(-errors.now)), errors.sources, today),
        coverage=_coverage(errors.now, errors.sources, today, interval.spread_of(kind)),
        held_blind=_held_without_each(errors, own, counted, few),
    )


def _telling(errors: _Errors, kind: AccuracyClass) -> Mask:
    """Return which rows of a class say how far the next source may lie: those predicted blind, where they are many."""
    of_kind: Mask = errors.class_then == kind
    alone = of_kind & errors.blind
    return alone if np.unique(errors.sources[alone]).size >= FEWEST_BLIND else of_kind


def _with_related(errors: _Errors, kind: AccuracyClass, own: Mask) -> tuple[Mask, int | None]:
    """Return the rows that the spreads of a class are computed from, and the number of the class's own sources where it
    needs rows of another class beside its own, else None."""
    sources = np.unique(errors.sources[own]).size
    if sources >= FEWEST_BLIND or kind not in RELATED:
        return own, None
    return own | _telling(errors, RELATED[kind]), sources


def _held_without_each(errors: _Errors, own: Mask, counted: Mask, few: int | None) -> RangeShares | None:
    """Return where rows lie about a range that is computed without their source, so that no source widens the range
    that it is held against. None where too few sources are left to compute one."""
    found = []
    for name in np.unique(errors.sources[own]):
        of_source = errors.sources == name
        others = counted & ~of_source
        if np.unique(errors.sources[others]).size < FEWEST_SOURCES:
            return None
        found.append(_held(errors.then[own & of_source], factors(_effects(errors, others, few))))
    return _mean_of(found)


def rewrite_effects(text: str, found: Sequence[ClassSpread]) -> str:
    """Return the source text of `predict/uncertainty/interval.py` with these spreads.

    Raises `ValueError` for a class that is not validated, or that does not have exactly one line in the text.
    """
    for item in found:
        if item.kind in NOT_VALIDATED:
            raise ValueError(f"{item.kind} is not among the validated classes")
        text = _with_effects(text, item.kind, item.effects)
    return text


def rewrite_memory_effects(text: str, rows: Sequence[ValidatedMemory]) -> str:
    """Return the source text of `predict/uncertainty/fit.py` with the median and the spreads of these peaks."""
    for population in get_args(Population):
        text = _with_effects(text, population, peak_errors(rows, population))
    return text


def _with_effects(text: str, name: str, effects: Effects | PeakErrors) -> str:
    *spreads, sources = effects
    kind = type(effects).__name__
    line = f'"{name}": {kind}({", ".join(f"{spread:.{DIGITS}f}" for spread in spreads)}, {sources})'
    text, count = re.subn(rf'"{name}": {kind}\([^)]*\)', line, text)
    if count != 1:
        raise ValueError(f"{name} is not one line among the spreads")
    return text


def _effects(errors: _Errors, mask: Mask, few: int | None) -> Effects:
    """Return the spreads of the rows in `mask`.

    `few` is the number of the class's own sources where related ones count too. How classes differ is then known from
    those few, so that the variance between sources is (1 + 1/few) times that of one source and not (1 + 1/all), which
    `interval.factors` multiplies it by.
    """
    faster, slower, within, count = sided_effects(errors.then[mask], errors.sources[mask])
    more = 1.0 if few is None else math.sqrt((1 + 1 / few) / (1 + 1 / count))
    return Effects(round(more * faster, DIGITS), round(more * slower, DIGITS), round(within, DIGITS), count)


def _by_source(figures: NDArray[np.float64], sources: NDArray[np.str_], mask: Mask) -> float:
    """Return the mean of the figures of the rows in `mask`, with every source counted once."""
    names = np.unique(sources[mask])
    return float(np.mean([np.mean(figures[mask & (sources == name)]) for name in names])) if names.size else math.nan


def _coverage(errors: NDArray[np.float64], sources: NDArray[np.str_], mask: Mask, spread: Spread) -> float:
    """Return the share of the rows in `mask` that lie inside the range, with every source counted once."""
    names = np.unique(sources[mask])
    held = [_held(errors[mask & (sources == name)], spread) for name in names]
    return _mean_of(held).inside if held else math.nan


def _held(errors: NDArray[np.float64], spread: Spread) -> RangeShares:
    """Return where the rows of one source lie, from the logarithms of measured over predicted."""
    below, above = np.mean(errors < math.log(spread.p10)), np.mean(errors > math.log(spread.p90))
    return RangeShares(below=float(below), inside=float(1 - below - above), above=float(above))


def _mean_of(sources: Sequence[RangeShares]) -> RangeShares:
    below, inside, above = np.mean([(one.below, one.inside, one.above) for one in sources], axis=0).tolist()
    return RangeShares(below=below, inside=inside, above=above)


def _measured_over_predicted(row: ValidatedRow, blind_s: float | None = None) -> float:
    predicted = blind_s or row.left_out_step_time_s or row.predicted_step_time_s or np.nan
    return (row.measured_step_time_s or np.nan) / predicted


def main() -> None:
    """Rewrite the spreads of the source checkout that this file belongs to."""
    path, memory_path = Path(interval.__file__), Path(fit.__file__)
    result = validate()
    found = class_spreads(result.rows)
    path.write_text(rewrite_effects(path.read_text("utf-8"), found), "utf-8")
    memory_path.write_text(rewrite_memory_effects(memory_path.read_text("utf-8"), result.memory_rows), "utf-8")
    for item in found:
        sys.stdout.write(f"{item}\n")


if __name__ == "__main__":
    main()
