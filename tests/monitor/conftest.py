"""Real jobs under a simulated driver, without a framework."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.launcher.client import Launcher
from tests.monitor.launching import Process

JOBS = Path(__file__).parent / "jobs"
TWO_GPUS = "gpus=2;power=300,400"


@contextlib.contextmanager
def started(
    simulated_nvml: Callable[..., dict[str, str]], launcher: Launcher, scratch: Path
) -> Iterator[Callable[..., Any]]:
    """Start scripts of `jobs/`, one process each, which end with the block. Another TMPDIR is another host, or another
    container, to the election of leaders. With `interpreter`, or with a library that is to be loaded before others, the
    process is an interpreter of its own; without, it is forked from one that has imported the monitor."""
    processes: list[Process] = []

    def start(
        script: str, *arguments: object, spec: str = TWO_GPUS, interpreter: bool = False, **variables: Any
    ) -> Process:
        own = {"TMPDIR": scratch, **variables}
        environ = simulated_nvml(spec, **{name: str(value) for name, value in own.items()})
        path, words = JOBS / script, [str(argument) for argument in arguments]
        if interpreter or "LD_PRELOAD" in environ:
            pipe = subprocess.PIPE
            process: Process = subprocess.Popen(
                [sys.executable, str(path), *words], env=environ, stdout=pipe, stderr=pipe, text=True
            )
        else:
            process = launcher.start(path, *words, env=environ)
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def job(simulated_nvml, monitor_launcher, tmp_path) -> Iterator[Callable[..., Process]]:
    """Start `jobs/live.py`: `job("close", run_dir, 1.2, spec=..., RANK="1")`. Ended if the test leaves it running."""
    with started(simulated_nvml, monitor_launcher, tmp_path) as start:

        def one(scenario: str, run_dir: Path, seconds: float = 1.2, **kwargs: Any) -> Process:
            # Ranks of a run meet; runs do not, which would share the energy of the GPUs that all of them name alike.
            host = tmp_path / f"host of {run_dir.name}"
            host.mkdir(exist_ok=True)
            return start("live.py", scenario, run_dir, seconds, **{"TMPDIR": host, **kwargs})

        yield one


@pytest.fixture(scope="module")
def node(simulated_nvml, monitor_launcher, tmp_path_factory) -> Iterator[Callable[..., Process]]:
    """Start `jobs/node.py`: `node(run_dir, 3.0, JOB_EPOCH=...)`. Ended with the tests of the file."""
    with started(simulated_nvml, monitor_launcher, tmp_path_factory.mktemp("host")) as start:
        yield lambda *arguments, **kwargs: start("node.py", *arguments, **kwargs)


@pytest.fixture(scope="module")
def seer(simulated_nvml, monitor_launcher, tmp_path_factory) -> Iterator[Callable[..., Process]]:
    """Start `jobs/seer.py`: `seer(run_dir, launch_dir, 4.0, RANK=0)`. Ended with the tests of the file."""
    with started(simulated_nvml, monitor_launcher, tmp_path_factory.mktemp("host")) as start:
        yield lambda *arguments, **kwargs: start("seer.py", *arguments, **kwargs)
