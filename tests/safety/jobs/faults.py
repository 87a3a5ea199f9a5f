"""Trains the same loop once without us and once for every entry point of ours, with an exception injected there.

Prints one JSON line a training: the losses, our warnings, and what the ledger says.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from carbon_plugin.integrations.pytorch import watch
from carbon_plugin.ledger.files import ledger_files
from carbon_plugin.ledger.reader import read_run
from carbon_plugin.ledger.records import Close, Event, Window
from carbon_plugin.monitor.settings.options import MonitorOptions
from carbon_plugin.spec.options import SpanRule
from tests.patience import PATIENCE_S, be_patient

STEPS, STEP_S = 12, 0.015
FAST = {"window_s": 0.1, "options": MonitorOptions(min_window_s=0.05, span_rule=SpanRule(min_s=0.05, min_steps=2))}

FAULTS = (
    # on the training thread
    "carbon_plugin.monitor.clock:TrainingClock._attend",
    "carbon_plugin.monitor.clock:TrainingClock.enter",
    "carbon_plugin.monitor.monitor:CarbonMonitor._start",
    "carbon_plugin.monitor.monitor:CarbonMonitor._close",
    "carbon_plugin.monitor.work:MonitorWork.submit",
    "carbon_plugin.detect.live:FirstStep.__init__",
    "carbon_plugin.detect.live:FirstStep.look",
    "carbon_plugin.detect.live:read_all",
    "carbon_plugin.detect.live:complete_layout",
    "carbon_plugin.detect.live:detect_model",
    "carbon_plugin.detect.live:computing_gpus",
    "carbon_plugin.detect.batch:BatchWatch._see",
    "carbon_plugin.monitor.loops.loop:distributed_place",
    # on the monitor thread
    "carbon_plugin.monitor.thread:MonitorThread._next_edge_s",
    "carbon_plugin.monitor.ledgers.place:agree_run",
    "carbon_plugin.monitor.node.work:look_at_hardware",
    "carbon_plugin.monitor.node.baseline:Baseline.from_start",
    "carbon_plugin.monitor.node.duty:Duty.decide",
    "carbon_plugin.monitor.node.recording:open_host_meters",
    "carbon_plugin.monitor.ledgers.place:LedgerWriter.__init__",
    "carbon_plugin.monitor.node.work:NodeWork.take",
    "carbon_plugin.monitor.processes.leader:Election.take",
    "carbon_plugin.monitor.processes.leader:Election.claim",
    "carbon_plugin.monitor.context:resolve",
    "carbon_plugin.monitor.context:resolve_factors",
    "carbon_plugin.monitor.context:predict_step",
    "carbon_plugin.meters.open:MeterSet.read",
    "carbon_plugin.meters.open:MeterSet.close",
    "carbon_plugin.ledger.writer:LedgerWriter.write",
    "carbon_plugin.ledger.writer:LedgerWriter.close",
    "carbon_plugin.monitor.node.recorder:cut",
    "carbon_plugin.monitor.node.lead:energies",
    "carbon_plugin.monitor.node.recorder:NodeRecorder.close",
    "carbon_plugin.monitor.node.spans:SpanTracker.observe",
    "carbon_plugin.monitor.ledgers.file_totals:FileTotals.add",
    "carbon_plugin.monitor.run.follower:LedgerFollower.poll",
    "carbon_plugin.monitor.run.projector:run_totals",
    "carbon_plugin.monitor.run.projection:central_carbon",
    "carbon_plugin.monitor.run.projector:metrics_of",
    "carbon_plugin.monitor.clock:WallClock.adjust",
    # on the thread of a logger, or for one
    "carbon_plugin.monitor.work:row_of",
    "carbon_plugin.sinks.delivery:Delivery.start",
    "carbon_plugin.sinks.delivery:Delivery.put",
    "carbon_plugin.sinks.delivery:Delivery.close",
    "carbon_plugin.sinks.files:cells_of",
)

BESIDE = (
    "FirstStep.look",
    "NodeWork.take",
    "SpanTracker.observe",
    "LedgerFollower.poll",
    "run_totals",
    "central_carbon",
    "metrics_of",
    "row_of",
    "Delivery.start",
    "Delivery.put",
    "cells_of",
)
"""The faults beside which the energy is recorded on."""


class Warnings(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def await_fault(run_dir: Path) -> None:
    """Wait until the ledger holds three windows and a fault, which a busy machine may take longer for than the loop."""
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        written = b"".join(file.read_bytes() for file in ledger_files(run_dir)) if run_dir.is_dir() else b""
        if written.count(b'"type":"window"') > 2 and b'"kind":"fault"' in written:
            return
        time.sleep(0.02)


def train(run_dir: Path | None, *, beside: bool = False) -> list[float]:
    """Train with dropout and a data order from the global random state, and return exact losses.

    With `beside`, the fault is in a part beside which the energy is recorded on.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(32, 16), nn.Dropout(0.2), nn.Linear(16, 32))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    carbon = None
    if run_dir is not None:
        carbon = watch(model, optimizer, site="FRA", run_dir=run_dir, total_steps=50, log="csv", **FAST)
    losses = []
    for step in range(STEPS):
        tokens = torch.randint(32, (4, 8))
        loss = nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        time.sleep(STEP_S)
        if carbon is not None and step == STEPS // 2:
            with carbon.phase("evaluation"):
                time.sleep(STEP_S)
            carbon.metrics()
    if carbon is not None:
        if beside:
            await_fault(run_dir)
        carbon.close()
    assert not model._forward_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    return losses


def boom(*_: Any, **__: Any) -> None:
    raise RuntimeError("injected")


def broken(fault: str) -> Any:
    module, _, path = fault.partition(":")
    owner: Any = import_module(module)
    *outer, name = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    return patch.object(owner, name, boom)


def ledger_of(run_dir: Path) -> dict[str, Any]:
    files = read_run(run_dir).files if run_dir.is_dir() and ledger_files(run_dir) else []
    records = [record for file in files for record in file.records]
    return {
        "intact": all(file.intact for file in files),
        "windows": sum(isinstance(record, Window) for record in records),
        "faults": [r.message for r in records if isinstance(r, Event) and r.kind in ("fault", "not_detected")],
        "closes": [record.reason for record in records if isinstance(record, Close)],
    }


def main(folder: Path) -> None:
    be_patient()
    warnings = Warnings()
    logging.getLogger("carbon_plugin").addHandler(warnings)
    print(json.dumps({"fault": None, "losses": train(None)}))
    for number, fault in enumerate(("", *FAULTS)):
        warnings.lines.clear()
        run_dir = folder / str(number)
        if fault:
            with broken(fault):
                losses = train(run_dir, beside=fault.rpartition(":")[2] in BESIDE)
        else:
            losses = train(run_dir)
        row = {"fault": fault, "losses": losses, "warnings": list(warnings.lines), **ledger_of(run_dir)}
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
