"""One published row beside its predictions: the value that the tables of the validation are made of."""

from __future__ import annotations

from msgspec import Struct

from carbon_plugin.predict.result import AccuracyClass


class ValidatedRow(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One row: measured, predicted with its 80 % interval, the baselines, or why it was skipped.

    `left_out_step_time_s` is the prediction of constants that saw no row of this source, `model_left_out_step_time_s`
    of those that saw no row of this model (fitted rows only); `unknown_device_step_time_s` that of constants that
    saw no row of this device's family, where that was asked. The interval belongs to the prediction without the source
    where there is one. Memory in bytes where the source measured it."""

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
