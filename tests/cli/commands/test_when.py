"""`carbon-plugin when`: the best start on a forecast in a file, with what it saves."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from carbon_plugin.cli.main import run

NOW = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
SPEC = """\
name: short
model: llama-3-8b
cluster: {accelerator: h100-sxm, nodes: 1}
training: {steps: 300, seq_len: 4096, global_batch_size: 64, precision: bf16}
layout: {dp_shard: 8, zero_stage: 3, micro_batch_size: 1, recompute: full}
site: {zone: GBR, live: {provider: neso}}
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(SPEC)
    return path


def hours(count: int, cleanest: int) -> list[tuple[str, float]]:
    first = NOW.replace(minute=0)
    return [
        (
            (first + timedelta(hours=hour)).strftime("%Y-%m-%dT%H:%MZ"),
            50.0 if hour in (cleanest, cleanest + 1) else 200.0,
        )
        for hour in range(count)
    ]


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    path = tmp_path / "grid.csv"
    rows = [f"{moment},{value}" for moment, value in hours(72, 20)]
    path.write_text("\n".join(["datetime,carbon_intensity_g_per_kwh", *rows]) + "\n")
    return path


def answer(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict:
    code = run(["when", *map(str, arguments), "--now", "2026-03-01T12:30Z", "--json"])
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.loads(out)


def test_the_best_start_is_the_cleanest_hours_and_saves_the_difference(spec, grid, capsys):
    found = answer(capsys, spec, "--forecast", grid, "--within", "48h")

    assert 0 < found["run_time_s"]["value"] < 7200
    assert found["best"]["start"] == "2026-03-02T08:00Z"
    assert (found["now"]["g_per_kwh"], found["best"]["g_per_kwh"]) == pytest.approx((200.0, 50.0))
    now, best, saved = (found[name] for name in ("now", "best", "saved_kg"))
    kwh = now["operational_kg"]["value"] * 1000 / 200
    assert kwh > 1
    assert saved["value"] == pytest.approx(kwh * 0.150)
    assert saved["low"] < saved["value"] < saved["high"]
    assert best["operational_kg"]["value"] == pytest.approx(now["operational_kg"]["value"] / 4)
    assert len(found["starts"]) == 1 + 48


def test_a_cleaner_hour_beyond_the_limit_is_not_taken(spec, grid, capsys):
    found = answer(capsys, spec, "--forecast", grid, "--within", "6h")

    assert found["best"]["start"] == "2026-03-01T12:30Z"
    assert found["saved_kg"]["value"] == 0.0


def test_hours_that_the_forecast_does_not_know_count_alike_for_every_start(spec, tmp_path, capsys):
    spec.write_text(SPEC.replace("steps: 300", "steps: 30000"))
    grid = tmp_path / "short.csv"
    grid.write_text("\n".join(["datetime,g_per_kwh", *(f"{moment},{value}" for moment, value in hours(24, 4))]) + "\n")

    found = answer(capsys, spec, "--forecast", grid, "--within", "12h")

    assert found["now"]["known"] < 1
    assert any("of the hours of the run" in note for note in found["notes"])
    static = [one for one in found["starts"] if one["known"] < found["now"]["known"]]
    assert static
    assert all(one["g_per_kwh"] > 50 for one in static)


def test_the_answer_is_sentences_without_json(spec, grid, capsys):
    assert run(["when", str(spec), "--forecast", str(grid), "--now", "2026-03-01T12:30Z"]) == 0

    said = capsys.readouterr().out
    assert "best  2026-03-02T08:00Z" in said
    assert "Starting 19.5 hours from now saves" in said
    assert "75 % of the operational carbon" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--within", "soon"], "--within is 'soon', expected hours or days such as 48h or 2d"),
        (["--within", "0h"], "--within is '0h'"),
        (
            ["--now", "2027-01-01T00:00Z"],
            "which does not include now (2027-01-01T00:00Z); give a forecast of the hours",
        ),
        (
            ["--within", "9000h", "--now", "2026-03-01T12:30Z"],
            "within is 9,000 hours, expected at most 5,000 steps of the forecast: 5,000 hours",
        ),
        (["--now", "noon"], "--now is 'noon', expected ISO 8601"),
    ],
)
def test_a_question_without_an_answer_is_one_sentence(spec, grid, capsys, arguments, said):
    code = run(["when", str(spec), "--forecast", str(grid), *arguments])

    err = capsys.readouterr().err
    assert (code, err.count("\n")) == (2, 1)
    assert said in err


def written(path: Path, rows: list[str], head: str = "datetime,g_per_kwh") -> Path:
    path.write_text("\n".join([head, *rows]) + "\n")
    return path


def test_a_constant_forecast_saves_nothing_and_the_earliest_start_is_the_best(spec, tmp_path, capsys):
    constant = written(tmp_path / "constant.csv", [f"{moment},200" for moment, _ in hours(72, 0)])

    found = answer(capsys, spec, "--forecast", constant)

    assert found["best"] == found["now"]
    assert found["saved_kg"] == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_hours_in_a_gap_are_no_better_and_the_gap_is_told(spec, tmp_path, capsys):
    rows = [f"{moment},{value}" for moment, value in hours(72, 20)]
    gap = written(tmp_path / "gap.csv", [*rows[:18], *rows[24:]])  # the cleanest hours are in it

    found = answer(capsys, spec, "--forecast", gap)

    assert found["best"]["start"] == "2026-03-01T12:30Z"
    assert "the forecast has gaps of 6 hours, which count as unknown" in found["notes"]


@pytest.mark.parametrize(("minutes", "best"), [(60, "2026-03-01T20:30Z"), (1440, "2026-03-09T12:30Z")])
def test_starts_are_the_steps_of_the_forecast_wherever_these_begin(spec, tmp_path, capsys, minutes, best):
    moments = [NOW + timedelta(minutes=minutes * step) for step in range(12)]
    rows = [f"{moment.isoformat()},{50 if step == 8 else 200}" for step, moment in enumerate(moments)]

    found = answer(capsys, spec, "--forecast", written(tmp_path / "half.csv", rows), "--within", "10d")

    assert (found["best"]["start"], found["best"]["g_per_kwh"]) == (best, 50.0)


@pytest.mark.parametrize("midnight", ["2026-03-29", "2026-10-25"])  # when the clocks of Berlin change
def test_local_times_are_read_in_their_zone_when_clocks_change(spec, tmp_path, capsys, midnight):
    first = datetime.fromisoformat(f"{midnight}T00:00+00:00")
    moments = [(first + timedelta(hours=hour)).astimezone(ZoneInfo("Europe/Berlin")) for hour in range(-6, 20)]
    rows = [f"{moment:%Y-%m-%dT%H:%M},{50 if hour == 1 else 200}" for hour, moment in enumerate(moments, start=-6)]
    local = written(tmp_path / "local.csv", rows)
    options = ["--forecast", str(local), "--timezone", "Europe/Berlin", "--now", f"{midnight}T00:00+02:00", "--json"]

    assert run(["when", str(spec), *options]) == 0

    assert json.loads(capsys.readouterr().out)["best"]["start"] == f"{midnight}T01:00Z"


@pytest.mark.parametrize(
    ("rows", "head", "said"),
    [
        (["2026-03-01T12:00,200", "2026-03-01T13:00,200"], "datetime,g_per_kwh", "give timezone, an IANA name or UTC"),
        (["2026-03-01T12:00Z,200", "2026-03-01T13:00,200"], "datetime,g_per_kwh", ":3: '2026-03-01T13:00' has no UTC"),
        (["2026-03-01T12:00Z,200"], "datetime,g_per_kwh", "1 value, expected at least 2"),
        (["2026-03-01T12:00Z;200"], "datetime;g_per_kwh", "its header is separated by ';', expected commas"),
        (["2026-03-01T12:00Z,200"] * 2, "datetime,g_per_kwh", "the moment 2026-03-01T12:00:00Z is given twice"),
        (
            ["2026-03-01T12:00Z,nan", "2026-03-01T13:00Z,5"],
            "datetime,g_per_kwh",
            "is 'nan', expected a number, or an empty cell where none is known",
        ),
        (["2026-03-01T12:00Z,-1", "2026-03-01T13:00Z,5"], "datetime,g_per_kwh", "is -1.0, expected 0 or more g/kWh"),
        (["2026-03-01T12:00Z,1e9", "2026-03-01T13:00Z,5"], "datetime,g_per_kwh", "expected at most 3000"),
        (["2026-03-01T12:00Z,5"], "datetime,marginal_intensity", "is of marginal intensity"),
        (["2026-01-01T12:00Z,5", "2026-01-01T13:00Z,5"], "datetime,g_per_kwh", "give a forecast of the hours to come"),
        (["2026-03-01T12:00Z,5,6", "2026-03-01T13:00Z,5,6"], "datetime,g_per_kwh,gco2", "--column NAME"),
    ],
)
def test_a_forecast_that_cannot_be_used_is_one_sentence(spec, tmp_path, capsys, rows, head, said):
    forecast = written(tmp_path / "odd.csv", rows, head)

    code = run(["when", str(spec), "--forecast", str(forecast), "--now", "2026-03-01T12:30Z"])

    err = capsys.readouterr().err
    assert (code, err.count("\n")) == (2, 1)
    assert said in err


def test_the_column_of_a_file_is_named_and_only_that_of_a_file(spec, tmp_path, capsys):
    rows = [f"{moment},{value},7" for moment, value in hours(72, 20)]
    two = written(tmp_path / "two.csv", rows, "datetime,g_per_kwh,gco2")

    assert answer(capsys, spec, "--forecast", two, "--column", "g_per_kwh")["best"]["g_per_kwh"] == 50.0
    assert run(["when", str(spec), "--column", "g_per_kwh"]) == 2
    assert "give it with --forecast" in capsys.readouterr().err


def test_a_site_without_a_service_says_what_to_give(spec, capsys):
    spec.write_text(SPEC.replace(", live: {provider: neso}", ""))

    assert run(["when", str(spec)]) == 2
    assert (
        "give a file with --forecast (a column of times and one of gCO2e/kWh), or name a service in the run spec"
        in capsys.readouterr().err
    )


def test_a_run_of_flags_alone_has_a_best_start_too(grid, capsys):
    asked = ("--model", "gpt2", "--accelerator", "h100-sxm", "--nodes", "1", "--steps", "10", "--zone", "FRA")

    found = answer(capsys, *asked, "--forecast", grid, "--within", "48h")

    assert found["best"]["g_per_kwh"] == 50.0
