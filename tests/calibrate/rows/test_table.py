"""Rows that are predicted together have the step times that each has alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from carbon_plugin.calibrate.rows.published import published_rows
from carbon_plugin.calibrate.rows.rows import parse_rows
from carbon_plugin.calibrate.rows.table import predict, select, tabulate
from carbon_plugin.predict.rates.datasheet import WRAPPED_OP_S

STRIDE = 23


@pytest.fixture(scope="module")
def table():
    """Every 23rd of the shipped rows: dense models in 8 and 16 bit, and mixtures with latent attention among them."""
    table = tabulate(published_rows()[0][::STRIDE])
    assert np.any(table.sparse & (table.shape.mla > 0))
    assert np.any(~table.sparse & table.narrow)
    return table


def test_a_row_takes_no_longer_because_of_the_rows_that_are_predicted_beside_it(table) -> None:
    together = np.asarray(predict(table, table.shipped).total)
    alone = [select(table, np.array([row])) for row in range(together.size)]

    assert together == pytest.approx(np.array([float(predict(one, one.shipped).total[0]) for one in alone]), rel=1e-12)


def test_a_fit_keeps_what_dtensors_cost_the_host_whatever_it_tries_for_the_host_itself() -> None:
    record = {
        "id": "mine-1", "framework": "torchtitan (2026-01)", "arch": "llama3_8b", "gpu": "H100-SXM", "n_gpus": 8,
        "tp": 8, "pp": 1, "sharding": "FSDP2", "mbs": 1, "gbs": 1, "seq_len": 512, "precision": "bf16",
        "recompute": "none", "step_time_s": 9,
    }  # fmt: skip
    eager, compiled = (
        tabulate(parse_rows([{**record, "overlap": said}], {})[0]) for said in ("none", "whole cross entropy, compile")
    )
    instant = replace(eager.prior, host_op_time_s=np.zeros(1))

    assert eager.sheet.wrapped_op_time == WRAPPED_OP_S
    assert compiled.sheet.wrapped_op_time == 0
    assert predict(eager, instant).terms["host"] > 0
