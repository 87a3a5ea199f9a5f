"""Real jobs under a simulated driver, without a framework."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

LIVE = Path(__file__).parent / "jobs" / "live.py"
TWO_GPUS = "gpus=2;power=300,400"


@pytest.fixture
def job(simulated_nvml, tmp_path) -> Callable[..., subprocess.Popen[str]]:
    """Start `jobs/live.py`: `job("close", run_dir, spec=..., RANK="1")`. Ended if the test leaves it running."""
    started: list[subprocess.Popen[str]] = []

    def start(
        scenario: str, run_dir: Path, seconds: float = 1.2, *, spec: str = TWO_GPUS, **variables: Any
    ) -> subprocess.Popen[str]:
        own = {"TMPDIR": tmp_path, **variables}
        environ = simulated_nvml(spec, **{name: str(value) for name, value in own.items()})
        process = subprocess.Popen(
            [sys.executable, str(LIVE), scenario, str(run_dir), str(seconds)],
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
