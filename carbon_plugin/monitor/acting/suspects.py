"""Write a suspect of one node into its ledger, and read those of other nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from carbon_plugin.monitor.acting.causes import Suspect


def suspect_data(suspect: Suspect) -> dict[str, Any]:
    """Return a suspect as data of an event."""
    return {
        "kind": suspect.kind,
        "node": suspect.node,
        "gpu": suspect.gpu,
        "rank": suspect.rank,
        "score": suspect.score,
        **suspect.evidence,
    }


def suspect_of(message: str, data: Mapping[str, Any]) -> Suspect | None:
    """Return the suspect that another node has recorded, or None for an event that holds none."""
    known = ("kind", "node", "gpu", "rank", "score")
    try:
        return Suspect(
            kind=str(data["kind"]),
            node=int(data["node"]),
            score=float(data["score"]),
            sentence=message,
            gpu=data.get("gpu"),
            rank=data.get("rank"),
            evidence={name: value for name, value in data.items() if name not in known},
        )
    except (KeyError, TypeError, ValueError):
        return None
