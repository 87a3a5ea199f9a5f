"""Measure Lightning Fabric: `with watch(fabric, model, optimizer, site="FRA") as carbon:` after `fabric.setup`.

It counts the steps of the optimizer inside, not the micro-batches that only accumulate gradients, marks `fabric.save`,
and writes `carbon/*` to the loggers of the Fabric object. Fabric has no hooks for evaluation: write
`with carbon.phase("evaluation"):` around it. It works with `lightning.fabric` and with `lightning_fabric`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

from carbon_plugin.monitor.loops.loop import TrainingLoop
from carbon_plugin.monitor.ranks import Ranks
from carbon_plugin.monitor.settings.arguments import MonitorArguments
from carbon_plugin.monitor.settings.documented import with_arguments

if TYPE_CHECKING:
    from torch import nn

__all__ = ["FabricCarbon", "watch"]


@with_arguments
def watch(
    fabric: Any, model: nn.Module | Sequence[nn.Module], optimizer: Any, **arguments: Unpack[MonitorArguments]
) -> FabricCarbon:
    """Measure the training of a model and an optimizer that Fabric has set up, until the block or the program ends.

    Args:
        fabric (lightning.fabric.Fabric): The object that set them up.
        model (nn.Module | list of nn.Module): The model as `fabric.setup` returned it.
        optimizer (Optimizer | list): The optimizer as `fabric.setup` returned it; of a list, the first one counts.
        **arguments: Those of `MonitorArguments`.

    Returns:
        The loop under measurement: a context manager with `phase(name)`, `metrics()` and `close()`.

    Raises:
        CarbonPluginError: An argument cannot be used. Nothing is raised afterwards.
    """
    return FabricCarbon(fabric, model, optimizer, **arguments)


class FabricCarbon(TrainingLoop):
    """The loop of a model that Fabric has set up, under measurement."""

    def __init__(
        self,
        fabric: Any,
        model: nn.Module | Sequence[nn.Module],
        optimizer: Any,
        **arguments: Unpack[MonitorArguments],
    ) -> None:
        self._fabric = fabric
        package = type(fabric).__module__.partition(".")[0]
        super().__init__(model, optimizer, framework=fabric, package=package, ranks=_ranks(fabric), **arguments)

    def _attach(self) -> None:
        super()._attach()
        self.monitor.log_to(self._log)
        self._around(self._fabric, "save", "checkpoint")

    def _log(self, metrics: dict[str, float], step: int) -> None:
        for logger in self._fabric.loggers:
            logger.log_metrics(metrics, step=step)


def _ranks(fabric: Any) -> Ranks:
    """Return the place of this process. Fabric knows it where Fabric itself started the other processes."""
    nodes = max(1, int(getattr(fabric.strategy, "num_nodes", 1)))
    return Ranks(
        rank=fabric.global_rank,
        local_rank=fabric.local_rank,
        world_size=fabric.world_size,
        local_world_size=max(1, fabric.world_size // nodes),
        node=fabric.node_rank,
        nodes=nodes,
    )
