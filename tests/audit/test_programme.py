"""A released model is all runs of its programme: each once, by role, with what is missing named."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from carbon_plugin.audit.exports.json_schemas import published_schema
from carbon_plugin.audit.exports.sci_ai import sci_ai_report
from carbon_plugin.audit.programme import names_in_words, read_programme
from carbon_plugin.audit.programme_runs import find_runs, summaries_of
from carbon_plugin.errors import LedgerError, ReportError
from carbon_plugin.footprint.factors.bases import in_scope
from carbon_plugin.footprint.run_factors import resolve_factors
from carbon_plugin.footprint.values import Factors
from carbon_plugin.ledger.codec import encode_record
from carbon_plugin.ledger.identity import agree_run
from carbon_plugin.ledger.reader import read_ledger
from carbon_plugin.ledger.records import MACHINE, Window
from carbon_plugin.ledger.writer import LedgerWriter
from carbon_plugin.spec.site import Site
from tests.ledger.builder import Attempt, Job
from tests.ledger.chaining import chained

ROLES = ("final", "ablation", "failed", "sweep", "evaluation", "data")
PARAMETERS = 8_000_000_000


def write_run(
    directory: Path,
    factors: Factors | None,
    *,
    role: str | None = "final",
    programme: str | None = "example-8b",
    windows: int = 6,
    prediction: dict[str, Any] | None = None,
    run_id: str | None = None,
    start_unix_s: float = 1.7e9,
) -> Path:
    """Write a run of one node with two GPUs under an id of its own."""
    identity = agree_run(directory, name=directory.name, run_id=run_id, programme=programme, role=role)
    job = Job(
        nodes=1,
        factors=msgspec.to_builtins(factors) if factors else {},
        intensity_g_per_kwh=factors.intensity.figure.value if factors else None,
        pue=factors.pue.value if factors else None,
        prediction=prediction,
    )
    records = job.records(identity.run_id, 0, 0, Attempt(0, windows), start_unix_s)
    manifest = msgspec.structs.replace(records[0], effective={"model.parameters": {"value": PARAMETERS}})
    writer = LedgerWriter(directory, run_id=identity.run_id, node=0, attempt=0)
    for record in [manifest, *records[1:]]:
        writer.write(record)
    writer.close()
    return directory


@pytest.fixture
def counted(prediction_document: dict[str, Any]) -> dict[str, Any]:
    """Return a prediction that counts 3e15 FLOPs a step."""
    flops = {"model_flops_per_step": 3e15, "hardware_flops_per_step": 4e15, "attention_convention": "causal"}
    return {**prediction_document, **flops}


@pytest.fixture
def runs(factors: Factors, counted: dict[str, Any], tmp_path: Path) -> Path:
    """Write a final run, and ablations and failures that are four times as long together."""
    write_run(tmp_path / "runs" / "final", factors, windows=6, prediction=counted)
    write_run(tmp_path / "runs" / "nested" / "ablation", factors, role="ablation", windows=16)
    write_run(tmp_path / "runs" / "nested" / "failed", factors, role="failed", windows=8)
    return tmp_path / "runs"


def test_runs_are_found_below_a_directory_each_once(runs: Path) -> None:
    found = find_runs([runs, runs / "final", runs / "nested"])
    assert sorted(path.name for path in found) == ["ablation", "failed", "final"]
    (runs / "empty").mkdir()
    with pytest.raises(LedgerError, match="no run directory here or below"):
        find_runs([runs / "empty"])


def test_sum_is_that_of_the_runs_and_development_is_what_is_not_final(runs: Path) -> None:
    programme = read_programme([runs])
    parts = {path.name: summary for path, summary in summaries_of([runs])}
    assert programme.name == "example-8b"
    assert programme.total_kg is not None
    totals = {name: summary.footprint.total_kg.value for name, summary in parts.items()}  # type: ignore[union-attr]
    assert programme.total_kg.value == pytest.approx(sum(totals.values()))
    assert programme.energy_j.value == pytest.approx(sum(summary.energy.energy_j for summary in parts.values()))
    assert programme.development_share == pytest.approx(1 - totals["final"] / sum(totals.values()))
    assert [role.role for role in programme.roles] == ["final", "ablation", "failed"]
    assert sum(role.share for role in programme.roles) == pytest.approx(1)
    assert programme.total_kg.low < programme.total_kg.value < programme.total_kg.high


@pytest.mark.parametrize("name", ["energy_j", "operational_kg", "embodied_kg", "total_kg"])
def test_sums_of_the_roles_have_ranges_and_add_up_to_those_of_the_programme(runs: Path, name: str) -> None:
    programme = read_programme([runs])
    whole = getattr(programme, name)
    roles = [getattr(role, name) for role in programme.roles]
    assert len(roles) == 3
    assert all(role.low < role.value < role.high and role.unit == whole.unit for role in roles)
    for end in ("low", "value", "high"):
        assert sum(getattr(role, end) for role in roles) == pytest.approx(getattr(whole, end))
    assert programme.energy_j.kind == "modelled"
    assert "of it measured" in programme.runs[0].energy_j.source  # type: ignore[union-attr]


def test_missing_roles_are_named(runs: Path) -> None:
    programme = read_programme([runs])
    assert programme.missing_roles == ["sweep", "evaluation", "data"]
    assert programme.warnings[0].startswith("no run here has the role sweep, evaluation or data")


def test_a_run_without_a_role_is_told_how_one_is_stated(factors: Factors, tmp_path: Path) -> None:
    write_run(tmp_path / "run", factors, role=None)

    said = " ".join(read_programme([tmp_path]).warnings)

    assert "states no role" in said
    assert "start further runs with role=" in said
    assert "the sum of the central values that the runs' own audits state" in said


def test_copy_of_a_run_is_counted_once_and_the_fuller_one_counts(runs: Path) -> None:
    alone = read_programme([runs])
    shutil.copytree(runs / "final", runs / "backup")
    ledger = next((runs / "backup").glob("node-*.jsonl"))
    ledger.write_bytes(b"".join(ledger.read_bytes().splitlines(keepends=True)[:-4]))
    programme = read_programme([runs])
    assert programme.energy_j == alone.energy_j
    assert len(programme.runs) == 3
    assert any("backup holds run" in warning and "counted once" in warning for warning in programme.warnings)


def test_run_that_went_on_in_another_directory_is_counted_whole(factors: Factors, tmp_path: Path) -> None:
    for name, start_unix_s in (("first", 1.7e9), ("second", 1.7001e9)):
        write_run(tmp_path / name, factors, run_id="c" * 32, start_unix_s=start_unix_s)
    programme = read_programme([tmp_path])
    parts = [summary.energy.energy_j for _, summary in summaries_of([tmp_path])]
    assert programme.energy_j.value == pytest.approx(sum(parts))
    assert not any("counted once" in warning for warning in programme.warnings)


def test_runs_of_other_programmes_stay_out(runs: Path, factors: Factors) -> None:
    alone = read_programme([runs])
    write_run(runs / "other", factors, programme="other-1b")
    with pytest.raises(ReportError, match=r"several programmes \(example-8b, other-1b\), expected one"):
        read_programme([runs])
    programme = read_programme([runs], "example-8b")
    assert programme.energy_j == alone.energy_j
    assert "1 run of other programmes, or of none, is left out" in programme.warnings
    with pytest.raises(ReportError, match="none of the 4 runs belongs to it"):
        read_programme([runs], "third")


def test_runs_without_a_programme_are_no_programme(factors: Factors, tmp_path: Path) -> None:
    write_run(tmp_path / "run", factors, programme=None, role=None)
    with pytest.raises(ReportError, match="none of 1 run states a programme"):
        read_programme([tmp_path])


def test_run_of_unknown_role_is_counted_and_named(runs: Path, factors: Factors) -> None:
    write_run(runs / "odd", factors, role="warm-up")
    programme = read_programme([runs])
    assert programme.roles[-1].role == "warm-up"
    assert sum(role.share for role in programme.roles) == pytest.approx(1)
    assert any("warm-up" in warning or "odd" in warning for warning in programme.warnings)


def at_zone(factors: Factors, zone: str) -> Factors:
    return msgspec.structs.replace(resolve_factors(Site(zone=zone, pue=1.2), None), embodied_kg=factors.embodied_kg)


@pytest.mark.parametrize("counts", [None, "direct"])
def test_runs_of_two_regions_are_counted_on_one_basis(counts, factors: Factors, tmp_path: Path) -> None:
    """us-east-1 is published as direct emissions and eu-west-1 as lifecycle ones."""
    for name, zone in (("east", "aws:us-east-1"), ("west", "aws:eu-west-1")):
        write_run(tmp_path / name, at_zone(factors, zone))

    programme = read_programme([tmp_path], counts=counts)

    scope = counts or "lifecycle"
    summaries = dict(summaries_of([tmp_path]))
    assert programme.counts == scope
    assert programme.operational_kg is not None
    assert programme.embodied_kg is not None
    assert programme.total_kg is not None
    central_kg = 0.0
    for summary in summaries.values():
        assert summary.factors is not None
        intensity = in_scope(summary.factors.intensity, scope)
        assert intensity is not None
        central_kg += summary.energy.energy_j * 1.2 / 3.6e6 * intensity.figure.value / 1000
    assert programme.operational_kg.value == pytest.approx(central_kg, rel=1e-6)
    assert programme.total_kg.value == pytest.approx(programme.operational_kg.value + programme.embodied_kg.value)
    assert programme.total_kg.low < programme.total_kg.value < programme.total_kg.high
    turned = {run.name for run in programme.runs if run.turned}
    assert turned == ({"east"} if scope == "lifecycle" else {"west"})
    assert any(f"all operational carbon is of {scope} emissions" in warning for warning in programme.warnings)


def test_sum_of_runs_is_the_sum_of_what_their_audits_state_and_says_so(runs: Path) -> None:
    programme = read_programme([runs])

    footprints = [summary.footprint for _, summary in summaries_of([runs])]
    assert programme.total_kg is not None
    for end in ("low", "value", "high"):
        stated = sum(getattr(one.total_kg, end) for one in footprints if one)
        assert getattr(programme.total_kg, end) == pytest.approx(stated)
    assert sum(run.total_kg.value for run in programme.runs if run.total_kg) == pytest.approx(programme.total_kg.value)
    assert "sum of the central values that the runs' own audits state" in " ".join(programme.warnings)


def test_manufacture_is_summed_up_where_operational_carbon_is_not(runs: Path, factors: Factors) -> None:
    stated = msgspec.structs.replace(
        resolve_factors(Site(intensity_g_per_kwh=300, pue=1.2), None), embodied_kg=factors.embodied_kg
    )
    write_run(runs / "stated", stated, role="sweep")

    programme = read_programme([runs])

    assert programme.operational_kg is None
    assert programme.total_kg is None
    assert programme.embodied_kg is not None
    footprints = [summary.footprint for _, summary in summaries_of([runs])]
    assert programme.embodied_kg.value == pytest.approx(sum(one.embodied_kg.value for one in footprints if one))
    assert "stated counts its intensity on a basis that is not stated" in programme.warnings[-1]
    with pytest.raises(ReportError, match="on a basis that is not stated"):
        sci_ai_report(summaries_of([runs]), ["all"])


def test_run_without_a_site_leaves_the_sum_of_carbon_open(runs: Path) -> None:
    write_run(runs / "nowhere", None, role="evaluation")
    programme = read_programme([runs])
    assert programme.total_kg is None
    assert programme.facility_j is None
    assert "nowhere stated no site" in programme.warnings[-1]


def test_score_of_a_model_is_all_carbon_over_the_final_run(runs: Path) -> None:
    report = sci_ai_report(summaries_of([runs]), ["all"])
    programme = read_programme([runs])
    assert programme.total_kg is not None
    grams, steps = programme.total_kg.value * 1000, 120
    by_unit = {item.functional_unit: item for item in report.scores}
    assert by_unit["training token"].score.value == pytest.approx(grams / (steps * 8192))
    assert by_unit["training FLOP"].score.value == pytest.approx(grams / (steps * 3e15))
    assert by_unit["billion parameters"].score.value == pytest.approx(grams / 8)
    assert report.roles_without_runs == ["sweep", "evaluation", "data"]
    jsonschema.Draft202012Validator(published_schema("sci-ai")).validate(msgspec.to_builtins(report))
    jsonschema.Draft202012Validator(published_schema("programme")).validate(msgspec.to_builtins(programme))


def test_score_of_a_model_needs_the_declaration_that_no_run_is_missing(runs: Path) -> None:
    audited = summaries_of([runs])
    with pytest.raises(ReportError, match=r"not declared: final, ablation, .* \(--covers ROLE"):
        sci_ai_report(audited, [])
    with pytest.raises(ReportError, match="not declared: sweep, evaluation, data"):
        sci_ai_report(audited, ["final", "ablation", "failed"])
    with pytest.raises(ReportError, match="covers: everything, expected of final"):
        sci_ai_report(audited, ["everything"])
    assert sci_ai_report(audited, ROLES).declared_roles == list(ROLES)


def test_score_of_a_model_needs_flops_and_a_final_run(factors: Factors, runs: Path) -> None:
    only = [pair for pair in summaries_of([runs]) if pair[0].name != "final"]
    with pytest.raises(ReportError, match="the programme has no training tokens"):
        sci_ai_report(only, ["all"])
    shutil.rmtree(runs / "final")
    write_run(runs / "final", factors)
    with pytest.raises(ReportError, match="run final has no FLOPs a step"):
        sci_ai_report(summaries_of([runs]), ["all"])


def test_runs_that_did_not_see_each_other_on_one_gpu_are_named(tmp_path: Path, factors: Factors) -> None:
    """Two of 75 s on the same two GPUs, the second 50 s after the first, and one an hour later."""
    for name, after_s in (("one", 0.0), ("two", 50.0), ("late", 3600.0)):
        write_run(tmp_path / name, factors, start_unix_s=1.7e9 + after_s)

    (said,) = [warning for warning in read_programme([tmp_path]).warnings if "at the same time" in warning]

    assert said.startswith("2 GPUs are counted by ")
    assert "the sums hold what they shared more than once" in said


def test_runs_that_divided_a_gpu_between_them_are_not_said_to_count_it_twice(tmp_path: Path, factors: Factors) -> None:
    """Both ran for the same time, and each recorded its part of the GPUs: 0.3 and 0.7."""
    for name, part in (("one", 0.3), ("two", 0.7)):
        write_run(tmp_path / name, factors)
        (path,) = (tmp_path / name).glob("node-*.jsonl")
        parts = {"GPU-0000-0000": part, "GPU-0000-0001": part, MACHINE: part}
        records = [
            msgspec.structs.replace(record, parts=parts) if isinstance(record, Window) else record
            for record in read_ledger(path).records
        ]
        path.write_bytes(chained(map(encode_record, records)))

    programme = read_programme([tmp_path])

    assert programme.device_s == pytest.approx(programme.runs[0].device_s + programme.runs[1].device_s)
    assert programme.runs[0].device_s == pytest.approx(3 / 7 * programme.runs[1].device_s)
    assert not [warning for warning in programme.warnings if "at the same time" in warning]


def test_runs_one_after_another_on_one_gpu_are_counted_once_each(tmp_path: Path, factors: Factors) -> None:
    for name, after_s in (("one", 0.0), ("two", 3600.0)):
        write_run(tmp_path / name, factors, start_unix_s=1.7e9 + after_s)

    assert not [warning for warning in read_programme([tmp_path]).warnings if "at the same time" in warning]


def test_shares_are_of_what_is_known_and_say_so(runs: Path, factors: Factors, tmp_path: Path) -> None:
    assert read_programme([runs]).shares_of == "carbon"

    unmade = msgspec.structs.replace(factors, embodied_kg={})
    for name, role, windows in (("a", "final", 4), ("b", "failed", 8)):
        write_run(tmp_path / "unmade" / name, unmade, role=role, windows=windows)
    programme = read_programme([tmp_path / "unmade"])
    assert programme.operational_kg is not None
    assert programme.total_kg is None
    assert programme.shares_of == "operational carbon"


def test_runs_of_one_name_are_named_once_with_their_number() -> None:
    assert names_in_words(["train", "probe", "train", "train"]) == "train (3 runs), probe"
