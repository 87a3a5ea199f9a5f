"""Write the report of a run in a process of its own, so that the training process renders nothing."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from pathlib import Path

logger = logging.getLogger(__name__)
REPORT_S = 60.0
"""A report that takes longer than this is not waited for. It can be made at any time with `carbon-plugin audit`."""
_AUDIT = "import sys; from carbon_plugin.cli.main import run; sys.exit(run(sys.argv[1:]))"


class ReportFile:
    """The report of one run. It is written once, when the first sink asks for it."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._lock = threading.Lock()
        self._asked = False
        self._path: Path | None = None

    def path(self) -> Path | None:
        """Return the path of the file, or None after one warning if it cannot be written."""
        with self._lock:
            if not self._asked:
                self._asked = True
                self._path = self._written()
            return self._path

    def _written(self) -> Path | None:
        command = [sys.executable, "-c", _AUDIT, "audit", str(self._run_dir)]
        try:
            subprocess.run(
                command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                timeout=REPORT_S,
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError) as error:
            logger.warning(
                "carbon_plugin: the report of %s was not written for the loggers (%s); carbon-plugin audit %s says why",
                self._run_dir,
                type(error).__name__,
                self._run_dir,
            )
            return None
        return self._run_dir / "report.html"
