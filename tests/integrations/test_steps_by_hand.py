"""A loop that hands over no optimizer is told at its start how its steps are counted."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from carbon_plugin import watch
from carbon_plugin.monitor.loops.loop import NO_OPTIMIZER


@pytest.mark.parametrize(
    ("optimized", "quiet", "told"), [(False, False, True), (True, False, False), (False, True, False)]
)
def test_a_loop_without_an_optimizer_is_told_that_it_must_call_step(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, optimized: bool, quiet: bool, told: bool
) -> None:
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1) if optimized else None

    with (
        caplog.at_level(logging.INFO, logger="carbon_plugin"),
        watch(model, optimizer, run_dir=tmp_path / "run", quiet=quiet),
    ):
        pass

    assert any(NO_OPTIMIZER in record.getMessage() for record in caplog.records) is told
