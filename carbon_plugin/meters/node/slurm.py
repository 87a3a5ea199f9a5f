"""Read a node's power from Slurm's energy accounting: CurrentWatts and ConsumedJoules of `scontrol show node`.

`sstat` and `sacct` are not asked: their ConsumedEnergy is that of a step over all its nodes.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping

from carbon_plugin.meters.node.command import run_command
from carbon_plugin.meters.node.source import NodeAnswer, SourceError

_NO_VALUE = {0, *(2**bits - less for bits in (32, 64) for less in (1, 2))}
"""The numbers that Slurm prints for "infinite" and "no value", in 32 and 64 bits, and the 0 that it prints without a
plugin.
"""


class SlurmSource:
    """The source asks Slurm for this node, under the name that Slurm gives it."""

    poll_s = 10.0

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._node = environ.get("SLURMD_NODENAME") or socket.gethostname().partition(".")[0]
        self._environ = dict(environ)

    def ask(self, deadline_s: float) -> NodeAnswer:
        """Return the counter and the power of the node, as far as the accounting plugin tells them."""
        output = run_command(["scontrol", "--oneliner", "show", "node", self._node], deadline_s, self._environ)
        joules, watts = _number(output, "ConsumedJoules"), _number(output, "CurrentWatts")
        if joules is None and watts is None:
            raise SourceError(
                f"slurm: no energy accounting for {self._node} (AcctGatherEnergyType is not set)", "not_supported"
            )
        return NodeAnswer(joules, watts)


def _number(output: str, name: str) -> float | None:
    """Return a number of the node, or None where no plugin measures it: Slurm then writes 0, "n/s" or its largest
    numbers.
    """
    found = re.search(rf"\b{name}=([0-9]{{1,20}})\b", output)
    return float(found[1]) if found and int(found[1]) not in _NO_VALUE else None
