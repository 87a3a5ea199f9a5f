"""Define the sums over one ledger file, and what must be known of the other files of its run to make them."""

from __future__ import annotations

import math

import msgspec
from msgspec import Struct

from carbon_plugin.audit.tally.account.rework import Stalls
from carbon_plugin.audit.tally.sums.spans import SpanSums
from carbon_plugin.audit.tally.timeline.in_force import GridTally
from carbon_plugin.footprint.values import Factors
from carbon_plugin.ledger.held.counted_steps import CountedSteps
from carbon_plugin.ledger.held.holdings import SharedTime
from carbon_plugin.ledger.records import Manifest
from carbon_plugin.spec.metered import DeviceIdentity


class FileContext(Struct, frozen=True, kw_only=True):
    """One instance holds what must be known of the other files of a run before one file is added up.

    `order` is the position of the file by its start. `launch` is the number of its launch of the whole job.
    `resumed_at_step` is the last step that earlier launches had reached when this one began. `clock_offset_s` says by
    how many seconds the clock of its node was ahead of that of rank 0. `spans` says whether its comparison spans
    represent the run. `copied` says that the file is a copy of another one, whose records enter no sum.
    """

    order: int
    launch: int = 0
    resumed_at_step: int = 0
    clock_offset_s: float = 0.0
    spans: bool = False
    copied: bool = False


class FilePass(Struct):
    """The sums over one file. `factors` are those of its manifest. They apply to windows that state none."""

    file: str
    manifest: Manifest
    context: FileContext
    end_unix_s: float
    grid: GridTally
    stalls: Stalls
    factors: Factors | None = None
    followed_until_s: float = -math.inf
    steps: int = 0
    tokens: int = 0
    last_step: int = 0
    redone_steps: int = 0
    closed: str | None = None
    spans: SpanSums | None = None
    short_spans: SpanSums | None = None
    counted: CountedSteps = msgspec.field(default_factory=CountedSteps)
    shared: SharedTime = msgspec.field(default_factory=SharedTime)

    @property
    def extent(self) -> tuple[float, float]:
        """Return the start and the end of the file, Unix s by the clock of rank 0."""
        offset_s = self.context.clock_offset_s
        return self.manifest.started_unix_s - offset_s, self.end_unix_s - offset_s


class SeenDevice(Struct):
    """A device as its manifest describes it, with the host on which it was last seen and the notes of its meter.

    `order` is that of the file that named it first.
    """

    identity: DeviceIdentity
    hostname: str
    order: int
    notes: list[str]
