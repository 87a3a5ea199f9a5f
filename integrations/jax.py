"""JAX loops: `with watch_jax(site="FRA") as carbon:` around the loop, and `carbon.step()` after each update.

JAX has neither optimizers with hooks nor modules, so that steps are told by the script, and model and layout by
`planned=`, `model_spec=` and `layout=`. torch is not imported. JAX runs ahead of the device: a step is counted when it
has been dispatched, so that single steps mean little and windows of seconds are right.
"""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Self, Unpack

from carbon_plugin.monitor.documented import with_arguments
from carbon_plugin.monitor.monitor import CarbonMonitor
from carbon_plugin.monitor.ranks import Ranks, ranks_from_environ
from carbon_plugin.monitor.settings import MonitorArguments

__all__ = ["JaxCarbon", "watch_jax"]


@with_arguments
def watch_jax(*, processes_per_node: int = 1, **arguments: Unpack[MonitorArguments]) -> JaxCarbon:
    """Measure a JAX training, from now until the block or the program ends. Call it after `jax.distributed.initialize`.

    Args:
        processes_per_node (int, default 1): Processes of the job on one host, because JAX does not tell. A launcher
            that sets RANK and LOCAL_RANK, and SLURM, tell it by themselves.
        **arguments: Those of `MonitorArguments`.

    Returns:
        The loop under measurement: a context manager with `step()`, `phase(name)`, `metrics()` and `close()`.

    Raises:
        CarbonPluginError: An argument cannot be used. Nothing is raised afterwards.
    """
    return JaxCarbon(processes_per_node=processes_per_node, **arguments)


class JaxCarbon:
    """A JAX loop under measurement. The script counts its steps."""

    def __init__(self, *, processes_per_node: int = 1, **arguments: Unpack[MonitorArguments]) -> None:
        self.monitor = CarbonMonitor(ranks=_ranks(processes_per_node), **arguments)
        found = {name: getattr(sys.modules.get(name), "__version__", None) for name in ("jax", "flax", "optax")}
        versions = {name: str(version) for name, version in found.items() if version is not None}
        self.monitor.start(versions={"python": sys.version.split()[0], **versions}, end=self.close)

    def step(self, tokens: int | None = None) -> None:
        """Count an update that has been dispatched.

        Args:
            tokens: Tokens that the whole job processed in it. Default: None, where they do not vary or nobody knows.
        """
        self.monitor.step_end(tokens)

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Count a block that does not train as a phase, so that its time is not taken for step time.

        Args:
            name: "evaluation", "checkpoint", "data_wait", or a name of your own such as "rollout" (16 at most).

        Returns:
            A context manager. The phase before it goes on after it.
        """
        return self.monitor.phase(name)

    def metrics(self) -> dict[str, float]:
        """Return the latest `carbon/*` figures. They are empty on ranks other than 0 and before the first window."""
        return self.monitor.metrics()

    def close(self, reason: str = "closed") -> None:
        """Write the last window and the closing record. The end of the block and of the program do this too.

        Args:
            reason: What the closing record says. Default: "closed".
        """
        self.monitor.close(reason)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close("closed" if kind is None else f"exception: {kind.__name__}")


def _ranks(processes_per_node: int) -> Ranks:
    """Return the place of this process as the environment tells it, else as `jax.distributed` was told.

    The public functions of JAX would start its backends here, and wait for all processes.
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
