"""Run scripts that meter GPUs in processes of their own, because a simulated driver is loaded when one starts."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def runner(prelude: str, simulated: Callable[..., dict[str, str]], armed: Path) -> Callable[..., Any]:
    """Return what runs a script behind `prelude` under a simulator spec and returns what the script shows last.

    `simulated` gives the environment of a spec. The faults of a spec begin when a file in `armed`, whose name is in the
    variable ARMED, is there.
    """
    number = itertools.count()

    def run(spec: str, script: str, **variables: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-c", prelude + script],
            env=simulated(spec, ARMED=str(armed / str(next(number))), **variables),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run
