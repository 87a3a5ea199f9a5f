"""Grid intensity that changes during a run: a live service asked by a real job, a series, and what the ledger says."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest

from carbon_plugin.audit.explain.trace import explain
from carbon_plugin.audit.exports.ghg import GhgReport, ghg_report
from carbon_plugin.audit.exports.ghg_factors import GhgInputs
from carbon_plugin.audit.exports.model_card import model_card_emissions
from carbon_plugin.audit.exports.paper import paper_paragraph
from carbon_plugin.audit.exports.sci import sci_report
from carbon_plugin.audit.measured import measured_run
from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.audit.summary import summarise
from carbon_plugin.errors import FootprintError, ReportError
from carbon_plugin.footprint.live.cache import DiskCache
from carbon_plugin.footprint.live.provider import LiveSample
from carbon_plugin.footprint.values import Basis
from carbon_plugin.ledger.reader import read_run
from carbon_plugin.ledger.records import DeviceEnergy, Event, Manifest, Window
from carbon_plugin.monitor.intensity import IntensityWatch, expected_g_per_kwh
from carbon_plugin.monitor.ledgers.file_totals import FileTotals
from carbon_plugin.monitor.run.totals import run_totals
from carbon_plugin.monitor.settings.settings import make_settings
from carbon_plugin.plan.whatif.measured_run import compare_run
from carbon_plugin.spec.metered import DeviceIdentity
from carbon_plugin.spec.parsing.moment import unix_s
from carbon_plugin.spec.site import LiveSource, SeriesFile, Site

TOKEN = "token-of-the-test"
LIVE_G_PER_KWH = 123.0
DIRECT_G_PER_KWH = 33.0
NESO_G_PER_KWH = 99.0
STATIC_G_PER_KWH = 41.4  # France in the shipped table, rounded
FRANCE = Site(zone="FRA", live=LiveSource(provider="electricity-maps"))


class LocalMaps:
    """Answers as Electricity Maps does, for the right token, and as NESO at another path."""

    def __init__(self) -> None:
        self.asked = 0
        maps = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:  # the name that http.server calls
                maps.asked += 1
                moment = datetime.now(UTC).isoformat()
                neso = {"data": [{"from": moment, "intensity": {"forecast": 100, "actual": NESO_G_PER_KWH}}]}
                value = DIRECT_G_PER_KWH if "emissionFactorType=direct" in self.path else LIVE_G_PER_KWH
                body = {"zone": "FR", "carbonIntensity": value, "datetime": moment, "isEstimated": False}
                body = neso if self.path == "/intensity" else body
                allowed = body is neso or self.headers["auth-token"] == TOKEN
                self.send_response(200 if allowed else 401)
                self.end_headers()
                self.wfile.write(json.dumps(body if allowed else {"error": TOKEN}).encode())

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


@pytest.fixture
def maps() -> Iterator[LocalMaps]:
    local = LocalMaps()
    yield local
    local.server.shutdown()
    local.server.server_close()


def live_environment(maps: LocalMaps, folder: Path, token: str = TOKEN, site: Site = FRANCE) -> dict[str, str]:
    return {
        "JOB_SITE": msgspec.json.encode(site).decode(),
        "ELECTRICITY_MAPS_TOKEN": token,
        "ELECTRICITY_MAPS_URL": maps.url,
        "NESO_CARBON_INTENSITY_URL": maps.url,
        "CARBON_PLUGIN_CACHE": str(folder / "cache"),
    }


def test_a_job_asks_once_an_hour_and_its_windows_carry_the_live_value(job, maps, tmp_path):
    first_hour = time.time() // 3600
    process = job("close", tmp_path / "run", 2.0, **live_environment(maps, tmp_path))
    output, errors = process.communicate(timeout=240)
    hours = time.time() // 3600 - first_hour + 1  # 1, unless an hour begins meanwhile

    (file,) = read_run(tmp_path / "run").files
    windows = [record for record in file.records if isinstance(record, Window)]
    events = [record for record in file.records if isinstance(record, Event) and record.kind == "grid_intensity"]
    assert process.returncode == 0, errors
    assert output.strip().endswith("imported []\nno torch")
    assert 1 <= maps.asked <= hours
    assert {(window.intensity_g_per_kwh, window.intensity_origin) for window in windows} == {(LIVE_G_PER_KWH, "live")}
    assert [event.data["origin"] for event in events] == ["live"]
    assert events[0].data["zone"] == "FR"
    assert file.records.index(events[0]) < file.records.index(windows[0])
    footprint = summarise(tmp_path / "run").footprint
    assert footprint is not None
    mean = 3.6e9 * footprint.operational_kg.value / footprint.energy_j["facility"].value
    assert mean == pytest.approx(LIVE_G_PER_KWH)
    assert TOKEN.encode() not in b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def run_at(site: Site, job, maps: LocalMaps, folder: Path) -> AuditSummary:
    """Return the audit of a run directory in which a job has trained at a site, after others that did so before."""
    _, errors = job("close", folder / "run", **live_environment(maps, folder, site=site)).communicate(timeout=240)
    expected = ("; the record is in", "; report:", "counts its steps from 0")  # a later attempt says the last one
    assert not [line for line in errors.splitlines() if not any(words in line for words in expected)]
    return summarise(folder / "run")


def inventory(summary: AuditSummary, **inputs: object) -> GhgReport:
    return ghg_report(summary, GhgInputs(organisational_boundary="own", acquisition_year=2025, **inputs))


def test_a_live_value_has_the_scope_of_the_static_one_and_is_exported_as_what_it_is(job, maps, tmp_path):
    live = LiveSource(provider="electricity-maps", zone="FR")

    report = inventory(run_at(Site(zone="gcp:europe-west9", live=live), job, maps, tmp_path))

    (location, *_), factor = report.lines, report.location_factor
    assert location.scope == 2
    assert location.factor is not None
    assert location.factor.g_per_kwh == pytest.approx(DIRECT_G_PER_KWH)
    assert location.factor.source.startswith("electricity-maps, zone FR, live (direct, average, consumption)")
    assert "redistributed" in factor.licence
    assert factor.granularity_time.startswith("every 60 min")
    assert factor.year == datetime.now(UTC).year


def test_a_run_that_is_live_from_its_start_has_the_basis_of_the_service(job, maps, tmp_path):
    summary = run_at(Site(zone="GBR", live=LiveSource(provider="neso")), job, maps, tmp_path)

    score = sci_report(summary)
    assert score.intensity.basis == Basis(scope="direct", signal="average", boundary="consumption")
    assert any("I: location-based, neso, zone GB, live" in line for line in score.method)
    assert "At 99.0 gCO2e/kWh (neso, zone GB, live" in paper_paragraph(summary)
    assert "(location-based, direct, average, consumption)" in model_card_emissions(summary, "pre-training").source
    with pytest.raises(ReportError, match="the run's own intensity is direct already"):
        inventory(summary, direct_g_per_kwh=99.0, factor_source="NESO")


def test_a_run_on_two_bases_is_refused_and_every_report_says_so(job, maps, tmp_path):
    run_at(Site(zone="GBR"), job, maps, tmp_path)
    summary = run_at(Site(zone="GBR", live=LiveSource(provider="neso")), job, maps, tmp_path)

    refusal = r"counts different things during the run.*% of the energy at 99.0 g/kWh is direct, average, consumption"
    with pytest.raises(ReportError, match=refusal):
        sci_report(summary)
    with pytest.raises(ReportError, match=refusal):
        inventory(summary, direct_g_per_kwh=99.0, factor_source="NESO")
    paper = paper_paragraph(summary)
    assert "neso, zone GB, live" in paper
    assert "Our World in Data" in paper
    assert "mixed bases (" in paper
    assert "mixed bases (" in model_card_emissions(summary, "pre-training").source

    found = {item.field: item for item in explain(summary, "operational_kg")}
    assert summary.footprint is not None
    assert summary.factors is not None
    mean = summary.factors.intensity.figure.value
    facility_j = summary.footprint.energy_j["facility"].value
    assert summary.footprint.operational_kg.value == pytest.approx(facility_j * mean / 3.6e9)
    assert len([source for source in found["factors.intensity"].sources if "% of the energy at" in source]) == 2

    comparison = compare_run(measured_run(summary), {"zone": ("GBR",)})
    assert any("direct, average, consumption" in warning for warning in comparison.warnings)


def test_a_series_is_named_with_the_mean_of_the_windows(job, maps, tmp_path):
    file = tmp_path / "now.csv"
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    rows = [f"{(hour + timedelta(hours=number)).isoformat()},{100 + 50 * number}" for number in range(3)]
    file.write_text("\n".join(["datetime,intensity", *rows]), encoding="utf-8")
    series = SeriesFile(path=str(file), basis="lifecycle average consumption")

    summary = run_at(Site(zone="FRA", intensity_series=series), job, maps, tmp_path)

    paper = paper_paragraph(summary)
    assert summary.factors is not None
    assert summary.factors.intensity.figure.value < 151
    assert "now.csv" in paper
    assert "mean over the run's windows" in paper
    assert "mean of all of it" not in paper
    assert sci_report(summary).intensity.granularity_time.startswith("hourly")
    by_hour = summary.series.grid_by_hour_g_per_kwh
    assert [by_hour[(hour.hour + number) % 24] for number in range(4)] == [100, 150, 200, None]
    assert "series" in summary.series.grid_by_hour_from


def test_a_refused_token_is_an_event_and_the_static_value_counts(job, maps, tmp_path):
    process = job("close", tmp_path / "run", **live_environment(maps, tmp_path, token="wrong"))
    _, errors = process.communicate(timeout=240)

    (file,) = read_run(tmp_path / "run").files
    troubles = [record for record in file.records if isinstance(record, Event) and "trouble" in record.kind]
    assert process.returncode == 0, errors
    assert [event.message for event in troubles] == [
        "electricity-maps: refuses the credentials or the zone (status 401)"
    ]
    windows = [record for record in file.records if isinstance(record, Window)]
    assert {round(window.intensity_g_per_kwh or 0, 1) for window in windows} == {STATIC_G_PER_KWH}
    assert {window.intensity_origin for window in windows} == {"static"}
    assert maps.asked == 1


def test_a_missing_token_stops_before_training(monkeypatch):
    monkeypatch.delenv("ELECTRICITY_MAPS_TOKEN", raising=False)

    with pytest.raises(FootprintError, match="ELECTRICITY_MAPS_TOKEN is not set"):
        make_settings(site=Site(zone="FRA", live=LiveSource(provider="electricity-maps")))


def test_a_series_gives_each_window_its_hours_and_its_end_is_said(tmp_path):
    file = tmp_path / "grid.csv"
    file.write_text("datetime,intensity\n2026-01-01T00:00Z,100\n2026-01-01T01:00Z,200\n", encoding="utf-8")
    watch = IntensityWatch(Site(zone="FRA", intensity_series=str(file), marginal_g_per_kwh=700), {})
    start = unix_s("2026-01-01T00:30Z", "start")

    values = [watch.of_window(start + 3600 * hour, start + 3600 * (hour + 1), 41.0) for hour in (0, 5)]

    assert values == [(pytest.approx(150), "series", 700), (41.0, "static", 700)]
    assert [message.split(" from now on")[0] for _, message, _ in watch.drain()] == [
        "intensity is of the site's series",
        "intensity is static, of the factors",
    ]
    assert watch.drain() == []


def test_a_live_value_falls_back_on_the_series_of_the_site(tmp_path, maps, monkeypatch):
    monkeypatch.setenv("ELECTRICITY_MAPS_TOKEN", TOKEN)
    file = tmp_path / "grid.csv"
    file.write_text("datetime,intensity\n2026-01-01T00:00Z,100\n2026-01-01T01:00Z,200\n", encoding="utf-8")
    site = Site(zone="FRA", intensity_series=str(file), live=LiveSource(provider="electricity-maps"))
    watch = IntensityWatch(site, live_environment(maps, tmp_path))

    assert watch.of_window(unix_s("2026-01-01T00:00Z", "t"), unix_s("2026-01-01T01:00Z", "t"), 41.0)[:2] == (
        100,
        "series",
    )


def test_what_remains_is_expected_at_the_hours_of_the_series(tmp_path):
    file = tmp_path / "grid.csv"
    file.write_text("datetime,intensity\n2026-01-01T00:00Z,100\n2026-01-01T01:00Z,200\n", encoding="utf-8")
    site = Site(zone="FRA", intensity_series=str(file))
    start = unix_s("2026-01-01T00:00Z", "start")

    assert expected_g_per_kwh(site, start, 3600) == 100
    assert expected_g_per_kwh(site, start + 86400, 3600) is None
    assert expected_g_per_kwh(Site(zone="FRA"), start, 3600) is None
    assert expected_g_per_kwh(None, start, 3600) is None


def test_the_ledger_is_told_when_a_live_value_ages_and_is_given_up(tmp_path, maps):
    environ = live_environment(maps, tmp_path)
    maps.server.shutdown()  # nobody answers any more: only the cache of an earlier process knows a value
    watch = IntensityWatch(Site(zone="FRA", live=LiveSource(provider="electricity-maps")), environ)
    basis = Basis(scope="lifecycle", signal="average", boundary="consumption")
    fetched = LiveSample(provider="electricity-maps", zone="FR", g_per_kwh=100.0, at_unix_s=1e9, basis=basis)
    cache = DiskCache(tmp_path / "cache", "electricity-maps", "FR-lifecycle")
    assert cache.claim(int(1e9 // 3600))  # by the earlier process, so that this one does not ask
    cache.write(fetched)
    watch.refresh(1e9 + 60)

    values = [watch.of_window(end - 10, end, 40.0)[:2] for end in (1e9 + 60, 1e9 + 13.5 * 3600, 1e9 + 90_000)]
    notes = watch.drain()

    assert values == [(100, "live"), (pytest.approx(70), "ageing"), (40, "static")]
    assert [data["origin"] for _, _, data in notes] == ["live", "ageing", "static"]
    assert "ages into the static one: 70 g/kWh" in notes[1][1]
    assert "too old: the static intensity counts, 40 g/kWh" in notes[2][1]
    assert {kind for kind, _, _ in notes} == {"grid_intensity"}


def test_a_node_that_does_not_ask_has_the_first_answer_in_its_first_window(tmp_path, maps):
    environ = live_environment(maps, tmp_path)
    now = datetime.now(UTC).timestamp()
    asking, other = IntensityWatch(FRANCE, environ), IntensityWatch(FRANCE, environ)
    cache = DiskCache(tmp_path / "cache", "electricity-maps", "FR-lifecycle")
    assert cache.claim(int(now // 3600))  # by a process whose answer is not there yet
    other.refresh(now)
    (tmp_path / "cache" / f"electricity-maps-FR-lifecycle.asked-{int(now // 3600)}").unlink()
    asking.refresh(now)

    assert other.of_window(now, now + 10, 41.0)[:2] == (LIVE_G_PER_KWH, "live")
    assert maps.asked == 1


def test_the_projection_spends_at_the_intensity_of_the_windows():
    def window(index: int, intensity: float | None) -> Window:
        return Window(
            index=index,
            phase="train",
            start_unix_s=10.0 * index,
            duration_s=10.0,
            energies=[DeviceEnergy(key="GPU-0", energy_j=1000.0, kind="counter")],
            steps=20,
            last_step=20 * index,
            tokens=0,
            intensity_g_per_kwh=intensity,
            pue=1.1,
        )

    gpu = DeviceIdentity(key="GPU-0", name="H100", rung="gpu", scope="gpu", meter="nvml", energy_kind="counter")
    manifest = Manifest(
        version=1,
        run_id="a" * 32,
        attempt=0,
        node=0,
        nodes=1,
        host_key="boot",
        hostname="host",
        world_size=1,
        started_unix_s=0.0,
        reserved_since_unix_s=None,
        devices=[gpu],
        effective={},
        factors={},
        versions={},
    )
    totals = FileTotals()
    for record in (manifest, window(1, 50.0), window(2, 150.0)):
        totals.add(record)

    (used,) = run_totals({"node-0.jsonl": totals}, attempt_started_s=0.0).spent.values()

    assert used.g_per_kwh == pytest.approx(100)
