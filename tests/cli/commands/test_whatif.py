"""`carbon-plugin whatif` and `plan --compare` as a user runs them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest

from carbon_plugin.audit.summary import summarise
from carbon_plugin.cli.main import run
from carbon_plugin.footprint.run_factors import resolve_factors
from carbon_plugin.plan.whatif.measured_run import RUN_AXES
from carbon_plugin.spec.hardware.cluster import Cluster
from carbon_plugin.spec.hardware.profiles import default_node_for, load_accelerator
from carbon_plugin.spec.site import Site
from tests.ledger.builder import RUN_START_UNIX_S, Attempt, Job

PLAN = ["plan", "--model", "llama3-8b", "--accelerator", "h100-sxm", "--nodes", "2", "--tokens", "1e9", "--zone", "FRA"]
STATED = ["--dp-shard", "16", "--zero-stage", "3", "--recompute", "operators"]


def write_run(directory: Path, **job: Any) -> Path:
    """Write a run of two nodes in France whose windows state 50 g/kWh and a PUE of 1.2."""
    accelerator = load_accelerator("h100-sxm")
    cluster = Cluster(accelerator=accelerator, node=default_node_for(accelerator), nodes=2, devices_per_node=2)
    factors = resolve_factors(Site(zone="FRA", pue=1.2, intensity_g_per_kwh=50), cluster)
    Job(factors=msgspec.to_builtins(factors), **job).write(directory)
    return directory


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run")


@pytest.fixture
def series(tmp_path: Path) -> Path:
    """Write a grid intensity for each minute of the days around the run: 100 g before noon UTC, 300 g after it."""
    day = datetime.fromtimestamp(RUN_START_UNIX_S, UTC).replace(hour=0, minute=0, second=0)
    rows = [
        f"{(day + timedelta(minutes=minute)).isoformat()},{100 if minute % 1440 < 720 else 300}"
        for minute in range(2 * 1440)
    ]
    (tmp_path / "grid.csv").write_text("\n".join(["datetime,intensity", *rows]) + "\n", encoding="utf-8")
    return tmp_path / "grid.csv"


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert run([str(argument) for argument in arguments]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_a_finished_run_elsewhere_keeps_its_energy_and_its_embodied_carbon(capsys, run_dir):
    document = json.loads(printed(capsys, "whatif", run_dir, "zone=SWE,POL", "--json"))
    audited = summarise(run_dir).footprint
    base, (sweden, poland) = document["base"], document["alternatives"]

    assert base["footprint"]["total_kg"]["value"] == audited.total_kg.value
    assert base["g_per_kwh"] == pytest.approx(50)
    for one in (sweden, poland):
        assert one["footprint"]["energy_j"]["it"]["value"] == pytest.approx(audited.energy_j["it"].value)
        assert one["footprint"]["embodied_kg"]["value"] == pytest.approx(audited.embodied_kg.value)
        ratio = one["intensity"]["figure"]["value"] / 50
        assert one["footprint"]["operational_kg"]["value"] == pytest.approx(ratio * audited.operational_kg.value)
    assert "different things" in document["warnings"][0]


def test_a_finished_run_elsewhere_takes_the_time_that_its_audit_states(capsys, tmp_path):
    directory = write_run(tmp_path / "run", window_s=10.3)
    whole = summarise(directory).period.wall_s

    document = json.loads(printed(capsys, "whatif", directory, "zone=SWE", "--json"))

    assert whole % 1 > 0.01, "a run of whole seconds would not show that they are counted in bins"
    assert [one["elapsed_s"] for one in (document["base"], *document["alternatives"])] == [whole, whole]


def test_a_finished_run_at_other_hours_takes_their_intensity(capsys, run_dir, series):
    day = datetime.fromtimestamp(RUN_START_UNIX_S, UTC).date()
    starts = f"start={day}T02:00Z,{day}T14:00Z"
    document = json.loads(
        printed(capsys, "whatif", run_dir, f"series={series}", starts, "--json", "--marginal", series)
    )

    morning, afternoon = document["alternatives"]
    assert (morning["g_per_kwh"], afternoon["g_per_kwh"]) == (pytest.approx(100), pytest.approx(300))
    facility_kwh = morning["footprint"]["energy_j"]["facility"]["value"] / 3.6e6
    assert morning["marginal_kg"] == pytest.approx(0.1 * facility_kwh)


def test_marginal_intensities_on_record_stand_beside_the_average(capsys, run_dir):
    path = run_dir / "node-0.attempt-0.jsonl"
    text = path.read_text()
    path.write_text(text.replace('"marginal_g_per_kwh":null', '"marginal_g_per_kwh":600'))

    base = json.loads(printed(capsys, "whatif", run_dir, "zone=SWE", "--json"))["base"]

    facility_kwh = base["footprint"]["energy_j"]["facility"]["value"] / 3.6e6
    assert '"marginal_g_per_kwh":600' in path.read_text()
    assert base["marginal_kg"] == pytest.approx(0.6 * facility_kwh)


def test_a_finished_run_that_had_paused_would_have_idled_and_held_its_hardware(capsys, run_dir, series):
    day = datetime.fromtimestamp(RUN_START_UNIX_S, UTC).date()
    arguments = ["whatif", run_dir, f"series={series}", f"start={day}T14:00Z", "pause_above=200", "--json"]

    (paused,) = json.loads(printed(capsys, *arguments))["alternatives"]

    audited = summarise(run_dir).footprint
    assert paused["paused_s"] == pytest.approx(10 * 3600)
    assert paused["footprint"]["energy_j"]["it"]["value"] > audited.energy_j["it"].value
    assert paused["footprint"]["embodied_kg"]["value"] > 10 * audited.embodied_kg.value


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("zone=Sweeden", "zone 'Sweeden' is unknown"),
        ("start=2026-01-01T00:00Z", "start and pause_above need series=FILE"),
    ],
)
def test_a_question_without_any_answer_is_one_line_and_2(capsys, run_dir, change, problem):
    assert run(["whatif", str(run_dir), change]) == 2

    said = capsys.readouterr().err
    assert problem in said
    assert said.count("\n") == 1


def test_an_alternative_that_cannot_be_computed_says_why_beside_the_others(capsys, run_dir):
    text = " ".join(printed(capsys, "whatif", run_dir, "zone=SWE,Sweeden").split())

    assert "zone 'Sweeden' is unknown" in text
    assert "1 SWE" in text


def test_a_run_without_a_site_and_a_wrong_axis_are_one_line_errors(capsys, tmp_path):
    Job(intensity_g_per_kwh=None, pue=None).write(tmp_path / "run")

    assert run(["whatif", str(tmp_path / "run"), "zone=SWE"]) == 2
    assert "has no carbon to compare: the run was given no site" in capsys.readouterr().err
    assert run(["whatif", str(tmp_path / "run"), "accelerator=b200-sxm"]) == 2
    assert "unknown axis of comparison 'accelerator'" in capsys.readouterr().err


def test_plan_compares_in_a_table_with_its_warnings(capsys):
    text = " ".join(printed(capsys, *PLAN, *STATED, "--compare", "zone=SWE,egrid:CAMX").split())

    for word in (
        "what if: llama3-8b",
        "as it is",
        "SWE",
        "egrid:CAMX",
        "operational",
        "embodied",
        "warning: the intensities",
    ):
        assert word in text


def test_a_pue_that_changes_with_the_place_has_a_column_and_one_that_does_not_has_none(capsys):
    elsewhere = printed(capsys, *PLAN, *STATED, "--compare", "zone=gcp:us-central1")
    same = printed(capsys, *PLAN, *STATED, "--compare", "zone=SWE")

    rows = elsewhere.splitlines()
    place = rows[1].split().index("PUE") + 2  # every row has its number first, and its time is two words
    assert (rows[2].split()[place], rows[3].split()[place]) == ("1.54", "1.11")
    assert "PUE" not in same


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("x.png", ["--compare", "zone=SWE"]),
        ("x.PDF", ["--compare", "zone=SWE"]),
        ("x.svg", []),
        ("x.csv", ["--search"]),
    ],
)
def test_a_file_whose_suffix_promises_another_format_is_refused_by_name(capsys, tmp_path, name, flags):
    file = tmp_path / name

    assert run([*PLAN, *STATED, *flags, "-o", str(file)]) == 2

    said = capsys.readouterr().err
    assert f"{file}: a {'comparison' if '--compare' in flags else 'plan'} is written as " in said
    assert f"not as {file.suffix}" in said
    assert not file.exists()


def test_axes_may_stand_one_after_the_other_with_and_without_a_spec(capsys, tmp_path):
    axes = ["--compare", "zone=SWE,USA", "accelerator=h100-sxm,b200-sxm", "--json"]
    spec = tmp_path / "run.yaml"
    spec.write_text(
        "model: llama3-8b\ncluster: {accelerator: h100-sxm, nodes: 2}\nsite: {zone: FRA}\n"
        "training: {seq_len: 8192, global_batch_size: 64, tokens: 1e9}\n"
        "layout: {dp_shard: 16, zero_stage: 3, recompute: operators}\n"
    )

    from_flags = json.loads(printed(capsys, *PLAN, *STATED, *axes))
    from_file = json.loads(printed(capsys, "plan", spec, *axes))

    changes = [one["changes"] for one in from_flags["alternatives"]]
    assert changes == [one["changes"] for one in from_file["alternatives"]]
    assert changes[1] == {"zone": "SWE", "accelerator": "b200-sxm"}
    assert len(changes) == 4


def test_axes_without_compare_are_an_error(capsys, tmp_path):
    assert run(["plan", "run.yaml", "zone=SWE"]) == 2
    assert "zone=SWE would be axes for --compare" in capsys.readouterr().err


def test_the_chart_is_a_drawing_and_the_json_a_document(capsys, tmp_path):
    chart, document = tmp_path / "whatif.svg", tmp_path / "whatif.json"

    assert "comparison written to" in printed(capsys, *PLAN, *STATED, "--compare", "zone=SWE,USA", "-o", chart)
    printed(capsys, *PLAN, *STATED, "--compare", "zone=SWE,USA", "-o", document)

    drawing = ElementTree.parse(chart).getroot()
    texts = {text.text for text in drawing.iter("{http://www.w3.org/2000/svg}text")}
    assert {"as it is", "SWE", "USA", "embodied", "operational, average"} <= texts
    assert len(json.loads(document.read_text())["alternatives"]) == 2


def test_a_run_that_knows_its_grid_by_the_hour_is_put_at_other_hours(capsys, run_dir, tmp_path):
    """30 hours at 100 g before noon and 300 g after it, from 08:53 UTC on."""
    factors = summarise(run_dir).factors
    half_days = Job(
        factors=msgspec.to_builtins(factors),
        nodes=1,
        window_s=600.0,
        attempts=[Attempt(0, 160)],
        series=lambda unix_s: 100.0 if unix_s % 86400 < 43200 else 300.0,
        noise=0.0,
    )
    half_days.write(tmp_path / "long")

    document = json.loads(printed(capsys, "whatif", tmp_path / "long", "hour=8,20", "--json"))
    own, other = document["alternatives"]

    recorded = document["base"]
    assert own["g_per_kwh"] == pytest.approx(recorded["g_per_kwh"], rel=0.02)
    lasted_h = summarise(tmp_path / "long").period.wall_s / 3600
    day_g = (12 * 100 + 12 * 300) / 24
    # Each start takes the whole day once, and what is over a day from its own hour on.
    over_h = lasted_h - 24
    minutes_h = 53 / 60
    clean_h = min(over_h, 12 - 8 - minutes_h)
    expected = (24 * day_g + clean_h * 100 + (over_h - clean_h) * 300) / lasted_h
    assert own["g_per_kwh"] == pytest.approx(expected, rel=0.02)
    assert own["g_per_kwh"] + other["g_per_kwh"] == pytest.approx(400, rel=0.01)
    assert other["footprint"]["embodied_kg"]["value"] == recorded["footprint"]["embodied_kg"]["value"]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (["hour=24"], "hour is '24', expected a whole number from 0 to 23 (UTC)"),
        (["hour=3"], "that of this run does not change with time"),
        (["hour=3", "zone=SWE"], "hour is the one change of a comparison, expected no other beside it"),
    ],
)
def test_an_hour_that_cannot_be_computed_is_one_line_and_2(capsys, run_dir, changes, problem):
    assert run(["whatif", str(run_dir), *changes]) == 2

    said = capsys.readouterr().err
    assert problem in said
    assert said.count("\n") == 1


def test_a_run_put_where_it_was_has_the_carbon_and_the_range_of_its_audit(capsys, tmp_path):
    accelerator = load_accelerator("h100-sxm")
    cluster = Cluster(accelerator=accelerator, node=default_node_for(accelerator), nodes=2, devices_per_node=2)
    factors = resolve_factors(Site(zone="FRA", pue=1.2), cluster)
    Job(
        factors=msgspec.to_builtins(factors),
        intensity_g_per_kwh=factors.intensity.figure.value,
        attempts=[Attempt(0, 12, reserved_before_s=900.0)],
    ).write(tmp_path / "run")

    document = json.loads(printed(capsys, "whatif", tmp_path / "run", "zone=FRA", "--json"))
    audited = msgspec.to_builtins(summarise(tmp_path / "run").footprint)
    (where_it_was,) = document["alternatives"]

    for name in ("operational_kg", "embodied_kg", "total_kg"):
        found, expected = where_it_was["footprint"][name], audited[name]
        for end in ("value", "low", "high"):
            assert found[end] == pytest.approx(expected[end], rel=1e-9), (name, end)


def test_the_energy_of_the_table_is_named_as_that_of_the_facility(capsys, run_dir):
    title, headings, *_ = printed(capsys, "whatif", run_dir, "zone=SWE").splitlines()

    assert "energy of the facility in Wh" in title
    assert "energy" in headings.split()


@pytest.mark.parametrize("axis", RUN_AXES)
def test_a_change_written_as_an_option_is_told_how_it_is_written(capsys, run_dir, axis):
    option = f"--{axis.replace('_', '-')}"
    assert run(["whatif", str(run_dir), option, "1"]) == 2

    said = capsys.readouterr().err
    assert f"whatif: {option} is no option here, expected {axis}=VALUE" in said
    assert said.count("\n") == 1


def test_the_range_of_a_run_whose_total_is_unknown_is_called_that_of_its_operation(capsys, tmp_path):
    factors = resolve_factors(Site(zone="FRA", pue=1.2), None)  # no hardware is known, nor its manufacture
    Job(factors=msgspec.to_builtins(factors)).write(tmp_path / "run")

    lines = printed(capsys, "whatif", tmp_path / "run", "zone=SWE").splitlines()

    numbers = [line for line in lines if "unknown  unknown" in line]
    assert len(numbers) == 2
    assert all("(operational)" in line for line in numbers)
