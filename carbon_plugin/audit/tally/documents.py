"""Read the documents of a manifest (forecast, prediction, factors), as far as an audit needs them.

A ledger outlives the release that wrote it, so only the fields that are used here must be present. All others are
ignored.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from carbon_plugin.errors import LedgerError
from carbon_plugin.footprint.values import Footprint
from carbon_plugin.ledger.records import Manifest
from carbon_plugin.spec.numbers.figure import Figure
from carbon_plugin.spec.parsing.boundary import check_numbers

_Document = TypeVar("_Document")

_REPEATED = ("devices", "effective", "factors", "versions", "forecast", "prediction", "assumptions", "spec")


class PredictionDocument(Struct, frozen=True):
    """The fields of a `StepPrediction` that are compared, and the FLOPs that the prediction counted."""

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
    """The fields of a `Forecast` that are compared."""

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
        """Return the number of devices that the forecast planned for."""
        return self.spec.cluster.nodes * self.spec.cluster.devices_per_node


def read_forecast(document: dict[str, Any] | None) -> ForecastDocument | None:
    """Return the forecast in a manifest, or None if there is none or the document is no forecast."""
    return _read(document, ForecastDocument)


def read_prediction(document: dict[str, Any] | None) -> PredictionDocument | None:
    """Return the prediction in a manifest, or None if there is none or the document is no prediction."""
    return _read(document, PredictionDocument)


def _read(document: dict[str, Any] | None, kind: type[_Document]) -> _Document | None:
    if not document:
        return None
    try:
        check_numbers(document, "a manifest", LedgerError)
        return msgspec.convert(document, type=kind)
    except LedgerError:  # nothing is computed from an impossible number
        return None
    except msgspec.ValidationError:
        return None


class SharedDocuments:
    """Keeps one copy of documents that are equal in several manifests. Restarts of many nodes make thousands of files
    that repeat them.

    The documents are shared, so that nobody may change them.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, Any] = {}
        self._only: Manifest | None = None

    def manifest(self, manifest: Manifest) -> Manifest:
        """Return an equal manifest that uses the documents of earlier manifests wherever these are equal."""
        if not self._known:
            if self._only is None:  # most runs have one manifest, of which nothing needs to be encoded
                self._only = manifest
                return manifest
            self._shared(self._only)
        return self._shared(manifest)

    def _shared(self, manifest: Manifest) -> Manifest:
        return msgspec.structs.replace(manifest, **{name: self._first(getattr(manifest, name)) for name in _REPEATED})

    def _first(self, document: Any) -> Any:
        return self._known.setdefault(blake2b(msgspec.json.encode(document), digest_size=16).digest(), document)
