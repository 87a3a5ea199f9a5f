"""Live providers against real local servers that answer like the services, well and badly."""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from carbon_plugin.errors import FootprintError
from carbon_plugin.footprint.live.electricity_maps import ElectricityMaps
from carbon_plugin.footprint.live.neso import Neso
from carbon_plugin.footprint.live.open import open_provider
from carbon_plugin.footprint.live.provider import IntensityProvider, ProviderError
from carbon_plugin.footprint.live.watttime import WattTime
from carbon_plugin.spec.site import LiveSource, Site

SECRET = "very-secret-token"
Service = Any
MakeAnswer = Callable[..., Any]
Open = Callable[..., IntensityProvider]


def now(hours_ago: float = 0.0) -> str:
    return (datetime.now(UTC) - timedelta(hours=hours_ago)).isoformat().replace("+00:00", "Z")


def electricity_maps_body(**changes: Any) -> dict[str, Any]:
    return {
        "zone": "FR",
        "carbonIntensity": 41,
        "datetime": now(0.5),
        "updatedAt": now(0.2),
        "emissionFactorType": "lifecycle",
        "isEstimated": True,
        "estimationMethod": "TIME_SLICER_AVERAGE",
    } | changes


def neso_body(**changes: Any) -> dict[str, Any]:
    start = datetime.now(UTC).strftime("%Y-%m-%dT%H:%MZ")
    intensity = {"forecast": 120, "actual": 131, "index": "moderate"} | changes
    return {"data": [{"from": start, "to": start, "intensity": intensity}]}


def watttime_body(**meta: Any) -> dict[str, Any]:
    return {
        "data": [{"point_time": now(), "value": 1000.0}, {"point_time": now(-1), "value": 900.0}],
        "meta": {
            "region": "CAISO_NORTH",
            "signal_type": "co2_moer",
            "units": "lbs_co2_per_mwh",
            "data_point_period_seconds": 300,
        }
        | meta,
    }


@pytest.fixture
def open_maps(service: Service) -> Open:
    return lambda **options: ElectricityMaps("FR", SECRET, base_url=f"{service.url}/v3", **options)


MAPS_PATH = "/v3/carbon-intensity/latest"


def test_electricity_maps_gives_the_intensity_of_the_zone_asked_for(
    service: Service, answer: MakeAnswer, open_maps: Open
) -> None:
    service.answers[MAPS_PATH] = answer(electricity_maps_body())

    sample = open_maps().latest(60)

    assert (sample.g_per_kwh, sample.zone, sample.estimated) == (41, "FR", True)
    assert (sample.basis.scope, sample.basis.signal, sample.basis.boundary) == ("lifecycle", "average", "consumption")
    (path, headers), *_ = service.requests
    assert path == f"{MAPS_PATH}?zone=FR&emissionFactorType=lifecycle&shouldUseFallbackCallerLookup=false"
    assert headers["auth-token"] == SECRET


@pytest.mark.parametrize(
    ("made", "problem", "permanent", "retry_after_s"),
    [
        ({"status": 401, "body": {"error": f"Invalid auth-token {SECRET}"}}, "refuses the credentials", True, None),
        ({"status": 403}, "refuses the credentials or the zone", True, None),
        ({"status": 429, "headers": {"Retry-After": "120"}}, "status 429", False, 120.0),
        ({"status": 429}, "status 429", False, None),
        ({"status": 500, "body": b"<html>" + SECRET.encode()}, "status 500", False, None),
        ({"status": 302, "headers": {"Location": "http://127.0.0.1:9/elsewhere"}}, "status 302", False, None),
        ({"body": b"{not json"}, "not what this service documents", False, None),
        ({"body": {"zone": "FR"}}, "not what this service documents", False, None),
        ({"body": electricity_maps_body(carbonIntensity="low")}, "not what this service documents", False, None),
        ({"body": electricity_maps_body(carbonIntensity=-5)}, "cannot be an intensity", False, None),
        ({"body": electricity_maps_body(carbonIntensity=41000)}, "cannot be an intensity", False, None),
        ({"body": electricity_maps_body(datetime=now(24 * 30))}, " hours old", False, None),
        ({"body": electricity_maps_body(datetime="2026-01-01T00:00:00")}, "has no offset", False, None),
        ({"body": electricity_maps_body(zone="CA-QC")}, "the answer is of another one", True, None),
        ({"body": electricity_maps_body(emissionFactorType="direct")}, "the answer has others", True, None),
        ({"body": b" " * ((1 << 20) + 1)}, "longer than 1048576 bytes", False, None),
    ],
)
def test_a_bad_answer_is_one_error_without_token_or_answer_in_it(
    service: Service,
    answer: MakeAnswer,
    open_maps: Open,
    caplog: pytest.LogCaptureFixture,
    made: dict[str, Any],
    problem: str,
    permanent: bool,
    retry_after_s: float | None,
) -> None:
    caplog.set_level(logging.DEBUG)
    service.answers[MAPS_PATH] = answer(**made)

    with pytest.raises(ProviderError, match=problem) as caught:
        open_maps().latest(60)

    assert (caught.value.permanent, caught.value.retry_after_s) == (permanent, retry_after_s)
    assert len(service.requests) == 1
    assert SECRET not in f"{caught.value!r} {caught.value.__cause__!r} {caplog.text}"


def test_a_date_in_retry_after_is_understood(service: Service, answer: MakeAnswer, open_maps: Open) -> None:
    until = datetime.now(UTC) + timedelta(seconds=90)
    moment = until.strftime("%a, %d %b %Y %H:%M:%S GMT")  # of whole seconds
    service.answers[MAPS_PATH] = answer(status=503, headers={"Retry-After": moment})

    with pytest.raises(ProviderError) as caught:
        open_maps().latest(60)

    left_s = (until - datetime.now(UTC)).total_seconds()
    assert left_s - 1 <= caught.value.retry_after_s <= 90


def test_a_server_that_is_slow_or_drips_is_left_at_the_deadline(
    service: Service, answer: MakeAnswer, open_maps: Open
) -> None:
    service.answers[MAPS_PATH] = answer(electricity_maps_body(), drip_s=0.05)
    with pytest.raises(ProviderError, match=r"no answer within 0\.3 s"):
        open_maps().latest(0.3)

    service.answers[MAPS_PATH] = answer(electricity_maps_body(), drip_s=5.0)
    with pytest.raises(ProviderError, match=r"no answer within 0\.2 s"):
        open_maps().latest(0.2)


def test_a_service_that_is_not_there_is_named(service: Service) -> None:
    service.close()

    with pytest.raises(ProviderError, match=r"electricity-maps: does not answer \(ConnectionRefusedError\)"):
        ElectricityMaps("FR", SECRET, base_url=service.url).latest(60)


def test_neso_needs_no_key_and_falls_back_on_its_forecast(service: Service, answer: MakeAnswer) -> None:
    service.answers["/intensity"] = answer(neso_body())
    provider = Neso(base_url=service.url)
    assert (provider.latest(60).g_per_kwh, provider.latest(60).estimated) == (131, False)

    service.answers["/intensity"] = answer(neso_body(actual=None))
    assert (provider.latest(60).g_per_kwh, provider.latest(60).estimated) == (120, True)

    service.answers["/intensity"] = answer(neso_body(actual=None, forecast=None))
    with pytest.raises(ProviderError, match="neither an actual nor a forecast"):
        provider.latest(60)
    service.answers["/intensity"] = answer({"data": []})
    with pytest.raises(ProviderError, match="0 half-hours in the answer"):
        provider.latest(60)
    service.answers["/intensity"] = answer({"error": {"code": "400 Bad Request"}}, status=400)
    with pytest.raises(ProviderError, match="status 400"):
        provider.latest(60)


def test_watttime_logs_in_once_and_is_marginal(service: Service, answer: MakeAnswer) -> None:
    service.answers["/login"] = answer({"token": "bearer-of-the-day"})
    service.answers["/v3/forecast"] = answer(watttime_body())
    provider = WattTime("CAISO_NORTH", "user", SECRET, base_url=service.url)

    first, second = provider.latest(60), provider.latest(60)

    assert first.g_per_kwh == pytest.approx(453.59237)  # 1,000 lb/MWh
    assert first.basis.signal == "marginal"
    assert second == msgspec.structs.replace(first)
    assert [path.partition("?")[0] for path, _ in service.requests] == ["/login", "/v3/forecast", "/v3/forecast"]
    login, forecast = service.requests[0][1], service.requests[1][1]
    assert login["authorization"] == "Basic " + base64.b64encode(f"user:{SECRET}".encode()).decode()
    assert forecast["authorization"] == "Bearer bearer-of-the-day"


@pytest.mark.parametrize(
    ("meta", "problem"),
    [
        ({"region": "PJM_DC"}, "the answer is of another one"),
        ({"units": "percentile"}, "expected co2_moer in lbs_co2_per_mwh"),
        ({"signal_type": "health_damage"}, "expected co2_moer"),
    ],
)
def test_watttime_of_another_region_or_signal_is_refused(
    service: Service, answer: MakeAnswer, meta: dict[str, str], problem: str
) -> None:
    service.answers["/login"] = answer({"token": "t"})
    service.answers["/v3/forecast"] = answer(watttime_body(**meta))

    with pytest.raises(ProviderError, match=problem):
        WattTime("CAISO_NORTH", "user", SECRET, base_url=service.url).latest(60)


def test_a_refused_login_gives_no_password_away(service: Service, answer: MakeAnswer) -> None:
    service.answers["/login"] = answer(status=401)

    with pytest.raises(ProviderError, match="refuses the credentials") as caught:
        WattTime("CAISO_NORTH", "user", SECRET, base_url=service.url).latest(60)

    assert SECRET not in repr(caught.value)


# Which provider a site gets -----------------------------------------------------------------------------------------


def test_the_zone_of_electricity_maps_follows_from_a_country_or_a_part_of_one() -> None:
    source, environ = LiveSource(provider="electricity-maps"), {"ELECTRICITY_MAPS_TOKEN": SECRET}

    assert open_provider(source, Site(zone="France"), environ).zone == "FR"
    assert open_provider(source, Site(zone="aws:eu-west-3"), environ).zone == "FR"
    assert open_provider(source, Site(zone="aws:eu-north-1"), environ).zone == "SE-SE3"
    assert open_provider(source, Site(zone="Quebec"), environ).zone == "CA-QC"
    assert open_provider(source, Site(zone="azure:northcentralus"), environ).zone == "US-MIDA-PJM"
    with pytest.raises(FootprintError, match="give zone, its name of the area"):
        open_provider(source, Site(zone="Texas"), environ)
    with pytest.raises(FootprintError, match="give zone, its name of the area"):
        open_provider(source, Site(zone="egrid:CAMX"), environ)
    stated = LiveSource(provider="electricity-maps", zone="US-CAL-CISO")
    provider = open_provider(stated, Site(zone="egrid:CAMX"), environ)
    assert (provider.zone, provider.basis.scope) == ("US-CAL-CISO", "direct")


def test_electricity_maps_is_asked_for_the_scope_of_the_static_value() -> None:
    environ = {"ELECTRICITY_MAPS_TOKEN": SECRET}
    source = LiveSource(provider="electricity-maps", zone="FR")
    stated = Site(zone="FRA", intensity_g_per_kwh=30, intensity_basis="direct average consumption")
    unstated = Site(zone="FRA", intensity_g_per_kwh=30)

    sites = {"lifecycle": (Site(zone="FRA"), unstated), "direct": (Site(zone="gcp:europe-west9"), stated)}

    for scope, asked in sites.items():
        assert {open_provider(source, site, environ).basis.scope for site in asked} == {scope}


@pytest.mark.parametrize(
    ("provider", "zone", "problem"),
    [
        ("electricity-maps", "FRA", "the environment variable ELECTRICITY_MAPS_TOKEN is not set"),
        ("watttime", "USA", "the environment variable WATTTIME_USER is not set"),
        ("neso", "FRA", "neso is of Great Britain, but the site's zone is FRA"),
    ],
)
def test_what_a_provider_lacks_is_said(provider: Any, zone: str, problem: str) -> None:
    with pytest.raises(FootprintError, match=problem):
        open_provider(LiveSource(provider=provider), Site(zone=zone), {})


def test_watttime_needs_its_region() -> None:
    environ = {"WATTTIME_USER": "user", "WATTTIME_PASSWORD": SECRET}

    with pytest.raises(FootprintError, match="for instance CAISO_NORTH"):
        open_provider(LiveSource(provider="watttime"), Site(zone="USA"), environ)
