"""Trains with Lightning Fabric in two processes, bare and then under measurement: `fabric.py NAME RUN_DIR`."""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.fabric.loggers import CSVLogger
from loops import ACCUMULATED, ARGUMENTS, FOLDER, STEPS, WIDTH, end, net, traces_noted

from carbon_plugin.integrations.fabric import watch


def train(fabric: Fabric, measured: bool) -> tuple[Any, list[float]]:
    torch.manual_seed(0)
    plain = net()
    model, optimizer = fabric.setup(plain, torch.optim.AdamW(plain.parameters(), lr=1e-3))
    losses = []
    carbon: Any = watch(fabric, model, optimizer, **ARGUMENTS) if measured else nullcontext()
    with traces_noted(fabric=fabric, model=model, optimizer=optimizer), carbon:
        for number in range(STEPS * ACCUMULATED):
            accumulates = number % ACCUMULATED == 0
            with fabric.no_backward_sync(model, enabled=accumulates):
                loss = model(torch.randn(2, WIDTH)).square().mean()
                fabric.backward(loss)
            losses.append(loss.item())
            if not accumulates:
                optimizer.step()
                optimizer.zero_grad()
                time.sleep(0.05 if measured else 0.0)
            if number == STEPS:
                fabric.save(FOLDER / f"{measured}.ckpt", {"model": model, "optimizer": optimizer})
    return carbon, losses


def main() -> None:
    fabric = Fabric(accelerator="cpu", devices=2, precision="bf16-mixed", loggers=[CSVLogger(FOLDER, name="csv")])
    fabric.launch()
    _, bare = train(fabric, measured=False)
    carbon, measured = train(fabric, measured=True)
    fabric.loggers[0].save()
    rows = [path.read_text().splitlines()[0].split(",") for path in (FOLDER / "csv").rglob("metrics.csv")]
    end(carbon, [name for row in rows for name in row], [bare, measured])


if __name__ == "__main__":
    main()
