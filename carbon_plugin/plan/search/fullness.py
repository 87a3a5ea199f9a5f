"""Estimate how much slower a layout that fills the memory of a device runs than its equations say.

Layouts near the limit are ranked by this one rule in `layout: auto`, in `plan --search` and in comparisons. How likely
a layout fits follows from the residuals of measured peaks (`predict.uncertainty.fit`).

Evidence on speed: 71 published rows of 34 sources ran at a predicted need of 95 % of the memory or more. Beside rows of
the same source with room (85 % or less) they are slower by 0.7 % as a mean over sources, with a standard error of 3.5,
and faster by 3 % in the median; one in nine loses a quarter or more, as of the rows that use less than half of their
memory. What retries of the allocator cost is thus not seen in whole runs: the band in which a run retries and does not
fail is narrow (pull request 1632 of mosaicml/composer, whose author found it hard to hit, and faster up to the limit).
The mean, rounded up, decides between layouts that are predicted alike, and grows in proportion from 90 % on; it is
from the rows on which the choice of layouts is validated. A layout that does not fit after all has to run with full
recompute, which is one forward pass more: a third of the step.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from carbon_plugin.plan.search.pareto import Floats
from carbon_plugin.predict.uncertainty.fit import error_density
from carbon_plugin.spec.stack import Population

NEARLY_FULL = 0.9
"""The share of device memory above which it is not sure that a layout fits."""
SLOWDOWN_AT_LIMIT = 0.01
"""Mean loss of runs that fill the memory, to which it grows from `NEARLY_FULL` on."""
SLOWDOWN_BEYOND = 1 / 3
"""Loss of a layout that turns out not to fit: full recompute repeats the forward pass, a third of a step."""
_LOWEST, _HIGHEST, _POINTS = 0.3, 2.0, 681


def expected_slowdown(fill: Any, population: Population) -> Floats:
    """Return expected over predicted time of layouts of which nobody knows whether they fit, as an array.

    `fill` is the share of the memory that they are predicted to need.
    """
    fills, factors, _ = _tables(population)
    return np.asarray(np.interp(fill, fills, factors))


def slowdown_of_a_run(fill: Any, population: Population) -> Floats:
    """Return the same of layouts that are known to have run, so that their true need is below the memory."""
    fills, _, factors = _tables(population)
    return np.asarray(np.interp(fill, fills, factors))


@cache
def _tables(population: Population) -> tuple[Floats, Floats, Floats]:
    """Return fills and their factors, for all layouts and for those that ran: the loss at the true fill, averaged over
    how far it may be from the predicted one.
    """
    fills = np.linspace(_LOWEST, _HIGHEST, _POINTS)
    errors, weights = error_density(population)
    true = fills[:, None] * np.exp(errors)[None]
    near = SLOWDOWN_AT_LIMIT * np.clip((true - NEARLY_FULL) / (1 - NEARLY_FULL), 0, 1)
    ran = weights * (true <= 1)
    loss = np.where(true > 1, SLOWDOWN_BEYOND, near)
    share = ran.sum(axis=1)
    # No run is known to lie so far below its prediction that it would fit into the least memory of the table.
    retried = np.where(share > 0, (near * ran).sum(axis=1) / np.where(share > 0, share, 1), SLOWDOWN_AT_LIMIT)
    return fills, 1 + (loss * weights).sum(axis=1), 1 + retried
