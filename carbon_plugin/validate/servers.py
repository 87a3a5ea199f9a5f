"""Fit the host model to published footprints of servers, and predict each server by a fit that has not seen it.

    kg = known parts + board + sockets * socket + GB * dram

`known parts` are those of `host_parts` whose factors come from other sources. The fit takes the least sum of relative
errors, each server counted once, so that a sheet that contradicts the others does not move it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from msgspec import Struct

from carbon_plugin.footprint.embodied import tables
from carbon_plugin.footprint.embodied.bill import host_parts
from carbon_plugin.validate.embodied import bare_host

WITHIN = 0.25
"""The relative error that a prediction of a server should stay within."""

FITTED_PARTS = ("mainboard", "sockets on it", "DRAM")

RATED_POWER_W, NICS = 750.0, 1
"""What no sheet states, assumed for every server: two supplies of this rating, and one NIC."""

# Reweighted least squares reaches the least sum of absolute errors; smaller errors than this weigh alike.
_ROUNDS, _LEAST_ERROR = 60, 0.1


class HostFit(Struct, frozen=True, kw_only=True):
    """The three constants that are fitted, in kgCO2e: a server, a socket and a GB of DRAM."""

    board_kg: float
    socket_kg: float
    dram_kg_per_gb: float

    def predict_kg(self, server: tables.PublishedServer) -> float:
        """Return the kgCO2e of manufacture of a server."""
        return known_kg(server) + float(np.dot(_amounts(server), self._constants()))

    def _constants(self) -> tuple[float, float, float]:
        return self.board_kg, self.socket_kg, self.dram_kg_per_gb


class ServerRow(Struct, frozen=True, kw_only=True):
    """One published server beside its prediction by a fit to all others, in kgCO2e."""

    name: str
    published_kg: float
    predicted_kg: float
    source: str

    @property
    def error(self) -> float:
        """Return predicted over published, minus 1."""
        return self.predicted_kg / self.published_kg - 1

    @property
    def within(self) -> bool:
        """Return whether the prediction is as near as it should be."""
        return abs(self.error) <= WITHIN


@cache
def known_kg(server: tables.PublishedServer) -> float:
    """Return the kgCO2e of the parts of a server whose factors are not fitted."""
    host = bare_host(server.sockets, server.dram_gb, server.ssd_gb, NICS)
    return math.fsum(p.kg.value for p in host_parts(host, RATED_POWER_W, server.disks) if p.name not in FITTED_PARTS)


def fit_hosts(servers: Sequence[tables.PublishedServer]) -> HostFit:
    """Return the constants with the least sum of relative errors over the servers."""
    published = np.array([server.kg for server in servers])
    shares = np.array([_amounts(server) for server in servers]) / published[:, None]
    rest = 1 - np.array([known_kg(server) for server in servers]) / published
    weight = np.ones(len(servers))
    for _ in range(_ROUNDS):
        root = np.sqrt(weight)
        constants = np.linalg.lstsq(shares * root[:, None], rest * root, rcond=None)[0]
        weight = 1 / np.maximum(np.abs(shares @ constants - rest), _LEAST_ERROR)
    board, socket, dram = (float(constant) for constant in constants)
    return HostFit(board_kg=board, socket_kg=socket, dram_kg_per_gb=dram)


def every_server() -> dict[str, tables.PublishedServer]:
    """Return the published servers by name."""
    return {name: server for sheets in tables.published_servers() for name, server in sheets.servers.items()}


def server_rows() -> tuple[ServerRow, ...]:
    """Return every published server with its prediction by a fit to all other servers."""
    servers = every_server()
    rows = []
    for sheets in tables.published_servers():
        for name, server in sheets.servers.items():
            fit = fit_hosts([other for other_name, other in servers.items() if other_name != name])
            predicted = fit.predict_kg(server)
            rows.append(ServerRow(name=name, published_kg=server.kg, predicted_kg=predicted, source=sheets.source))
    return tuple(rows)


def summary_line(rows: Sequence[ServerRow]) -> str:
    """Return how many servers are predicted well, and the median error, in one sentence."""
    within = sum(row.within for row in rows)
    median = float(np.median([abs(row.error) for row in rows]))
    return (
        f"{within} of {len(rows)} servers are within {WITHIN:.0%} of their published footprint, out of sample; "
        f"the median error is {median:.0%}."
    )


def markdown_servers() -> str:
    """Return the rows and their summary as docs/embodied.md shows them."""
    rows = server_rows()
    head = "| server | published, kg | predicted without it, kg | error | within 25 % | source |\n|" + "---|" * 6
    lines = [
        f"| {row.name} | {row.published_kg:,.0f} | {row.predicted_kg:,.0f} | {row.error:+.0%} | "
        f"{'yes' if row.within else '**no**'} | {row.source} |"
        for row in rows
    ]
    return "\n".join([summary_line(rows), "", head, *lines])


def _amounts(server: tables.PublishedServer) -> tuple[float, float, float]:
    """Return of how many servers, sockets and GB of DRAM a server is made."""
    return 1.0, float(server.sockets), server.dram_gb
