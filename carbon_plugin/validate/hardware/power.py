"""Compare published power of accelerators and nodes with the prediction from the job's spec. Nothing is fitted here.

Beside each prediction stands the one that is corrected by a factor from the other sources (one source left out), which
shows whether the model is wrong as a whole. Sweeps of power limits are compared in shape: time and power under a cap
are divided by those without one, and predicted from the power without a cap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib import resources
from typing import Any, Literal

import msgspec
import numpy as np
import yaml
from msgspec import Struct

from carbon_plugin.errors import SpecError
from carbon_plugin.plan.forecast import Forecast, make_forecast, modelled_energies
from carbon_plugin.predict.power import clock_share
from carbon_plugin.spec.hardware.fabric import nic_share
from carbon_plugin.spec.loading import build_run_spec
from carbon_plugin.spec.numbers.figure import Figure
from carbon_plugin.spec.numbers.range import Range
from carbon_plugin.validate.run.carbon_rows import carbon_sources, node_setups

PowerScope = Literal["gpu", "node", "system"]
IDLE_SHARE = 0.2
"""Draw of a card of a sweep with an open context, over the highest limit: about that of the V100 and A100 profiles."""
RUNGS: dict[PowerScope, tuple[str, ...]] = {
    "gpu": ("gpu",),
    "node": ("gpu", "host"),
    "system": ("gpu", "host", "network"),
}


class PowerSetup(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The run of a row, and the value of the row that counts.

    `sweep` is true for a sweep of power limits. `skipped` says why there is no prediction.
    """

    scope: PowerScope = "gpu"
    measured: str | None = None
    run: dict[str, Any] | None = None
    over: dict[str, Any] | None = None
    sweep: bool = False
    assumed: tuple[str, ...] = ()
    skipped: str | None = None


class PowerRow(Struct, frozen=True, kw_only=True):
    """One measurement, W, of an accelerator ("gpu"), a node, or a chip with its share of the host and of its NICs
    ("system"). No scope contains switches and optics.

    `unit` is "1" where a ratio of two runs was published. `left_out_ratio` is predicted over measured after the mean
    error of the other sources is removed.
    """

    id: str
    origin: str
    scope: PowerScope
    source: str
    unit: str = "W"
    measured: float | None = None
    predicted: Figure | None = None
    ratio: float | None = None
    left_out_ratio: float | None = None
    assumed: tuple[str, ...] = ()
    skipped: str | None = None


class CapRow(Struct, frozen=True, kw_only=True):
    """A sweep of power limits, as measured and as predicted by the law of caps.

    Times are relative to that at the highest limit. Errors are mean absolute errors in percent over the limits below
    the highest.
    """

    id: str
    origin: str
    limits_w: tuple[float, ...]
    measured_time: tuple[float, ...]
    predicted_time: tuple[float, ...]
    measured_power_w: tuple[float, ...]
    predicted_power_w: tuple[float, ...]
    time_mape: float
    power_mape: float


class PowerError(Struct, frozen=True, kw_only=True):
    """The mean absolute error of one scope in percent, with every source counted once: of the predictions, and of those
    that are corrected by the other sources.
    """

    scope: PowerScope
    rows: int
    sources: int
    mape: float
    left_out_mape: float


class PowerValidation(Struct, frozen=True, kw_only=True):
    """One validation holds all rows, the errors by scope, and the sweeps."""

    rows: tuple[PowerRow, ...]
    errors: tuple[PowerError, ...]
    caps: tuple[CapRow, ...]


def validate_power() -> PowerValidation:
    """Return every published row of measured power beside its prediction."""
    setups = power_setups()
    rows, caps = [], []
    for raw in power_sources():
        setup = setups[str(raw["id"])]
        if setup.sweep:
            caps.append(_cap_row(raw))
        else:
            rows.append(_row(raw, setup))
    rows += _given_nodes()
    rows = [msgspec.structs.replace(row, left_out_ratio=_left_out(row, rows)) for row in rows]
    return PowerValidation(rows=tuple(rows), errors=_errors(rows), caps=tuple(caps))


def power_sources() -> list[dict[str, Any]]:
    """Return the rows in the form in which they are written."""
    rows: list[dict[str, Any]] = _read("rows.yaml")["rows"]
    return rows


def power_setups() -> dict[str, PowerSetup]:
    """Return the setup of each row by its id. Raises `SpecError` for a setup without a prediction or a reason."""
    setups = msgspec.convert(_read("setups.yaml")["setups"], type=dict[str, PowerSetup])
    for name, setup in setups.items():
        if (setup.run is not None) + setup.sweep + (setup.skipped is not None) != 1:
            raise SpecError(f"setups.yaml: {name}: expected run, sweep or skipped, one of them")
    return setups


def _read(name: str) -> dict[str, Any]:
    text = (resources.files("carbon_plugin.calibrate.rows") / "published" / "power" / name).read_text("utf-8")
    document: dict[str, Any] = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return document


def _row(raw: dict[str, Any], setup: PowerSetup) -> PowerRow:
    name = str(raw["id"])
    head = PowerRow(
        id=name, origin=name.partition("-")[0], scope=setup.scope, source=str(raw["source"]), assumed=setup.assumed
    )
    if setup.run is None or setup.measured is None:
        return msgspec.structs.replace(head, skipped=setup.skipped)
    measured = raw
    for key in setup.measured.split("."):
        measured = measured[key]
    predicted = drawn_w(_forecast(name, setup.run), setup.scope)
    if setup.over is not None:
        base = drawn_w(_forecast(name, setup.over), setup.scope).value
        predicted, head = predicted.scaled(1 / base, "1"), msgspec.structs.replace(head, unit="1")
    return _compared(head, float(measured), predicted)  # type: ignore[arg-type]  # a leaf of the row


def _given_nodes() -> list[PowerRow]:
    """Return the measured nodes among the published rows of carbon."""
    setups = node_setups()
    return [
        _compared(
            PowerRow(
                id=row.id,
                origin=row.id,
                scope="node",
                source=row.source,
                assumed=setups[row.id].assumed,
            ),
            1e3 * float(row.measured[setups[row.id].measured]),
            drawn_w(_forecast(row.id, setups[row.id].run), "node"),
        )
        for row in carbon_sources()
        if row.id in setups
    ]


def _forecast(name: str, run: dict[str, Any]) -> Forecast:
    site = {"intensity_g_per_kwh": 0, "pue": 1}
    return make_forecast(build_run_spec({"name": name, "site": site, **run}, origin=f"setup of {name}"))


def drawn_w(forecast: Forecast, scope: PowerScope) -> Figure:
    """Return the mean power during a step, W, of the hardware that a measurement of this scope covers.

    This is a whole node for the scope "node", and one accelerator otherwise.
    """
    cluster = forecast.spec.cluster
    units = cluster.nodes if scope == "node" else cluster.devices
    parts = {"network": nic_share(cluster.node, cluster.nodes)}
    energies = [
        item.energy.scaled(parts.get(item.rung, 1.0))
        for item in modelled_energies(cluster, forecast.prediction.gpu_power_w, 1.0)
        if item.rung in RUNGS[scope]
    ]
    power = Range.total(energies).scaled(1 / units)  # the energy of one second
    return Figure.of(power, "W", "modelled", "accelerators, hosts and their NICs during a step, as measured")


def _compared(head: PowerRow, measured: float, predicted: Figure) -> PowerRow:
    ratio = predicted.value / measured
    return msgspec.structs.replace(head, measured=measured, predicted=predicted, ratio=ratio)


def _left_out(row: PowerRow, rows: Sequence[PowerRow]) -> float | None:
    if row.ratio is None:
        return None
    others: dict[str, list[float]] = {}
    for other in rows:
        if other.ratio is not None and other.origin != row.origin and other.scope == row.scope and other.unit == "W":
            others.setdefault(other.origin, []).append(math.log(other.ratio))
    bias = float(np.mean([np.mean(logs) for logs in others.values()])) if others and row.unit == "W" else 0.0
    return row.ratio * math.exp(-bias)


def _errors(rows: Sequence[PowerRow]) -> tuple[PowerError, ...]:
    found = []
    for scope in RUNGS:
        groups: dict[str, list[PowerRow]] = {}
        for row in rows:
            if row.scope == scope and row.ratio is not None:
                groups.setdefault(row.origin, []).append(row)
        if groups:
            found.append(
                PowerError(
                    scope=scope,
                    rows=sum(map(len, groups.values())),
                    sources=len(groups),
                    mape=_mean_error(groups, "ratio"),
                    left_out_mape=_mean_error(groups, "left_out_ratio"),
                )
            )
    return tuple(found)


def _mean_error(groups: dict[str, list[PowerRow]], field: str) -> float:
    return 100 * float(np.mean([np.mean([abs(getattr(row, field) - 1) for row in rows]) for rows in groups.values()]))


def _cap_row(raw: dict[str, Any]) -> CapRow:
    measured = raw["measured"]
    limits = [float(limit) for limit in measured["power_limit_w"]]
    power, time_s = [float(item) for item in measured["average_power_w"]], measured["time_per_epoch_s"]
    idle, free = IDLE_SHARE * limits[-1], power[-1]
    drawn = [min(limit, free) for limit in limits]
    predicted = [1 / clock_share((watts - idle) / (free - idle)) for watts in drawn]
    relative = [float(item) / float(time_s[-1]) for item in time_s]
    return CapRow(
        id=str(raw["id"]),
        origin="-".join(str(raw["id"]).split("-")[:2]),
        limits_w=tuple(limits),
        measured_time=tuple(relative),
        predicted_time=tuple(predicted),
        measured_power_w=tuple(power),
        predicted_power_w=tuple(drawn),
        time_mape=_mape(predicted[:-1], relative[:-1]),
        power_mape=_mape(drawn[:-1], power[:-1]),
    )


def _mape(predicted: Sequence[float], measured: Sequence[float]) -> float:
    return 100 * float(np.mean(np.abs(np.array(predicted) / np.array(measured) - 1)))
