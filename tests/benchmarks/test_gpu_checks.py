"""The GPU checks, as far as a machine without a GPU can tell: what they would measure can be predicted."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from carbon_plugin.spec.hardware.profiles import load_accelerator

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_checks.py"


def test_at_least_30_configurations_are_measured_and_each_has_a_prediction() -> None:
    spec = importlib.util.spec_from_file_location("gpu_checks", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    checks = importlib.util.module_from_spec(spec)
    sys.modules["gpu_checks"] = checks
    spec.loader.exec_module(checks)
    h100 = load_accelerator("h100-sxm")

    found = checks.configurations(quick=False)
    predictions = [checks.predict(config, h100) for config in found]

    assert len(found) >= 30
    assert len({(c.width, c.layers) for c in found}) >= 6
    assert {c.dtype for c in found} == {"bf16", "fp32"}
    assert any(c.recompute for c in found)
    assert any(c.compiled for c in found)
    assert all(1e-4 < p.step_time_s.value < 30 and 100 < p.gpu_power_w.value <= 700 for p in predictions)
    assert all(p.memory.fits for p in predictions)
