"""Rows of a stranger: what was assumed of them, what was not read, and where a predicted step goes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from carbon_plugin.calibrate.rows.hybrids import is_hybrid
from carbon_plugin.calibrate.rows.published import all_published_rows
from carbon_plugin.calibrate.rows.rows import next_step, read_rows
from carbon_plugin.cli.main import run
from carbon_plugin.errors import SpecError
from carbon_plugin.validate.step.explain import explain_row, grouped

SHAPE = "model: my 7B, layers: 32, hidden: 4096, heads: 32, ffn: 11008, vocab: 32000"
RUN = "seq_len: 4096, precision: bf16, n_gpus: 8, gbs: 64, tokens_per_s_per_gpu: 9000, source: me"
ROWS = f"""
rows:
- {{id: mine-good, {SHAPE}, {RUN}, gpu: H100-80GB-SXM, tp: 1, pp: 1, mbs: 1, framework: mystack 1.0, colour: green}}
- {{id: mine-split, {SHAPE}, {RUN}, gpu: H100-80GB-SXM, pp: 1, mbs: 1}}
- {{id: mine-device, {SHAPE}, {RUN}, gpu: Foo9000, tp: 1, pp: 1}}
- {{id: mine-odd, {SHAPE}, {RUN}, gpu: H100-80GB-SXM, tp: many, pp: 1, mbs: 1}}
"""


@pytest.fixture
def records(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(ROWS)
    return path


def test_a_row_names_what_it_leaves_out_and_the_fields_that_nothing_knows(records: Path) -> None:
    (row,), _ = read_rows(records)

    assert row.not_read == ("colour",)
    assert {"kv_heads 32", "recompute none", "ordinary software", "attention kernel flash2"} <= set(row.assumed)


def test_each_skipped_row_is_one_line_with_file_row_field_value_and_next_step(records: Path, capsys) -> None:
    assert run(["validate", "--records", str(records)]) == 0
    lines = capsys.readouterr().out.splitlines()

    def line_of(name: str) -> str:
        (found,) = [line for line in lines if f"{name}: " in line]
        return found

    assert "state tp in the row, 1 where there is none" in line_of(f"{records}: mine-split")
    assert "gpu 'Foo9000' has no profile; `carbon-plugin list accelerators`" in line_of(f"{records}: mine-device")
    assert "tp is 'many', expected a positive number; correct the row" in line_of(f"{records}: mine-odd")
    assert "assumed " in line_of("mine-good")
    assert line_of("mine-good").endswith("fields that nothing here knows: colour")


def test_a_row_is_explained_by_groups_that_add_up_to_its_step(records: Path, capsys) -> None:
    found = explain_row("mine-good", records)

    total = sum(seconds for terms in found.groups_s.values() for seconds in terms.values())
    assert total == pytest.approx(found.prediction.step_time_s.value)
    assert found.ratio == pytest.approx(total / found.measured_step_time_s)
    assert "dp_shard" in found.groups_s["exposed communication"]
    assert run(["validate", "--records", str(records), "--explain", "mine-good"]) == 0
    printed = capsys.readouterr().out
    for words in ("measured 3.64 s", "exposed communication", "optimizer", "assumed: ", "colour"):
        assert words in printed
    assert run(["validate", "--records", str(records), "--explain", "mine-good", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == "mine-good"


@pytest.mark.exhaustive
def test_a_row_whose_layers_differ_is_explained_with_its_scan() -> None:
    hybrid = next(row for row in all_published_rows()[0] if is_hybrid(row))

    found = explain_row(hybrid.id, None)
    assert found.groups_s["compute"]["scan"] > 0
    assert run(["validate", "--explain", hybrid.id]) == 0


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("simumax-b200-lama3_70b_tp2", "simumax-b200-llama3_70b_tp2_pp1_dp4_l12_mbc4"),
        ("TITAN-8B-128", "titan-8b-128-eager"),
    ],
)
def test_an_unknown_row_names_the_nearest_and_the_list_of_all(typed: str, offered: str, capsys) -> None:
    assert run(["validate", "--explain", typed]) == 2
    said = capsys.readouterr().err

    assert "no such row in the published rows" in said
    assert "`carbon-plugin list rows` has all ids" in said
    assert offered in said
    assert said.count("\n") == 1


@pytest.mark.exhaustive
def test_every_id_that_the_list_shows_is_one_that_can_be_asked_for(capsys) -> None:
    assert run(["list", "rows", "torchtune", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)

    assert len(listed) > 10
    for one in listed[:3]:
        assert explain_row(one["name"], None).id == one["name"]
    left_out = next(one["name"] for one in listed if one["facts"]["devices"].startswith("not predicted"))
    with pytest.raises(SpecError, match=left_out):
        explain_row(left_out, None)


def test_no_term_of_a_step_is_lost_in_its_groups() -> None:
    terms = dict.fromkeys(("matmul", "tp", "pp_bubble", "host", "optimizer", "framework", "something_new"), 1.0)

    assert sorted(name for group in grouped(terms).values() for name in group) == sorted(terms)


def test_a_row_that_is_not_there_or_cannot_be_predicted_is_one_line(records: Path) -> None:
    with pytest.raises(SpecError, match=r"no such row in .*mine\.yaml; did you mean mine-good"):
        explain_row("mine-goud", records)
    with pytest.raises(SpecError, match=r"no such row in .*mine\.yaml; the file has 1 row$"):
        explain_row("q", records)
    with pytest.raises(SpecError, match=r"mine\.yaml: mine-odd: tp is 'many', expected a positive number; correct"):
        explain_row("mine-odd", records)
    assert run(["validate", "--explain", "x", "--carbon"]) == 2
    assert next_step("kind full_run: a whole run, no step time").startswith("nothing")
