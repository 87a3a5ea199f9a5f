"""Rows that are predicted together have the step times that each has alone."""

from __future__ import annotations

import numpy as np
import pytest

from carbon_plugin.calibrate.rows.published import published_rows
from carbon_plugin.calibrate.rows.table import predict, select, tabulate

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
