"""How far predictions of each class lie from measurements: the residuals of the validation rows, as intervals."""

from __future__ import annotations

from typing import NamedTuple

from carbon_plugin.predict.rates import NARROW, is_calibrated
from carbon_plugin.predict.result import AccuracyClass
from carbon_plugin.spec.figure import Figure
from carbon_plugin.spec.hardware import Accelerator
from carbon_plugin.spec.model import CountedModel, TransformerModel
from carbon_plugin.spec.training import Precision


class Spread(NamedTuple):
    """Factors on the central value: p10, p90 and the 95 % interval. Real runs are slower more often than faster."""

    p10: float
    p90: float
    low95: float
    high95: float


SPREADS: dict[AccuracyClass, Spread] = {
    # Quantiles of measured over predicted, leave one model out, data sets weighted as in the fit.
    "calibrated": Spread(0.92, 1.11, 0.88, 1.25),
    "host_bound": Spread(0.87, 1.12, 0.79, 1.43),
    "low_precision": Spread(0.86, 1.12, 0.76, 1.30),
    "moe": Spread(0.80, 1.42, 0.68, 1.80),
    # Transfers of the validation study to accelerators that the law had not seen.
    "sustained_law": Spread(0.85, 1.15, 0.70, 1.30),
    # Not validated on published rows: stated, wide.
    "probed": Spread(0.85, 1.20, 0.70, 1.50),
    "counted": Spread(0.60, 1.70, 0.40, 2.50),
    "unvalidated": Spread(0.60, 1.70, 0.40, 2.50),
}


def accuracy_class(
    model: TransformerModel | CountedModel, accelerator: Accelerator, precision: Precision, host_share: float
) -> AccuracyClass:
    """Which residuals apply. `host_share` is the part of the step in which devices wait for the host."""
    if isinstance(model, CountedModel) or not model.is_validated_kind:
        return "counted" if isinstance(model, CountedModel) else "unvalidated"
    if model.moe is not None:
        return "moe"
    if not is_calibrated(accelerator):
        return "sustained_law"
    if precision in NARROW:
        return "low_precision"
    share = accelerator.efficiency.gemm_share
    if share is not None and share.confidence == "measured":
        return "probed"
    return "host_bound" if host_share > 0.15 else "calibrated"


def step_time_figure(step_time_s: float, kind: AccuracyClass) -> tuple[Figure, tuple[float, float]]:
    """A step time with its p10-p90 range and 95 % interval, seconds."""
    spread = SPREADS[kind]
    figure = Figure(
        step_time_s,
        step_time_s * spread.p10,
        step_time_s * spread.p90,
        "s",
        "modelled",
        f"analytical step model, residuals of class {kind}",
    )
    return figure, (step_time_s * spread.low95, step_time_s * spread.high95)
