"""What if: the same run elsewhere, on other hardware, at other hours, with pauses that are not free."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_plugin.errors import FootprintError, SpecError
from carbon_plugin.footprint.series.trace import ROUNDED, make_trace
from carbon_plugin.plan.forecast import make_forecast
from carbon_plugin.plan.whatif.axes import MOST_ALTERNATIVES, combinations_of, parse_axes
from carbon_plugin.plan.whatif.comparison import Alternative, Comparison
from carbon_plugin.plan.whatif.pausing import schedule
from carbon_plugin.plan.whatif.planned_run import PLAN_AXES, as_many_devices, compare_plan
from carbon_plugin.spec.hardware.profiles import load_accelerator
from carbon_plugin.spec.loading import build_run_spec
from carbon_plugin.spec.parsing.moment import unix_s
from carbon_plugin.spec.run import RunSpec

HOUR = 3600.0
DAYS = 60
START = "2025-01-01T00:00Z"


@pytest.fixture(scope="module")
def grids(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with average.csv (100 g at night and 400 g by day) and marginal.csv (always 700 g)."""
    folder = tmp_path_factory.mktemp("grids")
    first = datetime.fromisoformat("2025-01-01T00:00+00:00").astimezone(UTC)
    for name, value in (("average", lambda hour: 100 if hour % 24 < 12 else 400), ("marginal", lambda hour: 700)):
        rows = [f"{(first + timedelta(hours=hour)).isoformat()},{value(hour)}" for hour in range(24 * DAYS)]
        (folder / f"{name}.csv").write_text("\n".join(["datetime,g_per_kwh", *rows]) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def make_spec(grids: Path) -> Callable[..., RunSpec]:
    def make(*, steps: int = 20_000, start: str | None = START, **site: object) -> RunSpec:
        series = {
            "intensity_series": {"path": str(grids / "average.csv"), "basis": "lifecycle average generation"},
            "marginal_series": str(grids / "marginal.csv"),
        }
        return build_run_spec(
            {
                "model": "llama3-8b",
                "cluster": {"accelerator": "h100-sxm", "nodes": 2},
                "layout": {"dp_shard": 16, "zero_stage": 3, "recompute": "operators"},
                "training": {"seq_len": 8192, "global_batch_size": 64, "steps": steps},
                "site": {"zone": "FRA", "pue": 1.2, **(site or series)},
                "start": start,
            },
            origin="test",
        )

    return make


def compare(spec: RunSpec, *words: str) -> Comparison:
    return compare_plan(spec, parse_axes(words, PLAN_AXES))


def total(alternative: Alternative) -> float:
    assert alternative.footprint is not None, alternative.reason
    return alternative.footprint.total_kg.value


# Axes ---------------------------------------------------------------------------------------------------------------


def test_axes_are_words_with_values_and_every_combination_of_them() -> None:
    axes = parse_axes(["zone=SWE,USA accelerator=h100-sxm", "start=2026-01-01T00:00Z"], PLAN_AXES)

    assert combinations_of(axes) == [
        {"zone": zone, "accelerator": "h100-sxm", "start": "2026-01-01T00:00Z"} for zone in ("SWE", "USA")
    ]
    assert combinations_of({}) == []


def test_a_value_may_hold_blanks() -> None:
    axes = parse_axes(["zone=New York,Texas", "accelerator=h100-sxm", "start=2026-01-01T00:00Z"], PLAN_AXES)

    assert axes["zone"] == ("New York", "Texas")
    assert axes["accelerator"] == ("h100-sxm",)


@pytest.mark.parametrize(
    ("accelerator", "cluster"),
    [("l40s", ("pcie-8", 2, 8)), ("rtx4090", ("pcie-8", 2, 8)), ("gb200-nvl72", ("gb200-nvl72", 4, 4))],
)
def test_as_many_devices_of_another_kind_come_in_nodes_that_hold_several(
    accelerator: str, cluster: tuple[str, int, int]
) -> None:
    found = as_many_devices(load_accelerator(accelerator), 16, ())

    assert (found.node.name, found.nodes, found.devices_per_node) == cluster


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("zone", "'zone' is not of the form zone=SWE,USA"),
        ("zone=", "is not of the form"),
        ("zones=SWE", "unknown axis of comparison 'zones'; nearest: zone"),
        ("zone=SWE zone=USA", "zone is given twice"),
        ("start=tomorrow", "comparison: start is 'tomorrow', expected ISO 8601"),
        ("start=2026-01-01T00:00", "without an offset"),
        ("pause_above=dirty", "pause_above is 'dirty', expected a number"),
        (f"zone={','.join('A' * (MOST_ALTERNATIVES + 1))}", "201 combinations, expected at most 200"),
    ],
)
def test_other_words_are_refused(word: str, problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        parse_axes([word], PLAN_AXES)


# Place, hardware, hours -----------------------------------------------------------------------------------------------


def test_another_zone_changes_operational_carbon_by_its_intensity_and_nothing_else(
    make_spec: Callable[..., RunSpec],
) -> None:
    comparison = compare(make_spec(lifetime_years=5), "zone=FRA,SWE,USA")
    same, sweden, usa = comparison.alternatives
    base = comparison.base

    assert total(same) == total(base)
    for alternative in (sweden, usa):
        assert alternative.footprint is not None
        assert base.footprint is not None
        assert alternative.intensity is not None
        assert base.intensity is not None
        assert alternative.footprint.embodied_kg.value == base.footprint.embodied_kg.value
        ratio = alternative.intensity.figure.value / base.intensity.figure.value
        assert alternative.footprint.operational_kg.value == pytest.approx(ratio * base.footprint.operational_kg.value)
        assert "the stated PUE of 1.2 is kept" in alternative.notes
    assert comparison.warnings == ()


def test_zones_of_different_basis_are_compared_with_a_warning(make_spec: Callable[..., RunSpec]) -> None:
    (warning,) = compare(make_spec(lifetime_years=5), "zone=USA,egrid:CAMX").warnings

    assert "France, United States: lifecycle, average, generation" in warning
    assert "eGRID WECC California: direct, average, generation" in warning


def test_an_unknown_zone_holds_its_reason_and_the_others_their_numbers(make_spec: Callable[..., RunSpec]) -> None:
    wrong, right = compare(make_spec(lifetime_years=5), "zone=Sweeden,SWE").alternatives

    assert wrong.footprint is None
    assert wrong.reason is not None
    assert "Sweden" in wrong.reason
    assert right.footprint is not None


def test_other_hardware_is_planned_as_plan_would_with_as_many_devices(make_spec: Callable[..., RunSpec]) -> None:
    spec = make_spec(lifetime_years=5)
    same, other = compare(spec, "accelerator=h100-sxm,gb200-nvl72").alternatives

    assert total(same) == pytest.approx(make_forecast(spec).footprint.total_kg.value)
    assert other.footprint is not None
    assert other.elapsed_s is not None
    assert same.elapsed_s is not None
    assert other.elapsed_s < same.elapsed_s
    assert any(note.startswith("4 x gb200-nvl72 with 4 devices") for note in other.notes)


def test_an_assumed_precision_is_that_of_the_other_hardware_and_a_stated_one_is_refused_there(
    make_spec: Callable[..., RunSpec],
) -> None:
    spec = make_spec()
    training = msgspec.structs.replace(spec.training, precision="bf16")
    assumed = tuple(item for item in spec.assumptions if item.field != "training.precision")
    stated = msgspec.structs.replace(spec, training=training, assumptions=assumed)

    (taken,), (refused,) = (compare(run, "accelerator=v100").alternatives for run in (spec, stated))

    assert "precision fp16" in taken.notes
    assert taken.footprint is not None
    assert refused.footprint is None
    assert "precision bf16 is not supported by v100-sxm2-32gb; it has fp16, fp32" in str(refused.reason)


def test_a_start_picks_its_hours_and_marginal_stands_beside_average(make_spec: Callable[..., RunSpec]) -> None:
    spec = make_spec(steps=300)  # a quarter of an hour
    comparison = compare(spec, "start=2025-01-10T02:00Z,2025-01-10T14:00Z")
    night, day = comparison.alternatives

    assert (night.g_per_kwh, day.g_per_kwh) == (pytest.approx(100), pytest.approx(400))
    assert night.footprint is not None
    facility_kwh = night.footprint.energy_j["facility"].value / 3.6e6
    assert night.marginal_kg == pytest.approx(facility_kwh * 0.7)
    assert day.marginal_kg == pytest.approx(night.marginal_kg)
    assert night.footprint.total_kg.value < facility_kwh * 0.7


def test_without_a_series_a_start_is_said_not_to_matter(make_spec: Callable[..., RunSpec]) -> None:
    (alternative,) = compare(make_spec(lifetime_years=5), "start=2026-06-01T00:00Z").alternatives

    assert "the start does not matter without a series of intensity" in alternative.notes


def test_a_series_file_is_an_axis_too(make_spec: Callable[..., RunSpec], grids: Path) -> None:
    (alternative,) = compare(make_spec(lifetime_years=5), f"series={grids / 'marginal.csv'}").alternatives

    assert alternative.g_per_kwh == pytest.approx(700)


# Pauses -------------------------------------------------------------------------------------------------------------


def test_a_pause_costs_idle_energy_and_a_longer_reservation(make_spec: Callable[..., RunSpec]) -> None:
    spec = make_spec()
    comparison = compare(spec, "pause_above=1000,200")
    never, daily = comparison.alternatives

    assert never.paused_s == 0
    assert total(never) == pytest.approx(total(comparison.base), rel=0.02)
    assert daily.paused_s > 0
    assert daily.elapsed_s is not None
    assert never.elapsed_s is not None
    assert daily.elapsed_s == pytest.approx(never.elapsed_s + daily.paused_s)
    assert daily.footprint is not None
    assert never.footprint is not None
    energies = daily.footprint.energy_j["it"].value, never.footprint.energy_j["it"].value
    assert energies[0] > energies[1]
    stretched = daily.elapsed_s / never.elapsed_s
    assert daily.footprint.embodied_kg.value == pytest.approx(stretched * never.footprint.embodied_kg.value)
    idle_w = (energies[0] - energies[1]) / daily.paused_s
    assert 16 * 100 < idle_w < 0.5 * energies[1] / never.elapsed_s  # 16 devices with a context open, hosts, network
    assert daily.g_per_kwh is not None
    assert daily.g_per_kwh > 100  # training at night only, but idling by day


def test_pausing_needs_a_series_and_a_start(make_spec: Callable[..., RunSpec]) -> None:
    for spec in (make_spec(lifetime_years=5), make_spec(start=None)):
        (alternative,) = compare(spec, "pause_above=200").alternatives
        assert alternative.reason is not None
        assert "needs site.intensity_series, and a start" in alternative.reason


hourly_values = st.lists(st.floats(10, 900), min_size=48, max_size=96)


@given(values=hourly_values, hours=st.floats(0.5, 20), threshold=st.floats(50, 1000))
def test_a_schedule_does_all_the_work_and_pauses_only_above_the_threshold(
    values: list[float], hours: float, threshold: float
) -> None:
    trace = make_trace(np.arange(len(values)) * HOUR, np.array(values), source="test")
    dirty = sum(value > threshold for value in values)
    try:
        plan = schedule(trace, 0.0, hours * HOUR, pause_above=threshold)
    except FootprintError:
        assert len(values) - dirty < math.ceil(hours)
        return

    assert plan.trained_s == pytest.approx(hours * HOUR)
    assert plan.paused_s % HOUR == pytest.approx(0, abs=1e-6)
    assert plan.training_g_per_kwh <= threshold + 10.0**-ROUNDED
    assert plan.paused_s == 0 or plan.paused_g_per_kwh > threshold


def test_an_hour_at_the_threshold_is_not_above_it() -> None:
    values = np.random.default_rng(0).uniform(50, 600, 1000)
    trace = make_trace(np.arange(len(values)) * HOUR, values, source="test")
    ordered = np.sort(values)

    for clean, threshold in enumerate(ordered, start=1):
        assert schedule(trace, 0.0, clean * HOUR, pause_above=float(threshold)).trained_s == clean * HOUR


def test_a_series_that_ends_before_the_work_is_an_error_with_its_end() -> None:
    trace = make_trace(unix_s(START, "start") + np.arange(24) * HOUR, np.full(24, 500.0), source="grid.csv")

    with pytest.raises(FootprintError, match=r"ends at 2025-01-02T00:00Z.*pausing above 100 g/kWh"):
        schedule(trace, unix_s(START, "start"), HOUR, pause_above=100)


def test_a_comparison_survives_json(make_spec: Callable[..., RunSpec]) -> None:
    comparison = compare(make_spec(), "zone=SWE,nowhere")

    assert msgspec.json.decode(msgspec.json.encode(comparison), type=Comparison) == comparison
