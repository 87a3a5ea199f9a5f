"""Run `carbon-plugin`. Each command has a module of its own, which is imported only when that command is asked for.

An error of the user ends with one line on standard error and an exit code of `EXIT_CODES`, never with a traceback.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import click
from msgspec import Struct

import carbon_plugin
from carbon_plugin.cli.parser import command_of
from carbon_plugin.cli.terminal import echo, safe_output
from carbon_plugin.errors import CarbonPluginError, InfeasibleLayoutError

USER_ERROR = 2
INFEASIBLE = 3
INTERRUPTED = 130
READER_GONE = 141

EXIT_CODES = {
    0: "all went well",
    1: "a check that was asked for failed (`audit --verify`, `validate`, `calibrate`), some runs are in no total "
    "(`fleet`), or the program itself failed",
    USER_ERROR: "the command line, a file or a run cannot be used as it is; one line says what is wrong and what to do",
    INFEASIBLE: "what was asked for is understood and cannot run: no layout fits in memory, divides the batch or meets "
    "the deadline, or the stated one breaks a rule; one line says which and what would help. After `audit --verify`: "
    "nothing is wrong with the ledgers that are there, and an end, a file or a node is missing",
    INTERRUPTED: "interrupted with Ctrl-C",
    READER_GONE: "the reader of the output went away (`carbon-plugin ... | head`)",
}
"""The meaning of each exit code, for every command."""


_NO_ROOM = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
"""Errors of a stream that have no name of a file."""


class Command(Struct, frozen=True):
    """Describes a command: the module and name of its function or `Family`, and its line in the list of commands."""

    target: str
    help: str


HERE = "carbon_plugin.cli.commands."

COMMANDS = {
    "plan": Command(HERE + "plan:plan", "Predict time, energy and carbon of a run before launch."),
    "whatif": Command(HERE + "whatif:whatif", "Put a finished run elsewhere or at other hours."),
    "run": Command(HERE + "run:run", "Measure the training that a command starts, unedited."),
    "when": Command(HERE + "when:when", "Find the start of a planned run that emits least."),
    "audit": Command(HERE + "audit:audit", "Turn the ledgers of a run into a report."),
    "watch": Command(HERE + "watch:watch", "Show a run while it goes on, from another shell."),
    "agent": Command(HERE + "agent:agent", "Export a node's GPUs and runs to Prometheus."),
    "runs": Command(HERE + "runs:runs", "List runs with energy, carbon and state."),
    "compare": Command(HERE + "compare:compare", "Put runs beside one another."),
    "export": Command(HERE + "export:export", "Export a run: SCI, model card, EU AI Act, GHG, paper."),
    "programme": Command(HERE + "programme:programme", "Add up all runs of a released model."),
    "fleet": Command(HERE + "fleet:family", "Account for thousands of runs by team, programme and month."),
    "list": Command(HERE + "list:list_names", "List known models, accelerators, nodes, zones, stacks."),
    "profiles": Command(HERE + "profiles:family", "List and show the hardware profiles."),
    "config": Command(HERE + "config:family", "Show the configuration of runs started here."),
    "count": Command(HERE + "count:count", "Count a model that is no transformer, for plan."),
    "probe": Command(HERE + "probe:probe", "Measure this machine and write a profile of it."),
    "doctor": Command(HERE + "doctor:doctor", "Say what can be measured here and what to do about it."),
    "validate": Command(HERE + "validate:validate", "Compare predictions with published measured rows."),
    "scale": Command(HERE + "scale:scale", "Carbon of a loss or compute budget by scaling laws."),
    "calibrate": Command(HERE + "calibrate:calibrate", "Fit the predictor's constants to measured rows."),
}


def main() -> None:
    """Run the command line and leave with its exit code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code, one of `EXIT_CODES`."""
    with safe_output():
        return _run(arguments)


def _run(arguments: Sequence[str]) -> int:
    try:
        code = _invoke(list(arguments) or ["--help"])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except click.exceptions.Exit as end:
        code = end.exit_code
    except click.ClickException as error:
        code = _refuse(_usage(error))
    except InfeasibleLayoutError as error:
        code = _refuse(str(error), INFEASIBLE)
    except CarbonPluginError as error:
        code = _refuse(str(error))
    except BrokenPipeError:
        code = READER_GONE
    except OSError as error:
        code = _refuse(_sentence(error))
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return _dropped_output(READER_GONE)
    except OSError as error:  # what the command wrote was still in the buffer
        return _dropped_output(code or _refuse(_sentence(error)))
    return code


def _invoke(arguments: list[str]) -> int:
    """Run the command that is named and return its exit code."""
    application = _Application(
        "carbon-plugin",
        help=(carbon_plugin.__doc__ or "").partition("\n\n")[0],
        params=[
            click.Option(
                ["--version"],
                is_flag=True,
                is_eager=True,
                expose_value=False,
                callback=_show_version,
                help="Print the version and leave.",
            )
        ],
    )
    with application.make_context("carbon-plugin", arguments) as context:
        code: int | None = application.invoke(context)
    return code or 0


class _Application(click.Group):
    """Groups all commands. Only the command that is asked for is imported; the list of commands imports none."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        command = COMMANDS.get(cmd_name)
        return command_of(cmd_name, _load(cmd_name, command)) if command else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            near = get_close_matches(name, COMMANDS, n=1)
            ctx.fail(f"No such command {name!r}.{f' Did you mean {near[0]!r}?' if near else ''}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.help) for name, command in COMMANDS.items()])


def _load(name: str, command: Command) -> Any:
    module, _, attribute = command.target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise CarbonPluginError(f"the command {name} needs {error.name}, which is not installed") from error


def _show_version(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        echo(carbon_plugin.__version__)
        context.exit()


def _usage(error: click.ClickException) -> str:
    """Return the message for a command line that click refuses, with the command, its option, the value and where the
    help is."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    command = context.command_path if context else "carbon-plugin"
    message = " ".join(error.format_message().split()).rstrip(".")
    return f"{command.removeprefix('carbon-plugin ')}: {message}; see {command} --help"


def _refuse(message: str, code: int = USER_ERROR) -> int:
    echo(f"error: {' '.join(message.split())}", error=True)
    return code


def _sentence(error: OSError) -> str:
    where = error.filename or ("standard output" if error.errno in _NO_ROOM else None)
    return f"{where}: {error.strerror}" if where else str(error)


def _dropped_output(code: int) -> int:
    """Return the code after standard output was made a file that takes everything: Python writes what is still in the
    buffer at its exit, and would print an error about it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code
