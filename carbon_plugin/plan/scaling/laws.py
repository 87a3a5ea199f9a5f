"""Compute loss from parameters and tokens, the best split of a compute budget, and the critical batch size.

A law is L = E + A / N^alpha + B / D^beta with training compute C = 6 N D (Hoffmann et al. 2022, arXiv 2203.15556).
Losses are nats a token of the law's own data and vocabulary: two laws are not comparable in loss.
"""

from __future__ import annotations

import math

from msgspec import Struct

from carbon_plugin.errors import SpecError
from carbon_plugin.spec.numbers.amounts import count
from carbon_plugin.spec.numbers.range import P90_SIGMAS
from carbon_plugin.spec.parsing.names import unknown_name

FLOPS_PER_PARAMETER_TOKEN = 6


class ScalingLaw(Struct, frozen=True, kw_only=True):
    """One instance is a fitted law.

    `offset` is E, `a` and `b` are the factors; N counts the parameters that a token passes through. `offset_sigma` and
    `exponent_sigma` are standard errors of the fit, which saw runs up to `measured_flops`.
    """

    name: str
    offset: float
    a: float
    b: float
    alpha: float
    beta: float
    offset_sigma: float
    exponent_sigma: float
    measured_flops: float
    source: str
    sparse: bool = False


class ComputeSplit(Struct, frozen=True):
    """One instance is a compute budget as active parameters and tokens."""

    parameters: float
    tokens: float

    @property
    def flops(self) -> float:
        """Return the training FLOPs, 6 N D."""
        return FLOPS_PER_PARAMETER_TOKEN * self.parameters * self.tokens


CHINCHILLA = ScalingLaw(
    name="chinchilla",
    offset=1.8172,
    a=482.01,
    b=2085.43,
    alpha=0.3478,
    beta=0.3658,
    offset_sigma=0.03,
    exponent_sigma=0.02,
    measured_flops=3e21,
    source="Hoffmann et al. 2022 as fitted again by Besiroglu et al. 2024 (arXiv 2404.10102)",
)
HOFFMANN = ScalingLaw(
    name="hoffmann",
    offset=1.6934,
    a=406.4,
    b=410.7,
    alpha=0.3392,
    beta=0.2849,
    offset_sigma=0.03,
    exponent_sigma=0.02,
    measured_flops=3e21,
    source="Hoffmann et al. 2022 (arXiv 2203.15556), approach 3 as printed; its errors are taken from the fit again",
)
GRANULARITY = 8
"""The number of fine experts that replace one expert of full width: DeepSeek's models have about 8 active."""
EXPANSION = 64
"""The parameters of the experts over those that are active: the only expansion for which the law was fitted."""
STUDY_TOTAL_OVER_ACTIVE = (2 * EXPANSION + 1) / 3
"""All parameters over active ones in the study's models, because the law's N counts all of them; two thirds of the
active ones are in the layers with experts.
"""
MOE = ScalingLaw(
    name="moe",
    offset=0.47,
    a=(18.1 + 2.1 / GRANULARITY**0.58) / STUDY_TOTAL_OVER_ACTIVE**0.115,
    b=30.8,
    alpha=0.115,
    beta=0.147,
    offset_sigma=0.03,
    exponent_sigma=0.02,
    measured_flops=1e21,
    source="Krajewski, Ludziejewski et al. 2024 (arXiv 2402.07871), expansion 64, granularity 8; constants from "
    "memory, errors as of the dense fit",
    sparse=True,
)
LAWS = {law.name: law for law in (CHINCHILLA, HOFFMANN, MOE)}


def law_named(name: str) -> ScalingLaw:
    """Return the law of this name. Raises `SpecError` that lists the names if there is none."""
    if name not in LAWS:
        raise unknown_name("law", name, LAWS)
    return LAWS[name]


def loss_of(law: ScalingLaw, split: ComputeSplit) -> float:
    """Return the loss after training in nats per token."""
    return float(law.offset + law.a / split.parameters**law.alpha + law.b / split.tokens**law.beta)


def best_split(law: ScalingLaw, flops: float) -> ComputeSplit:
    """Return parameters and tokens of the lowest loss for this compute (Hoffmann et al. 2022, eq. 4)."""
    scale = (law.alpha * law.a / (law.beta * law.b)) ** (1 / (law.alpha + law.beta))
    budget = flops / FLOPS_PER_PARAMETER_TOKEN
    parameters: float = scale * budget ** (law.beta / (law.alpha + law.beta))
    return ComputeSplit(parameters, budget / parameters)


def least_compute(law: ScalingLaw, loss: float) -> ComputeSplit:
    """Return the parameters and tokens that reach a loss with least compute, where both terms are in the ratio beta to
    alpha.

    Raises `SpecError` if the law never reaches the loss.
    """
    reducible = loss - law.offset
    if reducible <= 0:
        raise SpecError(f"loss: {loss:g} is not above {law.offset:g}, the least that the law {law.name} can reach")
    parameters: float = (law.a * (1 + law.alpha / law.beta) / reducible) ** (1 / law.alpha)
    tokens: float = (law.b * (1 + law.beta / law.alpha) / reducible) ** (1 / law.beta)
    return ComputeSplit(parameters, tokens)


def tokens_to_reach(law: ScalingLaw, loss: float, parameters: float) -> float:
    """Return the tokens with which a model of this size reaches a loss. Raises `SpecError` if it never does."""
    left = loss - law.offset - law.a / parameters**law.alpha
    if left <= 0:
        raise SpecError(f"loss: {loss:g} is out of reach of {count(parameters)} parameters under the law {law.name}")
    return float((law.b / left) ** (1 / law.beta))


def loss_range(law: ScalingLaw, split: ComputeSplit) -> tuple[float, float]:
    """Return p10 and p90 of the loss, from the error of the offset and, beyond the fitted runs, that of the exponent.

    The exponent's error turns the line about the largest fitted run. Errors of alpha and beta are taken as independent:
    d(exponent)/d(alpha) = (beta / (alpha + beta))^2, and the same with alpha and beta exchanged.
    """
    total = law.alpha + law.beta
    sigma = law.exponent_sigma * math.hypot((law.beta / total) ** 2, (law.alpha / total) ** 2)
    beyond = max(0.0, math.log(split.flops / law.measured_flops))
    loss = loss_of(law, split)
    spread = P90_SIGMAS * math.hypot(law.offset_sigma, (loss - law.offset) * sigma * beyond)
    return loss - spread, loss + spread


TOKEN_OVERHEAD = 0.2
"""The share by which the critical batch size needs more tokens than a small one, as Zhang et al. define it (arXiv
2410.21676).
"""


def critical_batches(loss: float, tokens: float) -> dict[str, float]:
    """Return the critical batch size by three laws, in tokens per step.

    Kaplan et al. 2020 (arXiv 2001.08361) in the loss; Zhang et al. 2024 (arXiv 2410.21676, sequences of 512) and
    Bergsma et al. 2025 (arXiv 2505.13738, sequences of 2,048) in the tokens of the run. Constants from memory.
    """
    return {
        "kaplan": 2.1e8 * loss**-4.8,
        "zhang": 22.91 * (tokens / 1e6) ** 0.47 * 512,
        "bergsma": 0.0471 * tokens**0.462 * 2048,
    }


def token_factor(batch: float, critical: float) -> float:
    """Return the tokens with a batch over those with a small one: 1 + overhead * B / B_crit.

    Source: McCandlish et al. 2018 (arXiv 1812.06162), where the critical batch is the one with the overhead
    `TOKEN_OVERHEAD`.
    """
    return 1 + TOKEN_OVERHEAD * batch / critical
