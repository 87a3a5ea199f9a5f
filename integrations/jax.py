"""Measure JAX loops: `with watch_jax(site="FRA") as carbon:` around the loop, and `carbon.step()` after each update.

JAX has neither optimizers with hooks nor modules. The script therefore reports its steps, and `planned=`, `model_spec=`
and `layout=` describe model and layout. torch is not imported. JAX runs ahead of the device, and a step is counted when
it has been dispatched. Times of single steps therefore mean little, while windows of seconds are right.
"""

from __future__ import annotations

import os
import sys
from typing import Any, Unpack

from carbon_plugin.monitor.loops.measured import MeasuredTraining
from carbon_plugin.monitor.loops.versions import versions_of
from carbon_plugin.monitor.monitor import CarbonMonitor
from carbon_plugin.monitor.ranks import Ranks, ranks_from_environ
from carbon_plugin.monitor.settings.arguments import MonitorArguments
from carbon_plugin.monitor.settings.documented import with_arguments

__all__ = ["JaxCarbon", "watch_jax"]


@with_arguments
def watch_jax(*, processes_per_node: int = 1, **arguments: Unpack[MonitorArguments]) -> JaxCarbon:
    """Measure a JAX training, from now until the block or the program ends. Call it after `jax.distributed.initialize`.

    Args:
        processes_per_node (int, default 1): Processes of the job on one host, because JAX does not tell. A launcher
            that sets RANK and LOCAL_RANK, and SLURM, tell it by themselves.
        **arguments: Those of `MonitorArguments`.

    Returns:
        The loop under measurement: a context manager with `step()`, `phase(name)`, `metrics()`, `should_stop` and
        `close()`.

    Raises:
        CarbonPluginError: An argument cannot be used. Nothing is raised afterwards.
    """
    return JaxCarbon(processes_per_node=processes_per_node, **arguments)


class JaxCarbon(MeasuredTraining):
    """A JAX loop under measurement. The script counts its steps."""

    monitor: CarbonMonitor

    def __init__(self, *, processes_per_node: int = 1, **arguments: Unpack[MonitorArguments]) -> None:
        self.monitor = CarbonMonitor(ranks=_ranks(processes_per_node), **arguments)
        self.monitor.start(versions=versions_of("jax", "flax", "optax"), end=self.close)

    def step(self, tokens: int | None = None) -> None:
        """Count an update that has been dispatched.

        Args:
            tokens: Tokens that the whole job processed in it. Default: None, where they do not vary or nobody knows.
        """
        self.monitor.step_end(tokens)


def _ranks(processes_per_node: int) -> Ranks:
    """Return the place of this process from the environment, or else as `jax.distributed` was told.

    The public functions of JAX are not called, because they would start its backends here and wait for all processes.
    """
    ranks = ranks_from_environ(os.environ)
    state: Any = getattr(sys.modules.get("jax._src.distributed"), "global_state", None)
    rank, world = getattr(state, "process_id", None), getattr(state, "num_processes", None)
    if ranks.world_size > 1 or not isinstance(rank, int) or not isinstance(world, int):
        return ranks
    local = min(max(1, processes_per_node), world)
    return Ranks(
        rank=rank,
        local_rank=rank % local,
        world_size=world,
        local_world_size=local,
        node=rank // local,
        nodes=-(-world // local),
    )
