"""Constants are fitted to the rows of collections that may be seen, and to nothing of a set that is new."""

from __future__ import annotations

from typing import Any

import pytest

from carbon_plugin.calibrate.parameters import calibration_rows, fitted_rows
from carbon_plugin.calibrate.rows.rows import parse_rows
from carbon_plugin.calibrate.rows.table import tabulate

ROW: dict[str, Any] = {
    "id": "mine-1", "arch": "llama3_8b", "seq_len": 8192, "precision": "bf16", "gpu": "H100-80GB-SXM", "n_gpus": 8,
    "tp": 1, "pp": 1, "sharding": "FSDP", "mbs": 1, "gbs": 8, "step_time_s": 1.2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("collection", "software", "fitted"),
    [
        ("first", "NeMo 24.07", True),
        ("first", "PyTorch FSDP", True),
        ("second", "NeMo 24.07", False),
        ("second", "PyTorch FSDP", True),
        ("fifteenth", "NeMo 24.07", False),
        ("fifteenth", "PyTorch FSDP", True),
        ("not predicted yet", "NeMo 24.07", False),
        ("not predicted yet", "PyTorch FSDP", False),
    ],
)
def test_a_collection_is_fitted_to_after_it_was_predicted_blind_and_then_for_ordinary_software(
    collection: str, software: str, fitted: bool
) -> None:
    (rows, skipped) = parse_rows([{**ROW, "framework": software}], {}, collection=collection)
    assert not skipped

    assert calibration_rows(tabulate(rows)).tolist() == [fitted]


@pytest.mark.parametrize(
    ("collection", "gpu", "precision", "fitted"),
    [
        ("second", "B200-SXM", "bf16", True),
        ("second", "B200-SXM", "fp8", False),
        ("second", "H100-80GB-SXM", "bf16", False),
        ("second", "RTX-5090", "bf16", False),
        ("not predicted yet", "B200-SXM", "bf16", False),
    ],
)
def test_the_level_of_blackwell_is_told_by_every_cluster_that_trains_in_16_bit_there(
    collection: str, gpu: str, precision: str, fitted: bool
) -> None:
    row = {**ROW, "framework": "NeMo 25.02", "gpu": gpu, "precision": precision, "step_time_s": 2.4}
    (rows, skipped) = parse_rows([row], {}, collection=collection)
    assert not skipped

    table = tabulate(rows)
    assert not calibration_rows(table).any()
    assert fitted_rows(table).tolist() == [fitted]
