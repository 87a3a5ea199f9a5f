"""Compute the seconds of the forward pass of a layer that the backward pass repeats, by the policy of recompute."""

from __future__ import annotations

from dataclasses import dataclass

from carbon_plugin.predict.arrays import Values, maximum, where
from carbon_plugin.predict.case.inputs import Layout, StepWork
from carbon_plugin.predict.time.overlap import smooth_max

OPERATOR_RECOMPUTE_SHARE = 0.35
"""Share of a forward pass that a policy repeats which keeps every second product and the attention core's output."""


@dataclass(frozen=True, slots=True)
class ForwardPass:
    """Seconds of the forward pass of one layer, and of its parts that policies treat apart.

    `device` and `host` are what the device and the host need of `total`, which overlap. `products` are all matrix
    products, of which `projections` are those of the attention and `grouped` the grouped ones of experts. `exchange` is
    the all-to-all of experts, and `last` is the work at the end, whose result nothing in the backward pass needs: the
    second product of a dense layer. A sparse layer has none. The gradient of the weights of experts needs what their
    last product gives, and where weights come before it, PyTorch goes on to the rows that the sum over experts keeps.
    The parts are seconds of the device.
    """

    total: Values
    device: Values
    host: Values
    products: Values
    projections: Values
    core: Values
    grouped: Values
    exchange: Values
    last: Values


def recompute_time(layout: Layout, work: StepWork, passed: ForwardPass) -> Values:
    """Return the seconds of forward work that the backward pass repeats. Non-reentrant checkpointing stops before the
    last work (PyTorch, `torch.utils.checkpoint`).
    """
    full = where(layout.reentrant > 0, passed.total, without(passed, passed.last))
    return (
        layout.recompute_full * full
        + layout.recompute_operators * repeated_operators(work, passed)
        + layout.recompute_selective * passed.core
    )


def repeated_operators(work: StepWork, passed: ForwardPass) -> Values:
    """Return the seconds that a policy for single operations repeats.

    A policy that keeps every second product and the attention core's output repeats a fixed share, one that keeps every
    product repeats what is none, and one that keeps the core's output alone everything else up to the last work. All of
    these repeat grouped products, because their list has `aten.mm` and no `_grouped_mm` (`_op_sac_save_list` of
    torchtitan), and the exchange of tokens unless the list has it (`Stack.keeps_exchange`). A policy that keeps the
    results of the projections repeats everything else up to the last work, and one that keeps the layer's input repeats
    the projections too (remat policies of MaxText). Where the list does not have the kernel of the attention core, the
    core is repeated too.
    """
    exchange = work.keeps_exchange * passed.exchange
    experts = passed.grouped + passed.exchange - exchange
    repeated = experts + (1 - work.keeps_core) * passed.core
    every_second = OPERATOR_RECOMPUTE_SHARE * maximum(passed.total - repeated - exchange, 0) + repeated
    core = work.keeps_core * passed.core
    kept = passed.last + work.keeps_projections * passed.projections + core + exchange
    kept = where(work.keeps_products == 1, passed.products - passed.grouped + core + exchange, kept)
    return where((work.keeps_products > 0) & (work.keeps_products < 1), every_second, without(passed, kept))


def without(passed: ForwardPass, part: Values) -> Values:
    """Return the seconds of a forward pass in which the device leaves out `part` of its work.

    The host issues the rest no faster: where it sets the pace, leaving out work of the device saves little.
    """
    beyond = passed.total - smooth_max(passed.device, passed.host)
    return smooth_max(maximum(passed.device - part, 0), passed.host) + beyond
