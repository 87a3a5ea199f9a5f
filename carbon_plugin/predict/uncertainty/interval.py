"""Give each prediction an interval, from how far predictions of its class lie from independent measurements.

The measurements are those of people whose rows the constants were not fitted to. A new cluster differs from the
prediction by an offset of its own, which all of its runs share, and each run differs further. Both spreads come from
predictions with the source left out (`calibrate.random_effects`). The interval is that of a run of the next source: the
t(n-1) quantile times sqrt(between^2 (1 + 1/n) + within^2), in logarithms, around the prediction, where what sources
differ by is taken for each side apart, because more of them are far slower than predicted than far faster.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from statistics import NormalDist
from typing import NamedTuple

from carbon_plugin.predict.own_runs import OwnDeviation
from carbon_plugin.predict.rates.evidence import is_calibrated, own_software
from carbon_plugin.predict.rates.laws import NARROW
from carbon_plugin.predict.result import AccuracyClass
from carbon_plugin.spec.hardware.cluster import Accelerator
from carbon_plugin.spec.models.model import CountedModel, TransformerModel
from carbon_plugin.spec.numbers.figure import Figure
from carbon_plugin.spec.stack import ORDINARY, Population, Stack
from carbon_plugin.spec.training import Precision


class Effects(NamedTuple):
    """Standard deviations of ln(measured / predicted) between sources and within one, and the number of sources.

    How sources differ is stated for each side of the prediction: `faster` gives the range below it, `slower` the range
    above it.
    """

    faster: float
    slower: float
    within: float
    sources: int

    @property
    def between(self) -> float:
        """Return the standard deviation between sources over both sides."""
        return math.sqrt((self.faster**2 + self.slower**2) / 2)


def symmetrical(between: float, within: float, sources: int) -> Effects:
    """Return the effects where sources differ alike on both sides of the prediction."""
    return Effects(between, between, within, sources)


class SpreadLeft(NamedTuple):
    """The shares that the user's own runs leave of the spread between sources, on each side of the prediction, and of
    that within one.
    """

    faster: float
    slower: float
    within: float = 1.0


WHOLE = SpreadLeft(1.0, 1.0)
"""What is left where nobody knows a run of the cluster."""


class Spread(NamedTuple):
    """Factors on the central value that give p10, p90 and the bounds of the 95 % interval."""

    p10: float
    p90: float
    low95: float
    high95: float


EFFECTS: dict[AccuracyClass, Effects] = {
    # Computed and written by `python -m carbon_plugin.validate.step.spreads` from rows with their source left out.
    "calibrated": Effects(0.091, 0.315, 0.097, 50),
    "host_bound": Effects(0.100, 0.365, 0.097, 51),
    "low_precision": Effects(0.132, 0.276, 0.118, 21),
    "moe": Effects(0.053, 0.506, 0.257, 50),
    "moe_ordinary": Effects(0.834, 1.011, 0.258, 22),
    "ordinary": Effects(0.274, 0.348, 0.214, 117),
    "sustained_law": Effects(0.037, 0.616, 0.155, 30),
    # Not validated on published rows: stated, wide. A probe measures the machine and leaves the software.
    "probed": Effects(0.10, 0.10, 0.08, 5),
    "counted": Effects(0.30, 0.30, 0.20, 5),
    "unvalidated": Effects(0.30, 0.30, 0.20, 5),
}
MIXTURES: dict[Population, AccuracyClass] = {"tuned": "moe", "ordinary": "moe_ordinary"}
"""The classes of mixtures of experts."""
NOT_VALIDATED: tuple[AccuracyClass, ...] = ("probed", "counted", "unvalidated")
"""Classes whose spreads are stated and not computed, because no published row belongs to them."""
ASSUMED_SIGMA = 0.075
"""Standard deviation that is added where nobody stated the layout, batch or precision. On rows that calibration does
not see, errors were 10.1 % with such inputs and 6.7 % without."""


def spread_of(kind: AccuracyClass, *, assumed: bool = False, left: SpreadLeft = WHOLE) -> Spread:
    """Return the factors around the prediction for a run of the next source.

    `assumed` says that rules filled some inputs. `left` says how much runs of the same cluster and software left of
    what sources differ by (`calibrate.transfer`) and of what layouts do (`predict.own_runs`).
    """
    faster, slower, within, sources = EFFECTS[kind]
    effects = Effects(faster * left.faster, slower * left.slower, within * left.within, sources)
    return factors(effects, ASSUMED_SIGMA if assumed else 0.0)


def spread_left(accelerator: Accelerator, stack: Stack, like: OwnDeviation) -> SpreadLeft:
    """Return how much the user's own runs left of what clusters and layouts differ by, where `like` is what they say of
    the layout.
    """
    own = own_software(accelerator, stack)
    return WHOLE if own is None else left_of(own.faster, own.slower, like)


def left_of(faster: float, slower: float, like: OwnDeviation) -> SpreadLeft:
    """Return what is left for a layout of which runs say `like`, where they left `faster` and `slower` of what clusters
    differ by. Runs so far off that they left all of it may have been disturbed, and narrow nothing.
    """
    if faster == slower == 1:
        return WHOLE
    return SpreadLeft(faster * like.between, slower * like.between, like.within)


def reaching_to(spread: Spread, other: float) -> Spread:
    """Return a spread about both the central value and `other` times this value."""
    less, more = min(other, 1.0), max(other, 1.0)
    return Spread(spread.p10 * less, spread.p90 * more, spread.low95 * less, spread.high95 * more)


@cache
def factors(effects: Effects, further: float = 0.0) -> Spread:
    """Return the factors around the prediction under these spreads and a `further`, independent deviation."""
    faster, slower, within, sources = effects
    below, above = (math.sqrt(side**2 * (1 + 1 / sources) + within**2 + further**2) for side in (faster, slower))
    near, far = t_quantile(0.9, sources - 1), t_quantile(0.975, sources - 1)
    return Spread(math.exp(-near * below), math.exp(near * above), math.exp(-far * below), math.exp(far * above))


def t_quantile(probability: float, degrees: int) -> float:
    """Return the quantile of Student's t by its expansion in 1/degrees (Abramowitz and Stegun 26.7.5).

    It is correct within 1 % from 3 degrees of freedom on.
    """
    z = NormalDist().inv_cdf(probability)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / degrees + second / degrees**2 + third / degrees**3


def accuracy_class(
    model: TransformerModel | CountedModel,
    accelerator: Accelerator,
    precision: Precision,
    stack: Stack,
    host_share: float,
) -> AccuracyClass:
    """Return the class whose residuals apply to a run.

    `host_share` is the share of the step in which devices wait for the host.
    """
    if isinstance(model, CountedModel) or not model.is_validated_kind:
        return "counted" if isinstance(model, CountedModel) else "unvalidated"
    if model.moe is not None or stack.population == ORDINARY:
        return MIXTURES[stack.population] if model.moe is not None else "ordinary"
    if not is_calibrated(accelerator):
        return "sustained_law"
    if precision in NARROW:
        return "low_precision"
    share = accelerator.efficiency.gemm_share
    if share is not None and share.confidence == "measured":
        return "probed"
    return "host_bound" if host_share > 0.15 else "calibrated"


def step_time_figure(
    step_time_s: float,
    kind: AccuracyClass,
    *,
    assumed: Sequence[str] = (),
    left: SpreadLeft = WHOLE,
    other: tuple[str, float] = ("", 1.0),
) -> tuple[Figure, tuple[float, float]]:
    """Return a step time with its range from p10 to p90, and its 95 % interval, in seconds.

    `assumed` names the fields that rules filled because nobody stated them; they make the range wider. `other` names
    one more such field, and how many times longer a step takes with its other value: the range reaches as far beyond
    the other step time as it does beyond this one. `left` is what the user's own runs left of the spread between
    sources.
    """
    spread = reaching_to(spread_of(kind, assumed=bool(assumed), left=left), other[1])
    fields = dict.fromkeys([*assumed, *([other[0]] if other[1] != 1 else [])])
    own = ", of a cluster with runs of its own" if left != WHOLE else ""
    wider = f", wider because of assumed {', '.join(fields)}" if fields else ""
    figure = Figure(
        step_time_s,
        step_time_s * spread.p10,
        step_time_s * spread.p90,
        "s",
        "modelled",
        f"analytical step model, residuals of class {kind}{own}{wider}",
    )
    return figure, (step_time_s * spread.low95, step_time_s * spread.high95)
