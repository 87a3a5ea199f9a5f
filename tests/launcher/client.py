"""Starts `forked.py` and gives it jobs, as `subprocess` does with commands."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

CommandLine = Callable[..., subprocess.CompletedProcess[str]]
"""Runs `carbon-plugin` with its arguments, in a forked process: the fixture `command_line`."""
FORKED = Path(__file__).with_name("forked.py")
TIMEOUT_S = 1200
"""A job that takes longer hangs. The longest take half a minute, and several times as long beside strangers."""


class Job:
    """A job that a launcher has started, with the calls of `subprocess.Popen`."""

    def __init__(self, launcher: Launcher, number: int, arguments: list[str]) -> None:
        self.args = arguments
        self.number = number
        self.output, self.errors = launcher.folder / f"{number}.out", launcher.folder / f"{number}.err"
        self._launcher = launcher

    @property
    def pid(self) -> int:
        return self._launcher.await_answer(self._launcher.pids, self.number, TIMEOUT_S)

    @property
    def returncode(self) -> int | None:
        return self._launcher.codes.get(self.number)

    def poll(self) -> int | None:
        self._launcher.listen(0.0)
        return self.returncode

    def wait(self, timeout: float = TIMEOUT_S) -> int:
        return self._launcher.await_answer(self._launcher.codes, self.number, timeout)

    def communicate(self, timeout: float = TIMEOUT_S) -> tuple[str, str]:
        """Wait for the end and return what was written to standard output and to standard error."""
        self.wait(timeout)
        return self.output.read_text(), self.errors.read_text()

    def send_signal(self, number: int) -> None:
        pid = self.pid
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def connect(modules: tuple[str, ...]) -> socket.socket:
    """Return a connection to the program that has imported the modules. All workers of a test run share it, and the
    first of them starts it. It ends when the last one has gone.
    """
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    address = f"\0carbon-tests/{run}/{zlib.crc32(','.join(modules).encode())}"
    end_s = time.monotonic() + TIMEOUT_S
    while time.monotonic() < end_s:
        start_at(address, modules)
        connection = socket.socket(socket.AF_UNIX)
        with contextlib.suppress(ConnectionError):
            connection.connect(address)
            if connection.recv(1):  # nothing, where the program was about to end
                return connection
        connection.close()
        time.sleep(0.05)
    raise subprocess.TimeoutExpired(FORKED.name, TIMEOUT_S)


def start_at(address: str, modules: tuple[str, ...]) -> None:
    """Start the program, unless one listens at the address already."""
    with socket.socket(socket.AF_UNIX) as listening:
        try:
            listening.bind(address)
        except OSError:
            return
        listening.listen()
        subprocess.Popen(
            [sys.executable, str(FORKED), ",".join(modules), str(listening.fileno())],
            stdin=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            pass_fds=[listening.fileno()],
        )


class Launcher:
    """A process that has imported the modules and forks jobs from itself, any number of them side by side."""

    def __init__(self, modules: tuple[str, ...]) -> None:
        self._temporary = tempfile.TemporaryDirectory()
        self.folder = Path(self._temporary.name)
        self.pids: dict[int, int] = {}
        self.codes: dict[int, int] = {}
        self._jobs = 0
        self._heard = b""
        self._connection = connect(modules)

    def start(
        self,
        script: Path,
        *arguments: str | Path,
        processes: int | None = None,
        modules: tuple[str, ...] = (),
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Job:
        """Start a script in one process, or in as many ranks as `processes` says; `modules` are imported before the
        ranks are forked."""
        self._jobs += 1
        job = Job(self, self._jobs, [str(script), *map(str, arguments)])
        told = {
            "number": job.number, "script": str(script), "arguments": job.args[1:], "processes": processes,
            "modules": modules, "environ": {**(os.environ if env is None else env), "OMP_NUM_THREADS": "1"},
            "folder": str(cwd or Path.cwd()), "output": str(job.output), "errors": str(job.errors),
        }  # fmt: skip
        self._connection.sendall(json.dumps(told).encode() + b"\n")
        return job

    def run(
        self,
        script: Path,
        *arguments: str | Path,
        processes: int | None = None,
        modules: tuple[str, ...] = (),
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Start a script and wait until it has ended."""
        job = self.start(script, *arguments, processes=processes, modules=modules, env=env, cwd=cwd)
        try:
            output, errors = job.communicate()
        except subprocess.TimeoutExpired:
            self.close()
            raise
        return subprocess.CompletedProcess(job.args, job.wait(), output, errors)

    def await_answer(self, answers: dict[int, int], number: int, timeout_s: float) -> int:
        """Return what the launcher has answered for a job, or will before the time is over."""
        end_s = time.monotonic() + timeout_s
        while number not in answers:
            left_s = end_s - time.monotonic()
            if left_s < 0:
                raise subprocess.TimeoutExpired(f"job {number} of {FORKED.name}", timeout_s)
            self.listen(left_s)
        return answers[number]

    def listen(self, timeout_s: float) -> None:
        """Take the answers that are there, or wait for the next one."""
        answered, _, _ = select.select([self._connection], [], [], timeout_s)
        if not answered:
            return
        heard = self._connection.recv(65536)
        assert heard, "the launcher has ended"
        *lines, self._heard = (self._heard + heard).split(b"\n")
        for line in lines:
            kind, number, value = line.split()
            (self.pids if kind == b"pid" else self.codes)[int(number)] = int(value)

    def close(self) -> None:
        self._connection.close()
        self._temporary.cleanup()
