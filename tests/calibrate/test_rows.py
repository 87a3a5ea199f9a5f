"""Published rows become runs, or say what is missing; nothing is guessed silently."""

from __future__ import annotations

from pathlib import Path

import pytest

from carbon_plugin.calibrate.row_cluster import nic_bytes_per_s
from carbon_plugin.calibrate.rows import read_rows
from carbon_plugin.calibrate.validate import published_rows
from carbon_plugin.errors import SpecError

ROW = """
rows:
- {id: mine-1, kind: benchmark, arch: llama3_8b, seq_len: 8192, precision: bf16, gpu: H100-80GB-SXM, n_gpus: 16,
   gpus_per_node: 8, tp: 1, pp: 1, sharding: FSDP2 (ZeRO-3), mbs: 1, gbs: 16, framework: torchtitan, step_time_s: 1.9}
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "rows.yaml"
    path.write_text(text)
    return path


def test_a_row_becomes_the_run_that_it_describes_and_names_what_was_assumed(tmp_path) -> None:
    (row,), skipped = read_rows(write(tmp_path, ROW))
    assert not skipped
    assert row.spec.layout is not None
    assert (row.spec.layout.dp_shard, row.spec.layout.zero_stage) == (16, 3)
    assert row.spec.model.parameters == pytest.approx(8.03e9, rel=0.01)
    assert row.measured_step_time_s == 1.9
    assert "recompute none" in row.assumed
    assert any(text.startswith("network") for text in row.assumed)


@pytest.mark.parametrize("field", ["seq_len", "n_gpus", "precision", "gpu"])
def test_a_row_without_a_needed_field_is_skipped_with_its_name(tmp_path, field) -> None:
    text = ROW.replace(f"{field}:", f"x_{field}:")
    rows, (skipped,) = read_rows(write(tmp_path, text))
    assert not rows
    assert field in skipped.reason


def test_a_layout_that_cannot_be_is_skipped_with_the_rule(tmp_path) -> None:
    _, (skipped,) = read_rows(write(tmp_path, ROW.replace("gbs: 16", "gbs: 17")))
    assert "global_batch_size 17 is not a multiple of" in skipped.reason


def test_step_time_follows_from_tokens_per_second(tmp_path) -> None:
    text = ROW.replace("step_time_s: 1.9", "tokens_per_s_per_gpu: 4096")
    (row,), _ = read_rows(write(tmp_path, text))
    assert row.measured_step_time_s == pytest.approx(16 * 8192 / (4096 * 16))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1600 Gb/s RoCE per node", 25e9),
        ("400Gb/s RDMA per GPU", 50e9),
        ("8x NDR400 IB (Eos, memory)", 50e9),
        ("8x HDR200 IB (Selene, memory)", 25e9),
        ("Google A3 Ultra / A4 RoCE 8x400G", 50e9),
        ("single node", None),
    ],
)
def test_network_phrases_of_the_sources_are_understood(text, expected) -> None:
    assert nic_bytes_per_s(text, 8) == expected


@pytest.mark.parametrize("text", ["- a list", "rows: 3", "rows: [1]", "rows: [: ]]"])
def test_a_file_of_another_kind_is_refused_in_one_line(tmp_path, text) -> None:
    with pytest.raises(SpecError, match=r"rows\.yaml") as caught:
        read_rows(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_nearly_all_shipped_rows_can_be_predicted() -> None:
    rows, skipped = published_rows()
    assert len(rows) > 1700
    assert all(row.reason for row in skipped)
    assert len({row.id for row in rows}) == len(rows)
