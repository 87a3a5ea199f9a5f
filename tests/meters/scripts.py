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
from functools import partial
from pathlib import Path
import msgspec
from carbon_plugin.meters.gpu import meter as meter_module, session
from carbon_plugin.meters.gpu.open import list_gpus, open_gpu_meters
from carbon_plugin.meters.open import JobPart, KnownHardware, open_meters

class Clock:
    # The time of the simulated GPUs and of the meters that read them. It goes on by `wait` alone, so that no figure
    # depends on how long the machine took. A driver that is slow sets it ahead.
    def __init__(self, path):
        self.path = Path(path)
        self.path.write_text("1000.0")

    def __call__(self):
        return float(self.path.read_text())

    def wait(self, seconds):
        self.path.write_text(repr(self() + seconds))

if os.environ["CLOCK"]:
    clock = Clock(os.environ["CLOCK"])
    wait, follow = clock.wait, f";clock={os.environ['CLOCK']};epoch={clock()}"
    # Patience with a driver is measured by the true clock, and a machine may be busy for longer than it lasts.
    session.OPEN_WAIT_S = meter_module.READ_WAIT_S = meter_module.DESCRIBE_WAIT_S = meter_module.CONTEXT_WAIT_S = 60.0
else:
    clock, wait, follow = time.monotonic, time.sleep, f";epoch={time.monotonic()}"
open_gpu_meters = partial(open_gpu_meters, clock=clock)
open_meters = partial(open_meters, clock=clock)

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
        wait(every)
        rounds.append(meter.read())
    return rounds
"""
"""Scripts begin with these functions: `show` prints what the test gets, `watch` reads a meter for some seconds, `wait`
lets time go on, and `arm` lets the faults with a time begin, as `watch` does after its first reading.
"""


def runner(prelude: str, simulated: Callable[..., dict[str, str]], armed: Path) -> Callable[..., Any]:
    """Return a function that runs a script under a simulator spec and returns what the script shows last.

    `prelude` stands between `PRELUDE` and the script. `simulated` gives the environment of a spec. The faults of a spec
    begin when a file in `armed`, whose name is in the variable ARMED, is there. Time goes on by `wait`; with
    `true_time`, for a driver that hangs, it is that of the machine.
    """
    number = itertools.count()

    def run(spec: str, script: str, *, true_time: bool = False, **variables: str) -> Any:
        file = armed / str(next(number))
        variables |= {"ARMED": str(file), "CLOCK": "" if true_time else f"{file}.clock"}
        done = subprocess.run(
            [sys.executable, "-c", PRELUDE + prelude + script],
            env=simulated(spec, **variables),
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run
