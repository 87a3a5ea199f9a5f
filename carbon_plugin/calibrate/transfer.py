"""Say how much of the deviation of a few runs is that of their cluster, which its next run shares whatever its layout.

A run deviates from its prediction by an offset of its cluster and software, and by one of its layout. Nobody plans only
layouts that ran already, so that constants are to absorb the first alone. The spreads between sources and within one
of the class of prediction (`predict.uncertainty.interval`) say how large both are usually; the runs themselves say how
far their layouts differ from one another.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from carbon_plugin.calibrate.random_effects import NORMAL_MEDIAN, ODD
from carbon_plugin.calibrate.rows.table import RowArrays, predict
from carbon_plugin.predict.result import AccuracyClass
from carbon_plugin.predict.uncertainty.interval import EFFECTS, accuracy_class

PRIOR_DEGREES = 3
"""Number of layouts as which the usual spread within a source counts beside the spread of the runs themselves. It is a
round number: after three runs both count about alike."""

Floats = NDArray[np.float64]


class CarriedOver(Struct, frozen=True, kw_only=True):
    """One instance holds how far the runs of one framework deviate from their predictions, in logarithms.

    `shift` is the mean of measured over predicted over `layouts` different layouts, `spread` how far a layout lies from
    the mean of its cluster, and `carried` the part of `shift` that is put down to the cluster.
    """

    framework: str
    layouts: int
    shift: float
    spread: float
    carried: float


class ClusterDeviation(NamedTuple):
    """The mean deviation of the layouts of a cluster, the part of it that is put down to the cluster, and the spread of
    the layouts about the mean.
    """

    mean: float
    offset: float
    spread: float


def deviation_of_cluster(means: Floats, between: float, within: float) -> ClusterDeviation:
    """Return how far a cluster deviates from its prediction, in logarithms.

    `means` has the mean logarithm of measured over predicted of each layout. The mean m of n of them is the offset plus
    the mean of n deviations of layouts, which scatters by s/sqrt(n). s is the usual spread `within` a source, as
    `PRIOR_DEGREES` layouts, together with that of the given ones. Two things say how much of m is offset: how clusters
    differ usually (`between`), which leaves b^2/(b^2 + s^2/n) of it (random effects; Robinson, Statistical Science 6
    (1991) 15), and how large m itself is, which leaves m^2/(m^2 + s^2/n) (empirical Bayes; Morris, JASA 78 (1983) 47).
    A run moves the offset by no more than one `between`: one far away is as likely to be odd by its layout, and more of
    them say so together.
    """
    n = means.size
    means = _winsorised(means, within)
    mean = float(np.mean(means))
    squares = PRIOR_DEGREES * within**2 + float(np.sum((means - mean) ** 2))
    spread = math.sqrt(squares / (PRIOR_DEGREES + n - 1))
    chance = spread**2 / n
    believed = mean * between**2 / (between**2 + chance) * mean**2 / (mean**2 + chance)
    most = n * between
    return ClusterDeviation(mean, min(max(believed, -most), most), spread)


def _winsorised(means: Floats, within: float) -> Floats:
    """Return the means with odd ones brought to `ODD` spreads from their median (winsorising, Huber 1981)."""
    middle = float(np.median(means))
    away = means - middle
    most = ODD * max(within, float(np.median(np.abs(away))) / NORMAL_MEDIAN)
    return np.asarray(middle + np.clip(away, -most, most))


def believed_step_time_s(table: RowArrays, predicted_s: Floats) -> tuple[Floats, tuple[CarriedOver, ...]]:
    """Return the step times to which constants are fitted, in seconds, and what they keep of each framework's runs.

    They are the measured ones, all moved alike so that their mean deviation from `predicted_s` is the offset of the
    cluster. Several runs of one layout count as one, because they share its deviation.
    """
    deviations = np.log(table.measured_s / predicted_s)
    moved = deviations.copy()
    carried = []
    classes = row_classes(table)
    for framework in dict.fromkeys(table.framework.tolist()):
        members = np.flatnonzero(table.framework == framework)
        layouts: dict[Hashable, list[int]] = {}
        for index in members.tolist():
            spec = table.rows[index].spec
            layouts.setdefault((spec.model, spec.layout, spec.training, spec.cluster.devices), []).append(index)
        means = np.array([np.mean(deviations[same]) for same in layouts.values()])
        usual = [EFFECTS[classes[index]] for index in members]
        between, within = np.mean([(effects.between, effects.within) for effects in usual], axis=0).tolist()
        mean, offset, spread = deviation_of_cluster(means, between, within)
        moved[members] += offset - mean
        carried.append(CarriedOver(framework=framework, layouts=means.size, shift=mean, spread=spread, carried=offset))
    return predicted_s * np.exp(moved), tuple(carried)


def row_classes(table: RowArrays) -> list[AccuracyClass]:
    """Return the class of prediction of each row."""
    step = predict(table, table.shipped)
    host = np.broadcast_to(step.terms["host"] / step.total, table.measured_s.shape)
    return [
        accuracy_class(spec.model, spec.cluster.accelerator, spec.training.precision, spec.stack, float(share))
        for spec, share in zip((row.spec for row in table.rows), host, strict=True)
    ]
