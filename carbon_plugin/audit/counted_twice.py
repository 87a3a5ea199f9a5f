"""Find GPUs that several runs were charged for at the same time, of which sums over these runs count too much.

Trainings that know of each other divide what they share, each by its part. Those that cannot see each other, in two
containers or with two temporary directories, are each charged for the whole. Hosts are not looked at: a run is charged
for its share of one, and several may be right.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.audit.tally.account.reservations import union
from carbon_plugin.ledger.held.claims import TOLERANCE_S
from carbon_plugin.show import wording
from carbon_plugin.spec.numbers.amounts import plural, verb

UNSEEN = "these runs did not see each other, and the sums hold what they shared more than once"
"""Why several runs are charged for the same time of a GPU, and what that does to sums over them."""


def twice_counted(summaries: Sequence[AuditSummary]) -> list[str]:
    """Return a sentence for each group of runs that were charged for more time of a GPU than has passed."""
    holders: dict[str, list[AuditSummary]] = {}
    for summary in summaries:
        for device in summary.devices:
            if device.identity.rung == "gpu":
                holders.setdefault(device.identity.key, []).append(summary)
    excess_s: dict[tuple[str, ...], list[float]] = {}
    for key, runs in holders.items():
        if len(runs) > 1 and (excess := _excess_s(key, runs)) > TOLERANCE_S:
            excess_s.setdefault(tuple(dict.fromkeys(run.run.name for run in runs)), []).append(excess)
    return list(_sentences(excess_s))


def _excess_s(key: str, runs: Sequence[AuditSummary]) -> float:
    """Return by how much the recorded time that runs are charged for a GPU exceeds the time in which any of them
    ran.
    """
    held = (one for run in runs for one in run.devices if one.identity.key == key)
    charged_s = sum(device.energy.device_s - device.shared_s for device in held)
    passed = union((attempt.start_unix_s, attempt.end_unix_s) for run in runs for attempt in run.period.attempts)
    return charged_s - sum(end_s - start_s for start_s, end_s in passed)


def _sentences(excess_s: Mapping[tuple[str, ...], Sequence[float]]) -> Iterator[str]:
    for names, times_s in excess_s.items():
        yield (
            f"{plural(len(times_s), 'GPU')} {verb(len(times_s), 'is', 'are')} counted by {', '.join(names)} at the "
            f"same time, for {wording.duration(sum(times_s))} too long: {UNSEEN}"
        )
