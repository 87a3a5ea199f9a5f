"""Check how good the layouts are that the model picks, where a source measured many layouts of one job.

The measures are rank correlation and regret. A layout that was measured several times counts once, with the mean of its
times, because nobody can choose between runs of one layout. A job is one model, trained in one way by one release of
one software, on a certain number of devices of one kind, so that only the layout differs. The pick is the layout of the
least expected time, which includes what it costs to fill the memory and what a slow network may cost. All layouts are
known to have run, so that none is avoided because it might not fit: how well that is known is counted apart
(`validate.hardware.memory`).
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
MOST_REGRET, LEAST_RANK = 3.0, 0.8
"""Limits on a source's mean regret, in percent, and on its rank correlation, which we aim at."""


class LayoutChoice(Struct, frozen=True, kw_only=True):
    """One job: the row that is predicted to be fastest, and the row that was measured to be fastest.

    `regret` is the measured time of our pick over the best measured time, minus 1, in percent. `spearman` is None for
    fewer than three layouts.
    """

    source: str
    model: str
    accelerator: str
    devices: int
    layouts: int
    spearman: float | None
    regret: float
    picked: str
    best: str


class LayoutSummary(Struct, frozen=True, kw_only=True):
    """One summary covers all jobs of a source: mean rank correlation, and mean and worst regret in percent."""

    source: str
    jobs: int
    layouts: int
    spearman: float | None
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
    return expected_on_networks(predicted_s, slow_s) / predicted_s


def summarise_choices(choices: Sequence[LayoutChoice]) -> tuple[LayoutSummary, ...]:
    """Return one summary for each source, in order of appearance."""
    found = []
    for source in dict.fromkeys(choice.source for choice in choices):
        of_source = [choice for choice in choices if choice.source == source]
        ranked = [choice.spearman for choice in of_source if choice.spearman is not None]
        regrets = [choice.regret for choice in of_source]
        found.append(
            LayoutSummary(
                source=source,
                jobs=len(of_source),
                layouts=sum(choice.layouts for choice in of_source),
                spearman=float(np.mean(ranked)) if ranked else None,
                regret=float(np.mean(regrets)),
                worst_regret=max(regrets),
            )
        )
    return tuple(found)


def within_limits(summary: LayoutSummary) -> bool:
    """Return whether the choice for a source keeps both limits. A source without a rank correlation keeps that one."""
    # A mean of ranks may miss by a rounding.
    ranked = summary.spearman is None or round(summary.spearman, 9) >= LEAST_RANK
    return summary.regret <= MOST_REGRET and ranked


def overall_phrase(summaries: Sequence[LayoutSummary]) -> str:
    """Return the mean regret over sources, and how many of them keep both limits, in words."""
    mean = float(np.mean([summary.regret for summary in summaries]))
    kept = sum(within_limits(summary) for summary in summaries)
    return (
        f"regret {percent(mean / 100, 1)} as a mean over {plural(len(summaries), 'source')}, of which {kept} keep to a "
        f"regret of {percent(MOST_REGRET / 100)} and a rank correlation of {LEAST_RANK:g}"
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
    first = runs[0].row
    return LayoutChoice(
        source=first.source,
        model=first.spec.model.name,
        accelerator=first.accelerator,
        devices=first.spec.cluster.devices,
        layouts=len(runs),
        spearman=_spearman(predicted_s, measured_s) if len(runs) >= MIN_RANKED else None,
        regret=100 * float(measured_s[picked] / measured_s[best] - 1),
        picked=runs[picked].row.id,
        best=runs[best].row.id,
    )


def _spearman(first: NDArray[np.float64], second: NDArray[np.float64]) -> float | None:
    """Return the rank correlation, or None where all values of one side are equal.

    Ties do not occur among times that are measured to the ms.
    """
    ranks = [np.argsort(np.argsort(values)).astype(float) for values in (first, second)]
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])
