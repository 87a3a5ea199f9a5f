"""`carbon-plugin validate` on somebody else's rows."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout

import pytest

from carbon_plugin.cli.main import run

ROWS = """
architectures:
  ours: {layers: 16, hidden: 2048, ffn: 8192, heads: 16, kv_heads: 4, vocab: 32000, mlp: swiglu}
rows:
- {id: a-1, kind: benchmark, arch: ours, seq_len: 4096, precision: bf16, gpu: H800-80GB-SXM, n_gpus: 8, tp: 1, pp: 1,
   sharding: FSDP, mbs: 1, gbs: 8, framework: mystery, step_time_s: 0.25}
- {id: a-2, kind: benchmark, arch: deepseek_v3, seq_len: 4096, precision: fp8, gpu: H800-80GB-SXM, n_gpus: 2048, tp: 1,
   pp: 16, ep: 64, sharding: ZeRO-1, gbs: 15360, framework: HAI-LLM, tokens_per_s_per_gpu: 1540}
- {id: a-3, kind: benchmark, arch: ours, seq_len: 4096, precision: fp8, gpu: A100-80GB-SXM, n_gpus: 8, tp: 1, pp: 1,
   sharding: FSDP, mbs: 1, gbs: 8, framework: mystery, step_time_s: 0.25}
- {id: a-4, kind: benchmark, gpu: H100-80GB-SXM}
- {id: sc21-t1-1.7B, note: another row of this name, kind: benchmark}
"""


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    path = tmp_path_factory.mktemp("validate") / "rows.yaml"
    path.write_text(ROWS)
    with redirect_stdout(io.StringIO()) as printed:
        assert run(["validate", "--records", str(path), "--json"]) == 0
    return json.loads(printed.getvalue())


def test_every_row_is_predicted_or_skipped_with_the_reason(document) -> None:
    predicted, skipped = document["rows"][:2], document["rows"][2:]
    for row in predicted:
        assert row["low_s"] < row["predicted_step_time_s"] < row["high_s"]
        assert set(row["baselines"]) == {"llmcarbon", "constant_mfu", "6nd_40"}
        assert row["fitted"] is False
        assert isinstance(row["assumed"], list)
        assert "skipped" not in row
    assert [row["moe"] for row in predicted] == [False, True]
    assert [row["skipped"] for row in skipped] == [
        "training: precision fp8 is not supported by a100-sxm-80gb; it has bf16, fp16, tf32, fp32",
        "n_gpus is not stated",
        "gpu is not stated",
    ]


def test_the_summary_has_a_record_a_source(document) -> None:
    assert [(item["source"], item["n"]) for item in document["summary"]] == [("a", 1), ("a-moe", 1)]
    assert document["macro_mape"] == pytest.approx(sum(item["mape"] for item in document["summary"]) / 2)


def test_rows_that_were_fitted_are_marked_in_a_file_of_the_users_too(tmp_path, capsys) -> None:
    path = tmp_path / "vtrain_multi_node.csv"
    path.write_text(
        "n_gpus,gbs,mbs,hidden,heads,layers,seq_len,tp,dp,pp,step_time_ms\n64,512,8,3072,32,30,2048,1,64,1,3566.5\n"
        "64,512,8,3072,32,30,2048,1,64,1,9999\n"
    )
    assert run(["validate", "--records", str(path), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["fitted"] for row in rows] == [True, False]


def test_a_file_without_a_row_that_can_be_predicted_is_still_a_document(tmp_path, capsys) -> None:
    path = tmp_path / "rows.yaml"
    path.write_text("rows: [{id: x-1}]")
    assert run(["validate", "--records", str(path), "--json"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert document["summary"] == []
    assert document["macro_mape"] is None
    assert document["rows"] == [{"id": "x-1", "source": "x", "skipped": "gpu is not stated"}]


@pytest.mark.parametrize(
    ("rows", "why"),
    [("[{id: x-1, colour: green}]", "every row was skipped"), ("[]", "it holds no row")],
    ids=["skipped", "empty"],
)
def test_nothing_to_compare_is_an_error_and_no_empty_table(rows: str, why: str, tmp_path, capsys) -> None:
    path = tmp_path / "rows.yaml"
    path.write_text(f"rows: {rows}")

    assert run(["validate", "--records", str(path)]) == 2

    said = capsys.readouterr()
    assert "mean over sources" not in said.out
    assert f"rows.yaml: nothing could be compared: {why}" in said.err
    assert ("x-1: gpu is not stated" in said.out) == ("x-1" in rows)
    assert ("fields that nothing here knows: colour" in said.out) == ("x-1" in rows)


def test_the_table_names_what_was_not_predicted(tmp_path, capsys) -> None:
    path = tmp_path / "rows.yaml"
    path.write_text(ROWS)
    assert run(["validate", "--records", str(path)]) == 0
    text = capsys.readouterr().out
    assert "mean over sources" in text
    assert "3 rows skipped; the reason of each is below" in text
    assert "whole runs" not in text
    assert "rows of this file, dense" in text
    assert "first collection" not in text, "rows of a user are in no published collection"


def test_what_fits_is_counted_and_said(document, tmp_path, capsys) -> None:
    assert [(item["source"], item["ran"], item["out_of_memory"]) for item in document["fits"]] == [("a", 2, 0)]
    path = tmp_path / "rows.yaml"
    probe = "- {id: a-5, kind: oom_probe, oom: true, arch: ours, seq_len: 65536, precision: bf16, gpu: H800-80GB-SXM,"
    path.write_text(ROWS + probe + " n_gpus: 1, tp: 1, pp: 1, sharding: none, mbs: 8, gbs: 8, framework: mystery}\n")

    assert run(["validate", "--records", str(path)]) == 0

    said = " ".join(capsys.readouterr().out.split())
    assert "layouts that ran are called feasible" in said
    assert "memory: 1 of 1 layouts that ran out of memory are called too large" in said
