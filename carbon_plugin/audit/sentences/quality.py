"""Judge the data of an audit in one word with its reasons: how much was measured, seen and verified, and how well the
grid intensity fits the time of the run.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.audit.sentences.phrases import gpus_phrase, measured_share, unknown_embodied
from carbon_plugin.audit.sentences.verdict import verdict_reason, verdict_word
from carbon_plugin.show import wording
from carbon_plugin.spec.numbers.amounts import plural

GOOD_SHARE, FAIR_SHARE = 0.9, 0.5
"""Good data need at least the first share of the energy measured, and fair data the second."""

Word = Literal["good", "fair", "weak", "not to be relied on"]


class QualityReason(Struct, frozen=True):
    """One fact that speaks for the data (`good`) or against them, as a sentence."""

    good: bool
    text: str


class QualityVerdict(Struct, frozen=True, kw_only=True):
    """A word for how good the data are, with its reasons."""

    word: Word
    reasons: list[QualityReason]


def data_quality(summary: AuditSummary) -> QualityVerdict:
    """Judge the data of an audit.

    They are good where at least 90 % of the energy and all GPUs were measured, every node has a ledger, the ledgers are
    whole and the embodied carbon is known. They are fair from 50 % of the energy on. They are weak below that, or where
    nodes or GPUs are missing. They are not to be relied on where ledgers contradict.
    """
    share, coverage, state = measured_share(summary), summary.coverage, summary.verification.state
    seen_nodes = coverage.nodes_seen >= coverage.nodes
    seen_gpus = coverage.gpus_measured >= coverage.gpus
    reasons = [QualityReason(share >= GOOD_SHARE, f"{wording.percent(share)} of the energy was measured.")]
    if not seen_nodes:
        reasons.append(
            QualityReason(False, f"{coverage.nodes_seen:,} of {plural(coverage.nodes, 'node')} have a ledger here.")
        )
    if coverage.gpus:
        reasons.append(
            QualityReason(seen_gpus, f"{coverage.gpus_measured:,} of {gpus_phrase(coverage)} were measured.")
        )
    whole = state in ("verified", "partly sealed", "unsealed")
    reasons.append(QualityReason(whole, f"The ledgers are {verdict_word(summary.verification)}: {_reason(summary)}."))
    if summary.factors is None:
        reasons.append(QualityReason(False, "No carbon is stated, because no grid intensity is known."))
    else:
        reasons += _of_factors(summary)
    if state == "contradicted":
        return QualityVerdict(word="not to be relied on", reasons=reasons)
    if share < FAIR_SHARE or not seen_nodes or coverage.gpus_missing:
        return QualityVerdict(word="weak", reasons=reasons)
    good = share >= GOOD_SHARE and seen_gpus and whole and not unknown_embodied(summary)
    return QualityVerdict(word="good" if good else "fair", reasons=reasons)


def _reason(summary: AuditSummary) -> str:
    return verdict_reason(summary.verification).rstrip(".")


def _of_factors(summary: AuditSummary) -> list[QualityReason]:
    factors = summary.factors
    assert factors is not None  # checked by the caller
    intensity, found = factors.intensity, []
    if intensity.granularity == "annual":
        year = f" of {intensity.year}" if intensity.year else ""
        found.append(
            QualityReason(False, f"The grid intensity is an annual average{year}, not that of the hours of the run.")
        )
    else:
        found.append(QualityReason(True, f"The grid intensity is {intensity.granularity}."))
    if unknown := unknown_embodied(summary):
        found.append(QualityReason(False, f"The manufacture of {' and '.join(unknown)} is unknown."))
    return found
