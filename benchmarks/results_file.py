"""Write what a benchmark measured, with the machine, the time and the load of the machine."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path


def write_result(path: Path, figures: Mapping[str, object]) -> str:
    """Write the figures to a JSON file and return its text.

    `load` are the means over the last 1, 5 and 15 minutes: how many processes ran or waited for a core, those of the
    benchmark among them.
    """
    result = {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, Linux {platform.release()}",
        "python": platform.python_version(),
        "load": [round(mean, 1) for mean in os.getloadavg()],
        **figures,
    }
    text = json.dumps(result, indent=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")
    return text
