"""Reports: every grouping adds up, hardware counts once, and what is missing is said."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchmarks import fleet_generator
from benchmarks.fleet_generator import Shape, factors_of, write_fleet, write_run
from carbon_plugin.audit.exports.ghg import ghg_report
from carbon_plugin.audit.exports.ghg_factors import GhgInputs
from carbon_plugin.audit.run_carbon import carbon_in
from carbon_plugin.audit.summary import summarise
from carbon_plugin.cli.main import run as command_line
from carbon_plugin.errors import FleetError
from carbon_plugin.fleet.ingest import ingest
from carbon_plugin.fleet.page.page import render
from carbon_plugin.fleet.report import BY_PURCHASE, Asked, report
from carbon_plugin.fleet.restate import restatement as restatement_module
from carbon_plugin.fleet.restate.new_factors import NewFactors
from carbon_plugin.fleet.tables import as_csv
from carbon_plugin.fleet.wording import column, rows_of, summary_lines
from carbon_plugin.footprint.account import account
from carbon_plugin.footprint.factors.bases import in_scope
from carbon_plugin.footprint.values import EmissionScope, EnergyItem, Factors
from carbon_plugin.ledger.identity import agree_run
from carbon_plugin.ledger.records import MACHINE, Window
from carbon_plugin.ledger.writer import LedgerWriter
from carbon_plugin.show.wording import carbon_range, percent
from carbon_plugin.spec.numbers.figure import Figure
from carbon_plugin.spec.numbers.range import Range
from tests.fleet.conftest import RUNS
from tests.fleet.test_ingest import table
from tests.ledger.builder import RUN_START_UNIX_S, Attempt, Job


@pytest.fixture(scope="module")
def accounts(store: Path) -> Any:
    return report(str(store), Asked(by=("team", "role"), boundary="own"))


def test_groups_months_and_lines_add_up_to_the_totals_to_the_last_unit(accounts: Any, store: Path) -> None:
    hours = table(store, "hour")
    totals = accounts.totals

    assert totals.runs == RUNS == sum(line.runs for line in accounts.groups)
    assert totals.energy_kwh == sum(row["energy_mj"] for row in hours) / 3.6e9
    assert totals.location_kg == sum(row["lifecycle_ug"] for row in hours) / 1e9
    for lines in (accounts.groups, accounts.months, accounts.lines, accounts.regions):
        for name in ("energy_kwh", "facility_kwh", "location_kg", "embodied_kg", "device_hours"):
            assert sum(getattr(line, name) for line in lines) == pytest.approx(getattr(totals, name), rel=1e-12)
    assert [line.month for line in accounts.months] == sorted({row["month"] for row in hours})


def test_operational_and_embodied_carbon_of_a_team_are_the_sums_of_its_runs(store: Path) -> None:
    found = report(str(store), Asked(by=("team",)))

    runs = table(store, "run")
    for line in found.groups:
        mine = [row for row in runs if row["team"] == line.group["team"]]
        assert line.runs == len(mine)
        assert line.location_kg == pytest.approx(sum(row["run_lifecycle_ug"] for row in mine) / 1e9, rel=1e-12)
        assert line.total_kg == pytest.approx(line.location_kg + line.embodied_kg, rel=1e-12)
        stated = [summarise(row["place"]).footprint for row in mine]
        assert line.embodied_kg == pytest.approx(sum(one.embodied_kg.value for one in stated if one), rel=1e-6)


@pytest.mark.parametrize("counts", [None, "direct"])
def test_p10_and_p90_of_a_team_are_those_of_the_audits_of_its_runs_added_up(store: Path, counts: Any) -> None:
    found = report(str(store), Asked(by=("team",), counts=counts))

    for line in found.groups:
        mine = [row for row in table(store, "run") if row["team"] == line.group["team"]]
        stated = [carbon_in(summarise(row["place"]), counts or "lifecycle") for row in mine]
        for name, kilograms in (
            ("location", [one.operational for one in stated]),
            ("embodied", [one.embodied for one in stated]),
            ("total", [one.total for one in stated]),
        ):
            of_runs = Range.total(one.range for one in kilograms if one is not None)
            ends = [getattr(line, f"{name}_{end}kg") for end in ("", "low_", "high_")]
            assert ends == pytest.approx([of_runs.value, of_runs.low, of_runs.high], rel=1e-6)
            assert ends[1] < ends[0] < ends[2]
        assert (line.market_low_kg, line.market_high_kg) == (line.location_low_kg, line.location_high_kg)


def test_the_largest_runs_have_the_ranges_of_their_audits_and_the_summary_has_one(store: Path) -> None:
    found = report(str(store), Asked())

    run = found.top_runs[0]
    audit = summarise(run.place).footprint
    assert audit is not None
    assert (run.total_low_kg, run.total_high_kg) == pytest.approx((audit.total_kg.low, audit.total_kg.high), rel=1e-6)
    whole = Range(found.totals.total_kg, found.totals.total_low_kg, found.totals.total_high_kg)
    assert carbon_range(whole) in summary_lines(found)[1]
    assert carbon_range(whole) in render(found)


def test_hardware_that_is_booked_whole_has_the_range_of_its_manufacture(store: Path) -> None:
    by_purchase = report(str(store), Asked(embodied=BY_PURCHASE)).totals
    by_time = report(str(store), Asked()).totals

    assert by_purchase.embodied_low_kg / by_purchase.embodied_kg == pytest.approx(
        by_time.embodied_low_kg / by_time.embodied_kg, rel=0.05
    )
    assert by_purchase.total_low_kg < by_purchase.total_kg < by_purchase.total_high_kg


def test_waste_counts_each_joule_once_and_all_of_a_failed_run(store: Path) -> None:
    by_role = {line.group["role"]: line for line in report(str(store), Asked(by=("role",))).groups}

    failed, final = by_role["failed"], by_role["final"]
    assert failed.waste.kwh == pytest.approx(failed.energy_kwh, rel=1e-12)
    assert failed.waste.operational_kg == pytest.approx(failed.location_kg, rel=1e-9)
    assert final.waste.failed_kwh == 0
    assert 0 < final.waste.kwh < final.energy_kwh
    shares = {row[0]: row[-1] for row in rows_of("role", [failed, final])[1]}
    assert shares == {"failed": "100 %", "final": percent(final.waste.kwh / final.energy_kwh)}


def test_hardware_that_many_runs_used_is_booked_once_where_it_was_first_used(store: Path) -> None:
    found = report(str(store), Asked(by=("team",), embodied=BY_PURCHASE))

    devices = {(row["kind"], row["device"]): row["embodied_ug"] for row in table(store, "device")}
    assert len(table(store, "device")) > len(devices)
    assert found.totals.embodied_kg == pytest.approx(sum(devices.values()) / 1e9, rel=1e-9)
    for lines in (found.groups, found.months):
        assert sum(line.embodied_kg for line in lines) == pytest.approx(found.totals.embodied_kg, rel=1e-9)


def test_a_run_without_a_site_erases_no_manufacture_and_the_earliest_start_owns_a_device(tmp_path: Path) -> None:
    runs, store = tmp_path / "runs", tmp_path / "store"
    known = factors_of("FRA", "h100-sxm")
    for number in range(6):  # the ids of runs, and so their order in the store, are any
        stated = {"factors": known if number > 2 else {}, "intensity_g_per_kwh": 41.44 if number > 2 else None}
        job = Job(nodes=1, **stated, pue=1.2 if number > 2 else None, attempts=[Attempt(0, 3)])
        directory = runs / f"run-{number}"
        job.write(directory, start_unix_s=RUN_START_UNIX_S + 1e4 * (number or 100))
        identity = json.loads((directory / "run.json").read_text()) | {"programme": f"p{number}"}
        (directory / "run.json").write_text(json.dumps(identity))
    ingest([str(runs / "run-3"), str(runs / "run-4"), str(runs / "run-5")], str(store))
    alone = report(str(store), Asked(by=("programme",), embodied=BY_PURCHASE))
    ingest([str(runs)], str(store))

    found = report(str(store), Asked(by=("programme",), embodied=BY_PURCHASE))

    assert alone.totals.embodied_kg == found.totals.embodied_kg > 0
    assert [line.group["programme"] for line in alone.groups if line.embodied_kg] == ["p3"]
    assert [line.group["programme"] for line in found.groups if line.embodied_kg] == ["p1"]
    assert not any("no run knows" in note for note in found.notes)


def test_hardware_of_a_part_of_a_host_has_the_capital_goods_of_the_export(store: Path) -> None:
    run = min(table(store, "run"), key=lambda row: row["start_ms"])
    audit = summarise(run["place"])
    booked_kg = sum(row["embodied_ug"] for row in table(store, "device") if row["run"] == run["run"]) / 1e9

    lines = ghg_report(
        audit,
        GhgInputs(organisational_boundary="own", acquisition_year=2025, direct_g_per_kwh=1.0, factor_source="test"),
    ).lines

    (goods,) = [line for line in lines if line.category == 2]
    assert goods.kg.low < booked_kg < goods.kg.high
    assert booked_kg == pytest.approx(goods.kg.value, rel=1e-6)


def test_years_hold_direct_scope_2_twice_upstream_and_capital_goods_once(accounts: Any, store: Path) -> None:
    by_year: dict[int, dict[str, float]] = {}
    for line in accounts.years:
        by_year.setdefault(line.year, {})[f"{line.scope} {line.category} {line.method}"] = line.kg

    assert sorted(by_year) == [2025, 2026]
    for lines in by_year.values():
        assert set(lines) == {"2 None location-based", "2 None market-based", "3 2 None", "3 3 None"}
    location = sum(lines["2 None location-based"] for lines in by_year.values())
    upstream = sum(lines["3 3 None"] for lines in by_year.values())
    direct = report(str(store), Asked(counts="direct")).totals
    assert location == pytest.approx(direct.location_kg, rel=1e-12)
    assert sum(lines["2 None market-based"] for lines in by_year.values()) == pytest.approx(location, rel=1e-12)
    assert location + upstream == pytest.approx(accounts.totals.location_kg, rel=1e-12)
    assert accounts.counts == "lifecycle"
    assert direct.market_kg == direct.location_kg < accounts.totals.location_kg


def test_months_can_be_chosen(accounts: Any, store: Path) -> None:
    found = report(str(store), Asked(first="2025-12", last="2026-01"))

    assert [line.month for line in found.months] == [202512, 202601]
    whole = {line.month: line.energy_kwh for line in accounts.months}
    assert found.totals.energy_kwh == pytest.approx(whole[202512] + whole[202601], rel=1e-12)


def test_new_factors_move_the_totals_of_their_region_and_say_why(accounts: Any, store: Path, tmp_path: Path) -> None:
    before = {line.group["region"]: line for line in accounts.regions}
    path = tmp_path / "factors.yaml"
    path.write_text("regions:\n  FRA: {g_per_kwh: 20.72, source: a new release}\n  SWE: {pue: 1.5}\n")

    found = report(str(store), Asked(factors=str(path))).restatement

    assert found is not None
    location = found.of("location-based")
    expected = {"intensity": -before["FRA"].location_kg / 2, "PUE": before["SWE"].location_kg * 0.25}
    assert location.by_factor_kg == pytest.approx(expected, rel=1e-9)
    assert location.after_kg - location.before_kg == pytest.approx(sum(expected.values()), rel=1e-9)
    assert found.of("embodied").by_factor_kg == {}
    assert {one.region for one in found.moved} == {"FRA", "SWE"}
    for one in found.moved:
        assert one.after_kg - one.before_kg == pytest.approx(sum(move.by_kg for move in one.moves), abs=1e-12)
        word = "intensity 41.44 to 20.72 g/kWh (a new release)" if one.region == "FRA" else "PUE 1.2 to 1.5"
        assert word in one.reason


def test_hardware_lifetime_and_idle_power_of_a_file_move_the_totals_that_hold_them(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "factors.yaml"
    path.write_text(
        "hardware:\n  h100-sxm: {device_kg: 82, host_kg: 6400, network_kg: 50, idle_w: 700, source: a product sheet}\n"
        "lifetime_years: 10\nfleet_utilisation: 0.5\nregions:\n  FRA: {residual_g_per_kwh: 500}\n"
    )

    found = report(str(store), Asked(factors=str(path), embodied=BY_PURCHASE)).restatement

    assert found is not None
    embodied, capital = found.of("embodied"), found.of("capital goods")
    assert set(embodied.by_factor_kg) == {"embodied device", "embodied host", "embodied network", "lifetime"}
    assert set(capital.by_factor_kg) == {"embodied device", "embodied host", "embodied network"}
    charged = embodied.before_kg + sum(kg for name, kg in embodied.by_factor_kg.items() if name != "lifetime")
    assert embodied.after_kg == pytest.approx(charged / 2, rel=1e-9)
    assert set(found.of("location-based").by_factor_kg) == {"idle power"}
    assert set(found.of("market-based").by_factor_kg) == {"idle power", "market factors"}
    assert any(words.startswith("fleet utilisation: ") for words in found.not_applied)
    assert any(words.startswith("global warming potentials alone: ") for words in found.not_applied)


def test_restated_totals_are_those_of_runs_that_recorded_the_new_factors(tmp_path: Path, monkeypatch: Any) -> None:
    new = {name: wider(msgspec.convert(factors_of("FRA", name), Factors)) for name in ("h100-sxm", "a100-sxm-80gb")}
    monkeypatch.setattr(fleet_generator, "REGIONS", ("FRA",))
    write_fleet(tmp_path / "old", 8, Shape(windows=6))
    monkeypatch.setattr(fleet_generator, "factors_of", lambda region, name: msgspec.to_builtins(new[name]))
    write_fleet(tmp_path / "new", 8, Shape(windows=6))
    for name in ("old", "new"):
        ingest([str(tmp_path / name)], str(tmp_path / f"{name} store"))

    def chosen(old: Factors, hardware: str, *, static: bool) -> NewFactors:
        assert static
        return NewFactors(factors=new[hardware], idle_w=None, stated=False, kept=())

    monkeypatch.setattr(restatement_module, "shipped_factors", chosen)
    restated = report(str(tmp_path / "old store"), Asked(factors="current", embodied=BY_PURCHASE)).restatement
    by_time, by_purchase = (
        report(str(tmp_path / "new store"), Asked(embodied=rule)).totals for rule in ("reserved-time", BY_PURCHASE)
    )

    assert restated is not None
    expected = {
        "location-based": by_time.location_kg,
        "market-based": by_time.market_kg,
        "embodied": by_time.embodied_kg,
        "capital goods": by_purchase.embodied_kg,
    }
    assert {one.total: one.after_kg for one in restated.totals} == pytest.approx(expected, rel=2e-7)
    assert {one.total for one in restated.totals if one.before_kg != pytest.approx(one.after_kg)} == set(expected)


def wider(factors: Factors) -> Factors:
    """Return the factors with other values and other ranges."""

    def moved(figure: Figure, ratio: float, below: float, above: float) -> Figure:
        value = figure.value * ratio
        return Figure(value, below * value, above * value, figure.unit, "assumed", "another release")

    intensity = msgspec.structs.replace(factors.intensity, figure=moved(factors.intensity.figure, 1.3, 0.5, 1.2))
    return msgspec.structs.replace(
        factors,
        intensity=intensity,
        pue=Figure(1.4, 1.1, 1.6, "kWh facility/kWh IT", "assumed", "another release"),
        lifetime_years=moved(factors.lifetime_years, 0.8, 0.5, 2.0),
        embodied_kg={part: moved(one, 1.7, 0.6, 3.0) for part, one in factors.embodied_kg.items()},
    )


def test_what_a_user_stated_stays_and_is_named_when_shipped_factors_are_applied(store: Path) -> None:
    found = report(str(store), Asked(factors="current")).restatement

    assert found is not None
    location = found.of("location-based")
    assert location.after_kg == pytest.approx(location.before_kg, rel=1e-9)
    assert found.moved == []
    assert any(words.startswith("PUE: it is the user's") for words in found.not_applied)


def test_the_scheduler_says_which_part_was_recorded(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "sacct.txt"
    path.write_text(
        "JobID|State|ElapsedRaw|AllocTRES\n1|COMPLETED|36000|gres/gpu=2\n2|FAILED|18000|gres/gpu=8\n3|PENDING|0|\n"
    )

    found = report(str(store), Asked(sacct=path))

    assert found.coverage is not None
    assert found.coverage.allocated_h == 60.0
    assert found.coverage.by_state_h == {"COMPLETED": 20.0, "FAILED": 40.0}
    assert found.coverage.share == pytest.approx(found.totals.device_hours / 60.0, rel=1e-9)


def test_coverage_is_divided_at_the_ends_of_months(accounts: Any, store: Path, tmp_path: Path) -> None:
    path = tmp_path / "sacct.txt"
    path.write_text(
        "JobID|State|Start|ElapsedRaw|AllocTRES\n1|COMPLETED|2025-07-31T22:00:00|14400|gres/gpu=3\n"
        "2|FAILED|Unknown|3600|gres/gpu=5\n3|COMPLETED|2027-01-01T00:00:00|3600|gres/gpu=7\n"
    )

    found = report(str(store), Asked(sacct=path)).coverage
    july = report(str(store), Asked(sacct=path, first="2025-07", last="2025-07"))

    assert found is not None
    allocated = {one.month: one.allocated_h for one in found.months if one.allocated_h}
    assert allocated == {202507: 6.0, 202508: 6.0, 202701: 7.0}
    assert (found.undated_h, found.allocated_h) == (5.0, 24.0)
    recorded = {line.month: line.device_hours for line in accounts.months}
    assert {one.month: one.recorded_h for one in found.months if one.recorded_h} == pytest.approx(recorded)
    assert july.coverage is not None
    assert (july.coverage.allocated_h, july.coverage.jobs) == (11.0, 2)
    assert july.coverage.recorded_h == pytest.approx(recorded[202507])
    assert any("Jul 2025: " in line for line in summary_lines(july))


def forecast_of(factors: Factors, energy_j: float) -> dict[str, Any]:
    """Return the document of a forecast of this energy, with the fields that an audit reads."""
    item = EnergyItem(rung="gpu", scope="gpu", energy=Range(energy_j, 0.9 * energy_j, 1.2 * energy_j))
    second = Figure(0.5, 0.4, 0.6, "s", "modelled", "test")
    plain: dict[str, Any] = msgspec.to_builtins(
        {
            "created_unix_s": 1_759_990_000.0,
            "plugin_version": "0.1.0",
            "spec": {"cluster": {"nodes": 1, "devices_per_node": 2}},
            "prediction": {"step_time_s": second, "gpu_power_w": Figure(400, 380, 420, "W", "modelled", "test")},
            "total_steps": 240,
            "run_time_s": Figure(120, 110, 150, "s", "modelled", "test"),
            "device_hours": Figure(0.07, 0.06, 0.08, "h", "modelled", "test"),
            "footprint": account([item], [], factors),
        }
    )
    return plain


def test_forecasts_are_compared_by_month(tmp_path: Path) -> None:
    known = factors_of("FRA", "h100-sxm")
    forecast = forecast_of(msgspec.convert(known, Factors), 1e5)
    stated = {"factors": known, "intensity_g_per_kwh": 41.44, "pue": 1.2}
    Job(**stated, forecast=forecast, attempts=[Attempt(0, 12)]).write(tmp_path / "runs" / "one")
    ingest([str(tmp_path / "runs")], str(tmp_path / "store"))

    (month,) = report(str(tmp_path / "store"), Asked()).forecasts

    (run,) = table(tmp_path / "store", "run")
    assert run["forecast_ug"] == round(1e9 * forecast["footprint"]["operational_kg"]["value"])
    assert run["actual_ug"] == run["run_central_ug"]
    assert run["forecast_mj"] == 10**8
    assert (month.month, month.runs) == (202510, 1)
    assert month.bias == pytest.approx(run["actual_ug"] / run["forecast_ug"] - 1)
    assert month.median_absolute_error == pytest.approx(abs(month.bias))
    assert month.energy_bias == pytest.approx(run["run_energy_mj"] / run["forecast_mj"] - 1)


def test_a_run_without_a_site_counts_as_energy_and_in_no_carbon(tmp_path: Path) -> None:
    runs, store = tmp_path / "runs", tmp_path / "store"
    write_fleet(runs, 2)
    Job(nodes=1, factors={}, intensity_g_per_kwh=None, pue=None).write(runs / "no site")
    ingest([str(runs)], str(store))

    found = report(str(store), Asked(by=("region",)))

    unknown = next(line for line in found.groups if line.group["region"] == "not stated")
    assert unknown.without_carbon_kwh == pytest.approx(unknown.energy_kwh)
    assert (unknown.location_kg, unknown.market_kg, unknown.embodied_kg, unknown.total_kg) == (None,) * 4
    assert unknown.waste.operational_kg is None
    row = next(row for row in rows_of("region", found.groups)[1] if row[0] == "not stated")
    assert row[4:8] == ["-"] * 4
    text = next(line for line in csv.DictReader(as_csv(found).splitlines()) if line["region"] == "not stated")
    assert (text["location_kg"], text["market_kg"], text["embodied_kg"], text["total_kg"]) == ("",) * 4
    assert any("operational carbon of" in line and "in no sum" in line for line in summary_lines(found))
    assert found.totals.location_kg is not None
    by_category = {line.category: line.kg for line in report(str(store), Asked(boundary="colo")).years if line.method}
    assert by_category[8] == pytest.approx(0.2 * by_category[None], rel=1e-6)  # all that has a PUE has one of 1.2
    assert found.totals.without_carbon_kwh == pytest.approx(unknown.energy_kwh)
    assert any("1 run has no lifecycle operational carbon" in note for note in found.notes)


def test_carbon_by_contract_has_the_range_of_its_audit(tmp_path: Path) -> None:
    residual = {
        "value": 500.0,
        "low": 500.0,
        "high": 500.0,
        "unit": "gCO2e/kWh",
        "kind": "declared",
        "source": "stated",
    }
    factors = factors_of("FRA", "h100-sxm") | {"residual": residual}
    run = tmp_path / "runs" / "one"
    Job(nodes=1, factors=factors, intensity_g_per_kwh=41.44, pue=1.2, attempts=[Attempt(0, 12)]).write(run)
    ingest([str(run)], str(tmp_path / "store"))

    line = report(str(tmp_path / "store"), Asked()).totals

    audit = summarise(run).footprint
    assert audit is not None
    assert audit.market is not None
    by_contract = audit.market.operational_kg
    found = (line.market_kg, line.market_low_kg, line.market_high_kg)
    assert found == pytest.approx((by_contract.value, by_contract.low, by_contract.high), rel=1e-6)
    assert line.market_kg > line.location_kg


class Moved(Job):
    """A job whose second attempt ran in another region."""

    def records(self, run_id: str, node: int, number: int, *rest: Any) -> list[Any]:
        zone, g_per_kwh = (("FRA", 41.44), ("egrid:SRVC", 290.6))[number]
        there = replace(self, factors=factors_of(zone, "h100-sxm"), intensity_g_per_kwh=g_per_kwh)
        return Job.records(there, run_id, node, number, *rest)


def test_a_run_in_two_regions_is_divided_between_them(tmp_path: Path) -> None:
    attempts = [Attempt(0, 12), Attempt(200, 6)]
    Moved(nodes=1, attempts=attempts).write(tmp_path / "runs" / "one")
    ingest([str(tmp_path / "runs")], str(tmp_path / "store"))

    found = report(str(tmp_path / "store"), Asked(by=("region",), counts="lifecycle"))

    by_region = {line.group["region"]: line for line in found.regions}
    assert set(by_region) == {"FRA", "egrid:SRVC"}
    rows = table(tmp_path / "store", "hour")
    for attempt, region in enumerate(("FRA", "egrid:SRVC")):
        energy_kwh = sum(row["energy_mj"] for row in rows if row["attempt"] == attempt) / 3.6e9
        assert by_region[region].energy_kwh == pytest.approx(energy_kwh, rel=1e-12)
        assert by_region[region].market_kg == by_region[region].location_kg
        assert by_region[region].runs == 1
    france, virginia = by_region["FRA"], by_region["egrid:SRVC"]
    whole = carbon_in(summarise(tmp_path / "runs" / "one"), "lifecycle").operational
    assert whole is not None
    assert found.totals.location_kg == pytest.approx(whole.value, abs=1e-8)
    assert france.location_kg + virginia.location_kg == pytest.approx(found.totals.location_kg, rel=1e-12)


@pytest.mark.parametrize("scope", ["lifecycle", "direct"])
def test_a_run_in_two_regions_of_two_bases_is_turned_region_by_region(tmp_path: Path, scope: EmissionScope) -> None:
    """France is published with lifecycle and Virginia with direct emissions; each has a value of its own of the other
    basis, and the run counts exactly these."""
    Moved(nodes=1, attempts=[Attempt(0, 12), Attempt(200, 6)]).write(tmp_path / "runs" / "one")
    ingest([str(tmp_path / "runs")], str(tmp_path / "store"))
    summary = summarise(tmp_path / "runs" / "one")
    assert summary.footprint is not None

    found = report(str(tmp_path / "store"), Asked(by=("region",), counts=scope))

    kilograms = 0.0
    for line in found.groups:
        own = msgspec.convert(factors_of(line.group["region"], "h100-sxm"), Factors).intensity
        turned = in_scope(own, scope)
        assert turned is not None
        expected = line.facility_kwh * turned.figure.value / 1000
        assert line.location_kg == pytest.approx(expected, rel=1e-6)
        kilograms += expected
    audited = carbon_in(summary, scope).operational
    assert audited is not None
    assert audited.value == pytest.approx(kilograms, rel=1e-8)
    assert audited.low < audited.value < audited.high
    assert found.totals.location_kg == pytest.approx(audited.value, abs=1e-9)


def test_what_could_not_be_read_stands_in_every_report(tmp_path: Path, capsys: Any) -> None:
    runs, store = tmp_path / "runs", tmp_path / "store"
    write_fleet(runs, 2)
    (runs / "foreign").mkdir()
    (runs / "foreign" / "node-0.attempt-0.jsonl").write_text("not a ledger\n")
    ingest([str(runs)], str(store))

    code = command_line(["fleet", "report", str(store), "--html", str(tmp_path / "fleet.html")])

    told = capsys.readouterr()
    assert code == 1
    assert "missing: " in told.err
    assert "/foreign" in told.err
    assert "1 run directory could not be read" in told.out
    assert "/foreign" in (tmp_path / "fleet.html").read_text()


def test_lines_are_written_as_csv_parquet_and_json(store: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    paths = [tmp_path / f"lines.{suffix}" for suffix in ("csv", "parquet", "json")]
    options = [option for path in paths for option in ("--out", str(path))]
    assert command_line(["fleet", "report", str(store), "--by", "team,programme", *options]) == 0

    with paths[0].open(newline="") as file:
        rows = list(csv.DictReader(file))
    lines = json.loads(paths[2].read_text())["lines"]
    columns = pq.read_table(paths[1]).to_pylist()
    assert len(rows) == len(lines) == len(columns) > 0
    for row, line, flat in zip(rows, lines, columns, strict=True):
        assert (row["team"], row["programme"]) == (line["group"]["team"], line["group"]["programme"])
        assert row["month"] == flat["month"] == f"{line['month'] // 100}-{line['month'] % 100:02d}"
        assert float(row["total_kg"]) == flat["total_kg"] == line["total_kg"]
        assert float(row["waste_idle_kwh"]) == line["waste"]["idle_kwh"]


def test_a_name_that_is_a_formula_stays_text_in_a_spreadsheet(tmp_path: Path) -> None:
    directory = write_run(tmp_path / "runs", 0, Shape())
    identity = json.loads((directory / "run.json").read_text()) | {"programme": "=HYPERLINK(0)"}
    (directory / "run.json").write_text(json.dumps(identity))
    ingest([str(tmp_path / "runs")], str(tmp_path / "store"))
    path = tmp_path / "lines.csv"

    command_line(["fleet", "report", str(tmp_path / "store"), "--by", "programme", "--out", str(path)])

    assert "'=HYPERLINK(0)" in path.read_text()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--by", "colour"], "--by 'colour': expected some of team, project"),
        (["--from", "2025-13"], "--from '2025-13': expected a month such as 2025-11"),
        (["--from", "2026-02", "--to", "2026-01"], "expected a first month before the last"),
        (["--counts", "all"], "--counts 'all': expected one of lifecycle, direct"),
        (["--embodied", "never"], "--embodied 'never': expected one of reserved-time, first-use"),
        (["--boundary", "mine"], "--boundary 'mine': expected own (your machines in your building), colo"),
        (["--engine", "sqlite"], "engine 'sqlite': expected one of duckdb"),
        (["--out", "lines.xlsx"], "lines.xlsx: accounts are written as .json"),
        (["--from", "1999-01", "--to", "1999-02"], "no run in these months"),
    ],
)
def test_a_wrong_question_is_an_error_of_one_line(store: Path, capsys: Any, options: list[str], told: str) -> None:
    assert command_line(["fleet", "report", str(store), *options]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("regions: {XX: {g_per_kwh: 3}}\n", "no run is in XX; the store has FRA, IND, SWE, USA"),
        ("hardware: {tpu-v1: {device_kg: 3}}\n", "no run is on tpu-v1"),
        ("hardware: {h100-sxm: {idle_w: -3}}\n", "h100-sxm.idle_w is -3"),
        ("lifetime_years: 0\n", "lifetime_years is 0"),
        ("XX: {g_per_kwh: 3}\n", "expected regions"),
        ("gwp: AR6\n", r"gwp cannot be applied: .*; state that of each region by the new potentials"),
        (
            "regions: {FRA: {marginal_g_per_kwh: 300}}\n",
            "marginal_g_per_kwh cannot be applied",
        ),
        ("regions: {FRA: {g_per_kwh: 90000}}\n", "FRA.g_per_kwh is 90000"),
        ("regions: {FRA: {pue: 0.5}}\n", "FRA.pue is 0.5"),
        ("regions: {FRA: {intensity: 3}}\n", "intensity"),
    ],
)
def test_factors_that_cannot_be_are_refused(store: Path, tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "factors.yaml"
    path.write_text(text)

    with pytest.raises(FleetError, match=told):
        report(str(store), Asked(factors=str(path)))


def test_a_directory_that_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="no store here that holds runs"):
        report(str(tmp_path), Asked())


@pytest.mark.exhaustive
@pytest.mark.parametrize("engine", ["local[2]", "local-cluster"])
def test_spark_gives_the_tables_of_duckdb_to_the_last_digit(store: Path, engine: str) -> None:
    pytest.importorskip("pyspark")
    asked = {"by": ("team", "hardware"), "boundary": "colo", "embodied": BY_PURCHASE, "factors": "current"}

    embedded = msgspec.to_builtins(report(str(store), Asked(**asked)))
    cluster = msgspec.to_builtins(report(str(store), Asked(**asked, engine=engine)))

    assert cluster.pop("engine") == engine
    assert embedded.pop("engine") == "duckdb"
    assert cluster == embedded


def test_no_name_of_a_class_stands_on_the_page(accounts: Any) -> None:
    page = render(accounts)

    assert "Carbon by month" in page
    for name in ("RunMicrograms", "FleetWaste", "AccountLine", "FleetTile"):
        assert name not in page


def test_numbers_of_a_column_have_the_decimals_of_the_largest() -> None:
    assert column([31.7, 29.0, 0.04, None]) == ["31.7", "29.0", "<0.1", "-"]
    assert column([1234.5, 2.0]) == ["1,234", "2"]
    assert column([None, None]) == ["-", "-"]
    assert column([0.0]) == ["0"]


@pytest.mark.parametrize(("after_s", "part", "hours"), [(0.0, None, 20 / 3600), (0.0, 0.5, 0), (3600.0, None, 0)])
def test_gpus_that_runs_count_at_the_same_time_are_named(
    after_s: float, part: float | None, hours: float, tmp_path: Path
) -> None:
    """Two runs of 25 s on one GPU, the second 15 s after the first, each charged for the whole or for a half of it, or
    an hour later. Of the time of two runs that count all of it, 10 s are there twice on each of two GPUs.
    """
    for number, start_s in enumerate((0.0, 15.0 + after_s)):
        folder = tmp_path / "runs" / str(number)
        identity = agree_run(folder, name="run", run_id=str(number) * 32)
        job = Job(nodes=1)
        parts = None if part is None else {job.gpu_key(0, gpu): part for gpu in range(2)} | {MACHINE: part}
        writer = LedgerWriter(folder, run_id=identity.run_id, node=0)
        for record in job.records(identity.run_id, 0, 0, Attempt(0, 1), RUN_START_UNIX_S + start_s):
            divided = isinstance(record, Window) and parts is not None
            writer.write(msgspec.structs.replace(record, parts=parts) if divided else record)
        writer.close()
    ingest([str(tmp_path / "runs")], str(tmp_path / "store"))

    said = [note for note in report(str(tmp_path / "store"), Asked()).notes if "at the same time" in note]

    assert [
        f"2 GPUs are counted by several runs at the same time, for {hours:.4g} device-hours" in one for one in said
    ] == ([True] if hours else [])
