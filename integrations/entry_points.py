"""Provide callbacks that Lightning asks for in every `Trainer`: none, unless the user has opted in.

A user opts in with `carbon-plugin run`, which passes on the arguments of the monitor, or with `CARBON_PLUGIN_AUTO=1`.
Every Trainer in an environment with this package calls these functions, so they are cheap and raise nothing.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

AUTO_VARIABLE = "CARBON_PLUGIN_AUTO"
ARGUMENTS_VARIABLE = "CARBON_PLUGIN_RUN_ARGUMENTS"
"""The variable in which `carbon-plugin run` hands the arguments of the monitor to all processes of the job, as JSON."""


def lightning_callbacks() -> list[Any]:
    """Return a list with the callback for a Trainer of `lightning` or `pytorch_lightning`, or an empty list."""
    arguments = os.environ.get(ARGUMENTS_VARIABLE)
    opted_in = arguments is not None or os.environ.get(AUTO_VARIABLE, "") not in ("", "0")
    if not opted_in or os.environ.get("CARBON_PLUGIN_DISABLED", "") not in ("", "0"):
        return []
    try:
        from carbon_plugin.integrations.lightning import AutomaticCarbonCallback

        return [AutomaticCarbonCallback(**json.loads(arguments or "{}"))]
    except Exception as error:  # an exception here would break every Trainer of the environment
        sys.stderr.write(f"carbon_plugin: this training is not measured; {type(error).__name__}: {error}\n")
        return []
