"""`carbon-plugin when`: the best start on a forecast in a file, with what it saves."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

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
    assert "75% of operation" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--within", "soon"], "--within is 'soon', expected hours or days such as 48h or 2d"),
        (["--within", "0h"], "--within is '0h'"),
        (["--now", "2027-01-01T00:00Z"], "which does not include now (2027-01-01T00:00Z)"),
        (["--now", "noon"], "--now is 'noon', expected ISO 8601"),
    ],
)
def test_a_question_without_an_answer_is_one_sentence(spec, grid, capsys, arguments, said):
    code = run(["when", str(spec), "--forecast", str(grid), *arguments])

    err = capsys.readouterr().err
    assert (code, err.count("\n")) == (2, 1)
    assert said in err


def test_a_site_without_a_service_says_what_to_give(spec, capsys):
    spec.write_text(SPEC.replace(", live: {provider: neso}", ""))

    assert run(["when", str(spec)]) == 2
    assert (
        "give a file with --forecast, or live: {provider: ...} of electricity-maps and neso" in capsys.readouterr().err
    )
