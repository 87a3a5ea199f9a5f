"""Validate predicted step times: predict every published row, beside the baselines, and sum up the errors of each
source.

Rows that the shipped constants were fitted to are marked. For them the headline is the prediction of constants that
never saw a row of the same source (leave one source out): this is what a prediction is worth on a cluster that nobody
here measured. The prediction of constants that never saw the row's model stands beside it. Rows of a user's file are
predicted with the shipped constants as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from carbon_plugin.calibrate.fit import fit_populations, leave_out, model_folds, problem_of
from carbon_plugin.calibrate.parameters import cluster_offsets, fitted_rows, shipped_parameters
from carbon_plugin.calibrate.rows.hybrids import hybrid_groups, is_hybrid, without_hybrids
from carbon_plugin.calibrate.rows.published import all_published_rows
from carbon_plugin.calibrate.rows.rows import PublishedRow, read_rows
from carbon_plugin.calibrate.rows.table import RowArrays, predict, tabulate
from carbon_plugin.predict.step import expert_loop_factor
from carbon_plugin.predict.time.schedule import StepTime
from carbon_plugin.predict.uncertainty.interval import accuracy_class, reaching_to, spread_of
from carbon_plugin.validate.hardware.memory import (
    FitSummary,
    MemorySummary,
    ValidatedMemory,
    expected_slowdowns,
    fit_summaries,
    memory_rows,
    memory_summaries,
    validate_memory,
)
from carbon_plugin.validate.run.full_runs import FullRunRow, full_run_rows
from carbon_plugin.validate.run.real_runs import ClassOverrun, class_overruns, whole_runs
from carbon_plugin.validate.step import baselines
from carbon_plugin.validate.step.error_summary import ErrorSummary, mean, summarise
from carbon_plugin.validate.step.headlines import CollectionError, headlines
from carbon_plugin.validate.step.layout_choice import (
    LayoutChoice,
    LayoutSummary,
    layout_choices,
    on_networks,
    summarise_choices,
)
from carbon_plugin.validate.step.unknown_device import unknown_device_step_time_s
from carbon_plugin.validate.step.validated_row import ValidatedRow

Floats = NDArray[np.float64]

CLUSTERED = "vtrain_single_node"
"""The source whose rows are almost linear in layers x micro-batches: 1,100 rows are about 72 independent points."""


class Validation(Struct, frozen=True, kw_only=True):
    """One validation holds the whole comparison.

    `headlines` sum up each collection, dense models and mixtures, with every source counted once. `macro_*` are means
    over the lines of `summary`, None without rows. `clusters` counts each cluster of rows of one kernel shape (hidden,
    tp, pp, micro-batch) once. `unknown_device` predicts Hopper and Blackwell as if nobody had calibrated them. `memory`
    sums up measured peaks, `fits` counts which layouts are called feasible, and `memory_rows` has both row by row.
    `layouts` and `choices` say which layout the model picks. `full_runs` are device-hours of whole runs and `overruns`
    what they take beyond the best case (shipped rows only). `hybrids` are models whose layers differ (`hybrid_rows`);
    no constant is fitted to them and no mean includes them.
    """

    headlines: tuple[CollectionError, ...]
    summary: tuple[ErrorSummary, ...]
    clusters: tuple[ErrorSummary, ...]
    unknown_device: tuple[ErrorSummary, ...]
    layouts: tuple[LayoutSummary, ...]
    choices: tuple[LayoutChoice, ...]
    macro_mape: float | None
    macro_abs_log_ratio: float | None
    macro_baseline_mape: dict[str, float]
    rows: tuple[ValidatedRow, ...]
    memory: tuple[MemorySummary, ...] = ()
    fits: tuple[FitSummary, ...] = ()
    memory_rows: tuple[ValidatedMemory, ...] = ()
    full_runs: tuple[FullRunRow, ...] = ()
    hybrids: tuple[ErrorSummary, ...] = ()
    hybrid_rows: tuple[ValidatedRow, ...] = ()
    overruns: tuple[ClassOverrun, ...] = ()


def validate(records: Path | None = None) -> Validation:
    """Return the validation on the shipped rows, or on a records file with the shipped constants.

    Raises `SpecError` for a file that is not in the schema.
    """
    every, not_published = all_published_rows()
    shipped = tabulate(without_hybrids(every))
    seen = fitted_rows(shipped)
    mfu = baselines.typical_mfu(shipped, seen)
    found, skipped = (every, not_published) if records is None else read_rows(records)
    missing = [
        ValidatedRow(id=row.id, source=row.source, skipped=row.reason, not_read=row.not_read or None) for row in skipped
    ]
    memory = validate_memory(memory_rows(found, skipped))
    rows = without_hybrids(found)
    if not rows:
        report = _report([], missing, (), ())
    else:
        table = shipped if records is None else tabulate(rows)
        # The memory of every row comes first, in the order of the rows. That of rows without a step time follows.
        full = expected_slowdowns(memory[: len(found)])[[not is_hybrid(row) for row in found]]
        slowdowns = full * on_networks(table)
        if records is None:
            report = _of_shipped_rows(table, seen, mfu, slowdowns, missing)
        else:
            report = _of_own_rows(table, _fitted_among(shipped, seen, rows), mfu, slowdowns, missing)
    return _with_memory(_with_hybrids(report, _hybrids(found, mfu)), memory)


def _of_own_rows(
    table: RowArrays, fitted: NDArray[np.bool_], mfu: float, slowdowns: Floats, missing: list[ValidatedRow]
) -> Validation:
    """Return the validation of a user's rows with the shipped constants, which were fitted to those of `fitted`."""
    step = predict(table, table.shipped)
    validated = _validated(table, step, fitted, mfu)
    return _report(validated, missing, (), layout_choices(table.rows, np.asarray(step.total) * slowdowns))


def _of_shipped_rows(
    table: RowArrays, seen: NDArray[np.bool_], mfu: float, slowdowns: Floats, missing: list[ValidatedRow]
) -> Validation:
    """Return the validation of the shipped rows, each with constants that did not see what is left out of them.

    `seen` are the rows to which the shipped constants were fitted.
    """
    step = predict(table, table.shipped)
    predicted = np.asarray(step.total)
    problem = problem_of(table, (*shipped_parameters(), *cluster_offsets(table)))
    whole = fit_populations(problem, seen)
    # Rows that did not enter the fit are also predicted without the rest of their source.
    held = np.isin(table.origin, table.origin[seen])
    left_out = LeftOut(
        held=held,
        source=np.where(held, leave_out(problem, seen, whole, table.origin), predicted),
        model=np.where(seen, leave_out(problem, seen, whole, model_folds(table, seen)), predicted),
        family=unknown_device_step_time_s(problem, seen, whole),
    )
    validated = _validated(table, step, seen, mfu, left_out)
    choices = layout_choices(table.rows, left_out.model * slowdowns)
    report = _report(validated, missing, _clusters(table.rows, validated), choices)
    return msgspec.structs.replace(report, full_runs=full_run_rows(), overruns=class_overruns(whole_runs()))


def _fitted_among(shipped: RowArrays, seen: NDArray[np.bool_], rows: Sequence[PublishedRow]) -> NDArray[np.bool_]:
    """Return which of a user's rows are shipped ones that the constants were fitted to."""
    known = {_identity(row) for row, fitted in zip(shipped.rows, seen, strict=True) if fitted}
    return np.array([_identity(row) in known for row in rows])


def _hybrids(rows: Sequence[PublishedRow], mfu: float) -> list[ValidatedRow]:
    """Return rows of models whose layers differ, predicted with the shipped constants as they are."""
    found: list[ValidatedRow] = []
    for group in hybrid_groups(rows):
        table = tabulate(group)
        found += _validated(table, predict(table, table.shipped), np.zeros(len(group), dtype=bool), mfu)
    return found


def _with_hybrids(report: Validation, rows: Sequence[ValidatedRow]) -> Validation:
    groups = {name: [row for row in rows if row.source == name] for name in dict.fromkeys(row.source for row in rows)}
    summary = tuple(_summary(name, group) for name, group in groups.items())
    return msgspec.structs.replace(report, hybrids=summary, hybrid_rows=tuple(rows))


def _with_memory(report: Validation, rows: tuple[ValidatedMemory, ...]) -> Validation:
    return msgspec.structs.replace(report, memory=memory_summaries(rows), fits=fit_summaries(rows), memory_rows=rows)


class LeftOut(NamedTuple):
    """Step times, of shape (rows,) and in s, from constants that saw no row of the same source, model or family.

    `family` is nan for rows of a family that is not predicted in this way. `held` is true for rows whose source was
    left out: the constants saw nothing of the other rows in any case.
    """

    held: NDArray[np.bool_]
    source: Floats
    model: Floats
    family: Floats


def _identity(row: PublishedRow) -> tuple[str, float]:
    return row.id, row.measured_step_time_s


def _validated(
    table: RowArrays,
    step: StepTime,
    fitted: NDArray[np.bool_],
    mfu: float,
    left_out: LeftOut | None = None,
) -> list[ValidatedRow]:
    constant = baselines.constant_mfu(table, mfu)
    predicted = np.asarray(step.total)
    host = np.asarray(step.terms["host"]) / predicted
    found = []
    for i, row in enumerate(table.rows):
        device = row.spec.cluster.accelerator
        spec = row.spec
        kind = accuracy_class(spec.model, device, spec.training.precision, spec.stack, float(host[i]))
        spread = reaching_to(spread_of(kind), expert_loop_factor(spec, float(predicted[i])))
        central = float(predicted[i] if left_out is None else left_out.source[i])
        held = left_out is not None and bool(left_out.held[i])
        unknown = np.nan if left_out is None else float(left_out.family[i])
        found.append(
            ValidatedRow(
                id=row.id,
                source=row.source,
                origin=row.origin,
                collection=row.collection,
                accelerator=row.accelerator,
                framework=row.framework,
                moe=bool(table.sparse[i]),
                measured_step_time_s=row.measured_step_time_s,
                predicted_step_time_s=float(predicted[i]),
                accuracy_class=kind,
                left_out_step_time_s=central if held else None,
                model_left_out_step_time_s=float(left_out.model[i]) if left_out is not None and fitted[i] else None,
                unknown_device_step_time_s=None if np.isnan(unknown) else unknown,
                low_s=central * spread.p10,
                high_s=central * spread.p90,
                fitted=bool(fitted[i]),
                assumed=row.assumed,
                not_read=row.not_read or None,
                baselines={
                    "llmcarbon": baselines.llmcarbon(row),
                    "constant_mfu": float(constant[i]),
                    "6nd_40": baselines.six_nd(row),
                },
            )
        )
    return found


def _report(
    rows: Sequence[ValidatedRow],
    skipped: Sequence[ValidatedRow],
    clusters: tuple[ErrorSummary, ...],
    choices: tuple[LayoutChoice, ...],
) -> Validation:
    summary = tuple(_summary(name, group) for name, group in _by_source(rows).items())
    unknown = [row for row in rows if row.unknown_device_step_time_s is not None]
    names = summary[0].baseline_mape if summary else {}
    return Validation(
        headlines=headlines(rows),
        summary=summary,
        clusters=clusters,
        unknown_device=tuple(_unknown_summary(name, group) for name, group in _by_source(unknown).items()),
        layouts=summarise_choices(choices),
        choices=choices,
        macro_mape=mean([item.mape for item in summary]),
        macro_abs_log_ratio=mean([item.abs_log_ratio for item in summary]),
        macro_baseline_mape={name: mean([item.baseline_mape[name] for item in summary]) or 0.0 for name in names},
        rows=(*rows, *skipped),
    )


def summary_name(source: str, framework: str | None, *, sparse: bool) -> str:
    """Return the name under which rows are summed up. Dense and sparse rows of a source are apart, and so are
    frameworks where one source has several.
    """
    name = source if source != "dgxc" else f"{source}-{framework}"
    return f"{name}-moe" if sparse else name


def _by_source(rows: Sequence[ValidatedRow]) -> dict[str, list[ValidatedRow]]:
    groups: dict[str, list[ValidatedRow]] = {}
    for row in rows:
        groups.setdefault(summary_name(row.source, row.framework, sparse=bool(row.moe)), []).append(row)
    return groups


def _summary(name: str, rows: Sequence[ValidatedRow]) -> ErrorSummary:
    fitted = all(row.model_left_out_step_time_s is not None for row in rows)
    return summarise(
        name,
        _column([row.measured_step_time_s for row in rows]),
        _column([row.left_out_step_time_s or row.predicted_step_time_s for row in rows]),
        (_column([row.low_s for row in rows]), _column([row.high_s for row in rows])),
        _baselines(rows),
        left_out=all(row.left_out_step_time_s is not None or not row.fitted for row in rows),
        model_left_out=_column([row.model_left_out_step_time_s for row in rows]) if fitted else None,
    )


def _unknown_summary(name: str, rows: Sequence[ValidatedRow]) -> ErrorSummary:
    predicted = _column([row.unknown_device_step_time_s for row in rows])
    spreads = [spread_of((row.moe and row.accuracy_class) or "sustained_law") for row in rows]
    return summarise(
        name,
        _column([row.measured_step_time_s for row in rows]),
        predicted,
        (predicted * [spread.p10 for spread in spreads], predicted * [spread.p90 for spread in spreads]),
        _baselines(rows),
        left_out=True,
    )


def _clusters(rows: Sequence[PublishedRow], validated: Sequence[ValidatedRow]) -> tuple[ErrorSummary, ...]:
    """Return the errors of clusters of rows. The point of a cluster is the geometric mean of its values."""
    members: dict[tuple[int, ...], list[ValidatedRow]] = {}
    for row, result in zip(rows, validated, strict=True):
        layout, model = row.spec.layout, row.spec.model
        if row.source == CLUSTERED and layout is not None:
            key = (getattr(model, "hidden", 0), layout.tp, layout.pp, layout.micro_batch_size)
            members.setdefault(key, []).append(result)
    if not members:
        return ()

    def centres(pick: str) -> Floats:
        return np.exp([np.mean(np.log([getattr(row, pick) for row in group])) for group in members.values()])

    return (
        summarise(
            f"{CLUSTERED}, by cluster",
            centres("measured_step_time_s"),
            centres("left_out_step_time_s"),
            (centres("low_s"), centres("high_s")),
            {},
            left_out=True,
            model_left_out=centres("model_left_out_step_time_s"),
        ),
    )


def _baselines(rows: Sequence[ValidatedRow]) -> dict[str, Floats]:
    found = [row.baselines or {} for row in rows]
    return {name: _column([guesses[name] for guesses in found]) for name in found[0]}


def _column(values: Sequence[float | None]) -> Floats:
    return np.array(values, dtype=np.float64)
