"""`carbon-plugin agent`: export the GPUs of a node and the runs on it to Prometheus, for as long as it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from carbon_plugin.cli.options import Option
from carbon_plugin.cli.terminal import echo
from carbon_plugin.sinks.metrics.exporter import DEFAULT_PORT, LOOPBACK


def agent(
    run_dir: Annotated[
        list[Path] | None, Option("Run directory, or a directory with runs directly below it. Repeatable.")
    ] = None,
    address: Annotated[str, Option("Address to answer at; 0.0.0.0 for all.")] = LOOPBACK,
    port: Annotated[int, Option("Port to answer at.")] = DEFAULT_PORT,
    label: Annotated[list[str] | None, Option("NAME=VALUE on every metric. Repeatable.")] = None,
    interval: Annotated[float, Option("Seconds between two readings.")] = 10.0,
    node_meter: Annotated[str | None, Option("Meter of the whole node, for instance redfish://bmc7 or ipmi.")] = None,
    once: Annotated[bool, Option("Print the metrics once and leave.")] = False,
) -> None:
    """Export every GPU of this node and every run that goes on here, at http://ADDRESS:PORT/metrics."""
    import os
    import signal
    import threading

    from carbon_plugin.errors import CarbonPluginError
    from carbon_plugin.monitor.agent.agent import NodeAgent
    from carbon_plugin.monitor.agent.devices import NodeDevices
    from carbon_plugin.sinks.choose import KINDS, is_installed
    from carbon_plugin.sinks.metrics.exporter import Endpoint, Exporter, check_labels
    from carbon_plugin.sinks.metrics.exposition import Exposition, as_text

    if not is_installed(KINDS["prometheus"].package):
        raise CarbonPluginError(f"agent: prometheus_client is not installed: pip install {KINDS['prometheus'].install}")
    if not interval > 0:
        raise CarbonPluginError(f"--interval: {interval:g} s, expected more than 0")
    if not 0 <= port <= 65535:
        raise CarbonPluginError(f"--port: {port}, expected 0 to 65535")
    missing = [str(place) for place in run_dir or () if not place.is_dir()]
    if missing:
        raise CarbonPluginError(f"--run-dir: {', '.join(missing)}: no such directory; create it, or leave it out")
    labels = dict(_label(one) for one in label or ())
    check_labels(labels, "--label")
    devices = NodeDevices(node_meter, os.environ)
    try:
        if once:
            exposition = Exposition(labels)
            NodeAgent(exposition, devices, run_dir or (), interval_s=interval).tick()
            echo(as_text(exposition), end="")
            return
        try:
            exporter = Exporter(Endpoint(address=address, port=port, labels=labels))
        except OSError as error:
            raise CarbonPluginError(
                f"--address {address} --port {port}: cannot be listened at ({error.strerror or error}): state another"
            ) from error
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        echo(f"metrics at http://{address}:{exporter.port}/metrics")
        NodeAgent(exporter.exposition, devices, run_dir or (), interval_s=interval).run(stop)
        exporter.close()
    finally:
        devices.close()


def _label(text: str) -> tuple[str, str]:
    from carbon_plugin.errors import CarbonPluginError

    name, equals, value = text.partition("=")
    if not equals:
        raise CarbonPluginError(f"--label: {text!r}, expected NAME=VALUE")
    return name, value
