"""Every number of a report can be followed to its sources."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from carbon_plugin.audit.explain.rules import RULES
from carbon_plugin.audit.explain.trace import explain, numbers, reason_of
from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.audit.summary import summarise
from carbon_plugin.cli.main import run
from carbon_plugin.errors import ReportError
from carbon_plugin.footprint.run_factors import resolve_factors
from carbon_plugin.footprint.values import Factors
from carbon_plugin.show import wording
from carbon_plugin.spec.hardware.cluster import Cluster
from carbon_plugin.spec.hardware.profiles import load_accelerator, load_node
from carbon_plugin.spec.metered import Accuracy
from carbon_plugin.spec.site import Instrument, Site
from tests.ledger.builder import Attempt, Job


@pytest.fixture(scope="module")
def factors_of_a_cluster() -> Factors:
    """Return the factors of H100 nodes in France with everything that a site can state."""
    cluster = Cluster(accelerator=load_accelerator("h100-sxm"), node=load_node("dgx-h100"), nodes=2, devices_per_node=2)
    contract = Instrument(kind="ppa", g_per_kwh=0.0, share=0.5, source="wind farm 2025")
    site = Site(zone="FRA", pue=1.2, wue_l_per_kwh=0.3, instruments=(contract,), marginal_g_per_kwh=300.0)
    return resolve_factors(site, cluster)


@pytest.fixture(scope="module")
def run_dir(factors_of_a_cluster: Factors, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("runs") / "demo"
    factors = factors_of_a_cluster
    figure = {"value": 0.45, "low": 0.4, "high": 0.5, "unit": "s", "kind": "modelled", "source": "step model"}
    prediction = {"step_time_s": figure, "gpu_power_w": figure, "model_flops_per_step": 4e14}
    job = Job(
        factors=msgspec.to_builtins(factors),
        intensity_g_per_kwh=factors.intensity.figure.value,
        pue=1.2,
        prediction=prediction,
    )
    job.attempts[0].reserved_before_s = 30.0
    job.write(directory)
    return directory


@pytest.fixture(scope="module")
def summary(run_dir: Path) -> AuditSummary:
    return summarise(run_dir)


def test_every_number_leads_to_a_source(summary: AuditSummary) -> None:
    paths = [".".join(path) for path in numbers(msgspec.to_builtins(summary))]
    assert len(paths) > 300
    for path in paths:
        found = explain(summary, path)
        assert found[0].how
        assert any(item.sources for item in found), path


def test_every_number_of_a_forecast_leads_to_it(
    factors: Factors, forecast_document: dict[str, Any], prediction_document: dict[str, Any], tmp_path: Path
) -> None:
    job = Job(
        factors=msgspec.to_builtins(factors),
        forecast=forecast_document,
        prediction=prediction_document,
        intensity_g_per_kwh=factors.intensity.figure.value,
        pue=1.2,
    )
    job.write(tmp_path)
    summary = summarise(tmp_path)
    assert summary.forecast is not None
    for path in numbers(msgspec.to_builtins(summary.forecast)):
        found = explain(summary, ".".join(("forecast", *path)))
        assert any("before launch" in item.how or item.sources for item in found)


def value_at(document: Any, field: str) -> float:
    """Return the number of a field: the value of a figure, or the joules of an energy."""
    for name in field.split("."):
        document = document[int(name)] if isinstance(document, list) else document[name]
    if not isinstance(document, dict):
        return float(document)
    return float(document["value"] if "value" in document else (document.get("energy") or document)["energy_j"])


@pytest.mark.parametrize("gpus", [2, 8])
def test_what_a_sum_follows_from_adds_up_to_it(factors_of_a_cluster: Factors, gpus: int, tmp_path: Path) -> None:
    """Of 2 nodes with 8 GPUs not every device is listed; the sources then say what the others used together."""
    factors = factors_of_a_cluster
    job = Job(
        gpus=gpus,
        attempts=[
            Attempt(0, 12, closed=False, reserved_before_s=30.0),
            Attempt(200, 12, 60.0, reserved_before_s=300.0),
        ],
        factors=msgspec.to_builtins(factors),
        intensity_g_per_kwh=factors.intensity.figure.value,
        pue=1.2,
    )
    job.write(tmp_path)
    summary = summarise(tmp_path)
    document = msgspec.to_builtins(summary)
    rungs = [f"{kind}.{rung}" for rung in summary.by_rung for kind in ("by_rung", "footprint.energy_j")]
    totals = ["energy", "footprint.total_kg", "footprint.embodied_kg", "footprint.energy_j.it", "by_phase.unobserved"]

    for field in [*rungs, *totals]:
        reason = reason_of(summary, field)
        told = math.fsum(value_at(document, child) for child in reason.follows_from)
        unlisted = [device for device in summary.devices if field == f"by_rung.{device.identity.rung}"][12:]
        if unlisted:
            rest = math.fsum(device.energy.energy_j for device in unlisted)
            assert f"{wording.plain(rest)} J of {len(unlisted)} devices that are not listed here" in reason.sources
            told += rest
        assert told == pytest.approx(value_at(document, field), rel=1e-9), field
    assert summary.unobserved.keys() == {"gpu", "host"}
    phases = math.fsum(phase.energy_j for phase in summary.by_phase.values())
    assert phases == pytest.approx(summary.energy.energy_j, rel=1e-9)
    assert math.fsum(month.energy_j for month in summary.months) == pytest.approx(summary.energy.energy_j, rel=1e-9)


def test_every_energy_of_a_derivation_is_in_the_unit_of_the_sum_above_it(summary: AuditSummary) -> None:
    found = {item.field: item.value for item in explain(summary, "total_kg")}
    energies = {field: text for field, text in found.items() if field.startswith(("by_rung.", "devices."))}

    assert len(energies) > 2
    assert all(re.search(r"[\d.,]+ J$", text) for text in energies.values()), energies


def test_total_is_followed_to_meters_factors_profiles_and_seed(summary: AuditSummary) -> None:
    found = {item.field: item for item in explain(summary, "total_kg")}
    assert "2,000 draws with seed 0" in found["footprint.total_kg"].how
    assert any("nvml (counter)" in source for source in found["by_rung.gpu"].sources)
    assert "windows" in found["devices.0"].how
    assert any("node-0.attempt-0.jsonl: " in source for source in found["devices.0"].sources)
    intensity = found["factors.intensity"]
    assert "location-based, lifecycle, average, generation" in intensity.how
    assert any(source.startswith("year 20") for source in intensity.sources)
    assert any(source.startswith("licence CC-BY-4.0") for source in intensity.sources)
    device = found["factors.embodied_kg.device"].sources
    assert "hardware_profiles/accelerators/h100-sxm.yaml, field embodied_kg" in device
    host = found["factors.embodied_kg.host"].sources
    assert "hardware_profiles/nodes/dgx-h100.yaml, field host.embodied_kg" in host


def test_accuracy_of_a_meter_is_among_the_sources(summary: AuditSummary) -> None:
    known = Accuracy(proportional=0.05, source="arXiv 2312.02741")
    device = msgspec.structs.replace(
        summary.devices[0], identity=msgspec.structs.replace(summary.devices[0].identity, accuracy=known)
    )
    told = explain(msgspec.structs.replace(summary, devices=[device]), "devices.0")[0].sources
    assert "meter: within 5.0 % (p10 to p90), arXiv 2312.02741" in told


def test_number_of_another_profile_is_not_called_the_shipped_one(factors_of_a_cluster: Factors, tmp_path: Path) -> None:
    factors = factors_of_a_cluster
    changed = msgspec.structs.replace(
        factors, embodied_kg={**factors.embodied_kg, "device": factors.embodied_kg["device"].scaled(2.0)}
    )
    Job(factors=msgspec.to_builtins(changed)).write(tmp_path)
    (found,) = explain(summarise(tmp_path), "factors.embodied_kg.device")
    assert "field embodied_kg of a profile h100-sxm of the user's, or of another release" in found.sources


def test_each_field_is_told_once_and_deeper_than_what_follows_from_it(summary: AuditSummary) -> None:
    found = explain(summary)
    fields = [item.field for item in found]
    assert len(fields) == len(set(fields))
    assert found[0].depth == 0
    assert max(item.depth for item in found) >= 4


def test_field_is_found_by_its_end_and_unknown_one_by_its_nearest(summary: AuditSummary) -> None:
    assert explain(summary, "operational_kg")[0].field == "footprint.operational_kg"
    with pytest.raises(ReportError, match=r"no field 'operatonal_kg'; nearest: .*operational_kg"):
        explain(summary, "operatonal_kg")


def test_every_rule_speaks_for_a_field_of_the_report(summary: AuditSummary) -> None:
    assert {pattern.split(".")[0] for pattern in RULES} <= set(AuditSummary.__struct_fields__)
    with pytest.raises(ReportError, match="no rule says where nothing comes from"):
        reason_of(summary, "nothing")


def test_command_prints_the_tree_and_writes_nothing(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["audit", str(run_dir), "--explain"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("footprint.total_kg = ")
    assert "\n  footprint.operational_kg = " in printed
    assert not (run_dir / "report.html").exists()


def test_command_takes_one_field_and_gives_json(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["audit", str(run_dir), "--explain", "pue", "--json"]) == 0
    (found,) = msgspec.json.decode(capsys.readouterr().out)
    assert found["sources"] == ["stated by the user"]


def test_field_without_the_flag_is_one_line_and_exit_2(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["audit", str(run_dir), "pue"]) == 2
    assert "a field is explained with --explain" in capsys.readouterr().err
