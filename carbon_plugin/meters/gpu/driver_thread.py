"""Call a GPU driver on a thread of its own, because any of its calls may hang."""

from __future__ import annotations

from carbon_plugin.errors import MeterError
from carbon_plugin.threads.own_thread import Answer as DriverAnswer
from carbon_plugin.threads.own_thread import OwnThread

__all__ = ["DriverAnswer", "DriverBusyError", "DriverThread"]


class DriverBusyError(MeterError):
    """The driver has not answered in time."""


class DriverThread(OwnThread):
    """One instance is the thread that calls one opened driver. `call` raises `DriverBusyError`."""

    def __init__(self) -> None:
        super().__init__("carbon-plugin-driver")

    def busy(self, waited_s: float = 0.0) -> DriverBusyError:
        """Return the error for a driver that has not answered after a wait."""
        return DriverBusyError(f"the driver has not answered for {max(self.busy_s, waited_s):.0f} s")
