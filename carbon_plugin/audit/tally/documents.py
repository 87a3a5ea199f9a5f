"""The documents that a manifest carries (forecast, prediction, factors), read as far as an audit needs them.

A ledger outlives the release that wrote it, so only the fields used here have to be there; the rest is ignored.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from carbon_plugin.errors import LedgerError
from carbon_plugin.footprint.values import Footprint
from carbon_plugin.spec.figure import Figure
from carbon_plugin.spec.parsing.boundary import check_numbers

_Document = TypeVar("_Document")


class PredictionDocument(Struct, frozen=True):
    """The part of a `StepPrediction` that is compared, and the FLOPs that it counted."""

    step_time_s: Figure
    gpu_power_w: Figure
    model_flops_per_step: float | None = None
    hardware_flops_per_step: float | None = None
    attention_convention: str | None = None


class _ClusterDocument(Struct, frozen=True):
    nodes: int
    devices_per_node: int


class _SpecDocument(Struct, frozen=True):
    cluster: _ClusterDocument


class ForecastDocument(Struct, frozen=True):
    """The part of a `Forecast` that is compared."""

    created_unix_s: float
    plugin_version: str
    spec: _SpecDocument
    prediction: PredictionDocument
    total_steps: int
    run_time_s: Figure
    device_hours: Figure
    footprint: Footprint

    @property
    def devices(self) -> int:
        """Devices that the forecast planned for."""
        return self.spec.cluster.nodes * self.spec.cluster.devices_per_node


def read_forecast(document: dict[str, Any] | None) -> ForecastDocument | None:
    """The forecast in a manifest, None if there is none or it is not one."""
    return _read(document, ForecastDocument)


def read_prediction(document: dict[str, Any] | None) -> PredictionDocument | None:
    """The prediction in a manifest, None if there is none or it is not one."""
    return _read(document, PredictionDocument)


def _read(document: dict[str, Any] | None, kind: type[_Document]) -> _Document | None:
    if not document:
        return None
    try:
        check_numbers(document, "a manifest", LedgerError)
        return msgspec.convert(document, type=kind)
    except LedgerError:  # a number that cannot be: nothing is computed from it
        return None
    except msgspec.ValidationError:
        return None
