"""Entry point of `carbon-plugin`: one small module a command, imported only when that command is asked for.

User errors end with one line on standard error and an exit code of `EXIT_CODES`, never with a traceback.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from msgspec import Struct

import carbon_plugin
from carbon_plugin.cli.terminal import safe_output
from carbon_plugin.errors import CarbonPluginError, InfeasibleLayoutError

USER_ERROR = 2
INFEASIBLE = 3
INTERRUPTED = 130
READER_GONE = 141

EXIT_CODES = {
    0: "all went well",
    1: "a check that was asked for failed (`audit --verify`, `validate`, `calibrate`), or the program itself did",
    USER_ERROR: "the command line, a file or a run cannot be used as it is; one line says what is wrong and what to do",
    INFEASIBLE: "what was asked for is understood and cannot run: no layout fits in memory, divides the batch or meets "
    "the deadline, or the stated one breaks a rule; one line says which and what would help. After `audit --verify`: "
    "nothing is wrong with the ledgers that are there, and an end, a file or a node is missing",
    INTERRUPTED: "interrupted with Ctrl-C",
    READER_GONE: "the reader of the output went away (`carbon-plugin ... | head`)",
}
"""What each exit code means, for every command."""


class Command(Struct, frozen=True):
    """A command: where its function or `typer.Typer` is, and one line of help for the list of commands."""

    target: str
    help: str


HERE = "carbon_plugin.cli.commands."

COMMANDS = {
    "plan": Command(HERE + "plan:plan", "Predict time, energy and carbon of a run before launch."),
    "whatif": Command(HERE + "whatif:whatif", "Put a finished run elsewhere or at other hours."),
    "audit": Command(HERE + "audit:audit", "Turn the ledgers of a run into a report."),
    "export": Command(HERE + "export:export", "Export a run: SCI, model card, EU AI Act, GHG, paper."),
    "programme": Command(HERE + "programme:programme", "Add up all runs of a released model."),
    "list": Command(HERE + "list:list_names", "List known models, accelerators, nodes, zones, stacks."),
    "profiles": Command(HERE + "profiles:app", "List and show the hardware profiles."),
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
    """Run one command line and give its exit code, one of `EXIT_CODES`."""
    with safe_output():
        return _run(arguments)


def _run(arguments: Sequence[str]) -> int:
    try:
        asked = list(arguments) or ["--help"]
        code = application(asked)(args=asked, prog_name="carbon-plugin", standalone_mode=False) or 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except InfeasibleLayoutError as error:
        code = _refuse(str(error), INFEASIBLE)
    except CarbonPluginError as error:
        code = _refuse(str(error))
    except BrokenPipeError:
        code = READER_GONE
    except OSError as error:
        code = _refuse(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except Exception as error:
        # What typer refuses is of click's classes or of its own, by its version; both have this method.
        if not hasattr(error, "format_message"):
            raise
        code = _refuse(_usage(error, arguments))
    _flush()
    return code


def application(arguments: Sequence[str]) -> typer.Typer:
    """The application for one command line: the command that it names is loaded, the others are only listed."""
    app = typer.Typer(
        name="carbon-plugin",
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        help=carbon_plugin.__doc__,
    )
    app.callback()(_root)
    asked = next((argument for argument in arguments if not argument.startswith("-")), None)
    for name, command in COMMANDS.items():
        target = _load(name, command) if name == asked else _listed
        if isinstance(target, typer.Typer):
            app.add_typer(target, name=name)
        else:
            app.command(name, help=None if name == asked else command.help)(target)
    return app


def _load(name: str, command: Command) -> Any:
    module, _, attribute = command.target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise CarbonPluginError(f"the command {name} needs {error.name}, which is not installed") from error


def _listed() -> None:
    """Stands for a command that was not asked for."""


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(carbon_plugin.__version__)
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


def _usage(error: Any, arguments: Sequence[str]) -> str:
    """One line for a command line that typer refuses: command, option, value, and where to read on."""
    command = error.ctx.command_path if getattr(error, "ctx", None) else "carbon-plugin"
    message = f"{command.removeprefix('carbon-plugin ')}: {error.format_message().rstrip('.')}"
    message = message.replace("Value error, ", "")  # a word of the library that checks values
    given = [
        argument.partition("=")[2] if "=" in argument else following
        for argument, following in zip(arguments, [*arguments[1:], ""], strict=True)
        if argument.partition("=")[0] in getattr(getattr(error, "param", None), "opts", ())
    ]
    if given:  # of an option that is given more than once the last one counts
        message += f", it is {given[-1]!r}"
    return f"{message}; see {command} --help"


def _refuse(message: str, code: int = USER_ERROR) -> int:
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    return code


def _flush() -> None:
    """Write out what is buffered now; a reader that went away must not show up as an error at exit."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
