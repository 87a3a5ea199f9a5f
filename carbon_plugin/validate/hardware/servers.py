"""Fit the host model to published footprints of servers, and predict each server by fits that have not seen it.

    kg = known parts + board + sockets * socket

`known parts` are those of `host_parts` whose factors come from other sources, DRAM among them. The fit takes the least
sum of relative errors, each server counted once, so that a sheet that contradicts the others does not move it. A server
is predicted twice: by a fit to all others, and by a fit to the sheets of the other manufacturers alone. The second is
the harder test, because most sheets of one manufacturer are much alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cache

import msgspec
import numpy as np
from msgspec import Struct

from carbon_plugin.footprint.embodied import tables
from carbon_plugin.footprint.embodied.bill import BillLine, host_parts
from carbon_plugin.spec.numbers.amounts import percent
from carbon_plugin.spec.numbers.range import Range
from carbon_plugin.validate.hardware.embodied import bare_host, sum_of_parts

WITHIN = 0.25
"""The relative error that a prediction of a server should stay within."""

BOARD, SOCKETS = "mainboard", "sockets on it"
"""The parts whose factors are fitted."""

RATED_POWER_W, NICS = 750.0, 1
"""What no sheet states, assumed for every server: two supplies of this rating, and one NIC."""

# Reweighted least squares reaches the least sum of absolute errors; smaller errors than this weigh alike.
_ROUNDS, _LEAST_ERROR = 60, 0.1


class HostFit(Struct, frozen=True, kw_only=True):
    """The two constants that are fitted, in kgCO2e: a server and a socket."""

    board_kg: float
    socket_kg: float

    def predict_kg(self, server: tables.PublishedServer) -> float:
        """Return the kgCO2e of manufacture of a server."""
        return known_kg(server) + self.board_kg + server.sockets * self.socket_kg

    def range_kg(self, server: tables.PublishedServer) -> Range:
        """Return the prediction with the range that the host model prints around it."""
        fitted = {BOARD: self.board_kg, SOCKETS: server.sockets * self.socket_kg}
        parts = [
            msgspec.structs.replace(part, kg=Range(fitted.get(part.name, part.kg.value), part.kg.low, part.kg.high))
            for part in _parts(server)
        ]
        return sum_of_parts(parts)


class ServerRow(Struct, frozen=True, kw_only=True):
    """One published server, kgCO2e, beside its predictions by all other servers and by other manufacturers' sheets."""

    name: str
    manufacturer: str
    published_kg: float
    predicted_kg: float
    by_others_kg: Range
    source: str

    @property
    def error(self) -> float:
        """Return predicted over published, minus 1."""
        return self.predicted_kg / self.published_kg - 1

    @property
    def error_by_others(self) -> float:
        """Return what the sheets of other manufacturers predict over published, minus 1."""
        return self.by_others_kg.value / self.published_kg - 1

    @property
    def covered(self) -> bool:
        """Return whether the range around the prediction by other manufacturers' sheets holds the published value."""
        return self.by_others_kg.low <= self.published_kg <= self.by_others_kg.high


def within(errors: Iterable[float]) -> int:
    """Return how many relative errors are as small as they should be."""
    return sum(abs(error) <= WITHIN for error in errors)


def known_kg(server: tables.PublishedServer) -> float:
    """Return the kgCO2e of the parts of a server whose factors are not fitted."""
    return math.fsum(part.kg.value for part in _parts(server) if part.name not in (BOARD, SOCKETS))


def fit_hosts(servers: Sequence[tables.PublishedServer]) -> HostFit:
    """Return the constants with the least sum of relative errors over the servers."""
    published = np.array([server.kg for server in servers])
    amounts = np.array([(1.0, float(server.sockets)) for server in servers])
    shares = amounts / published[:, None]
    rest = 1 - np.array([known_kg(server) for server in servers]) / published
    weight = np.ones(len(servers))
    for _ in range(_ROUNDS):
        root = np.sqrt(weight)
        constants = np.linalg.lstsq(shares * root[:, None], rest * root, rcond=None)[0]
        weight = 1 / np.maximum(np.abs(shares @ constants - rest), _LEAST_ERROR)
    board, socket = (float(constant) for constant in constants)
    return HostFit(board_kg=board, socket_kg=socket)


def every_server() -> dict[str, tables.PublishedServer]:
    """Return the published servers by name."""
    return {name: server for sheets in tables.published_servers() for name, server in sheets.servers.items()}


def fits_by_manufacturer() -> dict[str, HostFit]:
    """Return the fit to the sheets of each manufacturer alone."""
    servers: dict[str, list[tables.PublishedServer]] = {}
    for sheets in tables.published_servers():
        servers.setdefault(sheets.manufacturer, []).extend(sheets.servers.values())
    return {manufacturer: fit_hosts(own) for manufacturer, own in servers.items()}


def server_rows() -> tuple[ServerRow, ...]:
    """Return every published server with its prediction by a fit to all others, and by other manufacturers' sheets."""
    every = [(s.manufacturer, s.source, *item) for s in tables.published_servers() for item in s.servers.items()]
    by_others = {
        manufacturer: fit_hosts([server for other, _, _, server in every if other != manufacturer])
        for manufacturer in {manufacturer for manufacturer, *_ in every}
    }
    rows = []
    for manufacturer, source, name, server in every:
        fit = fit_hosts([other for _, _, other_name, other in every if other_name != name])
        rows.append(
            ServerRow(
                name=name,
                manufacturer=manufacturer,
                published_kg=server.kg,
                predicted_kg=fit.predict_kg(server),
                by_others_kg=by_others[manufacturer].range_kg(server),
                source=source,
            )
        )
    return tuple(rows)


def summary_line(rows: Sequence[ServerRow]) -> str:
    """Return how many servers are predicted well, the median error and the coverage of the range, in two sentences."""
    errors, by_others = [row.error for row in rows], [row.error_by_others for row in rows]
    return (
        f"{within(errors)} of {len(rows)} servers are within {percent(WITHIN, 0)} of their published footprint, out "
        "of sample; "
        f"the median error is {percent(_median(errors), 0)}. By the sheets of the other manufacturer alone "
        f"{within(by_others)} are, the median error is {percent(_median(by_others), 0)}, and the printed range holds "
        f"{sum(row.covered for row in rows)} of {len(rows)}."
    )


def markdown_servers() -> str:
    """Return the rows and their summary as docs/embodied.md shows them."""
    rows = server_rows()
    head = (
        "| server | published, kg | predicted without it, kg | error | within 25 % | "
        "by the other manufacturer's sheets, kg (range) | error | in range | source |\n|" + "---|" * 9
    )
    lines = [
        f"| {row.name} | {row.published_kg:,.0f} | {row.predicted_kg:,.0f} | {percent(row.error, 0, signed=True)} | "
        f"{_yes_or_no(abs(row.error) <= WITHIN)} | {row.by_others_kg.value:,.0f} ({row.by_others_kg.low:,.0f} to "
        f"{row.by_others_kg.high:,.0f}) | {percent(row.error_by_others, 0, signed=True)} | {_yes_or_no(row.covered)} "
        f"| {row.source} |"
        for row in rows
    ]
    return "\n".join([summary_line(rows), "", head, *lines])


@cache
def _parts(server: tables.PublishedServer) -> tuple[BillLine, ...]:
    host = bare_host(server.sockets, server.dram_gb, server.ssd_gb, NICS)
    return host_parts(host, RATED_POWER_W, server.disks)


def _median(errors: Sequence[float]) -> float:
    return float(np.median(np.abs(errors)))


def _yes_or_no(word: bool) -> str:
    return "yes" if word else "**no**"
