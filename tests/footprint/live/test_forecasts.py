"""The forecasts of services, asked of local servers by the protocols of the real ones."""

from __future__ import annotations

from datetime import datetime

import pytest

from carbon_plugin.errors import FootprintError
from carbon_plugin.footprint.live import forecast
from carbon_plugin.footprint.live.forecast import forecast_trace
from carbon_plugin.spec.site import LiveSource, Site

NOW = datetime.fromisoformat("2026-03-01T12:30Z").timestamp()
NESO = Site(zone="GBR", live=LiveSource(provider="neso"))
MAPS = Site(zone="FRA", live=LiveSource(provider="electricity-maps"))
HALF_HOURS = [("2026-03-01T12:30Z", 210), ("2026-03-01T13:00Z", 190), ("2026-03-01T13:30Z", 180)]
HOURS = [("2026-03-01T12:00:00.000Z", 40), ("2026-03-01T13:00:00.000Z", 30)]


@pytest.fixture(autouse=True)
def at_that_moment(monkeypatch):
    monkeypatch.setattr(forecast.time, "time", lambda: NOW)


def test_neso_tells_48_hours_of_great_britain(service, answer):
    data = [{"from": moment, "to": moment, "intensity": {"forecast": value}} for moment, value in HALF_HOURS]
    service.answers["/intensity/2026-03-01T12:30Z/fw48h"] = answer({"data": data})

    trace = forecast_trace(NESO, {"NESO_CARBON_INTENSITY_URL": service.url})

    assert trace.g_per_kwh.tolist() == [210, 190, 180]
    assert (trace.step_s, float(trace.start_unix_s[0])) == (1800, NOW)
    assert trace.basis is not None
    assert trace.basis.scope == "direct"


def test_electricity_maps_tells_the_hours_of_a_zone(service, answer):
    told = [{"carbonIntensity": value, "datetime": moment} for moment, value in HOURS]
    service.answers["/carbon-intensity/forecast"] = answer({"zone": "FR", "forecast": told})
    environ = {"ELECTRICITY_MAPS_URL": service.url, "ELECTRICITY_MAPS_TOKEN": "secret"}

    trace = forecast_trace(MAPS, environ)

    assert (trace.g_per_kwh.tolist(), trace.step_s) == ([40, 30], 3600)
    path, headers = service.requests[-1]
    assert ("zone=FR" in path, headers["auth-token"]) == (True, "secret")


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"zone": "DE", "forecast": []}, "the answer is of another one"),
        ({"zone": "FR", "forecast": []}, "0 hours in the forecast, expected at least 2"),
        ({"zone": "FR", "forecast": [{"carbonIntensity": -5, "datetime": m} for m, _ in HOURS]}, "cannot be an int"),
        ({"zone": "FR", "forecast": [{"carbonIntensity": 5, "datetime": "2026-03-01T12:00:00"}]}, "has no offset"),
        ({"zone": "FR"}, "gives an answer that is not what this service documents"),
    ],
)  # fmt: skip
def test_an_answer_that_cannot_be_is_refused(service, answer, told, said):
    service.answers["/carbon-intensity/forecast"] = answer(told)

    with pytest.raises(FootprintError, match=said):
        forecast_trace(MAPS, {"ELECTRICITY_MAPS_URL": service.url, "ELECTRICITY_MAPS_TOKEN": "secret"})


def test_a_service_of_marginal_intensity_forecasts_no_average():
    with pytest.raises(FootprintError, match="no forecast of the grid is known"):
        forecast_trace(Site(zone="FRA", live_marginal=LiveSource(provider="watttime", zone="X")), {})
