"""Define the sources of a node's power. A source answers one sample at a time, or says why it cannot.

A source may block, but never longer than its deadline, and only the thread of its own meter asks it. See
`meters.node.meter`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

from msgspec import Struct

from carbon_plugin.errors import MeterError
from carbon_plugin.meters.node.address import VARIABLE

DEADLINE_S = 3.0
"""The longest time in seconds for one answer: service processors answer within one to two seconds."""

FaultCode = Literal[
    "unreachable", "refused", "not_supported", "permission", "malformed", "implausible", "stale", "error"
]


class SourceError(MeterError):
    """A source gave no sample; `code` is the class of failure. The message holds no credentials and no answer."""

    def __init__(self, message: str, code: FaultCode) -> None:
        super().__init__(message)
        self.code: FaultCode = code


class NodeAnswer(Struct, frozen=True):
    """One instance holds an answer: joules on a counter that only grows, watts, or both."""

    counter_j: float | None = None
    power_w: float | None = None


class NodeSource(Protocol):
    """A source answers what a node draws. `poll_s` is how often in seconds it is useful to ask it."""

    poll_s: float

    def ask(self, deadline_s: float) -> NodeAnswer:
        """Return the answer of this moment, within about `deadline_s` seconds. Raises `SourceError`."""
        ...


class Credentials(Struct, frozen=True):
    """One instance holds user, password and token, which come from the environment only. Its representation
    hides them.
    """

    user: str | None = None
    password: str | None = None
    token: str | None = None

    def __repr__(self) -> str:
        return "Credentials(...)"


def read_credentials(environ: Mapping[str, str]) -> Credentials:
    """Return user, password and token of the node meter, each None where its variable is not set."""
    return Credentials(*(environ.get(f"{VARIABLE}_{name}") for name in ("USER", "PASSWORD", "TOKEN")))
