"""Launches of jobs of several processes, which begin together and end together."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.launcher.client import Job
from tests.patience import PATIENCE_S

Process = subprocess.Popen[str] | Job
"""A process of a job: an interpreter of its own, or forked from one that has imported the monitor."""
Start = Callable[..., Process]


class Launch:
    """One launch of a job: nodes that begin together, or later, and end together."""

    def __init__(self, start: Start, run_dir: Path, **common: Any) -> None:
        self._start, self._run_dir, self._common = start, run_dir, common
        self._folder = run_dir.with_name(f"{run_dir.name} {len(list(run_dir.parent.glob('*')))}")
        self._folder.mkdir()
        self.processes: list[Process] = []
        self._made_s = time.monotonic()

    def node(self, number: int, of: int, **variables: Any) -> Launch:
        """Start the only rank of a node, on a host of its own with one GPU."""
        scratch = self._folder / f"host-{number}"
        scratch.mkdir()
        of_node = {
            "RANK": number, "WORLD_SIZE": of, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1, "GROUP_RANK": number,
            "GROUP_WORLD_SIZE": of, "TMPDIR": scratch, "spec": f"gpus=1;seed={50 + number};power=300",
        }  # fmt: skip
        return self.rank(**{**of_node, **variables})

    def rank(self, **variables: Any) -> Launch:
        """Start a rank, of the test's own host."""
        self.processes.append(self._start(self._run_dir, self._folder, **self._common, **variables))
        return self

    def await_ready(self) -> None:
        """Wait until every process has started; one that ended is the test's failure, later."""
        wait_until(
            lambda: (
                len(list(self._folder.glob("ready-*"))) >= len(self.processes)
                or any(process.poll() is not None for process in self.processes)
            )
        )

    def begin(self) -> None:
        """Let the steps begin."""
        self._write("epoch", time.monotonic())

    def stop(self) -> None:
        """Let all nodes end, after the same step."""
        self._write("stop", time.monotonic() + 0.1)

    def end(self) -> None:
        """Let all nodes end, wait for them, and write beside the run directory how long the launch has lasted, s."""
        self.stop()
        for process in self.processes:
            _, errors = process.communicate(timeout=240)
            assert process.returncode == 0, errors
        self._run_dir.with_name(f"{self._run_dir.name}.lasted").write_text(str(time.monotonic() - self._made_s))

    def _write(self, name: str, moment_s: float) -> None:
        (self._folder / "written").write_text(str(moment_s))
        (self._folder / "written").rename(self._folder / name)


def wait_until(true: Callable[[], bool]) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not true() and time.monotonic() < end_s:
        time.sleep(0.02)
