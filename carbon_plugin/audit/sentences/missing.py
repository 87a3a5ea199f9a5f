"""List what the total of a run leaves out: parts of the run, and parts that belong to no run."""

from __future__ import annotations

from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.audit.sentences import narrative

NEVER_COUNTED = (
    "The end of life of the hardware, the building, staff, data preparation and the use of the trained model are in no "
    "total of any run."
)


def missing(summary: AuditSummary) -> list[str]:
    """Return a sentence for each thing that is in no total, with the worst first."""
    found = list(narrative.left_out(summary))
    if summary.reconciliation is None:
        found.append(
            "What the scheduler reserved beyond the recorded time is unknown: no account of it was given (--sacct, "
            "--kubernetes)."
        )
    storage = next((rung for rung in summary.ladder if rung.rung == "storage"), None)
    if storage is None or storage.coverage == "absent":
        found.append("Shared storage was neither metered nor modelled.")
    return [*found, NEVER_COUNTED]


def notes(summary: AuditSummary) -> list[str]:
    """Return a sentence for each method of counting and each factor that a reader should know."""
    return [one for one in narrative.warnings(summary) if one not in set(narrative.left_out(summary))]
