"""Products of matrices without rows or columns, as a model has them that lacks a part of its neighbours in an array."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from carbon_plugin.predict.case.from_spec import work_of
from carbon_plugin.predict.time.operators import linear, product_time
from carbon_plugin.spec.stack import Stack
from carbon_plugin.spec.training import TrainingPlan

WORK = work_of(TrainingPlan(seq_len=2048, global_batch_size=8, steps=1), Stack())


@pytest.mark.parametrize("empty", [0, 1, 2])
def test_a_product_that_lacks_a_dimension_takes_no_time(rates, empty) -> None:
    m, n, k = (np.float64(0 if place == empty else 4096) for place in range(3))

    assert product_time(m, n, k, rates().gemm_flops, 2.0, rates()) == 0


@pytest.mark.parametrize(("outputs", "inputs"), [(0, 4096), (4096, 0)])
def test_a_layer_without_outputs_or_inputs_takes_no_time_in_any_format(rates, outputs, inputs) -> None:
    narrow = replace(rates(), cast_bytes=np.float64(3))
    cost = linear(np.float64(2048), np.float64(outputs), np.float64(inputs), np.float64(1), WORK, np.float64(4), narrow)

    assert (cost.forward, cost.backward) == (0, 0)


@pytest.mark.parametrize("wide", [False, True])
def test_frozen_weights_have_one_product_backward_and_nothing_to_sum_over_micro_batches(rates, wide) -> None:
    size = np.float64(4096)

    def backward(trained: float, micro_batches: int) -> float:
        cost = linear(size, size, size, np.float64(trained), WORK, np.float64(micro_batches), rates(), wide=wide)
        return float(cost.backward)

    forward = float(linear(size, size, size, np.float64(1), WORK, np.float64(1), rates(), wide=wide).forward)
    assert backward(0, 8) == pytest.approx(forward)
    assert backward(1, 1) == pytest.approx(2 * forward)
    assert backward(1, 8) > backward(1, 1)
    assert backward(0.25, 8) == pytest.approx(0.75 * backward(0, 8) + 0.25 * backward(1, 8))
