"""Starts `forked.py` and gives it jobs, as `subprocess.run` does with commands."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

FORKED = Path(__file__).with_name("forked.py")
TIMEOUT_S = 240


class Launcher:
    """A process that has imported the modules and forks the processes of one job after the other from itself."""

    def __init__(self, modules: tuple[str, ...]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(FORKED), ",".join(modules)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def run(
        self,
        script: Path,
        *arguments: str | Path,
        processes: int | None = None,
        modules: tuple[str, ...] = (),
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a script in one process, or in as many ranks as `processes` says; `modules` are imported before the ranks
        are forked."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with tempfile.TemporaryDirectory() as folder:
            output, errors = Path(folder) / "output", Path(folder) / "errors"
            job = {
                "script": str(script), "arguments": [*map(str, arguments)], "processes": processes, "modules": modules,
                "environ": {**(os.environ if env is None else env), "OMP_NUM_THREADS": "1"},
                "folder": str(cwd or Path.cwd()), "output": str(output), "errors": str(errors),
            }  # fmt: skip
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
            answered, _, _ = select.select([self._process.stdout], [], [], TIMEOUT_S)
            code = self._process.stdout.readline() if answered else ""
            said, complained = (path.read_text() if path.exists() else "" for path in (output, errors))
        if not code:
            self.close()
            raise AssertionError(f"{script} has not ended, or its launcher has:\n{said}\n{complained}")
        return subprocess.CompletedProcess([str(script), *map(str, arguments)], int(code), said, complained)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
