"""Define the tree of errors, one type a layer. Every message carries names and numbers and fits one line."""

from __future__ import annotations

from carbon_plugin.printable import one_line


class CarbonPluginError(Exception):
    """Base of every error that this package raises on purpose. Its message is one line, whatever was put into it."""

    def __init__(self, message: str = "") -> None:
        super().__init__(one_line(message))


class SpecError(CarbonPluginError, ValueError):
    """A spec, profile or flag holds a value that cannot be used."""


class InfeasibleLayoutError(SpecError):
    """A parallelism layout breaks a rule of the model, the cluster or the memory."""


class PrecisionError(SpecError):
    """A device has no units for the precision of a training. The message says which precisions it has."""


class FootprintError(CarbonPluginError, ValueError):
    """A zone, factor or basis for carbon accounting is unknown or does not fit."""


class WatchError(CarbonPluginError, TypeError):
    """A script handed over something to be watched that is no model, optimizer, scheduler or logger. The message says
    what is expected.
    """


class MeterError(CarbonPluginError):
    """A device could not be read; the message says which, and what the driver answered."""


class LedgerError(CarbonPluginError):
    """A ledger could not be written, read or verified."""


class StorageError(LedgerError):
    """The file system refuses: it is full, read-only, over a quota or gone. A later try may succeed."""


class ReportError(CarbonPluginError):
    """A report or an export cannot be made from the record of a run. The message says what is missing."""


class FleetError(CarbonPluginError):
    """A store of a fleet could not be read or written, or a report of it cannot be made."""
