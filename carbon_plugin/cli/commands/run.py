"""`carbon-plugin run -- COMMAND`: measure the training that a command starts, without an edit of its script."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

from carbon_plugin.cli.options import Argument, Option


def run(
    command: Annotated[list[str], Argument("The command that trains, after --.", metavar="-- COMMAND...")],
    site: Annotated[str | None, Option("Grid zone, for instance FRA. Without one, carbon is not stated.")] = None,
    planned: Annotated[Path | None, Option("Forecast that the run carries, from plan -o.")] = None,
    run_dir: Annotated[Path | None, Option("Directory of the record, shared by all nodes.")] = None,
    name: Annotated[str | None, Option("What the run is called; the script's name if left out.")] = None,
    total_steps: Annotated[int | None, Option("Optimizer steps of the whole run; without them, no projection.")] = None,
    tokens_per_step: Annotated[int | None, Option("Tokens that all ranks process in a step.")] = None,
    programme: Annotated[str | None, Option("Released model that the run counts towards.")] = None,
    role: Annotated[str | None, Option("final, ablation, failed, sweep, evaluation or data.")] = None,
    log: Annotated[
        list[str] | None, Option("Where the figures go: csv, jsonl, logging, wandb, ... (repeatable).")
    ] = None,
    quiet: Annotated[bool, Option("Say nothing at the start and the end.")] = False,
) -> None:
    """Measure the training that a command starts, without an edit of its script.

    Every Python process of the command in which an optimizer of torch steps is measured from its first step on: steps,
    time, energy and carbon. The model, its layout and its tokens are not seen; an adapter in the script sees them. A
    script that measures itself is left alone. On several nodes, start the launcher of each node with it.
    """
    import msgspec

    from carbon_plugin.errors import CarbonPluginError
    from carbon_plugin.integrations import startup
    from carbon_plugin.integrations.entry_points import ARGUMENTS_VARIABLE
    from carbon_plugin.monitor.processes.launch import PROCESS_VARIABLE
    from carbon_plugin.monitor.settings.settings import make_settings

    stated = {
        "site": site,
        "planned": planned and str(planned.absolute()),
        "run_dir": run_dir and str(run_dir.absolute()),
        "name": name,
        "total_steps": total_steps,
        "tokens_per_step": tokens_per_step,
        "programme": programme,
        "role": role,
        "log": log or None,
        "quiet": quiet or None,
    }
    arguments: dict[str, Any] = {argument: value for argument, value in stated.items() if value is not None}
    if run_dir is not None and run_dir.exists() and not run_dir.is_dir():
        raise CarbonPluginError(f"--run-dir: {run_dir} is a file, expected a directory or the name of a new one")
    make_settings(**arguments)  # a mistake must be told here, once, and not by each rank
    if shutil.which(command[0]) is None:
        raise CarbonPluginError(f"run: there is no program {command[0]!r}; expected the command that trains, after --")
    folder = str(Path(startup.__file__).parent)
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != folder]
    os.environ["PYTHONPATH"] = os.pathsep.join([folder, *others])
    os.environ[ARGUMENTS_VARIABLE] = msgspec.json.encode(arguments).decode()
    if not quiet:  # this process tells at its end if nothing in it was measured
        os.environ[PROCESS_VARIABLE] = str(os.getpid())
    sys.stdout.flush()
    # The command takes the place of this process, so that its exit code, its signals and its terminal are its own.
    os.execvp(command[0], command)
