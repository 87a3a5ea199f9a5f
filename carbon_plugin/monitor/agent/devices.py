"""Meter every GPU of this node, and its host, for as long as the agent runs."""

from __future__ import annotations

from collections.abc import Mapping

from carbon_plugin.errors import CarbonPluginError
from carbon_plugin.meters.gpu.driver import Inventory
from carbon_plugin.meters.gpu.open import list_gpus
from carbon_plugin.meters.meter_set import MeterSet
from carbon_plugin.meters.node.address import chosen_address
from carbon_plugin.meters.open import JobPart, KnownHardware, open_meters
from carbon_plugin.meters.protocol import Reading
from carbon_plugin.sinks.row import DeviceFigures
from carbon_plugin.spec.hardware.cluster import Accelerator
from carbon_plugin.spec.hardware.profiles import default_node_for, match_device_name


class NodeDevices:
    """Reads the meters of the whole node. Whatever the environment reserves, all of its GPUs are read.

    `node_meter` is the address of a meter of the whole node, or None for that of the environment. Raises `SpecError`
    for one that cannot be used.
    """

    def __init__(self, node_meter: str | None, environ: Mapping[str, str]) -> None:
        listed = list_gpus()
        gpus = listed.gpus if isinstance(listed, Inventory) else []
        accelerator = _profile(next((gpu.name for gpu in gpus), None))
        self._meters: MeterSet = open_meters(
            JobPart(reserved=[gpu.uuid for gpu in gpus] if gpus else None, host_share=1.0),
            KnownHardware(
                accelerator=accelerator,
                node_profile=default_node_for(accelerator) if accelerator is not None else None,
            ),
            node_address=chosen_address(node_meter, environ),
            environ=environ,
        )
        self._before: dict[str, Reading] = {}

    @property
    def poll_interval_s(self) -> float | None:
        """Return how often the meters must be read, s, or None if they count by themselves."""
        return self._meters.poll_interval_s

    @property
    def hostname(self) -> str:
        """Return the name of this node."""
        return self._meters.host.hostname

    @property
    def host_key(self) -> str:
        """Return the key of this node in ledgers."""
        return self._meters.host.key

    def read(self) -> tuple[DeviceFigures, ...]:
        """Return the energy that each device has used since the agent began, and its power now. A device without
        readings is left out.
        """
        readings = {reading.key: reading for reading in self._meters.read()}
        found = []
        for device in self._meters.devices:
            reading = readings.get(device.key)
            if reading is None or reading.energy_j is None:
                continue
            power_w = reading.power_w if reading.power_w is not None else self._mean_power_w(reading)
            found.append(
                DeviceFigures(
                    key=device.key,
                    name=device.name,
                    rung=device.rung,
                    energy_j=reading.energy_j,
                    power_w=power_w,
                    energy_kind=reading.kind,
                )
            )
        self._before = readings
        return tuple(found)

    def close(self) -> None:
        """Release all devices."""
        self._meters.close()

    def _mean_power_w(self, reading: Reading) -> float:
        """Return the mean power since the reading before, for a device that tells no power itself."""
        before = self._before.get(reading.key)
        if before is None or before.energy_j is None or reading.energy_j is None:
            return 0.0
        lasted_s = reading.monotonic_s - before.monotonic_s
        return max(0.0, reading.energy_j - before.energy_j) / lasted_s if lasted_s > 0 else 0.0


def _profile(name: str | None) -> Accelerator | None:
    try:
        return match_device_name(name) if name is not None else None
    except CarbonPluginError:
        return None
