"""Open the source of a node's power at an address. There is one branch for each kind of source."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from carbon_plugin.meters.node.address import NodeAddress
from carbon_plugin.meters.node.source import NodeSource, read_credentials


def load_source(address: NodeAddress) -> None:
    """Import the module of the source at an address.

    This happens early and on the caller's thread, because the lock of an import that runs on another thread stays
    locked in a child that is forked meanwhile.
    """
    module = "files" if address.kind in ("csv", "pm_counters") else address.kind
    import_module(f"carbon_plugin.meters.node.{module}")


def open_source(address: NodeAddress, environ: Mapping[str, str]) -> NodeSource:
    """Return the source at an address; nothing is asked yet. Raises `SourceError` for what this machine
    does not have.
    """
    if address.kind == "redfish":
        from carbon_plugin.meters.node.redfish import RedfishSource

        return RedfishSource(address, read_credentials(environ))
    if address.kind == "prometheus":
        from carbon_plugin.meters.node.prometheus import PrometheusSource

        return PrometheusSource(address, read_credentials(environ))
    if address.kind == "ipmi":
        from carbon_plugin.meters.node.ipmi import IpmiSource

        return IpmiSource(address, read_credentials(environ), environ)
    if address.kind == "slurm":
        from carbon_plugin.meters.node.slurm import SlurmSource

        return SlurmSource(environ)
    from carbon_plugin.meters.node import files as node_files

    return node_files.CsvSource(address) if address.kind == "csv" else node_files.PmCountersSource(address)
