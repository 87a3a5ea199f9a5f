"""`carbon-plugin calibrate`: rows in, a profile that `plan` takes out."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from carbon_plugin.calibrate.rows.rows import read_rows
from carbon_plugin.cli.commands.calibrate import WORSE_POINTS
from carbon_plugin.cli.main import run
from carbon_plugin.predict.step import predict_step

ROW = (
    "- {{id: ours-{n}, kind: benchmark, arch: llama3_8b, seq_len: {seq}, precision: bf16, gpu: H100-80GB-SXM, "
    "n_gpus: 8, tp: 1, pp: 1, sharding: FSDP, recompute: full, mbs: {mbs}, gbs: {gbs}, framework: ours, "
    "step_time_s: {time}}}\n"
)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Write four rows of a framework that nobody knows, about 1.4 times as slow as predicted."""
    path = tmp_path / "rows.yaml"
    cases = [(1, 4096, 1, 8, 0.91), (2, 4096, 2, 16, 1.76), (3, 8192, 1, 8, 1.86), (4, 8192, 2, 16, 3.65)]
    path.write_text(
        "rows:\n" + "".join(ROW.format(n=n, seq=seq, mbs=mbs, gbs=gbs, time=time) for n, seq, mbs, gbs, time in cases)
    )
    return path


def plan(capsys, spec: Path, *flags: str) -> float:
    assert run(["plan", str(spec), "--json", *flags]) == 0
    return json.loads(capsys.readouterr().out)["prediction"]["step_time_s"]["value"]


def test_the_profile_makes_plan_predict_the_fitted_step_time(capsys, rows, tmp_path) -> None:
    folder = tmp_path / "profiles"
    assert run(["calibrate", str(rows), "-o", str(folder / "h100-sxm.yaml"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["mape_after"] < found["mape_before"]

    spec = tmp_path / "run.yaml"
    spec.write_text(
        "model: llama-3-8b\nstack: ours\nsite: {zone: FRA}\ncluster: {accelerator: h100-sxm, nodes: 1}\n"
        "layout: {dp_shard: 8, zero_stage: 3, micro_batch_size: 1, recompute: full}\n"
        "training: {seq_len: 4096, global_batch_size: 8, steps: 10, precision: bf16}\n"
    )
    fitted = plan(capsys, spec, "--profiles", str(folder))
    assert fitted == pytest.approx(found["rows"][0]["after_s"], rel=1e-3)


def test_the_command_that_plans_with_what_was_written_is_printed(capsys, rows, tmp_path) -> None:
    folder = tmp_path / "profiles"

    assert run(["calibrate", str(rows), "-o", str(folder / "h100-sxm.yaml")]) == 0

    assert f"use it: carbon-plugin plan run.yaml --profiles {folder} --stack ours\n" in capsys.readouterr().out


def test_own_runs_are_named_where_a_plan_states_no_software_and_where_the_profile_is_shown(
    capsys, rows, tmp_path
) -> None:
    folder = tmp_path / "profiles"
    assert run(["calibrate", str(rows), "-o", str(folder / "h100-sxm.yaml")]) == 0
    capsys.readouterr()

    flags = ["--model", "llama-3-8b", "--accelerator", "h100-sxm", "--nodes", "1", "--zone", "FRA", "--steps", "10"]
    assert run(["plan", *flags, "--profiles", str(folder), "--json"]) == 0
    (said,) = [one for one in json.loads(capsys.readouterr().out)["assumptions"] if one["field"] == "stack"]
    assert "own runs of ours" in said["source"]

    assert run(["profiles", "show", "h100-sxm", "--profiles", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "own runs: 4 rows of software 'ours'" in shown
    assert "OwnSoftware(" not in shown


def test_what_was_fitted_and_what_was_refused_is_printed(capsys, rows) -> None:
    assert run(["calibrate", str(rows)]) == 0
    text = capsys.readouterr().out
    assert "fitted  framework_factor of ours: " in text
    assert "refused scaleout_latency_s: no row shows it" in text
    assert "mean error" in text


def test_rows_that_disagree_among_themselves_are_said_to(capsys, rows) -> None:
    text = rows.read_text().split("- {id: ours-4")[0]
    rows.write_text(
        text.replace("step_time_s: 1.76", "step_time_s: 6.5").replace("step_time_s: 1.86", "step_time_s: 7.5")
    )
    assert run(["calibrate", str(rows)]) == 0
    text = capsys.readouterr().out
    assert "ours-1: the median step took 0.91 s" in text
    before, after = (float(part) for part in re.findall(r"(\S+) % (?:before|after)", text.split("mean error")[1])[:2])
    assert ("differ more among themselves" in text) == (after > before + WORSE_POINTS)
    assert after > before + WORSE_POINTS


def test_rows_that_tell_nothing_write_nothing(capsys, rows, tmp_path) -> None:
    # Ranks wait for one another some milliseconds, so that a step of a few of them on many nodes says nothing, least of
    # all where it took what was predicted.
    known = tmp_path / "one.yaml"
    short = {
        "framework: ours": "framework: llm-foundry",
        "n_gpus: 8": "n_gpus: 512",
        "gbs: 8": "gbs: 512",
        "arch: llama3_8b": "model: GPT, layers: 2, hidden: 256, ffn: 1024, heads: 4, vocab: 1024",
        "seq_len: 4096": "seq_len: 128",
    }
    text = rows.read_text().split("- {id: ours-2")[0]
    for old, new in short.items():
        text = text.replace(old, new)
    known.write_text(text)
    (row,), _ = read_rows(known)
    predicted_s = predict_step(row.spec).step_time_s.value
    known.write_text(text.replace("step_time_s: 0.91", f"step_time_s: {predicted_s:.6f}"))
    target = tmp_path / "profile.yaml"
    assert run(["calibrate", str(known), "-o", str(target)]) == 1
    assert "the rows tell no constant" in capsys.readouterr().err
    assert not target.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected a run directory or a file of rows"),
        (["{rows}", "--reproduce-shipped"], "--reproduce-shipped fits the published rows"),
        (["{missing}"], "cannot be read"),
        (["{folder}"], "no ledger in this directory"),
    ],
)
def test_what_cannot_be_calibrated_is_one_line(capsys, rows, tmp_path, arguments, message) -> None:
    (tmp_path / "empty").mkdir()
    places = {"rows": rows, "missing": tmp_path / "nowhere.yaml", "folder": tmp_path / "empty"}
    assert run(["calibrate", *(argument.format(**places) for argument in arguments)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
