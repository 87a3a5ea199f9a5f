"""Carry what the user's own runs deviated by over to plans of the same layout and of like ones.

What a stack's factor and fitted constants leave of a run's time is of its layout. Layouts that differ little deviate
alike: in published clusters the squared difference of two deviations is half to three quarters of the usual one where
few degrees differ by a factor of two (docs/calibration.md). So the deviations are taken as a Gaussian process over
layouts (kriging; Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, chapters 2 and 2.7): a part
that falls off exponentially with the distance between layouts, a part that is of one layout alone, and what one run of
a layout differs from the next.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from carbon_plugin.errors import SpecError
from carbon_plugin.predict.arrays import Values, exp, log2, maximum, sum_of, where
from carbon_plugin.predict.case.inputs import Layout, Shape, StepWork
from carbon_plugin.predict.rates.evidence import runs_of
from carbon_plugin.predict.time.schedule import StepTime
from carbon_plugin.spec.hardware.cluster import Accelerator, OwnLayouts
from carbon_plugin.spec.stack import Stack

SMOOTH_SHARE = 0.8
"""The share of the variance between layouts that like ones have in common."""
REACH = 4.0
"""The distance, in doublings of degrees and sizes together, at which e-fold less of it is common."""
REPEATED_SPREAD = 0.05
"""By how much one run of a layout differs from the next on the same cluster at least, as a standard deviation of its
logarithm, and where none was repeated.
Of 47 layouts that a published source measured more than once half differ by less than 6.6 %, settings that nobody
stated among the reasons."""

Names = tuple[str, ...]
SIZES: Names = ("layers", "hidden", "ffn", "heads", "kv_heads", "vocab", "experts", "top_k", "expert_ffn")
DEGREES: Names = (
    "tp", "cp", "pp", "dp_replicate", "dp_shard", "ep", "micro_batch_size", "virtual_stages",
)  # fmt: skip
WORK: Names = ("seq_len", "batch")
SWITCHES: Names = (
    "zero_stage", "sequence_parallel", "zero_bubble", "dualpipe", "gpipe", "recompute_selective",
    "recompute_operators", "recompute_full", "again_norms", "again_act", "again_latent", "again_mlp", "again_moe",
    "again_shared",
)  # fmt: skip
"""Fields of which a change is as far as a doubling of a degree."""
FORMATS: Names = ("activation_bytes",)
OF_PLACE: Names = ("trainable", "narrow", *SIZES, *DEGREES, *WORK, *SWITCHES, *FORMATS)
"""The names of all that a place says."""
ODD = 2.5
"""How many spreads of like layouts a deviation may come to for these to share in it. What is beyond is its layout's own
(winsorising, Huber 1981), as in `calibrate.transfer`."""
SAME = 1e-3
"""Layouts that are not this far apart are the same."""


class OwnDeviation(NamedTuple):
    """One instance holds what own runs say of one layout: by how much its time deviates, as a logarithm, and what they
    leave of the spreads within a cluster and between clusters. They leave more than there was within a cluster only
    where runs of one layout differ more than usual.
    """

    shift: float
    within: float
    between: float


NOTHING_KNOWN = OwnDeviation(0.0, 1.0, 1.0)


def place_of(shape: Shape, layout: Layout, work: StepWork, narrow: Values) -> dict[str, Values]:
    """Return where layouts lie: the logarithms to base 2 of their sizes and degrees, and their switches.

    `narrow` says where matrix products run below 16 bit.
    """
    place: dict[str, Values] = {"trainable": shape.trainable, "narrow": narrow}
    for owner, names in ((shape, SIZES), (layout, DEGREES), (work, WORK)):
        place |= {name: log2(maximum(getattr(owner, name), 1.0)) for name in names}
    return place | {
        name: getattr(owner, name) for owner, names in ((layout, SWITCHES), (work, FORMATS)) for name in names
    }


class OwnRuns:
    """The user's own runs of one software on one cluster, as a Gaussian process over layouts."""

    def __init__(self, own: OwnLayouts) -> None:
        self._names = tuple(own.layouts[0].place)
        self._places = np.array([[one.place[name] for name in self._names] for one in own.layouts])
        self._smooth = own.smooth**2
        self._alone = own.spread**2 - self._smooth
        self._usual = own.usual**2
        self._repeated = own.repeated**2
        covariance = np.array([self._near(one.place) for one in own.layouts])
        self._inverse = np.linalg.inv(covariance + np.diag([self._repeated / one.runs for one in own.layouts]))
        deviations = np.array([one.deviation for one in own.layouts])
        most = ODD * own.smooth / math.sqrt(SMOOTH_SHARE)
        shared = np.clip(deviations, -most, most)
        self._pulls = self._inverse @ shared
        alike = np.sum([np.asarray(self._distances(one.place)) < SAME for one in own.layouts], axis=0)
        self._odd = (deviations - shared) / alike

    def shift(self, place: Mapping[str, Values]) -> Values:
        """Return the logarithm of the factor on the time of layouts at `place`, whose values broadcast."""
        distances = self._distances(place)
        known = sum_of(
            float(pull) * self._covariance(distance) for pull, distance in zip(self._pulls, distances, strict=True)
        )
        return known + sum_of(
            where(distance < SAME, float(odd), 0.0) for odd, distance in zip(self._odd, distances, strict=True) if odd
        )

    def deviation(self, place: Mapping[str, Values]) -> OwnDeviation:
        """Return what the runs say of one layout.

        The share of a deviation that comes from runs near a layout does not depend on the offset of the cluster, so
        that the spread between clusters enters by the rest.
        """
        near = np.array(self._near(place))
        weights = self._inverse @ near
        known = self._smooth + self._alone
        unlike = 1 - float(np.max(near)) / known
        # A layout that is unlike all runs differs as in a usual cluster: a few runs tell little of how much others do.
        left = max(known - float(weights @ near) + unlike * (self._usual - known), 0.0)
        within = math.sqrt((left + self._repeated) / (self._usual + REPEATED_SPREAD**2))
        return OwnDeviation(float(self.shift(place)), within, min(abs(1 - float(np.sum(weights))), 1.0))

    def _near(self, place: Mapping[str, Values]) -> list[Values]:
        """Return the covariance of the deviations of layouts at `place` with that of each run's layout."""
        return [self._covariance(distance) for distance in self._distances(place)]

    def _distances(self, place: Mapping[str, Values]) -> Sequence[Values]:
        """Return how far layouts at `place` are from each run's layout."""
        given = [place[name] for name in self._names]
        varies = np.array([np.ndim(value) > 0 for value in given])
        alike = np.array([0.0 if many else float(value) for value, many in zip(given, varies, strict=True)])
        distances: Sequence[Values] = np.sum(np.abs(self._places - alike)[:, ~varies], axis=1)
        for index in np.flatnonzero(varies):
            distances = [
                distance + np.abs(given[index] - seen)
                for distance, seen in zip(distances, self._places[:, index], strict=True)
            ]
        return distances

    def _covariance(self, distance: Values) -> Values:
        return self._smooth * exp(-distance / REACH) + where(distance < SAME, self._alone, 0.0)


def own_runs(accelerator: Accelerator, stack: Stack) -> OwnRuns | None:
    """Return the user's own runs of this software on this device, or None without any.

    Raises `SpecError` where the profile says of its layouts something else than this release compares.
    """
    own = runs_of(accelerator, stack)
    if own is None or own.like is None:
        return None
    odd = sorted(own.like.layouts[0].place.keys() ^ set(OF_PLACE))
    if odd:
        has = "has" if odd[0] in own.like.layouts[0].place else "lacks"
        raise SpecError(
            f"{accelerator.name}: own_software of {own.framework}: a place in like {has} {odd[0]}, expected "
            f"{', '.join(OF_PLACE)}; another release wrote it: take like out of the profile, or calibrate anew"
        )
    return OwnRuns(own.like)


def moved(step: StepTime, shift: Values) -> StepTime:
    """Return a step that takes longer by the factor of which `shift` is the logarithm. This is the software's time."""
    longer = (exp(shift) - 1) * step.total
    terms = {**step.terms, "framework": step.terms["framework"] + longer}
    return StepTime(terms, step.total + longer, step.micro_batches)
