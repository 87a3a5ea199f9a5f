"""Define when a run raises an alert and where alerts go besides the log and the record of the run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct

from carbon_plugin.errors import SpecError


class AlertFields(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One instance holds the rules of alerts as a configuration file states them.

    Args:
        least: The least relative deviation that counts, for instance 0.1. Default: 0.1.
        sustained: How many spans in a row must deviate. Default: 4; a span is at least ten seconds and ten steps.
        learn: How many spans make the run's own baseline. Default: 8.
        webhook: An http:// or https:// address that alerts are sent to. Default: None.
    """

    least: float = 0.10
    sustained: int = 4
    learn: int = 8
    webhook: str | None = None


class AlertRules(Struct, frozen=True, kw_only=True):
    """One instance says when a deviation of step time or power is an alert, and where alerts go.

    Every alert is logged and is an event of the record. `webhook` gets it as JSON over HTTP, signed with the secret of
    the environment variable CARBON_PLUGIN_WEBHOOK_SECRET if there is one.

    Args:
        least (float, default 0.1): The least relative deviation that counts. A noisy run needs more: four times its own
            spread.
        sustained (int, spans, default 4): How many spans in a row must deviate. A span is at least ten seconds and ten
            steps.
        learn (int, spans, default 8): How many spans make the run's own baseline.
        webhook (str, default None): An http:// or https:// address.
        call (function, default None): A function that is called with each `Alert` on a thread of this package.

    Raises:
        SpecError: A value cannot be used.
    """

    least: float = 0.10
    sustained: int = 4
    learn: int = 8
    webhook: str | None = None
    call: Callable[[Alert], object] | None = None

    def __post_init__(self) -> None:
        number = isinstance(self.least, int | float) and not isinstance(self.least, bool)
        if not (number and 0 < self.least < 10):
            raise SpecError(f"alerts: least is {self.least!r}, expected a relative deviation above 0, such as 0.1")
        for field in ("sustained", "learn"):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 1000:
                raise SpecError(f"alerts: {field} is {value!r}, expected a whole number from 1 to 1000")
        if self.webhook is not None and not _is_address(self.webhook):
            raise SpecError("alerts: webhook is no http:// or https:// address with a host")
        if self.call is not None and not callable(self.call):
            raise SpecError(f"alerts: call is {self.call!r}, expected a function that takes an Alert")

    def document(self) -> dict[str, Any]:
        """Return the rules as plain data. Of the webhook only the host is told, because its path is often a secret."""
        host = urlsplit(self.webhook).hostname if self.webhook else None
        return {"least": self.least, "sustained": self.sustained, "learn": self.learn, "webhook": host}


class Alert(Struct, frozen=True, kw_only=True):
    """One thing that somebody should look at: a kind, a sentence, and the same as data."""

    kind: str
    message: str
    at_unix_s: float
    data: dict[str, Any]


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        _ = parts.port  # this raises for a port that is no number
    except (ValueError, TypeError, AttributeError):
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)
