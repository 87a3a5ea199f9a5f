"""What the page adds to the numbers: a verdict on the data, comparisons, GPUs that differ, and links to sources."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from carbon_plugin.audit.report.addresses import linked
from carbon_plugin.audit.report.charts.of_devices import device_chart, node_table, outlier_table
from carbon_plugin.audit.report.comparison import render_comparison, rows_of
from carbon_plugin.audit.report.grasp import CAR_KG_PER_KM, as_a_drive
from carbon_plugin.audit.report.otherwise import elsewhere
from carbon_plugin.audit.report.page import render_html
from carbon_plugin.audit.result import AuditSummary, Device
from carbon_plugin.audit.runs import compare_runs
from carbon_plugin.audit.sentences.missing import missing
from carbon_plugin.audit.sentences.quality import data_quality
from carbon_plugin.audit.summary import summarise
from carbon_plugin.footprint.factors.grid import zone_intensity
from carbon_plugin.footprint.run_factors import resolve_factors
from carbon_plugin.footprint.values import Factors
from carbon_plugin.spec.hardware.cluster import Cluster
from carbon_plugin.spec.hardware.profiles import load_accelerator, load_node
from carbon_plugin.spec.site import Site
from tests.ledger.builder import Job

replace = msgspec.structs.replace


@pytest.fixture(scope="module")
def summary(factors: Factors, tmp_path_factory: pytest.TempPathFactory) -> AuditSummary:
    directory = tmp_path_factory.mktemp("findings")
    known: dict[str, Any] = msgspec.to_builtins(factors)
    Job(factors=known, intensity_g_per_kwh=factors.intensity.figure.value, pue=1.2).write(directory)
    return summarise(directory)


def with_share(summary: AuditSummary, share: float) -> AuditSummary:
    return replace(summary, energy=replace(summary.energy, measured_j=share * summary.energy.energy_j))


@pytest.mark.parametrize(("share", "word"), [(0.95, "good"), (0.7, "fair"), (0.3, "weak")])
def test_verdict_on_the_data_follows_the_measured_share(summary, share, word):
    assert data_quality(with_share(summary, share)).word == word


def test_verdict_is_weak_without_a_node_and_gone_where_ledgers_contradict(summary):
    measured = with_share(summary, 1.0)
    without = replace(measured, coverage=replace(measured.coverage, nodes=3))
    edited = replace(measured, verification=replace(measured.verification, state="contradicted", problems=["line 3"]))

    assert data_quality(without).word == "weak"
    assert any("2 of 3 nodes" in reason.text for reason in data_quality(without).reasons if not reason.good)
    assert data_quality(edited).word == "not to be relied on"


def test_drive_emits_as_much_as_the_run():
    assert as_a_drive(100 * CAR_KG_PER_KM).text == "about 100 km in an average US petrol car"
    assert as_a_drive(0.0005 * CAR_KG_PER_KM).text == "about 50 cm in an average US petrol car"
    assert as_a_drive(0.0) is None


def test_other_grids_take_the_same_energy_and_hardware(summary):
    found = elsewhere(summary)
    rows = {row[0].text: [cell.text for cell in row[1:]] for row in found.rows}
    kwh = summary.footprint.energy_j["facility"].value / 3.6e6
    sweden_g = zone_intensity("SWE").figure.value

    assert float(rows["Sweden"][1]) == pytest.approx(kwh * sweden_g, rel=0.005)
    assert rows["France"][3] == "0 %"
    assert [row[0].text for row in found.rows][-1] == "India"


def test_other_grids_are_not_put_beside_an_intensity_of_another_basis(summary):
    intensity = replace(summary.factors.intensity, basis=replace(summary.factors.intensity.basis, scope="direct"))
    said = elsewhere(replace(summary, factors=replace(summary.factors, intensity=intensity)))

    assert "do not compare" in said
    assert "direct" in said


def gpus(summary: AuditSummary, powers_w: list[float]) -> list[Device]:
    one = next(device for device in summary.devices if device.identity.rung == "gpu")
    return [
        replace(one, mean_power_w=power_w, identity=replace(one.identity, key=f"GPU-{place}"))
        for place, power_w in enumerate(powers_w)
    ]


def test_gpu_far_from_the_others_is_named_and_the_rest_are_not(summary):
    found = outlier_table(replace(summary, devices=gpus(summary, [400.0, 402.0, 399.0, 401.0, 250.0])))

    assert [row[0].small for row in found.rows] == ["GPU-4"]
    assert found.rows[0][3].text == "−38 %"
    assert outlier_table(replace(summary, devices=gpus(summary, [400.0, 402.0, 399.0, 401.0]))) is None
    assert outlier_table(replace(summary, devices=gpus(summary, [400.0, 250.0]))) is None


def test_node_that_took_far_less_energy_is_the_first_of_the_table(summary):
    names = {f"node{place}": 0.5 if place == 2 else 1.0 for place in range(5)}
    one = next(device for device in summary.devices if device.identity.rung == "gpu")
    devices = [
        replace(one, hostname=name, energy=replace(one.energy, energy_j=factor * one.energy.energy_j))
        for name, factor in names.items()
    ]
    found = node_table(replace(summary, devices=devices))

    assert [cell.text for cell in found.rows[0]][0::3] == ["node2", "× 0.500"]
    assert [row[3].text for row in found.rows[1:]] == ["0 %"] * 4
    assert node_table(replace(summary, devices=devices[:1])) is None


def test_many_gpus_are_a_histogram_that_counts_each_of_them(summary):
    few = device_chart(replace(summary, devices=gpus(summary, [400.0] * 8)))
    many = device_chart(replace(summary, devices=gpus(summary, [400.0 + place % 7 for place in range(100)])))

    assert few.title == "Every GPU"
    assert sum(int(row[2]) for row in many.rows) == 100


def test_addresses_are_links_and_all_else_is_text():
    shown = linked('<b> see https://example.org/a?b=1&c=2. javascript:alert(1) "x"')

    assert '<a href="https://example.org/a?b=1&amp;c=2" rel="noopener noreferrer">' in shown
    assert "<b>" not in shown
    assert shown.count("<a ") == 1


def test_every_source_of_the_factors_of_a_cluster_is_a_link():
    cluster = Cluster(accelerator=load_accelerator("h100-sxm"), node=load_node("dgx-h100"), nodes=2, devices_per_node=8)
    found = resolve_factors(Site(zone="FRA"), cluster)

    for figure in (found.intensity.figure, found.pue, found.lifetime_years, *found.embodied_kg.values()):
        assert 'href="https://' in linked(figure.source), figure.source
    assert 'href="https://arxiv.org/abs/2304.03271"' in linked("US average of power generation, arXiv 2304.03271")


def test_page_of_a_comparison_folds_fields_that_only_one_run_recorded(summary):
    specs = [{"layout.tp": {"value": 1}, "seen": {"value": 2}}, {"layout.tp": {"value": 4}}]
    runs = [replace(summary, run=replace(summary.run, effective=effective)) for effective in specs]
    shown, folded = render_comparison(runs).split("Fields that only one of the runs recorded (1)")

    assert "layout.tp" in shown
    assert ">seen<" not in shown
    assert ">seen<" in folded


def test_title_of_a_shipped_table_is_a_link_to_it(summary):
    assert 'href="https://ourworldindata.org/' in linked(summary.factors.intensity.figure.source)


def test_what_is_missing_names_storage_end_of_life_and_time_that_nobody_observed(summary):
    waited = replace(summary, reserved=replace(summary.reserved, before_first_record_s=7200.0))
    said = " ".join(missing(waited))

    for expected in ("2.00 h of reserved device time are in no record", "Shared storage", "end of life", "--sacct"):
        assert expected in said


@pytest.mark.exhaustive
def test_page_of_two_thousand_nodes_is_small_enough_to_send(summary, tmp_path: Path):
    devices = gpus(summary, [400.0 + place % 13 for place in range(16384)])
    files = [
        replace(summary.verification.files[0], file=f"node-{node}.attempt-0.jsonl", head=f"{node:032x}")
        for node in range(2048)
    ]
    crowded = replace(
        summary,
        devices=devices,
        events=summary.events * 1000,
        verification=replace(summary.verification, files=files),
    )

    assert len(render_html(crowded).encode()) < 6_000_000


def test_runs_far_apart_are_compared_in_the_unit_of_their_middle(summary: AuditSummary) -> None:
    small = replace(summary, energy=replace(summary.energy, energy_j=720.0))
    large = replace(summary, energy=replace(summary.energy, energy_j=3.6e8))

    row = next(row for row in rows_of(compare_runs([small, large])) if row.name == "energy of the machines")

    assert row.unit == "Wh"
    assert [cell.text for cell in row.cells] == ["0.2", "100,000"]


def test_intensities_that_count_different_things_are_told_in_words(summary: AuditSummary) -> None:
    intensity = replace(summary.factors.intensity, basis=None)
    other = replace(summary, factors=replace(summary.factors, intensity=intensity))

    cautions = compare_runs([summary, other]).cautions

    assert any("lifecycle, average, generation (" in caution and "unstated basis (" in caution for caution in cautions)
