"""No start is better because the forecast does not know its hours."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carbon_plugin.footprint.series.trace import ROUNDED, make_trace
from carbon_plugin.plan.forecast import Forecast, make_forecast
from carbon_plugin.plan.whatif.best_start import find_best_start
from carbon_plugin.spec.loading import build_run_spec
from carbon_plugin.spec.numbers.units import SECONDS_PER_HOUR

NOW_S = 1_772_000_000.0
FIRST_S = NOW_S - NOW_S % SECONDS_PER_HOUR


@pytest.fixture(scope="module")
def plan() -> Forecast:
    return make_forecast(
        build_run_spec(
            {
                "model": "llama-3-8b",
                "cluster": {"accelerator": "h100-sxm", "nodes": 1},
                "training": {"steps": 3000, "seq_len": 4096, "global_batch_size": 64, "precision": "bf16"},
                "layout": {"dp_shard": 8, "zero_stage": 3, "micro_batch_size": 1, "recompute": "full"},
                "site": {"zone": "FRA"},
            }
        )
    )


def best(plan, values, within_h=96.0):
    moments = FIRST_S + SECONDS_PER_HOUR * np.arange(len(values))
    trace = make_trace(moments, np.array(values, dtype=np.float64), source="a forecast")
    return find_best_start(plan, trace, now_unix_s=NOW_S, within_s=within_h * SECONDS_PER_HOUR)


@given(level=st.floats(0.0, 2000.0), hours=st.integers(2, 96))
@settings(max_examples=60, deadline=None)
def test_a_constant_forecast_saves_nothing_however_much_of_the_run_it_knows(plan, level, hours):
    found = best(plan, [level] * hours)

    assert found.best is found.now
    assert found.saved_kg.value == 0.0
    assert found.now.g_per_kwh == pytest.approx(level, abs=10.0**-ROUNDED)


@given(values=st.lists(st.floats(1.0, 1000.0), min_size=12, max_size=40), share=st.lists(st.floats(0, 1), min_size=8))
@settings(max_examples=60, deadline=None)
def test_no_later_start_is_better_without_its_unknown_hours_than_with_any_that_the_forecast_holds(plan, values, share):
    run_h = plan.run_time_s.value / SECONDS_PER_HOUR
    assert 2 < run_h + 2 < 12  # a start now is known in full
    tail = [min(values) + (max(values) - min(values)) * part for part in share * 2]

    short, long = best(plan, values), best(plan, values + tail[:16])

    for unknown, known in zip(short.starts, long.starts, strict=False):
        assert unknown.start_unix_s == known.start_unix_s
        assert unknown.g_per_kwh >= known.g_per_kwh - 1e-6
