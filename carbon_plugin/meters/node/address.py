"""Parse the address of a node or facility meter, a URL-like string, and check it before training. Nothing is opened
here.

Examples are `redfish://bmc7/redfish/v1/Chassis/1`, `ipmi`, `pm_counters`, `slurm`,
`prometheus+http://host:9090/?query=...` and `csv:///var/log/power.csv?column=node_w`; docs/meters.md lists them. An
address never holds credentials: they come from the environment, so that no ledger and no process list shows them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal
from urllib.parse import parse_qsl, urlsplit

from msgspec import Struct

from carbon_plugin.errors import SpecError
from carbon_plugin.spec.parsing.names import unknown_name

VARIABLE = "CARBON_PLUGIN_NODE_METER"
"""The environment variable that holds the address where the caller names none."""

Covers = Literal["node", "facility"]
AddressKind = Literal["redfish", "ipmi", "pm_counters", "slurm", "prometheus", "csv"]

_COMMON = {"covers", "share"}
_TLS = {"ca", "verify"}
_OPTIONS: dict[AddressKind, set[str]] = {
    "redfish": _COMMON | _TLS,
    "ipmi": _COMMON,
    "pm_counters": _COMMON,
    "slurm": _COMMON,
    "prometheus": _COMMON | _TLS | {"query", "unit"},
    "csv": _COMMON | {"column", "time", "unit"},
}
_NEEDED: dict[AddressKind, str] = {"prometheus": "query", "csv": "column"}
_BY_HTTP = ("redfish", "prometheus")


class NodeAddress(Struct, frozen=True, kw_only=True):
    """One instance holds a checked address.

    `host` is empty for a meter on this machine; `secure` is whether TLS is used, which only "+http" switches off.
    `covers` says what the meter contains: this node, or a facility of which the job has `share`.
    """

    kind: AddressKind
    host: str = ""
    port: int | None = None
    secure: bool = True
    path: str = ""
    covers: Covers = "node"
    share: float = 1.0
    options: Mapping[str, str] = {}

    @property
    def shown(self) -> str:
        """Return the address as it may be shown, without its options: the kind of service, its host and the path."""
        return f"{self.kind} {self.host}{f':{self.port}' if self.port else ''}{self.path}".strip()


def parse_address(text: str) -> NodeAddress:
    """Return a checked address. Raises `SpecError` that names what is wrong with it and repeats no credentials."""
    scheme, _, rest = text.strip().partition("://")
    name, _, transport = scheme.partition("+")
    kind = next((known for known in _OPTIONS if known == name), None)
    if kind is None:
        raise unknown_name("node_meter", name.partition(":")[0], list(_OPTIONS))
    if transport and not (transport == "http" and kind in _BY_HTTP):
        raise SpecError(f"node_meter: {scheme}:// is not known, expected {kind}://")
    try:
        parts = urlsplit(f"//{rest}")
        port = parts.port
    except ValueError as error:
        raise SpecError(f"node_meter: the address after {scheme}:// cannot be read: {error}") from None
    if parts.username is not None or parts.password is not None:
        raise SpecError(
            f"node_meter: the {kind} address holds credentials; give them in {VARIABLE}_USER and {VARIABLE}_PASSWORD"
        )
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    for option in options:
        if option not in _OPTIONS[kind]:
            raise unknown_name(f"node_meter option of {kind}", option, sorted(_OPTIONS[kind]))
    address = NodeAddress(
        kind=kind,
        host=parts.hostname or "",
        port=port,
        secure=transport != "http",
        path=parts.path.rstrip("/"),
        covers=_covers(options),
        share=_share(options),
        options=options,
    )
    _check(address)
    return address


def chosen_address(stated: str | None, environ: Mapping[str, str]) -> NodeAddress | None:
    """Return the address that the caller states, else that of the environment, else None. Raises as `parse_address`."""
    text = stated or environ.get(VARIABLE, "")
    return parse_address(text) if text else None


def _covers(options: Mapping[str, str]) -> Covers:
    value = options.get("covers", "node")
    if value == "node":
        return "node"
    if value == "facility":
        return "facility"
    raise SpecError(f"node_meter: covers is {value!r}, expected node or facility")


def _share(options: Mapping[str, str]) -> float:
    text = options.get("share", "1")
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 < share <= 1:
        raise SpecError(f"node_meter: share is {text!r}, expected a number above 0 and at most 1")
    return share


def _check(address: NodeAddress) -> None:
    kind, options = address.kind, address.options
    if kind in _BY_HTTP and not address.host:
        raise SpecError(f"node_meter: {kind} needs a host, as in {kind}://host")
    if kind == "csv" and not address.path:
        raise SpecError("node_meter: csv needs a file, as in csv:///var/log/power.csv?column=node_w")
    needed = _NEEDED.get(kind)
    if needed is not None and not options.get(needed):
        raise SpecError(f"node_meter: {kind} needs {needed}=")
    if options.get("unit", "W") not in ("W", "J"):
        raise SpecError(f"node_meter: unit is {options['unit']!r}, expected W (power) or J (an energy counter)")
    if options.get("verify", "yes") not in ("yes", "no"):
        raise SpecError(f"node_meter: verify is {options['verify']!r}, expected yes or no")
    if "share" in options and address.covers == "node":
        raise SpecError("node_meter: share is for covers=facility; the job's share of a node is found out by itself")
    if address.covers == "facility" and "share" not in options:
        raise SpecError("node_meter: covers=facility needs share=, the part of its energy that is the job's")
