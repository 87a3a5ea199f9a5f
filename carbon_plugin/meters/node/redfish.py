"""Read a node's power from its service processor over Redfish: from EnvironmentMetrics, else the older Power resource.

Its energy in joules is read too. Its energy in kWh is not: that steps by 0.001 to 1 kWh, which is far more than a
window.
"""

from __future__ import annotations

import re

from msgspec import Struct, field

from carbon_plugin.meters.node.address import NodeAddress
from carbon_plugin.meters.node.http import JsonService
from carbon_plugin.meters.node.source import Credentials, NodeAnswer, SourceError

_CHASSIS = "/redfish/v1/Chassis"
_MOST_CHASSIS = 16

_PART = re.compile(r"sub-?\s?system|cpu|proc|mem|dimm|gpu|accel|fan|stor|drive|pcie|board|tray|riser", re.IGNORECASE)
_WHOLE = re.compile(r"system|server|chassis|node|total|input", re.IGNORECASE)
"""The patterns of words in the name of a power control that make it a part, or the whole, of a chassis."""


class _Sensor(Struct):
    reading: float | None = field(default=None, name="Reading")


class _Environment(Struct):
    power: _Sensor | None = field(default=None, name="PowerWatts")
    energy: _Sensor | None = field(default=None, name="EnergyJoules")


class _PowerControl(Struct):
    consumed_w: float | None = field(default=None, name="PowerConsumedWatts")
    name: str | None = field(default=None, name="Name")


class _Power(Struct):
    controls: list[_PowerControl] = field(default_factory=list, name="PowerControl")


class _Link(Struct):
    path: str = field(name="@odata.id")


class _Collection(Struct):
    members: list[_Link] = field(default_factory=list, name="Members")


class RedfishSource:
    """The source asks one chassis of a Redfish service: the one in the address, else the only one that
    tells its power.
    """

    poll_s = 5.0

    def __init__(self, address: NodeAddress, credentials: Credentials) -> None:
        self._service = JsonService(address, credentials, token_header="X-Auth-Token")
        self._shown = address.shown
        self._chassis = address.path or None

    def ask(self, deadline_s: float) -> NodeAnswer:
        """Return the power of the chassis and, where there is one, its energy counter. Raises `SourceError` without a
        power.
        """
        if self._chassis is None:
            self._chassis = self._find_chassis(deadline_s)
        found = self._ask(self._chassis, deadline_s)
        if found is None:
            raise SourceError(f"{self._shown}: {self._chassis} tells no power", "not_supported")
        return found

    def _find_chassis(self, deadline_s: float) -> str:
        members = self._service.ask(_CHASSIS, _Collection, deadline_s).members[:_MOST_CHASSIS]
        telling, refused = [], []
        for path in (link.path.rstrip("/") for link in members):
            try:
                telling += [path] if self._ask(path, deadline_s) is not None else []
            except SourceError as error:
                if error.code != "not_supported":
                    raise
                refused.append(str(error))
        if len(telling) != 1:
            names = ", ".join(telling) or "none"
            told = f"{self._shown}: {len(telling)} chassis tell their power ({names}); name one in the address"
            raise SourceError("; ".join([told, *refused]), "not_supported")
        return telling[0]

    def _ask(self, chassis: str, deadline_s: float) -> NodeAnswer | None:
        """Return what a chassis tells by the newer or the older resource, or None if it has neither."""
        try:
            environment = self._service.ask(f"{chassis}/EnvironmentMetrics", _Environment, deadline_s)
            power_w = environment.power.reading if environment.power else None
            if power_w is not None:
                return NodeAnswer(environment.energy.reading if environment.energy else None, power_w)
        except SourceError as error:
            if error.code != "not_supported":
                raise
        try:
            controls = self._service.ask(f"{chassis}/Power", _Power, deadline_s).controls
        except SourceError as error:
            if error.code != "not_supported":
                raise
            return None
        return self._whole(chassis, controls)

    def _whole(self, chassis: str, controls: list[_PowerControl]) -> NodeAnswer | None:
        """Return the power of the control that is for the whole chassis: the first one, or another with such a name.

        Others are for parts of it (processors, memory, boards), which must not be taken for the node. Raises
        `SourceError` if no control is for the whole.
        """
        if not controls:
            return None
        for position, control in enumerate(controls):
            name = control.name or ""
            whole = not _PART.search(name) and (position == 0 or _WHOLE.search(name))
            if whole and control.consumed_w is not None:
                return NodeAnswer(None, control.consumed_w)
        names = ", ".join(control.name or f"number {position}" for position, control in enumerate(controls))
        raise SourceError(
            f"{self._shown}: no power control of {chassis} tells the power of the whole node (there are {names})",
            "not_supported",
        )
