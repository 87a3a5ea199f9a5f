"""Estimate how much slower a layout that fills the memory of a device runs than its equations say.

Layouts near the limit are ranked by this one rule in `layout: auto`, in `plan --search` and in comparisons. How likely
a layout fits follows from the residuals of measured peaks (`predict.uncertainty.fit`).

Evidence on speed: 58 published rows of 17 sources ran at a predicted need of 95 % of the memory or more. Beside rows of
the same source with room they are slower by 2 % in the median and by 5 % as a mean, because a tenth of them lose 30 %
or more to retries of the allocator. No row shows a smooth law, so that the mean is taken to grow in proportion from
90 % on to 5 % at the limit; the constants are from the rows on which the choice of layouts is validated. A layout that
does not fit after all has to run with full recompute, which is one forward pass more: a third of the step.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from carbon_plugin.plan.search.pareto import Floats
from carbon_plugin.predict.uncertainty.fit import error_density
from carbon_plugin.spec.stack import Population

NEARLY_FULL = 0.9
"""The share of device memory above which published runs are slower than predicted."""
SLOWDOWN_AT_LIMIT = 0.05
"""Mean loss of runs that fill the memory, to which it grows from `NEARLY_FULL` on."""
SLOWEST_TENTH = 0.3
"""Loss of the slowest tenth of the runs near the limit."""
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
