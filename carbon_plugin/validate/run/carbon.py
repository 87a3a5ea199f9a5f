"""Recompute published energy and carbon from model, cluster and site only. Nothing is fitted to these rows.

The prediction is the forecast of `carbon-plugin plan` with a searched layout. It counts what the source counts:
accelerators only, accelerators with the facility around them, or all machines. It is the forecast of a real run, whose
overrun is learned from the published hours: every row is therefore also predicted with the overrun of the other
sources. PUE and grid are the source's where it states them, because they are data of the site and not of the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from carbon_plugin.errors import CarbonPluginError
from carbon_plugin.plan.forecast import Forecast, layout_phrase, make_forecast
from carbon_plugin.plan.real_run import run_class
from carbon_plugin.spec.loading import build_run_spec
from carbon_plugin.spec.numbers.figure import Figure
from carbon_plugin.spec.numbers.units import JOULES_PER_MWH
from carbon_plugin.validate.run.carbon_rows import (
    CarbonSetup,
    CarbonSource,
    Counted,
    carbon_setups,
    carbon_sources,
)
from carbon_plugin.validate.run.real_runs import overrun_without


class Compared(Struct, frozen=True, kw_only=True):
    """One quantity as it was published and as it is predicted.

    `ratio` is predicted over published, and `best_case_ratio` is the same for the best case of the layout. `blind` is
    the prediction without any data of the row's source.
    """

    published: float
    predicted: Figure
    ratio: float
    best_case_ratio: float | None = None
    blind: Figure | None = None


class RangeCoverage(Struct, frozen=True, kw_only=True):
    """The shares of the published values of one quantity that lie inside the 80 % ranges of a real run.

    `inside` counts the values in the range of the prediction, and `blind_inside` those in the range from the other
    sources.
    """

    quantity: str
    rows: int
    inside: float
    blind_inside: float


class CarbonRow(Struct, frozen=True, kw_only=True):
    """One published row: device-hours, energy in MWh and operational carbon in tCO2e, each if it was published.

    `with_everything_t` is our own figure for the run with all machines, PUE and embodied carbon. `skipped` says why
    there is no prediction.
    """

    id: str
    model: str
    hardware: str
    source: str
    circular: bool
    energy_counts: Counted | None = None
    carbon_counts: Counted | None = None
    device_hours: Compared | None = None
    energy_mwh: Compared | None = None
    carbon_t: Compared | None = None
    with_everything_t: Figure | None = None
    llmcarbon_t: float | None = None
    llmcarbon_ratio: float | None = None
    published_carbon_t: float | None = None
    layout: str | None = None
    assumed: tuple[str, ...] = ()
    skipped: str | None = None


def carbon_rows(only: set[str] | None = None) -> list[CarbonRow]:
    """Return every published row, or those with the given ids, recomputed. A row that cannot be recomputed says why."""
    setups = carbon_setups()
    return [_row(row, setups[row.id]) for row in carbon_sources() if only is None or row.id in only]


def coverage(rows: Sequence[CarbonRow]) -> tuple[RangeCoverage, ...]:
    """Return, for each quantity, the share of the published values that lie inside the range of a real run."""
    found = []
    for quantity in ("device_hours", "energy_mwh", "carbon_t"):
        items = [item for row in rows if (item := getattr(row, quantity)) is not None and item.blind is not None]
        if items:
            found.append(
                RangeCoverage(
                    quantity=quantity,
                    rows=len(items),
                    inside=sum(_holds(item.predicted, item.published) for item in items) / len(items),
                    blind_inside=sum(_holds(item.blind, item.published) for item in items) / len(items),
                )
            )
    return tuple(found)


def _holds(figure: Figure, value: float) -> bool:
    return figure.low <= value <= figure.high


def _row(row: CarbonSource, setup: CarbonSetup) -> CarbonRow:
    compares_t = setup.llmcarbon_compares_tco2e or row.operational_tco2e
    head = CarbonRow(
        id=row.id,
        model=row.model,
        hardware=row.hardware or "not stated",
        source=row.source,
        circular=bool(row.circular),
        llmcarbon_t=setup.llmcarbon_tco2e,
        llmcarbon_ratio=setup.llmcarbon_tco2e / compares_t if setup.llmcarbon_tco2e and compares_t else None,
        published_carbon_t=row.operational_tco2e,
        assumed=setup.assumed,
    )
    if setup.run is None:
        return msgspec.structs.replace(head, skipped=setup.skipped)
    try:
        forecast = make_forecast(build_run_spec(_with_site(row, setup.run), origin=f"setup of {row.id}"))
        # Predict the same layout again, with the overrun of other sources and without any.
        blind = make_forecast(forecast.spec, overrun=overrun_without(row.id, run_class(forecast.spec)))
        best = make_forecast(forecast.spec, overrun=None)
    except CarbonPluginError as error:
        return msgspec.structs.replace(head, skipped=str(error))
    three = (forecast, blind, best)
    return msgspec.structs.replace(
        head,
        energy_counts=setup.energy,
        carbon_counts=setup.carbon,
        device_hours=_compared(row.accel_hours, *(one.device_hours for one in three)),
        energy_mwh=_compared(row.published_energy_mwh, *(_energy_mwh(one, setup.energy) for one in three)),
        carbon_t=_compared(row.operational_tco2e, *(_carbon_t(one, setup.carbon) for one in three)),
        with_everything_t=forecast.footprint.counted_kg.scaled(1e-3, "tCO2e"),
        layout=layout_phrase(forecast),
    )


def _carbon_t(forecast: Forecast, counted: Counted) -> Figure:
    return _energy_mwh(forecast, counted).scaled(forecast.factors.intensity.figure.value / 1e3, "tCO2e")


def _with_site(row: CarbonSource, run: dict[str, Any]) -> dict[str, Any]:
    """Return the run with the site of its row: the published grid and PUE, else those of the setup."""
    site: dict[str, Any] = dict(run.get("site", {}))
    if row.grid_gco2_per_kwh is not None:
        site = {"intensity_g_per_kwh": row.grid_gco2_per_kwh, "intensity_source": "as published"}
    if row.pue is not None:
        site |= {"pue": row.pue, "pue_source": "as published"}
    return {"name": row.id, **run, "site": site}


def _energy_mwh(forecast: Forecast, counted: Counted) -> Figure:
    energy = forecast.footprint.energy_j
    if counted == "facility":
        return energy["facility"].scaled(1 / JOULES_PER_MWH, "MWh")
    pue = forecast.factors.pue.value if counted == "gpu_pue" else 1.0
    return energy["gpu"].scaled(pue / JOULES_PER_MWH, "MWh")


def _compared(published: float | None, predicted: Figure, blind: Figure, best: Figure) -> Compared | None:
    """Return a published value beside its predictions.

    Return None where nothing was published, or where the value is 0 and has no ratio (hydropower that counts as zero).
    """
    if not published:
        return None
    return Compared(
        published=published,
        predicted=predicted,
        ratio=predicted.value / published,
        best_case_ratio=best.value / published,
        blind=blind,
    )
