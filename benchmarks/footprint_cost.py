"""Measure what one accounting with its uncertainty costs: the call that a live monitor makes in every window.

    python benchmarks/footprint_cost.py             # a few seconds

Ten energy items and every factor with a range, with the draws of a live projection and of a report; and the ranking of
the drivers. Times are the CPU time of one call, in milliseconds, which other work on the machine adds little to.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

from carbon_plugin.footprint.account import account
from carbon_plugin.footprint.drivers import drivers
from carbon_plugin.footprint.run_factors import resolve_factors
from carbon_plugin.footprint.values import EnergyItem
from carbon_plugin.monitor.run.projection import LIVE_DRAWS
from carbon_plugin.plan.forecast import reservations
from carbon_plugin.spec.hardware.cluster import Cluster
from carbon_plugin.spec.hardware.profiles import default_node_for, load_accelerator
from carbon_plugin.spec.metered import Rung
from carbon_plugin.spec.numbers.range import Range
from carbon_plugin.spec.site import Site

REPORT_DRAWS = 2000
RUNGS: tuple[Rung, ...] = ("gpu", "gpu", "gpu", "gpu", "gpu", "host", "host", "host", "network", "network")


def measure(calls: int) -> dict[str, float]:
    """Return the median CPU milliseconds of each call."""
    accelerator = load_accelerator("h100-sxm")
    cluster = Cluster(accelerator=accelerator, node=default_node_for(accelerator), nodes=8, devices_per_node=8)
    factors = resolve_factors(Site(zone="aws:us-east-1", building=True, amortisation="active_share"), cluster)
    items = [
        EnergyItem(rung=rung, scope=f"{rung}:{index}", energy=Range(1e12, 9e11, 1.1e12))
        for index, rung in enumerate(RUNGS)
    ]
    reserved = reservations(cluster, 1e6)
    return {
        f"account_{LIVE_DRAWS}_draws_ms": _median_ms(
            lambda: account(items, reserved, factors, draws=LIVE_DRAWS), calls
        ),
        f"account_{REPORT_DRAWS}_draws_ms": _median_ms(
            lambda: account(items, reserved, factors, draws=REPORT_DRAWS), calls
        ),
        "drivers_ms": _median_ms(lambda: drivers(items, reserved, factors), calls),
    }


def _median_ms(call: Callable[[], object], calls: int) -> float:
    times_s = []
    for _ in range(calls + 1):
        start = time.process_time()
        call()
        times_s.append(time.process_time() - start)
    return 1e3 * statistics.median(times_s[1:])  # the first one fills the caches


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--calls", type=int, default=300)
    print(json.dumps(measure(parser.parse_args().calls), indent=2))
