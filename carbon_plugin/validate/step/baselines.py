"""Predict steps by three baselines, with which the model is compared on the same rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from carbon_plugin.calibrate.rows.rows import PublishedRow
from carbon_plugin.calibrate.rows.table import RowArrays
from carbon_plugin.predict.flops import step_flops

Floats = NDArray[np.float64]

ASSUMED_MFU = 0.40
A100_PEAK_FLOPS = 312e12
LLMCARBON_SINGLE_STAGE = (-8.82079068e-20, 1.68591116e-9, 133.954735)
LLMCARBON_PIPELINED = (-5.60233749e-23, 8.45435587e-11, 134.546129)
"""TFLOP/s per device as a function of parameters: the quadratic, linear and constant coefficients (LLMCarbon's code,
fitted to 10 rows of arXiv 2104.04473 table 1 on A100-80GB)."""
LLMCARBON_PARAMETERS_PER_GB = 0.03e9
LLMCARBON_NODE = 8


def six_nd(row: PublishedRow) -> float:
    """Return the seconds of a step from 6 N D, with N active parameters, at 40 % of peak."""
    return _dense_flops(row) / (ASSUMED_MFU * _peak_flops(row))


def llmcarbon(row: PublishedRow) -> float:
    """Return the seconds of a step from LLMCarbon's throughput regression (ICLR 2024), scaled by peak over the A100's
    peak.

    Its rule of thumb decides about stages: a device holds 0.03 B parameters per GB, and a model that needs more than
    one node is pipelined. The regression has no term for network, layout, memory or recompute, and its FLOPs are 6 P D.
    """
    parameters = float(row.spec.model.parameters)
    memory_gb = row.spec.cluster.accelerator.memory_bytes.value / 2**30
    pipelined = parameters > LLMCARBON_NODE * LLMCARBON_PARAMETERS_PER_GB * memory_gb
    quadratic, linear, constant = LLMCARBON_PIPELINED if pipelined else LLMCARBON_SINGLE_STAGE
    teraflops = max(quadratic * parameters**2 + linear * parameters + constant, 1.0)
    scale = _peak_flops(row) / row.spec.cluster.devices / A100_PEAK_FLOPS
    return _dense_flops(row) / (teraflops * 1e12 * scale * row.spec.cluster.devices)


def typical_mfu(table: RowArrays, fitted: NDArray[np.bool_]) -> float:
    """Return one MFU for all rows: the mean, over the fitted sources, of each source's median."""
    reached = _ideal_s(table) / table.measured_s
    sources = np.unique(table.source[fitted])
    return float(np.mean([float(np.median(reached[fitted & (table.source == source)])) for source in sources]))


def constant_mfu(table: RowArrays, mfu: float) -> Floats:
    """Return the seconds of every row at a given MFU."""
    return np.asarray(_ideal_s(table) / mfu)


def _ideal_s(table: RowArrays) -> Floats:
    """Return the seconds of every row at the peak."""
    model = np.asarray(step_flops(table.shape, table.layout, table.work)[0])
    return np.asarray(model / (table.sheet.peak * table.sheet.devices))


def _dense_flops(row: PublishedRow) -> float:
    model = row.spec.model
    active = getattr(model, "active_parameters", model.parameters)
    return 6.0 * float(active) * row.spec.training.tokens_per_step


def _peak_flops(row: PublishedRow) -> float:
    from carbon_plugin.predict.rates.laws import peak_of

    cluster = row.spec.cluster
    return peak_of(cluster.accelerator, row.spec.training.precision)[1].value * cluster.devices
