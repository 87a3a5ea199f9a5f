"""Estimate how much longer a step is expected to take because some networks between nodes are slower than their ports.

A layout that hides much traffic beside its compute loses nothing where the network is as fast as its ports, and much
where it is not. No network is much faster than its ports, so that the expected time of such a layout is above its
predicted one. Layouts that are predicted within a few percent of one another are ranked by this.

Evidence: of 60 published sources on eight nodes or more three report or show a network of half the rate of its ports,
or less. Fully sharded steps of Modalities on 64 A100 of Leonardo wait 0.72 s for traffic of 0.33 s, and on 256 A100
1.7 s (docs/scaling_experiments of its repository). Together AI measured 42 GB/s between two to four nodes and 14.5 GB/s
between 32. nanotron's pipelines between nodes move about 1 GB/s.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from carbon_plugin.plan.search.pareto import Floats
from carbon_plugin.predict.rates.rates import Rates, with_slower_network
from carbon_plugin.predict.step import step_time_with
from carbon_plugin.spec.run import RunSpec

SLOW_CLUSTERS = 0.05
"""The share of clusters whose network is taken to be slow: three of 60."""
SLOWER = 2.0
"""How many times as long everything between nodes takes on such a cluster. It is a round number."""
MOST = 1 + SLOW_CLUSTERS * (SLOWER - 1)
"""The largest possible ratio of expected and predicted time: that of a step which is nothing but traffic."""


def slow(rates: Rates) -> Rates:
    """Return the rates of a cluster with a slow network."""
    return with_slower_network(rates, SLOWER)


def expected_on_networks(step_time_s: Any, slow_step_time_s: Any) -> Floats:
    """Return the expected time of steps, in seconds, of which the time on a slow network is given too."""
    return np.asarray((1 - SLOW_CLUSTERS) * step_time_s + SLOW_CLUSTERS * slow_step_time_s)


def network_slowdown(spec: RunSpec, step_time_s: float) -> float:
    """Return expected over predicted time of one run, whose layout must be set and whose predicted step is given."""
    if spec.cluster.nodes == 1:
        return 1.0
    return float(expected_on_networks(step_time_s, step_time_with(spec, slow)) / step_time_s)
