"""Send the totals of node leaders to rank 0's host in datagrams, where the nodes share no directory.

There are no connections, so 2,048 nodes cost rank 0 one socket, and neither side waits for the other. A node that is
not heard of is missing from "n of m" and never blocks anything. The collector is off unless CARBON_PLUGIN_COLLECTOR is
"host:port", the same on all nodes, and CARBON_PLUGIN_RUN_ID is the id of the run, because nothing else makes the nodes
agree on one. A report counts only with the run's key (`monitor.run.key`).
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
from collections.abc import Mapping

from carbon_plugin.errors import SpecError
from carbon_plugin.monitor.ledgers.file_totals import FileTotals
from carbon_plugin.monitor.run.datagram import REPORT_BYTES, pack_report, unpack_report
from carbon_plugin.threads.turns import give_way, worked_s

COLLECTOR_VARIABLE = "CARBON_PLUGIN_COLLECTOR"
RECEIVE_BUFFER_BYTES = 4 << 20
"""The buffer has room for the reports of thousands of nodes between two looks. The kernel may grant less."""
BUDGET_S = 0.35
"""One look takes in reports for at most so many seconds of work. The pauses between its turns come on top."""


class Address(tuple[str, int]):
    """Holds the host and the port of the collector."""


def collector_address(environ: Mapping[str, str] = os.environ) -> Address | None:
    """Return the address that the environment states, or None. Raises `SpecError` for one that is not "host:port"."""
    stated = environ.get(COLLECTOR_VARIABLE)
    if not stated:
        return None
    host, _, port = stated.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise SpecError(f"{COLLECTOR_VARIABLE} is {stated}, expected host:port, as in node-0:29600")
    return Address((host.strip("[]"), int(port)))


class Reporter:
    """Sends the totals of this node's ledger. It never waits, and drops a report that cannot be sent."""

    def __init__(self, address: Address, key: bytes) -> None:
        self._key = key
        family, kind, _, _, target = socket.getaddrinfo(*address, type=socket.SOCK_DGRAM)[0]
        self._target = target
        self._socket = socket.socket(family, kind)
        self._socket.setblocking(False)

    def send(self, file: str, totals: FileTotals) -> None:
        """Send the totals of the ledger so far."""
        record = pack_report(file, totals, self._key)
        if record is not None:
            with contextlib.suppress(OSError):  # full buffer or no network: the next report has all totals
                self._socket.sendto(record, self._target)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class Collector:
    """Receives reports on rank 0, on the stated address and on no other.

    `files` maps the ledgers of other nodes to their totals, as of their last report; there are never more than `most`
    of them. `dropped` counts datagrams that were no report of this run. `host` is the address that it listens on.
    Raises `OSError` when that cannot be bound.
    """

    def __init__(self, address: Address, key: bytes, most: int) -> None:
        self.files: dict[str, FileTotals] = {}
        self.dropped = 0
        self._key = key
        self._most = most
        family, kind, _, _, own = socket.getaddrinfo(*address, type=socket.SOCK_DGRAM)[0]
        self.host = str(own[0])
        self._socket = socket.socket(family, kind)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        try:
            self._socket.bind(own)
        except OSError:
            self._socket.close()
            raise

    @property
    def is_loopback(self) -> bool:
        """Return whether no other host can reach the address."""
        return ipaddress.ip_address(self.host.partition("%")[0]).is_loopback

    def poll(self) -> None:
        """Read the reports that have arrived. A newer report replaces an older one of the same ledger."""
        deadline_s = worked_s() + BUDGET_S
        while worked_s() < deadline_s:
            try:
                record = self._socket.recv(REPORT_BYTES + 1)
            except OSError:  # no more datagrams, or no network
                return
            self._take(record)
            give_way()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _take(self, record: bytes) -> None:
        report = unpack_report(record, self._key)
        if report is None or (report[0] not in self.files and len(self.files) >= self._most):
            self.dropped += 1
            return
        file, totals = report
        known = self.files.get(file)
        if known is None or totals.times.end_s >= known.times.end_s:
            self.files[file] = totals
