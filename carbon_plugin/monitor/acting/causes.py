"""Name the likely cause of a deviation: a term of the step, with the GPU or the rank that it comes from. All functions
are pure.

Several things can make all ranks slow at once, because they wait for the slowest one in their collectives. The cause is
where one of them differs from the others: a GPU that is held back, a training thread that is never blocked because the
others wait for it. Where all of them are blocked longer and nothing is held back, it is what lies between them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from msgspec import Struct

from carbon_plugin.meters.gpu.context import GpuContext
from carbon_plugin.monitor.acting.samples import RankShare, TrainingSample
from carbon_plugin.spec.numbers.amounts import percent

COMPUTE = ("matmul", "attention", "scan", "elementwise", "recompute", "head", "optimizer")
COMMUNICATION = ("tp", "cp", "ep", "dp", "dp_shard", "pp_transfer")
"""The terms of the predicted step, as `StepPrediction.breakdown_s` names them."""
LEAST_CLOCK_LOSS = 0.05
LEAST_POWER_DIFFERENCE = 0.10
"""A GPU is suspected whose clock, or whose power against its peers, has changed by this much."""
LEAST_OWN_RISE, LEAST_OWN_LEAD = 0.10, 0.20
"""A rank is suspected whose thread is this much less blocked than before, and than the others."""
LEAST_DATA_PART = 0.5
"""Waiting for data is the cause if it makes up at least this part of what a step has become longer."""


class Suspect(Struct, frozen=True, kw_only=True):
    """Names a GPU or a rank that differs from its peers and from itself before. `score` ranks suspects, 0 to about
    1.
    """

    kind: str
    node: int
    score: float
    sentence: str
    gpu: str | None = None
    rank: int | None = None
    evidence: dict[str, Any] = {}


class Cause(Struct, frozen=True, kw_only=True):
    """Holds the likely term of the step, a sentence, and the suspect if there is one."""

    term: str
    sentence: str
    suspect: Suspect | None = None


def suspected_gpus(
    before: TrainingSample,
    now: TrainingSample,
    contexts_before: Mapping[str, GpuContext],
    contexts: Mapping[str, GpuContext],
    *,
    node: int,
    ranks: Mapping[str, Sequence[int]],
) -> list[Suspect]:
    """Return the GPUs of a node that are held back, or that draw another power than their peers, the worst first.

    `ranks` are the ranks on each GPU by its key.
    """
    found = []
    for index, key in enumerate(now.power_w):
        context, earlier = contexts.get(key), contexts_before.get(key)
        held = (
            [word for word in context.held_back_by if earlier is None or word not in earlier.held_back_by]
            if context
            else []
        )
        loss = _clock_loss(key, contexts_before, contexts)
        difference = _power_difference(key, before, now)
        score = (1.0 if held else 0.0) + loss + abs(difference) / 2
        alone = len(now.power_w) < 3 and not held and loss < LEAST_CLOCK_LOSS  # of two, each is the other's peer
        if not held and loss < LEAST_CLOCK_LOSS and (abs(difference) < LEAST_POWER_DIFFERENCE or alone):
            continue
        evidence = _facts(key, now, contexts)
        words = [f"is held back by {', '.join(held)}"] if held else []
        words += [_sentence(evidence)]
        suspect = Suspect(
            kind="gpu",
            node=node,
            score=score,
            gpu=key,
            rank=next(iter(ranks.get(key, ())), None),
            sentence=f"GPU {index} ({key}) of node {node} {': '.join(words) if held else 'differs: ' + words[-1]}",
            evidence={**evidence, "held_back_by": held, "index": index},
        )
        found.append(suspect)
    return sorted(found, key=lambda suspect: -suspect.score)


def suspected_ranks(before: TrainingSample, now: TrainingSample, *, node: int) -> list[Suspect]:
    """Return the ranks of a host whose training thread is less blocked than before and than the others, the worst
    first."""
    found = []
    for rank, share in now.ranks.items():
        earlier = before.ranks.get(rank)
        if earlier is None:
            continue
        others = [other.own for number, other in now.ranks.items() if number != rank]
        rise, lead = share.own - earlier.own, share.own - (median(others) if others else 0.0)
        if rise < LEAST_OWN_RISE or lead < LEAST_OWN_LEAD:
            continue
        words, kind = _rank_words(earlier, share)
        behind = f", and is {share.behind_steps:.1f} steps behind the others" if share.behind_steps >= 1 else ""
        found.append(
            Suspect(
                kind=kind,
                node=node,
                score=lead,
                rank=rank,
                sentence=f"rank {rank} of node {node} {words}{behind}",
                evidence={"busy": share.busy, "delayed": share.delayed, "data": share.data},
            )
        )
    return sorted(found, key=lambda suspect: -suspect.score)


def likely_cause(
    before: TrainingSample,
    now: TrainingSample,
    suspects: Sequence[Suspect],
    *,
    breakdown_s: Mapping[str, float],
    world_size: int,
) -> Cause:
    """Return the likely cause of a longer step or another power.

    `suspects` are those of all nodes. `breakdown_s` are the terms of the predicted step, empty without a prediction.
    """
    longer_s = now.step_time_s - before.step_time_s
    data_s = now.data_wait_s - before.data_wait_s
    by_data = max((one for one in suspects if one.kind == "data"), key=lambda one: one.score, default=None)
    if longer_s > 0 and data_s >= LEAST_DATA_PART * longer_s:
        words = f"waiting for data takes {data_s:.3g} s a step more"
        return Cause(term="data", sentence=f"{words}{_and(by_data)}", suspect=by_data)
    gpu = max((one for one in suspects if one.kind == "gpu"), key=lambda one: one.score, default=None)
    if gpu is not None:
        return Cause(term=_largest(breakdown_s, COMPUTE, "compute"), sentence=gpu.sentence, suspect=gpu)
    if by_data is not None:
        return Cause(term="data", sentence=by_data.sentence, suspect=by_data)
    host = max((one for one in suspects if one.kind == "host"), key=lambda one: one.score, default=None)
    if host is not None:
        return Cause(term="host", sentence=host.sentence, suspect=host)
    if longer_s > 0 and world_size > 1:
        term = _largest(breakdown_s, COMMUNICATION, "communication")
        return Cause(
            term=term,
            sentence="no GPU is held back and no rank keeps the others waiting, so it is what lies between them: the "
            "network, or a rank whose host shows nothing",
        )
    return Cause(term="unknown", sentence="no GPU is held back and no host is busier than before")


def _rank_words(before: RankShare, now: RankShare) -> tuple[str, str]:
    rises = {"busy": now.busy - before.busy, "delayed": now.delayed - before.delayed, "data": now.data - before.data}
    match max(rises, key=lambda name: rises[name]):
        case "data":
            return f"waits for data {percent(now.data, 0)} of the time ({percent(before.data, 0)} before)", "data"
        case "delayed":
            return (
                f"waits for a CPU {percent(now.delayed, 0)} of the time ({percent(before.delayed, 0)} before), "
                "because other work runs "
                "on its host",
                "host",
            )
        case _:
            return (
                f"computes on its CPU {percent(now.busy, 0)} of the time ({percent(before.busy, 0)} before), others "
                "wait",
                "host",
            )


def _and(suspect: Suspect | None) -> str:
    return "" if suspect is None else f"; {suspect.sentence}"


def _largest(breakdown_s: Mapping[str, float], names: Sequence[str], otherwise: str) -> str:
    known = {name: breakdown_s[name] for name in names if breakdown_s.get(name, 0.0) > 0}
    return max(known, key=lambda name: known[name]) if known else otherwise


def _clock_loss(key: str, before: Mapping[str, GpuContext], now: Mapping[str, GpuContext]) -> float:
    """Return by which share a clock is below its own earlier value or that of its peers, or 0 where neither
    is known.
    """
    clock = now[key].sm_clock_mhz if key in now else None
    if not clock:
        return 0.0
    own = before[key].sm_clock_mhz if key in before else None
    peers = [other.sm_clock_mhz for name, other in now.items() if name != key and other.sm_clock_mhz]
    references = [*([own] if own else []), *([median(peers)] if peers else [])]
    return max((1 - clock / reference for reference in references), default=0.0)


def _power_difference(key: str, before: TrainingSample, now: TrainingSample) -> float:
    """Return by which share the power of a GPU has changed more than that of its peers."""
    ratios = {
        name: now.power_w[name] / before.power_w[name]
        for name in now.power_w
        if before.power_w.get(name, 0.0) > 0 and now.power_w[name] > 0
    }
    peers = [ratio for name, ratio in ratios.items() if name != key]
    return ratios[key] / median(peers) - 1 if key in ratios and peers else 0.0


def _facts(key: str, now: TrainingSample, contexts: Mapping[str, GpuContext]) -> dict[str, Any]:
    context = contexts.get(key)
    clocks = [other.sm_clock_mhz for name, other in contexts.items() if name != key and other.sm_clock_mhz]
    powers = [power for name, power in now.power_w.items() if name != key]
    return {
        "sm_clock_mhz": context.sm_clock_mhz if context else None,
        "peers_sm_clock_mhz": median(clocks) if clocks else None,
        "temperature_c": context.temperature_c if context else None,
        "power_w": round(now.power_w[key], 1),
        "peers_power_w": round(median(powers), 1) if powers else None,
    }


def _sentence(evidence: Mapping[str, Any]) -> str:
    parts = []
    for name, words, unit in (("sm_clock_mhz", "SM clock", "MHz"), ("power_w", "power", "W")):
        if evidence[name] is not None:
            peers = evidence[f"peers_{name}"]
            beside = f" (the others {peers:,.0f} {unit})" if peers is not None else ""
            parts.append(f"{words} {evidence[name]:,.0f} {unit}{beside}")
    if evidence["temperature_c"] is not None:
        parts.append(f"{evidence['temperature_c']:.0f} °C")
    return ", ".join(parts)
