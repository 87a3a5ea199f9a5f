"""List what a user must know about a planned run: memory that is full or too small, and inputs that decide
the result.
"""

from __future__ import annotations

import msgspec

from carbon_plugin.plan.search.fullness import NEARLY_FULL, expected_slowdown
from carbon_plugin.predict.assumed import ADAPTERS, LONGER_THAN_MADE_FOR
from carbon_plugin.predict.result import MemoryPrediction, StepPrediction
from carbon_plugin.predict.step import predict_step
from carbon_plugin.predict.uncertainty.fit import fit_probability
from carbon_plugin.spec.numbers import amounts
from carbon_plugin.spec.numbers.amounts import percent, plural
from carbon_plugin.spec.run import RunSpec

WORTH_A_TRY = 0.05
"""The probability from which on a layout that is said to be too large is worth a try."""
MUCH_MORE = 1.1
"""The ratio of tokens in whole steps to those asked for from which on the rounding is reported."""


def warnings_of(spec: RunSpec, prediction: StepPrediction) -> list[str]:
    """Return what a user must know of a predicted run, one sentence each."""
    memory = prediction.memory
    used = memory.total_bytes / memory.capacity_bytes
    found = []
    if not memory.fits:
        found.append(misfit(memory))
    elif used > NEARLY_FULL:
        slower = float(expected_slowdown(used, spec.stack.population)) - 1
        likely = float(fit_probability(used, spec.stack.population))
        found.append(
            f"memory is {percent(used, 0)} full: it does not fit with a probability of {percent(1 - likely, 0)}, and "
            f"would then have to recompute whole layers: expect {percent(slower, 0)} more time than predicted here"
        )
    training = spec.training
    if training.tokens is not None and training.total_steps * training.tokens_per_step > MUCH_MORE * training.tokens:
        found.append(
            f"{training.tokens:,.0f} tokens are rounded up to "
            f"{plural(training.total_steps, 'whole step')} of {training.tokens_per_step:,} tokens: give a smaller "
            "global_batch_size, or steps"
        )
    found += [
        f"sequences of {training.seq_len:,} tokens: {beyond.source}"
        for beyond in prediction.assumptions
        if beyond.field == LONGER_THAN_MADE_FOR
    ]
    found += [
        f"{item.field} is not stated, and {item.value} is assumed: {item.source}; state all_matrices, attention, "
        "query_key_value, query_value or none, because the step time depends on it by tens of percent"
        for item in prediction.assumptions
        if item.field == ADAPTERS
    ]
    if spec.training.optimizer_offload:
        found += _host_memory_warning(spec)
    return found


def _host_memory_warning(spec: RunSpec) -> list[str]:
    """Return a warning if the optimizer states that leave the devices have no room in their host's memory."""
    kept = msgspec.structs.replace(spec.training, optimizer_offload=False)
    parts = predict_step(msgspec.structs.replace(spec, training=kept)).memory.parts_bytes
    need, node = parts.get("optimizer", 0.0) * spec.cluster.devices_per_node, spec.cluster.node
    room = node.host.dram_bytes.value
    if need <= room:
        return []
    return [f"offloaded optimizer states need {amounts.memory(need)} of {amounts.memory(room)} of {node.name}'s memory"]


def misfit(memory: MemoryPrediction) -> str:
    """Return in words by how much the memory is too small, and what takes most of it."""
    largest = memory.largest_part
    return (
        f"does not fit{_chance(memory)}: needs {amounts.memory(memory.total_bytes)} of "
        f"{amounts.memory(memory.capacity_bytes)} a device; most of it is {largest} "
        f"({amounts.memory(memory.parts_bytes[largest])})"
    )


def _chance(memory: MemoryPrediction) -> str:
    """Return " with a probability of 88 %" where there is a chance that a layout fits after all, else nothing."""
    likely = memory.fit_probability or 0.0
    return f" with a probability of {percent(1 - likely, 0)}" if likely >= WORTH_A_TRY else ""
