"""Say how much of the deviation of a few runs is that of their cluster, which its next run shares whatever its layout.

A run deviates from its prediction by an offset of its cluster and software, by the constants of this cluster, and by
what its layout has of its own. Nobody plans only layouts that ran already, so that the last part must not be learned.
The spreads between sources and within one of the class of prediction (`predict.uncertainty.interval`) say how large
these parts are usually. Both have long tails: most clusters are near their predictions and few are far, and the layouts
of most clusters differ little among themselves and those of few differ much.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from carbon_plugin.calibrate.random_effects import HELD, HELD_SPREADS, NORMAL_MEDIAN, ODD
from carbon_plugin.calibrate.rows.table import RowArrays, predict
from carbon_plugin.predict.result import AccuracyClass
from carbon_plugin.predict.uncertainty.interval import EFFECTS, WHOLE, Effects, SpreadLeft, accuracy_class
from carbon_plugin.spec.training import Reliability, TrainingPlan

NEAR, NEAR_SPREAD = 0.3, 0.1
"""The share of clusters that are believed to deviate by hardly anything, and how far these deviate beside what layouts
differ by. Both were chosen by what one run and three bring on published clusters (docs/calibration.md)."""
LEVELS = 9
"""Number of equally likely values for how much the layouts of a cluster differ."""
LEAST_LOG, MOST_LOG, POINTS = 1e-3, math.log(30.0), 120
"""The least and the largest offset that is looked at on each side, in logarithms, and how many there are between."""

Floats = NDArray[np.float64]


def _long_tailed_quantile(probability: float) -> float:
    """Return the quantile of Student's t with two degrees of freedom."""
    return (2 * probability - 1) / math.sqrt(2 * probability * (1 - probability))


_PASSED = (1 - HELD) / 2
FAR_SPREAD = HELD_SPREADS / _long_tailed_quantile(1 - _PASSED / (1 - NEAR))
"""Scale of the far clusters' offsets over the spread between sources. Near and far ones together then pass each end of
the class's range between sources as often as the class says."""
LAYOUT_SPREAD = HELD_SPREADS / _long_tailed_quantile(1 - _PASSED)
"""Scale of what layouts differ by over the spread within a source, so that as many lie in its range."""
_VARIANCES = -1 / np.log((np.arange(LEVELS) + 0.5) / LEVELS)
"""Quantiles of the variance of a normal variable that is Student's t with two degrees of freedom where nobody knows it:
an inverse gamma variable of shape and scale 1."""
_SIDE = np.geomspace(LEAST_LOG, MOST_LOG, POINTS)
_OFFSETS = np.concatenate([-_SIDE[::-1], [0.0], _SIDE])
_WIDTHS = np.gradient(_OFFSETS)


class CarriedOver(Struct, frozen=True, kw_only=True):
    """One instance holds how far the runs of one framework deviate from their predictions, in logarithms.

    `shift` is the mean of measured over predicted over `layouts` different layouts, `spread` how far a layout lies from
    the mean of its cluster, `usual` the same of a usual cluster, and `carried` the part of `shift` that is put down to
    the cluster as a whole. `uncertain` is the range of the cluster's offset after the runs over the one before.
    `faster` and `slower` are how much of the spread between clusters is left on each side in the range of the next
    plan.
    """

    framework: str
    layouts: int
    shift: float
    spread: float
    usual: float
    carried: float
    between: float
    uncertain: float
    faster: float
    slower: float


class ClusterOffset(NamedTuple):
    """The offset that a cluster is believed to have, the spread of its layouts, and the spread of the offset before the
    runs and after them, all in logarithms, and what is left of the former in the range of the next plan.
    """

    offset: float
    spread: float
    between: float
    uncertain: float
    left: SpreadLeft


def offset_of_cluster(means: Floats, shared: Floats, effects: Effects) -> ClusterOffset:
    """Return how far a cluster deviates from its prediction, from the mean logarithm of measured over predicted of each
    layout.

    `shared`, of shape (layouts, layouts), is the covariance that the means have without any offset of the cluster and
    of layouts: by constants that are not known exactly, which layouts of one kind share, and by noise. Before the runs
    an offset is near with probability `NEAR`, and otherwise Student's t of two degrees with the class's spread between
    sources on its side. How much layouts differ is unknown too: it is the class's spread within a source times the root
    of an inverse gamma variable, so that one deviation alone is Student's t. Small deviations then teach little and
    large ones much, and runs that differ among themselves teach less (Box and Tiao, Biometrika 55 (1968) 119). The
    offset returned is the one with the least expected error of predicted over measured time. n runs move it by at most
    n spreads between sources, because one far away is as likely to be odd by its layout; where they would move it
    further, the next plan's range stays as wide as that of a stranger's cluster.
    """
    away = _winsorised(means, effects.within)[:, None] - _OFFSETS
    variances = (effects.within * LAYOUT_SPREAD) ** 2 * _VARIANCES
    inverse = np.linalg.inv(shared + variances[:, None, None] * np.eye(means.size))
    misfit = np.einsum("iq,lij,jq->lq", away, inverse, away) - np.linalg.slogdet(inverse)[1][:, None]
    before = _offsets_before(effects)
    likely = np.exp(-(misfit - np.min(misfit)) / 2) * before
    likely /= np.sum(likely)
    after = np.sum(likely, axis=0)
    low, high = _ends(after)
    # The median with the weight of 1/measured is where the mean of |predicted/measured - 1| is least.
    offset = _quantile(after * np.exp(-_OFFSETS), 0.5)
    most = means.size * effects.between
    within = float(1 / math.sqrt(np.sum(np.sum(likely, axis=1) / variances)))
    ends = np.array([offset - low, high - offset]) / HELD_SPREADS
    left = np.clip(ends / _sides(effects), 0, 1)
    return ClusterOffset(
        min(max(offset, -most), most),
        within,
        _spread_of(before),
        _spread_of(after),
        SpreadLeft(*left.tolist()) if abs(offset) <= most else WHOLE,
    )


def _offsets_before(effects: Effects) -> Floats:
    """Return the probability of each of `_OFFSETS` before any run."""
    near = _OFFSETS / (NEAR_SPREAD * effects.within)
    faster, slower = FAR_SPREAD * _sides(effects)
    side = np.where(_OFFSETS < 0, faster, slower)
    around = np.exp(-(near**2) / 2) / (math.sqrt(2 * math.pi) * NEAR_SPREAD * effects.within)
    beyond = (1 + (_OFFSETS / side) ** 2 / 2) ** -1.5 / (math.sqrt(8) * side)
    return np.asarray((NEAR * around + (1 - NEAR) * beyond) * _WIDTHS)


def _sides(effects: Effects) -> Floats:
    """Return the spread between sources on each side, which is at least that of near clusters: of some classes no
    source was faster than what layouts differ by."""
    return np.maximum([effects.faster, effects.slower], NEAR_SPREAD * effects.within)


def _ends(weights: Floats) -> tuple[float, float]:
    """Return p10 and p90 of `_OFFSETS` with these weights."""
    return _quantile(weights, _PASSED), _quantile(weights, 1 - _PASSED)


def _spread_of(weights: Floats) -> float:
    """Return the spread of a normal variable with the range of `_OFFSETS` with these weights."""
    low, high = _ends(weights)
    return (high - low) / (2 * HELD_SPREADS)


def _quantile(weights: Floats, probability: float) -> float:
    """Return the quantile of `_OFFSETS` with these weights."""
    shares = np.cumsum(weights) - weights / 2
    return float(np.interp(probability, shares / np.sum(weights), _OFFSETS))


def _winsorised(means: Floats, within: float) -> Floats:
    """Return the means with odd ones brought to `ODD` spreads from their median (winsorising, Huber 1981)."""
    middle = float(np.median(means))
    away = means - middle
    most = ODD * max(within, float(np.median(np.abs(away))) / NORMAL_MEDIAN)
    return np.asarray(middle + np.clip(away, -most, most))


def carried_over(
    table: RowArrays, deviations: Floats, slopes: Floats, noises: Floats, classes: Sequence[AccuracyClass]
) -> tuple[CarriedOver, ...]:
    """Return what is put down to the cluster of the runs of each framework.

    `deviations` are the logarithms of measured over predicted time of each row. `slopes`, of shape (rows, constants),
    are what one prior spread of each constant adds to the logarithm of its time, and `noises` the spread that the time
    of a row has by chance. Several runs of one layout count as one, because they share its deviation.
    """
    numbers, carried = layouts_of(table), []
    for framework in dict.fromkeys(table.framework.tolist()):
        members = np.flatnonzero(table.framework == framework)
        own, same = np.unique(numbers[members], return_inverse=True)
        mean_of = np.eye(own.size)[same].T / np.bincount(same)[:, None]
        means, common = mean_of @ deviations[members], mean_of @ slopes[members]
        shared = common @ common.T + np.diag(mean_of @ noises[members] ** 2)
        usual = _mean_effects([classes[index] for index in members.tolist()])
        found = offset_of_cluster(means, shared, usual)
        carried.append(
            CarriedOver(
                framework=framework,
                layouts=own.size,
                shift=float(np.mean(means)),
                spread=found.spread,
                usual=usual.within,
                carried=found.offset,
                between=found.between,
                uncertain=found.uncertain,
                faster=found.left.faster,
                slower=found.left.slower,
            )
        )
    return tuple(carried)


def _mean_effects(classes: Sequence[AccuracyClass]) -> Effects:
    usual = [EFFECTS[kind] for kind in classes]
    faster, slower, within = np.mean([(one.faster, one.slower, one.within) for one in usual], axis=0).tolist()
    return Effects(faster, slower, within, min(one.sources for one in usual))


def layouts_of(table: RowArrays) -> NDArray[np.intp]:
    """Return a number for each row that runs of the same work in the same layout share, however long they were."""
    specs = [row.spec for row in table.rows]
    keys = [(spec.model, spec.stack, spec.layout, _step_of(spec.training), spec.cluster.devices) for spec in specs]
    numbers = {key: index for index, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] for key in keys])


def _step_of(training: TrainingPlan) -> TrainingPlan:
    """Return the plan of a single step, without what only says how long a run is and what else takes its time."""
    return msgspec.structs.replace(
        training,
        steps=1,
        tokens=None,
        overhead_fraction=None,
        evaluation=None,
        reliability=Reliability(),
        kind="production",
    )


def row_classes(table: RowArrays) -> list[AccuracyClass]:
    """Return the class of prediction of each row."""
    step = predict(table, table.prior, table.prior_factor)
    host = np.broadcast_to(step.terms["host"] / step.total, table.measured_s.shape)
    return [
        accuracy_class(spec.model, spec.cluster.accelerator, spec.training.precision, spec.stack, float(share))
        for spec, share in zip((row.spec for row in table.rows), host, strict=True)
    ]
