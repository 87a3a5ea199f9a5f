"""Trains with JAX, bare and measured: `jax_loop.py RUN_DIR PROCESS PROCESSES PORT`. torch is never imported."""

from __future__ import annotations

import sys
import time
from contextlib import nullcontext
from typing import Any

import jax
import jax.numpy as jnp
from telling import tell

from carbon_plugin.integrations.jax import watch_jax
from carbon_plugin.monitor.settings.options import MonitorOptions

RUN_DIR, PROCESS, PROCESSES, PORT = sys.argv[1], *map(int, sys.argv[2:])
STEPS = 12


@jax.jit
def update(weights: jax.Array, batch: jax.Array) -> tuple[jax.Array, jax.Array]:
    loss, slope = jax.value_and_grad(lambda w: jnp.square(batch @ w).mean())(weights)
    return weights - 0.1 * slope, loss


def train(measured: bool) -> list[str]:
    weights, losses = jax.random.normal(jax.random.key(0), (8, 4)), []
    options = MonitorOptions(min_window_s=0.1)
    arguments: dict[str, Any] = {"run_dir": RUN_DIR, "window_s": 0.2, "options": options, "processes_per_node": 2}
    session = watch_jax(site="FRA", total_steps=20, **arguments) if measured else nullcontext()
    with session as carbon:
        for step in range(STEPS):
            weights, loss = update(weights, jax.random.normal(jax.random.key(step), (16, 8)))
            losses.append(float(loss).hex())
            if measured:
                carbon.step(tokens=32)
                time.sleep(0.05)
        if measured:
            with carbon.phase("evaluation"):
                time.sleep(0.2)
    return losses


if __name__ == "__main__":
    jax.distributed.initialize(f"localhost:{PORT}", num_processes=PROCESSES, process_id=PROCESS)
    bare, measured = train(measured=False), train(measured=True)
    tell("LOSSES", [bare, measured, "torch" in sys.modules, jax.process_count()])
