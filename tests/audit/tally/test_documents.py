"""The audit reads what `plan` and `predict` really write into a manifest."""

from __future__ import annotations

import msgspec
import pytest

from carbon_plugin.audit.tally.documents import read_forecast, read_prediction
from carbon_plugin.ledger.held.account_inputs import stated_factors
from carbon_plugin.plan.forecast import Forecast, make_forecast
from carbon_plugin.spec.loading import build_run_spec


@pytest.fixture(scope="module")
def forecast() -> Forecast:
    spec = build_run_spec(
        {
            "model": "llama3-8b",
            "cluster": {"accelerator": "h100-sxm", "nodes": 2},
            "layout": {"dp_shard": 16, "zero_stage": 3},
            "training": {"steps": 1000, "seq_len": 8192, "global_batch_size": 64},
            "site": {"zone": "FRA"},
        },
        origin="test",
    )
    return make_forecast(spec)


def test_forecast_prediction_and_factors_survive_as_plain_data(forecast: Forecast) -> None:
    plain = msgspec.json.decode(msgspec.json.encode(forecast))
    read = read_forecast(plain)
    assert read is not None
    assert read.devices == 16
    assert read.run_time_s == forecast.run_time_s
    assert read.footprint == forecast.footprint
    prediction = read_prediction(plain["prediction"])
    assert prediction is not None
    assert prediction.step_time_s == forecast.prediction.step_time_s
    assert stated_factors(plain["factors"]) == forecast.factors


def test_document_that_is_not_one_is_left_out() -> None:
    assert read_forecast({"version": 1}) is None
    assert read_forecast(None) is None
    assert read_prediction({}) is None
    assert stated_factors({"pue": 1.2}) is None
