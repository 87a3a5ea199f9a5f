"""Grid intensity that changes during a run: a live service asked by a real job, a series, and what the ledger says."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from carbon_plugin.audit.summary import summarise
from carbon_plugin.errors import FootprintError
from carbon_plugin.footprint.account import Basis
from carbon_plugin.footprint.cache import DiskCache
from carbon_plugin.footprint.provider import LiveSample
from carbon_plugin.ledger.reader import read_run
from carbon_plugin.ledger.records import DeviceEnergy, Event, Manifest, Window
from carbon_plugin.monitor.intensity import IntensityWatch, expected_g_per_kwh
from carbon_plugin.monitor.settings import make_settings
from carbon_plugin.monitor.totals import FileTotals, run_totals
from carbon_plugin.spec.devices import DeviceIdentity
from carbon_plugin.spec.moment import unix_s
from carbon_plugin.spec.site import LiveSource, Site

TOKEN = "token-of-the-test"
LIVE_G_PER_KWH = 123.0
STATIC_G_PER_KWH = 41.4  # France in the shipped table, rounded


class LocalMaps:
    """Answers as Electricity Maps does, for the right token, until it is told to fail."""

    def __init__(self) -> None:
        self.asked = 0
        maps = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:  # the name that http.server calls
                maps.asked += 1
                allowed = self.headers["auth-token"] == TOKEN
                moment = datetime.now(UTC).isoformat()
                body = {"zone": "FR", "carbonIntensity": LIVE_G_PER_KWH, "datetime": moment, "isEstimated": False}
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


def live_environment(maps: LocalMaps, folder: Path, token: str = TOKEN) -> dict[str, str]:
    return {
        "JOB_LIVE": "1",
        "ELECTRICITY_MAPS_TOKEN": token,
        "ELECTRICITY_MAPS_URL": maps.url,
        "CARBON_PLUGIN_CACHE": str(folder / "cache"),
    }


def test_a_job_asks_once_and_its_windows_carry_the_live_value(job, maps, tmp_path):
    process = job("close", tmp_path / "run", 2.0, **live_environment(maps, tmp_path))
    output, errors = process.communicate(timeout=60)

    (file,) = read_run(tmp_path / "run").files
    intensities = [record.intensity_g_per_kwh for record in file.records if isinstance(record, Window)]
    events = [record for record in file.records if isinstance(record, Event) and record.kind == "grid_intensity"]
    assert process.returncode == 0, errors
    assert output.strip().endswith("imported []\nno torch")
    assert maps.asked == 1
    assert intensities[0] == pytest.approx(STATIC_G_PER_KWH, abs=0.1)
    assert intensities[-1] == LIVE_G_PER_KWH
    assert [event.data["origin"] for event in events] == ["live"]
    assert events[0].data["zone"] == "FR"
    footprint = summarise(tmp_path / "run").footprint
    assert footprint is not None
    mean = 3.6e9 * footprint.operational_kg.value / footprint.energy_j["facility"].value
    assert STATIC_G_PER_KWH < mean < LIVE_G_PER_KWH
    assert TOKEN.encode() not in b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_a_refused_token_is_an_event_and_the_static_value_counts(job, maps, tmp_path):
    process = job("close", tmp_path / "run", **live_environment(maps, tmp_path, token="wrong"))
    _, errors = process.communicate(timeout=60)

    (file,) = read_run(tmp_path / "run").files
    troubles = [record for record in file.records if isinstance(record, Event) and "trouble" in record.kind]
    assert process.returncode == 0, errors
    assert [event.message for event in troubles] == [
        "electricity-maps: refuses the credentials or the zone (status 401)"
    ]
    windows = [record for record in file.records if isinstance(record, Window)]
    assert {round(window.intensity_g_per_kwh or 0, 1) for window in windows} == {STATIC_G_PER_KWH}
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

    assert values == [(pytest.approx(150), 700), (41.0, 700)]
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

    assert watch.of_window(unix_s("2026-01-01T00:00Z", "t"), unix_s("2026-01-01T01:00Z", "t"), 41.0) == (100, None)


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
    cache = DiskCache(tmp_path / "cache", "electricity-maps", "FR")
    assert cache.claim(int(1e9 // 3600))  # by the earlier process, so that this one does not ask
    cache.write(fetched)
    watch.refresh(1e9 + 60)

    values = [watch.of_window(end - 10, end, 40.0)[0] for end in (1e9 + 60, 1e9 + 13.5 * 3600, 1e9 + 90_000)]
    notes = watch.drain()

    assert values == [100, pytest.approx(70), 40]
    assert [data["origin"] for _, _, data in notes] == ["live", "ageing", "static"]
    assert "ages into the static one: 70 g/kWh" in notes[1][1]
    assert "too old: the static intensity counts, 40 g/kWh" in notes[2][1]
    assert {kind for kind, _, _ in notes} == {"grid_intensity"}


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

    (item,) = run_totals({"node-0.jsonl": totals}, attempt_started_s=0.0).spent

    assert item.intensity_g_per_kwh == pytest.approx(100)
