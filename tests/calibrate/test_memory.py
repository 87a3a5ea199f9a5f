"""Published layouts that ran are called feasible, and what a pure 16-bit job keeps is counted as such."""

from __future__ import annotations

import msgspec
import numpy as np

from carbon_plugin.calibrate.table import tabulate
from carbon_plugin.calibrate.validate import published_rows
from carbon_plugin.predict.memory import memory_bytes
from carbon_plugin.predict.rates import combine
from carbon_plugin.predict.step import predict_step
from carbon_plugin.spec.loading import build_run_spec

LEAST_FEASIBLE = {
    "llmf": 0.97,
    "vtrain": 1.0,
    "simumax": 1.0,
    "titan": 1.0,
    "korthikanti": 1.0,
    "nanotron": 1.0,
    "mbridge": 0.99,
    "nemo": 1.0,
}


def test_layouts_that_ran_fit() -> None:
    table = tabulate(published_rows()[0])
    parts = memory_bytes(table.shape, table.layout, table.work, combine(table.sheet, table.shipped))
    need = np.asarray(sum(np.broadcast_to(part, table.measured_s.shape) for part in parts.values()))
    held = np.array([row.spec.cluster.accelerator.memory_bytes.value for row in table.rows])
    fits = {name: float(np.mean((need <= held)[table.origin == name])) for name in LEAST_FEASIBLE}
    assert {name: share for name, share in fits.items() if share < LEAST_FEASIBLE[name]} == {}
    assert np.mean(need <= held) > 0.985


def test_a_pure_16_bit_job_keeps_a_quarter_of_adams_states() -> None:
    spec = build_run_spec(
        {
            "model": "llama3-8b",
            "cluster": {"accelerator": "h100-sxm", "nodes": 1},
            "layout": {"dp_replicate": 8, "micro_batch_size": 1},
            "training": {"seq_len": 2048, "global_batch_size": 8, "steps": 1, "precision": "bf16"},
            "site": {"zone": "FRA"},
        },
        origin="test",
    )
    pure = msgspec.structs.replace(spec.training, master_weights=False, optimizer_state_dtype="bf16")
    streamed = msgspec.structs.replace(pure, optimizer_in_backward=True)
    usual, bare, least = (
        predict_step(msgspec.structs.replace(spec, training=plan)) for plan in (spec.training, pure, streamed)
    )
    count = spec.model.parameters
    assert usual.memory.parts_bytes["optimizer"] > 2.9 * bare.memory.parts_bytes["optimizer"]
    assert bare.memory.parts_bytes["gradients"] / count < 2.1
    assert "gradients" not in least.memory.parts_bytes
    assert bare.breakdown_s["optimizer"] < 0.5 * usual.breakdown_s["optimizer"]
