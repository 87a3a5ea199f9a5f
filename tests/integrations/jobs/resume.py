"""Fifty steps of a plain loop in a run directory, from a checkpoint if there is one: `resume.py RUN_DIR CHECKPOINT`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn

from carbon_plugin.integrations.pytorch import watch

if __name__ == "__main__":
    checkpoint = Path(sys.argv[2])
    torch.manual_seed(0)
    model = nn.Linear(4, 4)
    optimizer = torch.optim.AdamW(model.parameters())
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    with watch(model, optimizer, site="FRA", run_dir=sys.argv[1], tokens_per_step=10):
        for _ in range(50):
            optimizer.zero_grad()
            model(torch.ones(2, 4)).sum().backward()
            optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, checkpoint)
