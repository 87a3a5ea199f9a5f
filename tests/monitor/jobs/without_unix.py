"""A short training in a Python that lacks what only Unix has, as on Windows: `without_unix.py RUN_DIR`."""

from __future__ import annotations

import builtins
import io
import os
import signal
import sys
import time
from pathlib import Path

import numpy  # noqa: F401 - what others do on Unix is not what is tried here
import psutil  # noqa: F401
import pynvml  # noqa: F401
import yaml  # noqa: F401

ONLY_UNIX = ("fcntl", "grp", "pwd", "resource", "termios")
ONLY_UNIX_CALLS = (
    "fchmod",
    "fork",
    "getegid",
    "geteuid",
    "getgid",
    "getloadavg",
    "getuid",
    "mkfifo",
    "register_at_fork",
    "sched_getaffinity",
    "sysconf",
)
ONLY_UNIX_FLAGS = ("O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK")
ONLY_UNIX_SIGNALS = ("pthread_sigmask", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGKILL")

for module in ONLY_UNIX:
    sys.modules[module] = None  # type: ignore[assignment]
for name in (*ONLY_UNIX_CALLS, *ONLY_UNIX_FLAGS):
    if hasattr(os, name):
        delattr(os, name)
for name in ONLY_UNIX_SIGNALS:
    delattr(signal, name)

_open = io.open


def _without_proc(file, *arguments, **options):
    if (
        str(file).startswith(("/proc", "/sys", "/dev/nvidia"))
        and "psutil" not in sys._getframe(1).f_globals["__name__"]
    ):
        raise FileNotFoundError(2, "No such file or directory", str(file))
    return _open(file, *arguments, **options)


io.open = builtins.open = _without_proc

from carbon_plugin.monitor.monitor import CarbonMonitor  # noqa: E402
from carbon_plugin.monitor.settings.options import MonitorOptions  # noqa: E402


def main(run_dir: Path) -> None:
    with CarbonMonitor(run_dir=run_dir, window_s=0.5, options=MonitorOptions(min_window_s=0.25)) as monitor:
        end_s = time.monotonic() + 2.0
        while time.monotonic() < end_s:
            time.sleep(0.05)
            monitor.step_end(tokens=100)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
