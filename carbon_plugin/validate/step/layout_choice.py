"""Check how good the layouts are that the model picks, where a source measured many layouts of one job.

The measures are rank correlation and regret. A layout that was measured several times counts once, with the mean of its
times, because nobody can choose between runs of one layout. A job is one model, trained in one way by one release of
one software, on a certain number of devices of one kind, so that only the layout differs. The pick is the layout of the
least expected time, which includes what it costs to fill the memory and what a slow network may cost. All layouts are
known to have run, so that none is avoided because it might not fit: how well that is known is counted apart
(`validate.hardware.memory`).

Layouts whose times lie within what a measurement repeats to are tied, so that their order counts for nothing. The rank
correlation without ties stands beside it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from carbon_plugin.calibrate.rows.rows import PublishedRow
from carbon_plugin.calibrate.rows.table import RowArrays
from carbon_plugin.plan.search.slow_network import expected_on_networks, slow
from carbon_plugin.predict.rates.rates import combine
from carbon_plugin.predict.time.schedule import step_time
from carbon_plugin.spec.numbers.amounts import percent, plural

MIN_RANKED = 3
"""Number of layouts of a job from which on a rank correlation is informative."""
REPEATED_WITHIN = 1.02
"""Largest ratio of two measured times that are taken to be equal.

The throughput of one run of Llama 3 405B varies by 1 to 2 % with the hour of the day (arXiv 2407.21783 section 3.3.4).
In our own rows seven pairs of runs of one layout, some of which differ in a setting that is not read, lie up to 4.6 %
apart, half of them 1.6 % or less (docs/validation_notebook.md names them).
"""
MOST_REGRET, LEAST_RANK = 3.0, 0.8
"""Limits on a source's mean regret, in percent, and on its rank correlation, which we aim at."""


class LayoutChoice(Struct, frozen=True, kw_only=True):
    """One job: the row that is predicted to be fastest, and the row that was measured to be fastest.

    `regret` is the measured time of our pick over the best measured time, minus 1, in percent. `spearman` is the rank
    correlation with ties of layouts that were measured to be equal, and `spearman_untied` that in which every order
    counts. They are None for fewer than three layouts, and the first where all are tied.
    """

    source: str
    model: str
    accelerator: str
    devices: int
    layouts: int
    spearman: float | None
    spearman_untied: float | None
    regret: float
    picked: str
    best: str


class LayoutSummary(Struct, frozen=True, kw_only=True):
    """One summary covers all jobs of a source: mean rank correlations with ties and without, and mean and worst regret
    in percent.
    """

    source: str
    jobs: int
    layouts: int
    spearman: float | None
    spearman_untied: float | None
    regret: float
    worst_regret: float


def layout_choices(rows: Sequence[PublishedRow], predicted_s: NDArray[np.float64]) -> tuple[LayoutChoice, ...]:
    """Return every job for which a source measured two layouts or more. `predicted_s` has shape (rows,)."""
    jobs: dict[Hashable, list[int]] = {}
    for index, row in enumerate(rows):
        jobs.setdefault(_job(row), []).append(index)
    chosen = (members for members in jobs.values() if len({rows[i].spec.layout for i in members}) > 1)
    return tuple(_choice(_runs([rows[i] for i in members], predicted_s[members])) for members in chosen)


def on_networks(table: RowArrays) -> NDArray[np.float64]:
    """Return expected over predicted time of each row by what a slow network may cost, of shape (rows,)."""
    case, rates = (table.shape, table.layout, table.work), combine(table.sheet, table.shipped)
    predicted_s, slow_s = (np.asarray(step_time(*case, each).total) for each in (rates, slow(rates)))
    return np.asarray(expected_on_networks(predicted_s, slow_s) / predicted_s)


def summarise_choices(choices: Sequence[LayoutChoice]) -> tuple[LayoutSummary, ...]:
    """Return one summary for each source, in order of appearance."""
    found = []
    for source in dict.fromkeys(choice.source for choice in choices):
        of_source = [choice for choice in choices if choice.source == source]
        regrets = [choice.regret for choice in of_source]
        found.append(
            LayoutSummary(
                source=source,
                jobs=len(of_source),
                layouts=sum(choice.layouts for choice in of_source),
                spearman=_mean([choice.spearman for choice in of_source]),
                spearman_untied=_mean([choice.spearman_untied for choice in of_source]),
                regret=float(np.mean(regrets)),
                worst_regret=max(regrets),
            )
        )
    return tuple(found)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def within_limits(summary: LayoutSummary, *, untied: bool = False) -> bool:
    """Return whether the choice for a source keeps both limits. A source without a rank correlation keeps that one.

    With `untied`, the order of layouts counts that were measured to be equal.
    """
    rank = summary.spearman_untied if untied else summary.spearman
    # A mean of ranks may miss by a rounding.
    return summary.regret <= MOST_REGRET and (rank is None or round(rank, 9) >= LEAST_RANK)


def overall_phrase(summaries: Sequence[LayoutSummary]) -> str:
    """Return the mean regret over sources, and how many of them keep both limits, in words."""
    mean = float(np.mean([summary.regret for summary in summaries]))
    kept, strict = (sum(within_limits(summary, untied=untied) for summary in summaries) for untied in (False, True))
    return (
        f"regret {percent(mean / 100, 1)} as a mean over {plural(len(summaries), 'source')}, of which {kept} keep to a "
        f"regret of {percent(MOST_REGRET / 100)} and a rank correlation of {LEAST_RANK:g} ({strict} where the order of "
        f"layouts counts that were measured within {percent(REPEATED_WITHIN - 1)} of one another)"
    )


def _job(row: PublishedRow) -> Hashable:
    spec = row.spec
    cluster = spec.cluster
    return row.source, row.software, spec.model, cluster.accelerator.name, cluster.devices, spec.training, spec.stack


class _Run(NamedTuple):
    """One layout of a job: its first row, and the means of measured and predicted time of all its rows, in s."""

    row: PublishedRow
    measured_s: float
    predicted_s: float


def _runs(rows: Sequence[PublishedRow], predicted_s: NDArray[np.float64]) -> list[_Run]:
    """Return the layouts of a job in order of appearance."""
    runs: dict[Hashable, list[int]] = {}
    for index, row in enumerate(rows):
        runs.setdefault(row.spec.layout, []).append(index)
    return [
        _Run(
            rows[members[0]],
            float(np.mean([rows[i].measured_step_time_s for i in members])),
            float(np.mean(predicted_s[members])),
        )
        for members in runs.values()
    ]


def _choice(runs: Sequence[_Run]) -> LayoutChoice:
    measured_s, predicted_s = (np.array([getattr(run, name) for run in runs]) for name in ("measured_s", "predicted_s"))
    picked, best = int(np.argmin(predicted_s)), int(np.argmin(measured_s))
    first, ranked = runs[0].row, len(runs) >= MIN_RANKED
    return LayoutChoice(
        source=first.source,
        model=first.spec.model.name,
        accelerator=first.accelerator,
        devices=first.spec.cluster.devices,
        layouts=len(runs),
        spearman=_spearman(predicted_s, measured_s, REPEATED_WITHIN) if ranked else None,
        spearman_untied=_spearman(predicted_s, measured_s, 1.0) if ranked else None,
        regret=100 * float(measured_s[picked] / measured_s[best] - 1),
        picked=runs[picked].row.id,
        best=runs[best].row.id,
    )


def _spearman(predicted_s: NDArray[np.float64], measured_s: NDArray[np.float64], tied_within: float) -> float | None:
    """Return the rank correlation over that which the measured order itself has, or None where all times of one side
    are tied.

    Measured times are tied up to the ratio `tied_within`, and predicted ones where they are equal. An order without
    ties cannot correlate fully with one that has some, so that the order of tied layouts would else count after all.
    """
    predicted, measured = _ranks(predicted_s, 1.0), _ranks(measured_s, tied_within)
    if np.ptp(predicted) == 0 or np.ptp(measured) == 0:
        return None
    found, most = (np.corrcoef(order, measured)[0, 1] for order in (predicted, _ranks(measured_s, 1.0)))
    # Predictions that are tied as the measured times are correlate better with them than any order without ties.
    return float(np.clip(found / most, -1, 1))


def _ranks(times_s: NDArray[np.float64], tied_within: float) -> NDArray[np.float64]:
    """Return the rank of each time from 0 on: the number of times that are clearly below it, and half of those others
    that are tied with it.
    """
    below = times_s[None] * tied_within < times_s[:, None]
    return np.asarray(below.sum(axis=1) + (~below & ~below.T).sum(axis=1) / 2 - 1 / 2)
