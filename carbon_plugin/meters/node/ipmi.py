"""Read a node's power from its service processor over IPMI, by the command `ipmitool dcmi power reading`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from carbon_plugin.meters.node.address import VARIABLE, NodeAddress
from carbon_plugin.meters.node.command import run_command
from carbon_plugin.meters.node.source import Credentials, NodeAnswer, SourceError

_WATTS = re.compile(r"Instantaneous power reading:\s*([0-9]{1,18})\s*Watts", re.IGNORECASE)
_OFF = re.compile(r"Power reading state is:\s*deactivated", re.IGNORECASE)


class IpmiSource:
    """The source asks the service processor of this machine, or of `host` over the network.

    User and password come from the environment. `ipmitool` takes the password from a variable, so that no process list
    shows it.
    """

    poll_s = 5.0

    def __init__(self, address: NodeAddress, credentials: Credentials, environ: Mapping[str, str]) -> None:
        self._command = ["ipmitool"]
        self._environ = dict(environ)
        if address.host:
            if credentials.user is None or credentials.password is None:
                raise SourceError(
                    f"{address.shown}: over the network IPMI needs {VARIABLE}_USER and {VARIABLE}_PASSWORD", "refused"
                )
            self._command += ["-I", "lanplus", "-H", address.host, "-U", credentials.user, "-E"]
            self._environ["IPMI_PASSWORD"] = credentials.password
        self._command += ["dcmi", "power", "reading"]

    def ask(self, deadline_s: float) -> NodeAnswer:
        """Return the instantaneous power reading. Raises `SourceError` where there is none."""
        output = run_command(self._command, deadline_s, self._environ)
        watts = _WATTS.search(output)
        if watts is None:
            raise SourceError("ipmitool tells no instantaneous power reading", "malformed")
        if _OFF.search(output):
            raise SourceError("ipmitool says that power reading is deactivated on this machine", "not_supported")
        return NodeAnswer(None, float(watts[1]))
