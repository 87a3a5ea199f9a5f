"""A site in a run spec: series beside the file, live sources, contracts, a start, and errors with file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from carbon_plugin.errors import SpecError
from carbon_plugin.spec.loading import load_run_spec
from carbon_plugin.spec.parsing.moment import iso_utc, unix_s
from carbon_plugin.spec.site import Instrument, LiveSource, SeriesFile, Site

RUN = """
model: llama3-8b
cluster: {accelerator: h100-sxm, nodes: 1}
training: {seq_len: 8192, global_batch_size: 8, steps: 10}
"""


def write(folder: Path, site: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(RUN + site, encoding="utf-8")
    return path


def test_series_are_relative_to_the_spec(tmp_path: Path) -> None:
    site = "site: {zone: FRA, intensity_series: grid.csv, marginal_series: {path: in/moer.csv, timezone: UTC}}\n"

    found = load_run_spec(write(tmp_path, site)).site

    assert found.intensity_series == str(tmp_path / "grid.csv")
    assert found.marginal_series == SeriesFile(path=str(tmp_path / "in/moer.csv"), timezone="UTC")


def test_everything_about_a_site_can_be_written_in_a_spec(tmp_path: Path) -> None:
    site = """
site:
  zone: FRA
  live: {provider: electricity-maps, zone: FR}
  live_marginal: {provider: watttime, zone: FR}
  instruments:
    - {kind: ppa, share: 0.6, g_per_kwh: 11, source: "wind, 2026"}
    - {kind: certificate, energy_kwh: 2e5, g_per_kwh: 0, source: "GO 2026"}
  residual_g_per_kwh: 480
  wue_l_per_kwh: 0.2
  amortisation: active_share
  fleet_utilisation: 0.6
  building: true
start: 2026-03-01T06:00Z
"""

    run = load_run_spec(write(tmp_path, site))

    assert run.site.live == LiveSource(provider="electricity-maps", zone="FR")
    assert run.site.instruments[1] == Instrument(kind="certificate", energy_kwh=2e5, g_per_kwh=0, source="GO 2026")
    assert run.site.fleet_utilisation == 0.6
    assert run.start_unix_s == unix_s("2026-03-01T07:00+01:00", "start")
    assert iso_utc(run.start_unix_s) == "2026-03-01T06:00Z"


@pytest.mark.parametrize(
    ("site", "problem"),
    [
        ("site: {zone: FRA}\nstart: soon\n", r"run.yaml:6: start is 'soon', expected ISO 8601"),
        ("site: {zone: FRA}\nstart: 2026-03-01T06:00\n", "start is '2026-03-01T06:00' without an offset"),
        ("site: {zone: FRA, live: {provider: gridbot}}\n", "site.live.provider: expected one of electricity-maps"),
        (
            "site: {zone: FRA, live: {provider: watttime}}\n",
            "watttime gives marginal intensity, expected it as live_marg",
        ),
        ("site: {zone: FRA, live_marginal: {provider: neso}}\n", "neso gives average intensity, expected it as live"),
        (
            "site:\n  zone: FRA\n  instruments: [{kind: ppa, g_per_kwh: 0, source: x}]\n",
            r"run.yaml:\d+: instrument: give share or energy_kwh",
        ),
        ("site: {zone: FRA, fleet_utilisation: 0.5}\n", "counts only with amortisation: active_share"),
        ("site: {intensity_g_per_kwh: 41000}\n", "intensity_g_per_kwh is 41000, expected at most 3000"),
        ("site: {zone: FRA, marginal_g_per_kwh: 5e5}\n", "site: marginal_g_per_kwh is 500000, expected at most 3000"),
        ("site: {zone: FRA, residual_g_per_kwh: 1e23}\n", "site: residual_g_per_kwh is 1e\\+23, expected at most 3000"),
        (
            "site:\n  zone: FRA\n  instruments: [{kind: ppa, share: 0.5, g_per_kwh: 11000, source: x}]\n",
            "instrument: g_per_kwh is 11000, expected at most 3000",
        ),
        ("site: {zone: FRA, wue_l_per_kwh: 1800}\n", "site: wue_l_per_kwh is 1800, expected at most 1000"),
        ("site: {zone: FRA, lifetime_years: 1e-9}\n", "site: lifetime_years is 1e-09, expected 0.01 to 100"),
        ("site: {zone: FRA, lifetime_years: 1e6}\n", "site: lifetime_years is 1e\\+06, expected 0.01 to 100"),
        ("site: {zone: FRA, water_l_per_kwh: -1}\n", "water_l_per_kwh is -1, expected 0 or more"),
        ("site: {intensity_series: grid.csv, intensity_g_per_kwh: 5}\n", "give .* or intensity_series, not both"),
        ("site: {zone: FRA, intensity_basis: direct}\n", "counts only with intensity_g_per_kwh"),
        ("site: {pue: 1.2}\n", "give zone .*, intensity_g_per_kwh or intensity_series"),
    ],
)
def test_what_cannot_be_is_an_error_that_names_it(tmp_path: Path, site: str, problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        load_run_spec(write(tmp_path, site))


def test_another_zone_on_the_command_line_voids_what_was_of_the_old_one(tmp_path: Path) -> None:
    path = write(tmp_path, "site: {zone: FRA, intensity_series: grid.csv, marginal_g_per_kwh: 500, pue: 1.1}\n")

    assert load_run_spec(path, overrides={"site": {"zone": "SWE"}}).site == Site(zone="SWE", pue=1.1)


def test_a_number_on_the_command_line_voids_the_series_and_the_source_of_the_files_number(tmp_path: Path) -> None:
    series = write(tmp_path, "site: {zone: FRA, intensity_series: grid.csv}\n")
    assert load_run_spec(series, overrides={"site": {"intensity_g_per_kwh": 5.0}}).site == Site(
        zone="FRA", intensity_g_per_kwh=5.0
    )
    contract = write(tmp_path, "site: {zone: FRA, intensity_g_per_kwh: 30, intensity_source: our utility}\n")
    assert load_run_spec(contract, overrides={"site": {"intensity_g_per_kwh": 5.0}}).site == Site(
        zone="FRA", intensity_g_per_kwh=5.0
    )


@pytest.mark.parametrize(
    "field",
    ["intensity_g_per_kwh", "marginal_g_per_kwh", "residual_g_per_kwh", "wue_l_per_kwh", "water_l_per_kwh", "pue"],
)
def test_a_site_of_a_script_has_no_number_that_is_none(field: str) -> None:
    place = {} if field == "intensity_g_per_kwh" else {"zone": "FRA"}

    with pytest.raises(SpecError, match=rf"^site: {field} is nan, expected "):
        Site(**place, **{field: float("nan")})
