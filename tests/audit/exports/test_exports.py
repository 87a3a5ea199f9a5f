"""Exports: the numbers of the audit under the rules of each standard, and what each of them refuses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from carbon_plugin.audit.exports.eu_ai_act import eu_ai_act_report
from carbon_plugin.audit.exports.evidence import read_summary
from carbon_plugin.audit.exports.ghg import ghg_report
from carbon_plugin.audit.exports.ghg_factors import GhgInputs
from carbon_plugin.audit.exports.json_schemas import published_schema
from carbon_plugin.audit.exports.model_card import as_fields, model_card_emissions
from carbon_plugin.audit.exports.paper import paper_paragraph
from carbon_plugin.audit.exports.rounding import presentable
from carbon_plugin.audit.exports.sci import sci_report
from carbon_plugin.audit.report.write import write_audit
from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.audit.summary import summarise
from carbon_plugin.errors import FootprintError, ReportError
from carbon_plugin.footprint.run_factors import resolve_factors
from carbon_plugin.footprint.sci import score
from carbon_plugin.footprint.values import Factors
from carbon_plugin.ledger.codec import encode_record
from carbon_plugin.ledger.held.expected import NOT_SEEN_EVENT
from carbon_plugin.ledger.identity import agree_run
from carbon_plugin.ledger.reader import read_ledger
from carbon_plugin.ledger.records import Event, Window
from carbon_plugin.ledger.writer import LedgerWriter
from carbon_plugin.spec.numbers.figure import Figure
from carbon_plugin.spec.site import Instrument, Site
from tests.ledger.builder import Attempt, Job
from tests.ledger.chaining import chained

DIRECT = {"direct_g_per_kwh": 30.0, "factor_source": "national inventory 2025, France"}


def audited(job: Job, directory: Path) -> AuditSummary:
    job.write(directory)
    return summarise(directory)


def job_with(factors: Factors | None, prediction: dict[str, Any] | None = None, **fields: Any) -> Job:
    plain = msgspec.to_builtins(factors) if factors else {}
    intensity = factors.intensity.figure.value if factors else None
    counted = prediction and {
        **prediction,
        "model_flops_per_step": 4e14,
        "hardware_flops_per_step": 5e14,
        "attention_convention": "causal",
    }
    return Job(
        factors=plain,
        prediction=counted,
        intensity_g_per_kwh=intensity,
        pue=factors.pue.value if factors else None,
        **fields,
    )


@pytest.fixture
def summary(factors: Factors, prediction_document: dict[str, Any], tmp_path: Path) -> AuditSummary:
    return audited(job_with(factors, prediction_document), tmp_path / "run")


@pytest.fixture
def without_site(tmp_path: Path) -> AuditSummary:
    return audited(job_with(None), tmp_path / "no-site")


@pytest.fixture
def own() -> GhgInputs:
    return GhgInputs(organisational_boundary="own", acquisition_year=2024, **DIRECT)


def with_zone(factors: Factors, site: Site) -> Factors:
    return msgspec.structs.replace(resolve_factors(site, None), embodied_kg=factors.embodied_kg)


def plain(document: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(document))


def check(name: str, document: Any) -> None:
    jsonschema.Draft202012Validator(published_schema(name)).validate(plain(document))


def test_every_export_is_valid_under_its_published_schema(summary: AuditSummary, own: GhgInputs) -> None:
    check("report", summary)
    check("sci", sci_report(summary))
    check("eu-ai-act", eu_ai_act_report(summary))
    check("ghg", ghg_report(summary, own))
    check("model-card", as_fields(model_card_emissions(summary, "pre-training")))


def test_schema_refuses_a_document_that_lacks_a_number(summary: AuditSummary) -> None:
    broken = plain(sci_report(summary))
    del broken["score"]
    with pytest.raises(jsonschema.ValidationError, match="'score' is a required property"):
        jsonschema.Draft202012Validator(published_schema("sci")).validate(broken)


def test_export_from_report_json_is_that_from_the_ledgers(summary: AuditSummary, tmp_path: Path) -> None:
    written = write_audit(tmp_path / "run")
    from_file = sci_report(read_summary(written.json))
    assert from_file.score == sci_report(summary).score
    with pytest.raises(ReportError, match=r"not a report\.json"):
        read_summary(written.html)


# SCI


def test_exports_name_the_cloud_region_with_the_plain_name_of_its_place(factors: Factors, tmp_path: Path) -> None:
    cloud = with_zone(factors, Site(zone="aws:us-east-1", pue=1.2))
    summary = audited(job_with(cloud), tmp_path / "run")

    card = model_card_emissions(summary, "pre-training")
    assert card.geographical_location == "Northern Virginia (aws:us-east-1)"
    assert sci_report(summary).intensity.zone_asked == "aws:us-east-1"


def test_own_hardware_in_a_region_of_a_cloud_is_questioned(factors: Factors, tmp_path: Path) -> None:
    cloud = with_zone(factors, Site(zone="aws:us-east-1", pue=1.2))
    summary = audited(job_with(cloud), tmp_path / "run")
    own = GhgInputs(organisational_boundary="own", acquisition_year=2024)

    (question,) = ghg_report(summary, own).questions

    assert "the zone aws:us-east-1 is a region of aws" in question
    assert ghg_report(summary, GhgInputs(organisational_boundary="cloud")).questions == []


def test_inventory_names_gases_and_warming_potentials_of_its_factor(factors: Factors, tmp_path: Path) -> None:
    grid = with_zone(factors, Site(zone="egrid:SRVC", pue=1.2))
    report = ghg_report(
        audited(job_with(grid), tmp_path / "run"), GhgInputs(organisational_boundary="own", acquisition_year=2024)
    )
    assert "AR6" in report.location_factor.gwp
    assert report.location_factor.gases == "CO2, CH4 and N2O"


def test_score_is_operational_and_embodied_over_effective_tokens(summary: AuditSummary) -> None:
    report = sci_report(summary)
    assert summary.footprint is not None
    assert summary.waste.redone_steps == 40
    assert report.functional_units == pytest.approx((480 - 40) * 8192)
    grams = summary.footprint.total_kg.value * 1000
    assert report.score.value * report.functional_units == pytest.approx(grams)
    assert report.operational.value == pytest.approx(report.energy.value * report.intensity.applied_g_per_kwh)
    assert report.score.low < report.score.value < report.score.high
    assert sum(part.value for part in report.embodied_by_scope.values()) == pytest.approx(report.embodied.value)


def test_score_covers_the_same_time_with_energy_and_with_hardware(factors: Factors, tmp_path: Path) -> None:
    """60 s between allocation and the first record, on 2 nodes of 2 GPUs, are in E as idle and in M as reserved."""
    job = job_with(factors, attempts=[Attempt(0, 6, reserved_before_s=60.0)])
    summary = audited(job, tmp_path / "run")

    report = sci_report(summary)

    assert report.unobserved_energy.value == pytest.approx(4 * 60.0 * 327.0 * factors.pue.value / 3.6e6)
    assert report.energy.value == pytest.approx(
        report.unobserved_energy.value
        + factors.pue.value
        * sum(energy.energy_j for phase, energy in summary.by_phase.items() if phase != "unobserved")
        / 3.6e6
    )
    device = next(term for term in report.hardware if term.scope == "device")
    assert device.time_reserved_h == pytest.approx(4 * (summary.period.active_s + 60.0) / 3600)
    assert any("from allocation to its last record" in line for line in report.boundary)
    assert any("modelled as idle" in line for line in report.boundary)
    assert any("modelled as idle" in line for line in report.origin.limits)


def test_score_of_devices_without_a_profile_says_that_energy_begins_with_the_first_record(
    factors: Factors, tmp_path: Path
) -> None:
    job = job_with(factors, gpus=0, attempts=[Attempt(0, 6, reserved_before_s=60.0)])

    report = sci_report(audited(job, tmp_path / "run"))

    assert report.unobserved_energy.value == 0.0
    assert report.unobserved_energy.source.startswith("nothing is modelled: the idle power in 2.00 min of device time")
    assert any("from its first record (E) and allocation (M)" in line for line in report.boundary)
    assert any("of reserved device time are in no record" in line for line in report.origin.limits)


def test_score_gives_every_term_of_its_embodied_carbon(summary: AuditSummary) -> None:
    report = sci_report(summary)

    assert {term.scope for term in report.hardware} == {"device", "host", "network"}
    for term in report.hardware:
        embodied = (
            term.total_embodied.value * 1000
            * term.time_reserved_h / term.expected_lifespan_h
            * term.resources_reserved / term.total_resources
        )  # fmt: skip
        assert term.embodied.value == pytest.approx(embodied)
    host = next(term for term in report.hardware if term.scope == "host")
    assert host.resources_reserved == pytest.approx(0.25)  # 2 of 8 GPUs of each node
    assert sum(term.embodied.value for term in report.hardware) == pytest.approx(report.embodied.value)


def test_score_estimates_the_end_of_life_and_the_storage_that_it_leaves_out(summary: AuditSummary) -> None:
    report = sci_report(summary)

    end_of_life, storage = report.left_out
    assert end_of_life.value == pytest.approx(0.028 * report.embodied.value)
    assert (end_of_life.low, end_of_life.high) == (0.0, pytest.approx(0.105 * report.embodied.value))
    assert storage.value == pytest.approx(0.05 * report.operational.value)
    for words in ("end of life of the hardware is in no number", "shared storage, its electricity is in no number"):
        assert any(words in limit for limit in report.origin.limits)


def test_written_numbers_have_four_significant_figures_and_moments_and_counts_have_all(summary: AuditSummary) -> None:
    document = presentable(sci_report(summary))

    def floats(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
        if isinstance(value, dict):
            for key, inner in value.items():
                yield from floats(inner, key)
        elif isinstance(value, list):
            for inner in value:
                yield from floats(inner, name)
        elif isinstance(value, float):
            yield name, value

    for name, value in floats(document):
        assert value.is_integer() or name.endswith("_unix_s") or float(f"{value:.4g}") == value, name
    assert document["functional_units"] == 440 * 8192
    assert document["origin"]["start_unix_s"] == summary.period.start_unix_s
    o, m = document["operational"]["value"], document["embodied"]["value"]
    assert document["score"]["value"] * document["functional_units"] == pytest.approx(o + m, rel=1e-3)


def test_score_names_boundary_method_and_granularity(summary: AuditSummary) -> None:
    report = sci_report(summary)
    assert report.intensity.basis is not None
    assert report.intensity.basis.method == "location"
    assert report.intensity.granularity_time.startswith("annual average of 20")
    assert any("outside" in line and "network was not metered" in line for line in report.boundary)
    assert any("no market-based instrument" in line for line in report.method)


def test_score_charges_hardware_by_reserved_time_only(factors: Factors, tmp_path: Path) -> None:
    fleet = Figure(0.6, 0.6, 0.6, "share of life", "declared", "stated by the user")
    shared = msgspec.structs.replace(factors, fleet_utilisation=fleet)
    with pytest.raises(ReportError, match="expected reserved time over calendar life"):
        sci_report(audited(job_with(shared), tmp_path / "fleet"))


def test_score_is_a_rate() -> None:
    assert score(3.0, 1.0, 8.0) == 0.5
    with pytest.raises(FootprintError, match="expected more than 0: the score is a rate"):
        score(3.0, 1.0, 0.0)


def test_score_is_refused_without_all_reserved_hardware(factors: Factors, tmp_path: Path) -> None:
    job = job_with(factors)
    job.write(tmp_path / "half")
    for path in (tmp_path / "half").glob("node-1.*"):
        path.unlink()
    with pytest.raises(ReportError, match=r"ledgers of 1 of 2 nodes, expected all: E includes all hardware"):
        sci_report(summarise(tmp_path / "half"))
    with pytest.raises(ReportError, match="no energy of its hosts"):
        sci_report(audited(job_with(factors, host_power_w=None), tmp_path / "no-host"))


def test_score_is_refused_without_embodied_carbon_tokens_or_site(
    factors: Factors, without_site: AuditSummary, tmp_path: Path
) -> None:
    bare = msgspec.structs.replace(factors, embodied_kg={"device": factors.embodied_kg["device"]})
    with pytest.raises(
        ReportError, match="no embodied carbon of hosts, expected an estimate for all reserved hardware"
    ):
        sci_report(audited(job_with(bare), tmp_path / "bare"))
    with pytest.raises(ReportError, match="recorded no training tokens"):
        sci_report(audited(job_with(factors, tokens_per_step=0), tmp_path / "tokens"))
    with pytest.raises(ReportError, match="run simulated has no carbon: "):
        sci_report(without_site)


def test_number_of_the_user_without_a_basis_is_refused(factors: Factors, tmp_path: Path) -> None:
    declared = with_zone(factors, Site(intensity_g_per_kwh=100.0, pue=1.2))
    with pytest.raises(ReportError, match="what the intensity of declared counts is not stated"):
        sci_report(audited(job_with(declared), tmp_path / "declared"))


def test_an_old_vintage_is_said_of_the_factor_and_is_not_outside_the_boundary(factors: Factors, tmp_path: Path) -> None:
    stale = msgspec.structs.replace(factors, warnings=("grid intensity of France is of 2019, 7 years old",))
    run = audited(job_with(stale), tmp_path / "stale")
    report = sci_report(run)
    assert any("is of 2019" in limit for limit in report.origin.limits)
    assert [line for line in report.boundary if line.startswith("outside: The network was not metered")]
    assert not [line for line in report.boundary if "2019" in line]
    assert "2019" not in eu_ai_act_report(run).training_energy.methodology
    assert "network was not metered" in eu_ai_act_report(run).training_energy.methodology


# GHG Protocol


def test_own_electricity_is_scope_2_with_direct_factors_and_the_rest_is_category_3(
    summary: AuditSummary, own: GhgInputs
) -> None:
    inputs = msgspec.structs.replace(own, grid_loss=0.05)
    report = ghg_report(summary, inputs)
    by_name = {(line.scope, line.category, line.method, line.name): line for line in report.lines}
    facility_kwh = summary.footprint.energy_j["facility"].value / 3.6e6  # type: ignore[union-attr]
    lifecycle = report.location_factor.applied_g_per_kwh
    assert [(line.scope, line.category) for line in report.lines] == [
        (2, None),
        (2, None),
        (3, 3),
        (3, 3),
        (3, 2),
    ]
    location = by_name[2, None, "location-based", "purchased electricity"]
    market = by_name[2, None, "market-based", "purchased electricity"]
    assert location.kg.value == pytest.approx(facility_kwh * 30.0 / 1000)
    assert market.kg.value == location.kg.value
    assert "no contract" in market.note
    assert all(line.factor and line.factor.source and line.factor.granularity for line in report.lines if line.energy)
    upstream = by_name[3, 3, "location-based", "fuels of the electricity, upstream"]
    assert location.kg.value + upstream.kg.value == pytest.approx(facility_kwh * lifecycle / 1000)
    losses = by_name[3, 3, "location-based", "losses of the grid"]
    assert losses.kg.value == pytest.approx(facility_kwh * lifecycle * 0.05 / 0.95 / 1000)
    assert not [item for item in report.missing if "category 3" in item]


def over_new_year(job: Job, directory: Path, reserved_before_s: float | None = None) -> AuditSummary:
    """Return a run of 615 s. Its first 495 s are in 2024 (15 s of start-up and 48 windows of 10 s), and 12 further
    windows are in 2025.
    """
    identity = agree_run(directory, name="turn", run_id="b" * 32)
    new_year_s = datetime(2025, 1, 1, tzinfo=UTC).timestamp()
    start_s = new_year_s - 495.0
    job.nodes, job.attempts = 1, [Attempt(0, 60, reserved_before_s=reserved_before_s)]
    writer = LedgerWriter(directory, run_id=identity.run_id, node=0)
    now_s = start_s
    for record in job.records(identity.run_id, 0, 0, job.attempts[0], start_s):
        if isinstance(record, Window):
            if record.phase not in ("startup", "train"):
                continue
            record = msgspec.structs.replace(record, start_unix_s=now_s)  # noqa: PLW2901
            now_s += record.duration_s
        writer.write(record)
    writer.close()
    return summarise(directory)


def test_run_over_new_year_is_split_at_its_windows_with_the_factors_of_each_year(
    factors: Factors, tmp_path: Path
) -> None:
    """The table has 15.83 g/kWh for Paris in 2025 and 16.3 in 2024, direct."""
    paris = with_zone(factors, Site(zone="gcp:europe-west9", pue=1.2))
    summary = over_new_year(job_with(paris, noise=0.0), tmp_path / "run")

    report = ghg_report(summary, GhgInputs(organisational_boundary="own", acquisition_year=2023))

    assert [(month.year, month.month) for month in summary.months] == [(2024, 12), (2025, 1)]
    assert sum(month.energy_j for month in summary.months) == pytest.approx(summary.energy.energy_j)
    assert summary.footprint is not None
    assert sum(month.operational_kg or 0.0 for month in summary.months) == pytest.approx(
        summary.footprint.operational_kg.value
    )
    assert report.years == [2024, 2025]
    located = {
        line.inventory_year: line for line in report.lines if line.method == "location-based" and line.scope == 2
    }
    train_w = 2 * 400.0 + 150.0
    joules = {2024: 48 * 10 * train_w + 15 * (2 * 100.0 + 150.0), 2025: 12 * 10 * train_w}
    for year, g_per_kwh in ((2024, 16.3), (2025, 15.83)):
        line = located[year]
        assert line.energy is not None
        assert line.energy.value == pytest.approx(1.2 * joules[year] / 3.6e6)
        assert line.kg.value == pytest.approx(line.energy.value * g_per_kwh / 1000)
    assert {line.inventory_year for line in report.lines if line.category == 2} == {2023}
    check("ghg", report)


def test_manufacture_is_split_over_new_year_by_reserved_time_recorded_or_not(factors: Factors, tmp_path: Path) -> None:
    """Two GPUs are held for 300 s before the first record, and for 495 s of records until the new year."""
    summary = over_new_year(job_with(factors, noise=0.0), tmp_path / "run", reserved_before_s=300.0)
    assert summary.footprint is not None
    held_s = {month.year: month.reserved_device_s for month in summary.months}

    report = ghg_report(summary, GhgInputs(organisational_boundary="cloud"))

    assert held_s[2024] == pytest.approx(2 * 795.0)
    assert sum(held_s.values()) == pytest.approx(summary.reserved.device_s)
    assert sum(month.energy_j for month in summary.months) == pytest.approx(summary.energy.energy_j)
    idle_j = sum(energy.energy_j for energy in summary.unobserved.values())
    recorded_j = 48 * 10 * (2 * 400.0 + 150.0) + 15 * (2 * 100.0 + 150.0)
    assert summary.months[0].energy_j == pytest.approx(recorded_j + idle_j)
    made = {line.inventory_year: line.kg.value for line in report.lines if "manufacture" in line.name}
    for year, kg in made.items():
        share = held_s[year] / summary.reserved.device_s
        assert kg == pytest.approx(summary.footprint.embodied_kg.value * share)


def test_year_without_a_factor_of_its_own_is_said_with_the_year_that_stands_in(
    factors: Factors, tmp_path: Path
) -> None:
    grid = with_zone(factors, Site(zone="egrid:SRVC", pue=1.2))  # of 2024 and 2023
    summary = over_new_year(job_with(grid, noise=0.0), tmp_path / "run")

    report = ghg_report(summary, GhgInputs(organisational_boundary="own", acquisition_year=2023))

    assert any(
        "no factor of 2025 is in the table" in line and "that of 2024 stands in" in line for line in report.missing
    )


def test_capital_goods_are_whole_units_in_the_year_of_acquisition(summary: AuditSummary, own: GhgInputs) -> None:
    report = ghg_report(summary, own)
    (goods,) = [line for line in report.lines if line.category == 2]
    assert goods.inventory_year == 2024
    assert goods.kg.value == pytest.approx(4 * 160.0 + 2 * (2 / 8) * 3000.0 + 4 * 25.0)
    (allocation,) = report.outside_inventory
    assert allocation.kg == summary.footprint.embodied_kg  # type: ignore[union-attr]
    assert "outside the inventory" in allocation.note
    assert "not amortised" in goods.note


def test_colocation_splits_machines_from_the_facility(summary: AuditSummary) -> None:
    report = ghg_report(summary, GhgInputs(organisational_boundary="colo", acquisition_year=2024, **DIRECT))
    location = next(line for line in report.lines if line.method == "location-based" and line.scope == 2)
    (overhead,) = [line for line in report.lines if line.category == 8]
    assert location.energy is not None
    assert overhead.energy is not None
    assert location.energy.value == pytest.approx(summary.energy.energy_j / 3.6e6)
    assert overhead.energy.value == pytest.approx(0.2 * location.energy.value)


def test_electricity_of_a_cloud_is_scope_3_and_nothing_is_owned(summary: AuditSummary) -> None:
    report = ghg_report(summary, GhgInputs(organisational_boundary="cloud"))
    assert {(line.scope, line.category) for line in report.lines} == {(3, 1)}
    assert sum(line.kg.value for line in report.lines) == pytest.approx(
        summary.footprint.total_kg.value  # type: ignore[union-attr]
    )
    assert report.outside_inventory == []


def test_market_based_line_uses_contracts_and_leaves_the_location_alone(
    factors: Factors, own: GhgInputs, tmp_path: Path
) -> None:
    contract = Instrument(kind="ppa", g_per_kwh=0.0, share=0.5, source="wind farm 2025")
    site = with_zone(factors, Site(zone="FRA", pue=1.2, instruments=(contract,)))
    report = ghg_report(audited(job_with(site), tmp_path / "ppa"), own)
    location, market = report.lines[:2]
    assert (location.method, market.method) == ("location-based", "market-based")
    assert market.kg.value == pytest.approx(location.kg.value / 2)
    assert "wind farm 2025" in market.note
    half_kwh = market.energy.value / 2  # type: ignore[union-attr]
    assert (
        f"residual, {half_kwh:.6g} kWh: no residual mix was given: the direct grid average of 30 g/kWh" in market.note
    )


def test_contracts_of_machines_in_a_colocation_are_noted_with_the_energy_of_the_line(
    factors: Factors, tmp_path: Path
) -> None:
    contract = Instrument(kind="ppa", g_per_kwh=11.0, share=0.5, source="wind farm 2025")
    site = with_zone(factors, Site(zone="FRA", pue=1.2, instruments=(contract,), residual_g_per_kwh=50.0))
    colo = GhgInputs(organisational_boundary="colo", acquisition_year=2024, **DIRECT)
    _, market, *_ = ghg_report(audited(job_with(site), tmp_path / "colo"), colo).lines
    noted = [float(kwh) for kwh in re.findall(r"([\d.e-]+) kWh:", market.note)]
    assert market.factor is not None
    assert market.energy is not None
    assert market.factor.g_per_kwh == pytest.approx(0.5 * 11 + 0.5 * 50)
    assert sum(noted) == pytest.approx(market.energy.value, rel=1e-5)


def test_contracts_stand_beside_the_location_in_a_cloud_too(factors: Factors, tmp_path: Path) -> None:
    contract = Instrument(kind="ppa", g_per_kwh=11.0, share=0.5, source="wind farm 2025")
    site = with_zone(factors, Site(zone="FRA", pue=1.2, instruments=(contract,)))
    run = audited(job_with(site), tmp_path / "cloud")
    report = ghg_report(run, GhgInputs(organisational_boundary="cloud"))
    location, market, hardware = report.lines
    lifecycle = report.location_factor.applied_g_per_kwh
    assert [(line.scope, line.category) for line in report.lines] == [(3, 1)] * 3
    assert (location.method, market.method, hardware.method) == ("location-based", "market-based", None)
    assert market.kg.value == pytest.approx(location.kg.value / lifecycle * (0.5 * 11 + 0.5 * lifecycle))
    assert "the lifecycle grid average of 41.44 g/kWh" in market.note
    assert any("side by side" in rule for rule in report.rules)


def test_lifecycle_factor_is_refused_for_scope_2(summary: AuditSummary) -> None:
    inputs = GhgInputs(organisational_boundary="own", acquisition_year=2024)
    with pytest.raises(ReportError, match=r"France is lifecycle, but scope 2 takes direct .* expected --direct-factor"):
        ghg_report(summary, inputs)


def test_direct_zone_needs_no_factor_and_says_that_upstream_is_missing(factors: Factors, tmp_path: Path) -> None:
    egrid = with_zone(factors, Site(zone="egrid:SRVC", pue=1.2))
    run = audited(job_with(egrid), tmp_path / "egrid")
    inputs = GhgInputs(organisational_boundary="own", acquisition_year=2024)
    report = ghg_report(run, inputs)
    assert report.lines[0].kg.value == pytest.approx(run.footprint.operational_kg.value)  # type: ignore[union-attr]
    assert any("category 3, fuels" in item for item in report.missing)
    assert not [line for line in report.lines if line.category == 3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"acquisition_year": None}, "acquisition_year is not stated"),
        ({"factor_source": None}, "direct_factor has no source"),
        ({"direct_g_per_kwh": -1.0}, "expected 0 to 3000"),
        ({"direct_g_per_kwh": float("nan")}, "direct_factor is nan g/kWh, expected 0 to 3000"),
        ({"direct_g_per_kwh": 500.0}, "expected at most the lifecycle factor"),
        ({"lifecycle_g_per_kwh": 50.0}, "the run's own intensity is lifecycle already"),
        ({"grid_loss": 1.0}, "expected a share from 0 to below 1"),
        ({"organisational_boundary": "mine"}, "expected own, colo, cloud"),
    ],
)
def test_inventory_says_what_is_missing_or_wrong(
    summary: AuditSummary, own: GhgInputs, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ReportError, match=message):
        ghg_report(summary, msgspec.structs.replace(own, **changes))


# EU AI Act


def test_documentation_form_has_two_significant_figures_and_method(summary: AuditSummary) -> None:
    report = eu_ai_act_report(summary)
    assert summary.footprint is not None
    mwh = summary.footprint.energy_j["facility"].value / 3.6e9
    assert report.training_energy.mwh == float(f"{mwh:.2g}")
    assert report.training_energy.low_mwh <= report.training_energy.mwh <= report.training_energy.high_mwh
    assert report.training_compute.flop == float(f"{4e14 * 480:.2g}")
    assert report.training_compute.order_of_magnitude == 17
    assert report.training_time.range == "less than 1 month"
    assert report.training_time.hardware == "4 x NVIDIA H100 80GB HBM3"
    assert report.training_time.hardware_days == float(f"{summary.reserved.device_s / 86400:.2g}")
    assert "PUE 1.2" in report.training_energy.methodology
    assert 60 <= len(report.training_energy.methodology.split()) <= 160


def test_form_says_what_it_cannot_fill(without_site: AuditSummary) -> None:
    report = eu_ai_act_report(without_site)
    assert report.training_compute.flop is None
    assert any(item.startswith("amount of computation used for training") for item in report.missing)
    assert "no PUE is applied" in report.training_energy.boundary


# Paper


def test_paragraph_holds_the_numbers_and_how_they_are_known(summary: AuditSummary) -> None:
    text = paper_paragraph(summary)
    for expected in ("4 x NVIDIA H100 80GB HBM3", "PUE 1.2", "France 20", "location-based, lifecycle, average", "p10"):
        assert expected in text
    assert "\n" not in text
    assert text.count("(") == text.count(")")


def test_paragraph_claims_neither_gpus_nor_a_model_that_only_the_plan_has(factors: Factors, tmp_path: Path) -> None:
    planned = {
        "cluster.accelerator": {"value": "h100-sxm", "source": "planned", "planned": "h100-sxm"},
        "model.name": {"value": "llama3-8b", "source": "planned", "planned": "llama3-8b"},
        "model.parameters": {"value": 2_100_000, "source": "detected", "planned": 8_030_261_248},
    }
    audited(job_with(factors, nodes=1, gpus=0), tmp_path / "run")
    (path,) = [p for p in (tmp_path / "run").glob("node-*.jsonl") if "attempt-1" in p.name]
    records = list(read_ledger(path).records)
    manifest = msgspec.structs.replace(records[0], effective=planned)
    unseen = Event(at_unix_s=manifest.started_unix_s, kind=NOT_SEEN_EVENT, message="nothing shows a GPU", data={})
    path.write_bytes(chained(map(encode_record, [manifest, *records[1:-1], unseen, records[-1]])))

    text = paper_paragraph(summarise(tmp_path / "run"))

    assert "2,100,000 parameters as counted in the live model, where the plan has 8,030,000,000" in text
    assert "on 1 rank without a GPU that was seen (planned on h100-sxm)" in text
    assert "1 x h100-sxm" not in text


def test_paragraph_says_how_manufacture_is_charged_only_where_it_is_in_the_figures(summary: AuditSummary) -> None:
    assert "embodied emissions are charged by" in paper_paragraph(summary)

    assert summary.footprint is not None
    unknown = msgspec.structs.replace(summary.footprint, embodied_kg=None, total_kg=None)
    text = paper_paragraph(msgspec.structs.replace(summary, footprint=unknown))

    assert "the manufacture of the hardware is not known and not included" in text
    assert "embodied emissions are charged by" not in text


def test_paragraph_is_refused_without_carbon(without_site: AuditSummary) -> None:
    with pytest.raises(ReportError, match="paper: run simulated has no carbon"):
        paper_paragraph(without_site)


def test_ledgers_that_were_edited_are_named_in_every_export(factors: Factors, tmp_path: Path) -> None:
    (path, *_) = job_with(factors).write(tmp_path)
    path.write_bytes(path.read_bytes().replace(b'"steps":20', b'"steps":21', 1))
    edited = summarise(tmp_path)
    assert not sci_report(edited).origin.verified
    assert sci_report(edited).origin.limits[0].startswith("The ledgers do not verify: node-0.attempt-0.jsonl")
    assert "The ledgers do not verify" in paper_paragraph(edited)
    assert model_card_emissions(edited, "pre-training").source.endswith("its ledgers do not verify")
