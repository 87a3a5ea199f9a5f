"""Read published energy and carbon of training runs as typed values, with the further inputs of a prediction.

`published/carbon/rows.yaml` holds what the sources state. `setups.yaml` holds model, cluster and batch of those rows
that can be predicted, or says why one cannot. `validate.carbon` predicts them.
"""

from __future__ import annotations

from importlib import resources
from typing import Any, Literal

import msgspec
import yaml
from msgspec import Struct

from carbon_plugin.errors import SpecError

Counted = Literal["gpu", "gpu_pue", "facility"]


class CarbonSource(Struct, frozen=True, kw_only=True):
    """The compared fields of a published row: device-hours, MWh, tCO2e, and PUE and g/kWh of its place.

    `set` is "second" for the rows of the second collection, which were predicted before anything was learned from them.
    `circular` is true where its energy is hours times a stated power, so that it tests hours and arithmetic but no
    power model.
    """

    id: str
    kind: str
    model: str
    source: str
    confidence: str
    set: str | None = None
    params_b: float | None = None
    hardware: str | None = None
    circular: bool | None = None
    accel_hours: float | None = None
    energy_mwh: float | None = None
    energy_scope: str | None = None
    operational_tco2e: float | None = None
    pue: float | None = None
    grid_gco2_per_kwh: float | None = None
    derived: dict[str, float] = {}
    measured: dict[str, Any] = {}
    notes: str | None = None

    @property
    def published_energy_mwh(self) -> float | None:
        """Return the published energy, or hours times TDP where only carbon that was computed from it was published."""
        return self.energy_mwh if self.energy_mwh is not None else self.derived.get("energy_mwh_tdp_no_pue")


class CarbonSetup(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The run behind a row as a spec, the scope of its published energy and carbon, and the assumptions in it.

    `skipped` says why there is no prediction. `llmcarbon_tco2e` is LLMCarbon's number for the run.
    `llmcarbon_compares_tco2e` is the published number with which LLMCarbon compares it, where this is not the row's.
    """

    run: dict[str, Any] | None = None
    energy: Counted = "gpu"
    carbon: Counted = "gpu_pue"
    assumed: tuple[str, ...] = ()
    skipped: str | None = None
    llmcarbon_tco2e: float | None = None
    llmcarbon_compares_tco2e: float | None = None


class NodeSetup(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A node whose power was measured.

    `measured` names the number of the row that counts (kW), and `run` is the job that the node is assumed to run.
    """

    measured: str
    run: dict[str, Any]
    assumed: tuple[str, ...] = ()


def carbon_sources() -> list[CarbonSource]:
    """Return all published rows."""
    return msgspec.convert(_read("rows.yaml")["rows"], type=list[CarbonSource])


def carbon_setups() -> dict[str, CarbonSetup]:
    """Return the setup of each row by its id. Raises `SpecError` for a setup without a prediction or a reason."""
    setups = msgspec.convert(_read("setups.yaml")["setups"], type=dict[str, CarbonSetup])
    for name, setup in setups.items():
        if (setup.run is None) == (setup.skipped is None):
            raise SpecError(f"setups.yaml: {name}: expected run or skipped, one of them")
    return setups


def node_setups() -> dict[str, NodeSetup]:
    """Return the setup of each measured node by the id of its row."""
    return msgspec.convert(_read("setups.yaml")["nodes"], type=dict[str, NodeSetup])


def _read(name: str) -> dict[str, Any]:
    text = (resources.files("carbon_plugin.calibrate.rows") / "published" / "carbon" / name).read_text("utf-8")
    document: dict[str, Any] = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return document
