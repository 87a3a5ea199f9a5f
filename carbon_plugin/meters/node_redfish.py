"""A node's power from its service processor over Redfish: EnvironmentMetrics, else the older Power resource.

Its energy in kWh is not read: it steps by 0.001 to 1 kWh, which is far more than a window. Joules are.
"""

from __future__ import annotations

from msgspec import Struct, field

from carbon_plugin.meters.node_address import NodeAddress
from carbon_plugin.meters.node_http import JsonService
from carbon_plugin.meters.node_source import Credentials, Look, SourceError

_CHASSIS = "/redfish/v1/Chassis"
_MOST_CHASSIS = 16


class _Sensor(Struct):
    reading: float | None = field(default=None, name="Reading")


class _Environment(Struct):
    power: _Sensor | None = field(default=None, name="PowerWatts")
    energy: _Sensor | None = field(default=None, name="EnergyJoules")


class _PowerControl(Struct):
    consumed_w: float | None = field(default=None, name="PowerConsumedWatts")


class _Power(Struct):
    controls: list[_PowerControl] = field(default_factory=list, name="PowerControl")


class _Link(Struct):
    path: str = field(name="@odata.id")


class _Collection(Struct):
    members: list[_Link] = field(default_factory=list, name="Members")


class RedfishSource:
    """One chassis of a Redfish service: the one that the address names, else the only one that tells its power."""

    poll_s = 5.0

    def __init__(self, address: NodeAddress, credentials: Credentials) -> None:
        self._service = JsonService(address, credentials, token_header="X-Auth-Token")
        self._shown = address.shown
        self._chassis = address.path or None

    def look(self, deadline_s: float) -> Look:
        """Power and, where there is one, the energy counter of the chassis."""
        if self._chassis is None:
            self._chassis = self._find_chassis(deadline_s)
        found = self._ask(self._chassis, deadline_s)
        if found is None:
            raise SourceError(f"{self._shown}: {self._chassis} tells no power", "not_supported")
        return found

    def _find_chassis(self, deadline_s: float) -> str:
        members = self._service.ask(_CHASSIS, _Collection, deadline_s).members[:_MOST_CHASSIS]
        telling = [link.path for link in members if self._ask(link.path, deadline_s) is not None]
        if len(telling) != 1:
            names = ", ".join(telling) or "none"
            raise SourceError(
                f"{self._shown}: {len(telling)} chassis tell their power ({names}); name one in the address",
                "not_supported",
            )
        return telling[0]

    def _ask(self, chassis: str, deadline_s: float) -> Look | None:
        """What a chassis tells by the newer or the older resource; None if neither."""
        try:
            environment = self._service.ask(f"{chassis}/EnvironmentMetrics", _Environment, deadline_s)
            power_w = environment.power.reading if environment.power else None
            if power_w is not None:
                return Look(environment.energy.reading if environment.energy else None, power_w)
        except SourceError as error:
            if error.code != "not_supported":
                raise
        try:
            controls = self._service.ask(f"{chassis}/Power", _Power, deadline_s).controls
        except SourceError as error:
            if error.code != "not_supported":
                raise
            return None
        # The first control is the chassis; further ones are parts of it (boards, trays).
        power_w = next((control.consumed_w for control in controls if control.consumed_w is not None), None)
        return None if power_w is None else Look(None, power_w)
