"""Write what a benchmark measured, with the machine and the time at which it did."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path


def write_result(path: Path, figures: Mapping[str, object]) -> None:
    """Write the figures to a JSON file and print them."""
    text = json.dumps(
        {
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, Linux {platform.release()}",
            "python": platform.python_version(),
            **figures,
        },
        indent=2,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")
    print(text)
