"""Fill in the fields that a description of a run leaves open, by the same rules for plans, detected jobs and measured
rows.

Each rule says which value it takes and why, so that the output can name both.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from carbon_plugin.spec.hardware.cluster import Accelerator
from carbon_plugin.spec.layout import PipelineSchedule, runs_from_both_ends
from carbon_plugin.spec.numbers.amounts import yaml_word
from carbon_plugin.spec.numbers.figure import Assumption
from carbon_plugin.spec.stack import COMPILED_GRAPHS, GRAPH_STACK, PLAIN_STACK, Stack
from carbon_plugin.spec.training import Precision, TrainingPlan

USUAL_SEQ_LEN = 4096
"""The number of tokens in a sequence of pre-training: 4,096 in Llama 2 (arXiv 2307.09288, table 1)."""
USUAL_BATCH_TOKENS = 4 * 2**20
"""The number of tokens in a step of pre-training: 4 Mi in Llama 2 (the same table)."""
MOST_CHUNKS = 8
"""The most model chunks that a pipeline rank is given: more of them cost more time in transfers than they save in the
bubble.
"""
SPARE_LAYERS = 2
"""The number of layers that embedding and loss may stand for where layers are dealt out to stages (Llama 3 405B deals
out 128, of which 126 are layers).
"""


class Taken(NamedTuple):
    """One instance holds a default value and the reason for it."""

    value: int
    why: str


def usual_seq_len(longest: int | None) -> Taken:
    """Return the tokens of a sequence where nobody states them, and why. `longest` is what the model is made for."""
    if longest is not None and longest < USUAL_SEQ_LEN:
        return Taken(longest, "the longest that the model is made for; not stated")
    return Taken(USUAL_SEQ_LEN, "usual pre-training length (Llama 2, arXiv 2307.09288); not stated")


def usual_batch(seq_len: float, devices: int) -> Taken:
    """Return the sequences of a step where nobody states them, and why.

    It is the odd part of the number of devices times a power of two, so that data parallelism can divide it.
    """
    odd = devices // (devices & -devices)
    multiple = USUAL_BATCH_TOKENS / (max(1, seq_len) * odd)
    doublings = round(math.log2(max(1, multiple)))
    return Taken(odd * 2**doublings, "about 4 Mi tokens a step, usual for LLMs (Llama 2, arXiv 2307.09288); not stated")


def usual_precision(accelerator: Accelerator) -> Precision:
    """Return the precision of a training on this device where nobody states it."""
    if "bf16" in accelerator.peak_flops:
        return "bf16"
    return "fp16" if "fp16" in accelerator.peak_flops else "fp32"


def usual_stack(accelerator: Accelerator) -> tuple[Stack, Assumption]:
    """Return the software where nobody names it, and why: plain PyTorch, or what the device compiles of it."""
    return (GRAPH_STACK, COMPILED_GRAPHS) if accelerator.compiles_graphs else (Stack(), PLAIN_STACK)


def interleaved_chunks(pp: int, layers: int, micro_batches: int) -> Taken:
    """Return how many model chunks a pipeline rank holds where a Megatron-like schedule leaves that open, and why.

    It is the largest number up to `MOST_CHUNKS` that deals out the layers evenly, where one or two layers more may be
    counted for embedding and loss. The schedule (Narayanan et al. 2021, arXiv 2104.04473) needs the number of
    micro-batches to be a multiple of the number of stages.
    """
    if pp == 1:
        return Taken(1, "no pipeline")
    if micro_batches % pp:
        return Taken(1, f"{micro_batches} micro-batches are no multiple of {pp} stages")
    for chunks in range(MOST_CHUNKS, 1, -1):
        if chunks * pp <= layers and any((layers + spare) % (pp * chunks) == 0 for spare in range(SPARE_LAYERS + 1)):
            return Taken(chunks, "interleaved as far as the layers allow")
    return Taken(1, "the layers do not divide")


def usual_schedule(pp: int, layers: int, micro_batches: int, stack: Stack) -> tuple[PipelineSchedule, Taken]:
    """Return how a pipeline is scheduled where nobody states it, and how many model chunks a rank holds, and why."""
    if stack.runs_dualpipe and runs_from_both_ends(pp, micro_batches):
        return "dualpipe", Taken(1, "this software feeds its pipelines from both ends")
    if not stack.interleaves:
        return "1f1b", Taken(1, "this software gives a rank one chunk unless told otherwise")
    taken = interleaved_chunks(pp, layers, micro_batches)
    return "interleaved" if taken.value > 1 else "1f1b", taken


PURE_STATES: Mapping[str, Any] = MappingProxyType({"master_weights": False, "optimizer_state_dtype": "bf16"})
"""The fields of a training plan whose weights, gradients and moments are all 16-bit values."""


def pure_states(stack: Stack, precision: Precision) -> bool:
    """Return whether this software keeps no 32-bit states where nobody states what it keeps."""
    return stack.pure_states and precision not in ("fp32", "tf32")


def with_usual_states(
    plan: TrainingPlan, stack: Stack, stated: Collection[str]
) -> tuple[TrainingPlan, list[Assumption]]:
    """Return the plan with the numeric formats in which its software keeps weights and moments, and these assumptions.

    `stated` are the fields of the plan that somebody states, which stay.
    """
    if plan.precision in ("fp32", "tf32"):
        return plan, []
    if pure_states(stack, plan.precision) and not ("master_weights" in stated and plan.master_weights):
        states, why = PURE_STATES, "this software keeps weights, gradients and moments in 16 bit unless told otherwise"
    else:
        states = {name: getattr(plan, name) for name in PURE_STATES}
        why = "usual: weights and moments are updated in 32 bit and computed with in the precision"
    filled = {name: value for name, value in states.items() if name not in stated}
    said = [Assumption(f"training.{name}", yaml_word(value), why) for name, value in filled.items()]
    return msgspec.structs.replace(plan, **filled), said
