"""State the options and arguments of a command as annotations of its function's parameters.

    def plan(
        spec: Annotated[Path | None, Argument("Run spec (YAML).")] = None,
        search: SearchOptions = SearchOptions(),
        seed: Annotated[int, Option("Seed of the interval sampling.")] = 0,
    ) -> None: ...

The type of the annotation says how the words of the command line are read: `str`, `int`, `float`, `Path`, an enum of
strings, `bool` for a switch, and `list[...]` for what may be repeated. A parameter without a default is required. A
parameter whose type is a frozen struct stands for all fields of the struct, which are annotated alike. A command
returns None or its exit code. `cli/parser.py` makes the parser from these annotations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

from msgspec import Struct

CommandFunction = Callable[..., int | None]


class Option(Struct, frozen=True):
    """Describes an option with its help text.

    `names` replaces the name that follows from the parameter (`seq_len` is `--seq-len`). `shown_default` replaces the
    default in the help, and `metavar` the name of the value. A whole number below `least` is refused.
    """

    help: str
    names: tuple[str, ...] = ()
    shown_default: str | None = None
    metavar: str | None = None
    least: int | None = None


class Argument(Struct, frozen=True):
    """Describes a positional argument with its help text. `metavar` replaces the name of the value in the help.

    `assigned` are the names that its words state as NAME=VALUE, so that one written as an option is told how it is
    written here.
    """

    help: str
    metavar: str | None = None
    assigned: tuple[str, ...] = ()


class OptionFamily(Struct, frozen=True):
    """Describes a command with subcommands.

    `main` runs where no subcommand is named. An option of `main` that stands before the subcommand also holds for the
    subcommand if that has an option of the same name.
    """

    main: CommandFunction
    subcommands: Mapping[str, CommandFunction]


AsJson = Annotated[bool, Option("One JSON document on standard output.", names=("--json",))]
ProfileDirectories = Annotated[list[Path] | None, Option("Directory with your own hardware profiles.")]
RunDirectory = Annotated[Path, Argument("Run directory with the ledgers.")]
Seed = Annotated[int, Option("Seed of the interval sampling.", least=0)]
