"""Run scripts that meter GPUs in processes of their own, because a simulated driver is loaded when one starts."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

PRELUDE = """
import json, os, sys, time
import msgspec
from carbon_plugin.meters.gpu.open import list_gpus, open_gpu_meters
from carbon_plugin.meters.open import JobPart, KnownHardware, open_meters

def arm():
    open(os.environ["ARMED"], "w").close()

def flat(value):
    # A reading has the names of a record of the ledger, so that the tests of both look alike.
    if isinstance(value, list):
        return [flat(one) for one in value]
    if isinstance(value, dict) and "energy" in value:
        energy = value.pop("energy") or {"value": None, "low": None, "high": None}
        return value | {"energy_j": energy["value"], "low_j": energy["low"], "high_j": energy["high"]}
    return value

def show(value):
    print(json.dumps(flat(msgspec.to_builtins(value))))

def watch(meter, seconds, every=0.1):
    rounds = [meter.read()]
    arm()
    while rounds[-1][0].monotonic_s < rounds[0][0].monotonic_s + seconds:
        time.sleep(every)
        rounds.append(meter.read())
    return rounds
"""
"""Scripts begin with these functions: `show` prints what the test gets, `watch` reads a meter for some seconds, and
`arm` lets the faults with a time begin, as `watch` does after its first reading.
"""


def runner(prelude: str, simulated: Callable[..., dict[str, str]], armed: Path) -> Callable[..., Any]:
    """Return a function that runs a script under a simulator spec and returns what the script shows last.

    `prelude` stands between `PRELUDE` and the script. `simulated` gives the environment of a spec. The faults of a spec
    begin when a file in `armed`, whose name is in the variable ARMED, is there.
    """
    number = itertools.count()

    def run(spec: str, script: str, **variables: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-c", PRELUDE + prelude + script],
            env=simulated(spec, ARMED=str(armed / str(next(number))), **variables),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run
