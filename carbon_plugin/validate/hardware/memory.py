"""Validate the predicted memory on published rows.

It counts how many layouts that ran are called feasible, and how many that did not run are called too large. It also
measures how far peaks lie from the predicted ones. Rows without a step time count too: probes that ran out of memory,
and peaks of runs with padded sequences.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from msgspec import Struct

from carbon_plugin.calibrate.random_effects import median_of_sources, random_effects
from carbon_plugin.calibrate.rows.rows import MemoryRow, MemoryScope, PublishedRow, SkippedRow
from carbon_plugin.calibrate.rows.table import rates_of
from carbon_plugin.plan.search.fullness import slowdown_of_a_run
from carbon_plugin.predict.case.from_spec import layout_of, shape_of, work_of
from carbon_plugin.predict.case.inputs import stack_cases
from carbon_plugin.predict.memory import memory_parts
from carbon_plugin.predict.peak import CONTEXT_BYTES, allocated_bytes, memory_bytes, reserved_bytes
from carbon_plugin.predict.uncertainty.fit import PeakErrors, error_at, fit_probability, fits, width
from carbon_plugin.spec.models.model import TransformerModel
from carbon_plugin.spec.stack import ORDINARY, TUNED, Population

BINS = (0.0, 0.1, 0.4, 0.6, 0.9, 0.99, 1.0)
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Probabilities of fitting for which the validation counts what came of them."""
PEAKS: tuple[MemoryScope, ...] = ("allocated", "reserved")
"""Scopes of a source's figure that show the need. A device also shows its context and all that the allocator keeps."""


class ValidatedMemory(Struct, frozen=True, kw_only=True):
    """A row with its predicted memory: the whole need, and the part that the source's figure covers."""

    id: str
    source: str
    origin: str
    out_of_memory: bool
    scope: MemoryScope
    need_bytes: float
    capacity_bytes: float
    population: Population
    fit_probability: float
    measured_bytes: float | None = None
    predicted_bytes: float | None = None

    @property
    def fits(self) -> bool:
        """Return whether the row is predicted to fit."""
        return bool(fits(self.need_bytes, self.capacity_bytes))


class FitSummary(Struct, frozen=True, kw_only=True):
    """The counts of one source: layouts that ran and those of them that are called feasible, and layouts that did not
    fit and those of them that are called too large.
    """

    source: str
    ran: int
    called_feasible: int
    out_of_memory: int
    called_too_large: int


class MemorySummary(Struct, frozen=True, kw_only=True):
    """The errors of the peak memory per device for one source and scope, in percent. `scope` is what the rows
    report.
    """

    source: str
    scope: MemoryScope
    n: int
    mape: float
    worst: float
    bias: float


class FitBin(Struct, frozen=True, kw_only=True):
    """The published layouts that are said to fit with a probability from `low` up to `high`, and those that ran."""

    low: float
    high: float
    rows: int
    ran: int


class FitLevel(Struct, frozen=True, kw_only=True):
    """The share of measured peaks that lie below the memory in which they were said to fit with this probability, with
    every source counted once and the spread computed without it.
    """

    probability: float
    share: float
    rows: int
    sources: int


def memory_rows(rows: Sequence[PublishedRow], skipped: Sequence[SkippedRow]) -> list[MemoryRow]:
    """Return all rows for which it is known whether they fit, including rows without a step time."""
    ran = [
        MemoryRow(
            id=row.id,
            source=row.source,
            origin=row.origin,
            spec=row.spec,
            measured_bytes=row.measured_memory_bytes,
            scope=row.memory_scope,
            of_rank_0=row.memory_of_rank_0,
        )
        for row in rows
    ]
    return ran + [row.memory for row in skipped if row.memory is not None]


def validate_memory(rows: Sequence[MemoryRow]) -> tuple[ValidatedMemory, ...]:
    """Return the rows of transformers, in their order, with their predicted memory."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for index, row in enumerate(rows):
        if isinstance(row.spec.model, TransformerModel):
            kinds = (row.spec.model.blocks, row.spec.model.parts)
            # Models with towers or unequal layers are grouped with equal models only, because their kinds of layers are
            # no arrays.
            groups.setdefault((*kinds, row.spec.model if any(kinds) else None), []).append(index)
    found = {
        index: item
        for members in groups.values()
        for index, item in zip(members, _validated([rows[index] for index in members]), strict=True)
    }
    return tuple(found[index] for index in sorted(found))


def expected_slowdowns(rows: Sequence[ValidatedMemory]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return expected over predicted time of each row that ran, of shape (rows,).

    The difference is the cost of a full memory (`plan.search.fullness`).
    """
    return np.array([float(slowdown_of_a_run(row.need_bytes / row.capacity_bytes, row.population)) for row in rows])


def fit_summaries(rows: Sequence[ValidatedMemory]) -> tuple[FitSummary, ...]:
    """Return one line for each source, in order of appearance."""
    return tuple(_fit_summary(name, [row for row in rows if row.source == name]) for name in _sources(rows))


def memory_summaries(rows: Sequence[ValidatedMemory]) -> tuple[MemorySummary, ...]:
    """Return one line for each source that measured memory and each scope that it reports, in order of appearance."""
    groups: dict[tuple[str, MemoryScope], list[ValidatedMemory]] = {}
    for row in rows:
        if row.measured_bytes is not None:
            groups.setdefault((row.source, row.scope), []).append(row)
    return tuple(_memory_summary(source, scope, members) for (source, scope), members in groups.items())


def peak_errors(rows: Sequence[ValidatedMemory], population: Population) -> PeakErrors:
    """Return the median of ln(measured / predicted) and its spreads between sources and within one source.

    They come from the allocator's peaks under software of one kind. Ordinary software gets at least the spread of tuned
    software, because few of its sources report such peaks and the next one may lie further away.
    """
    own, tuned = _errors(rows, population), _errors(rows, TUNED)
    wider = max(own, tuned, key=width) if population == ORDINARY else own
    return wider._replace(offset=own.offset)


def fit_bins(rows: Sequence[ValidatedMemory]) -> tuple[FitBin, ...]:
    """Return how many published layouts ran, by how likely they were said to fit.

    Nearly all that is published ran, so that the share says little of layouts that nobody has tried (`fit_levels`).
    """
    found = []
    for low, high in itertools.pairwise(BINS):
        own = [row for row in rows if low <= row.fit_probability < high or row.fit_probability == high == 1]
        found.append(FitBin(low=low, high=high, rows=len(own), ran=sum(not row.out_of_memory for row in own)))
    return tuple(found)


def fit_levels(rows: Sequence[ValidatedMemory]) -> tuple[FitLevel, ...]:
    """Return how often a peak lies below the memory in which it was said to fit, for some probabilities."""
    peaks = [row for row in rows if row.measured_bytes is not None and row.scope in PEAKS]
    origins = list(dict.fromkeys(row.origin for row in peaks))
    found = []
    for probability in LEVELS:
        shares = []
        for origin in origins:
            others = [row for row in rows if row.origin != origin]
            own = [row for row in peaks if row.origin == origin]
            limits = [error_at(probability, peak_errors(others, row.population)) for row in own]
            shares.append(np.mean(_log_errors(own) <= limits))
        found.append(
            FitLevel(probability=probability, share=float(np.mean(shares)), rows=len(peaks), sources=len(origins))
        )
    return tuple(found)


def _errors(rows: Sequence[ValidatedMemory], population: str) -> PeakErrors:
    peaks = [row for row in rows if row.measured_bytes is not None and row.scope in PEAKS]
    known = [row for row in peaks if row.population == population]
    errors, origins = _log_errors(known), np.array([row.origin for row in known])
    offset = median_of_sources(errors, origins)
    effects = random_effects(errors - offset, origins)
    return PeakErrors(offset, effects.between, effects.within, effects.sources)


def _validated(rows: Sequence[MemoryRow]) -> Iterator[ValidatedMemory]:
    """Yield each row with its prediction.

    The models must have the same blocks, so that one call predicts all of them.
    """
    specs = [row.spec for row in rows]
    shapes = stack_cases([shape_of(spec.model) for spec in specs if isinstance(spec.model, TransformerModel)])
    layouts = stack_cases([layout_of(spec.layout) for spec in specs if spec.layout is not None])
    works = stack_cases([work_of(spec.training, spec.stack) for spec in specs])
    rates = rates_of(specs)
    needs = np.asarray(sum(memory_bytes(shapes, layouts, works, rates).values()))
    shown = {}
    for first_stage in (False, True):
        parts = memory_parts(shapes, layouts, works, rates, first_stage=first_stage)
        reserved = np.asarray(reserved_bytes(parts))
        shown["device", first_stage] = reserved + CONTEXT_BYTES
        shown["reserved", first_stage] = reserved
        shown["allocated", first_stage] = np.asarray(allocated_bytes(parts, shapes, layouts, works))
    for index, row in enumerate(rows):
        need, capacity = float(needs[index]), row.spec.cluster.accelerator.memory_bytes.value
        population = row.spec.stack.population
        yield ValidatedMemory(
            id=row.id,
            source=row.source,
            origin=row.origin,
            out_of_memory=row.out_of_memory,
            scope=row.scope,
            need_bytes=need,
            capacity_bytes=capacity,
            population=population,
            fit_probability=float(fit_probability(need / capacity, population)),
            measured_bytes=row.measured_bytes,
            predicted_bytes=None if row.measured_bytes is None else float(shown[row.scope, row.of_rank_0][index]),
        )


def _sources(rows: Sequence[ValidatedMemory]) -> Mapping[str, Any]:
    return dict.fromkeys(row.source for row in rows)


def _fit_summary(name: str, rows: Sequence[ValidatedMemory]) -> FitSummary:
    return FitSummary(
        source=name,
        ran=sum(not row.out_of_memory for row in rows),
        called_feasible=sum(not row.out_of_memory and row.fits for row in rows),
        out_of_memory=sum(row.out_of_memory for row in rows),
        called_too_large=sum(row.out_of_memory and not row.fits for row in rows),
    )


def _memory_summary(source: str, scope: MemoryScope, rows: Sequence[ValidatedMemory]) -> MemorySummary:
    errors = 100 * (np.exp(-_log_errors(rows)) - 1)
    return MemorySummary(
        source=source,
        scope=scope,
        n=len(rows),
        mape=float(np.mean(np.abs(errors))),
        worst=float(errors[np.argmax(np.abs(errors))]),
        bias=float(np.mean(errors)),
    )


def _log_errors(rows: Sequence[ValidatedMemory]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.log([(row.measured_bytes or np.nan) / (row.predicted_bytes or np.nan) for row in rows])
