"""Define one published row beside its predictions. The tables of the validation consist of these rows."""

from __future__ import annotations

from msgspec import Struct

from carbon_plugin.predict.result import AccuracyClass


class ValidatedRow(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One row as measured and as predicted, with its 80 % interval and the baselines, or the reason why it was skipped.

    `left_out_step_time_s` is the prediction of constants that saw no row of this source, `model_left_out_step_time_s`
    that of constants that saw no row of this model (fitted rows only). `unknown_device_step_time_s` is that of
    constants that saw no row of this device's family, where this was asked for. The interval belongs to the prediction
    without the source where there is one.
    """

    id: str
    source: str
    origin: str | None = None
    collection: str | None = None
    accelerator: str | None = None
    framework: str | None = None
    moe: bool | None = None
    measured_step_time_s: float | None = None
    predicted_step_time_s: float | None = None
    accuracy_class: AccuracyClass | None = None
    left_out_step_time_s: float | None = None
    model_left_out_step_time_s: float | None = None
    unknown_device_step_time_s: float | None = None
    low_s: float | None = None
    high_s: float | None = None
    fitted: bool | None = None
    assumed: tuple[str, ...] | None = None
    not_read: tuple[str, ...] | None = None
    baselines: dict[str, float] | None = None
    skipped: str | None = None
