"""Make the parser of a command from the annotations of its function (see `cli/options.py`). Only this file and the
entry point know the command-line library, which is click.
"""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import click
from msgspec import NODEFAULT, Struct, structs

from carbon_plugin.cli.options import Argument, CommandFunction, Option, OptionFamily
from carbon_plugin.spec.parsing.boundary import LARGEST, SMALLEST, finite_number


class Parameter(Struct, frozen=True):
    """Describes a parameter of a command's function, or a field of one of its structs. `default` is `NODEFAULT` if the
    parameter is required.
    """

    name: str
    kind: Any
    default: Any
    declared: Option | Argument | None

    @property
    def required(self) -> bool:
        """Return whether the command line must state a value."""
        return self.default is NODEFAULT


def command_of(name: str, target: CommandFunction | OptionFamily) -> click.Command:
    """Return the click command for a function or a family. Invoking it returns what the function returns."""
    if not isinstance(target, OptionFamily):
        return _command(name, target)
    main = target.main

    def run(**values: Any) -> int | None:
        context = click.get_current_context()
        context.obj = values
        return None if context.invoked_subcommand else main(**_arguments(main, values))

    return click.Group(
        name,
        help=inspect.getdoc(main),
        params=[_click_parameter(one) for one in _leaves(main)],
        callback=run,
        invoke_without_command=True,
        commands={sub: _command(sub, function) for sub, function in target.subcommands.items()},
    )


def _command(name: str, function: CommandFunction) -> click.Command:
    def run(**values: Any) -> int | None:
        return function(**_arguments(function, _with_outer(values, click.get_current_context().obj or {})))

    parameters = [_click_parameter(one) for one in _leaves(function)]
    return _Command(name, help=inspect.getdoc(function), params=parameters, callback=run)


def _with_outer(values: Mapping[str, Any], outer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a subcommand with those of options that stand before it. Its own values come first."""
    joined = dict(values)
    for name in values.keys() & outer.keys():
        own, before = values[name], outer[name]
        joined[name] = (*own, *before) if isinstance(own, tuple) else own or before
    return joined


def _parameters(function: CommandFunction) -> Iterator[Parameter]:
    hints = get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        default = NODEFAULT if parameter.default is parameter.empty else parameter.default
        yield _parameter(name, hints[name], default)


def _fields(group: type[Struct]) -> Iterator[Parameter]:
    hints = get_type_hints(group, include_extras=True)
    for field in structs.fields(group):
        default = field.default if field.default_factory is NODEFAULT else field.default_factory()
        yield _parameter(field.name, hints[field.name], default)


def _parameter(name: str, annotated: Any, default: Any) -> Parameter:
    kind, declared = annotated, None
    if get_origin(annotated) is Annotated:
        kind, declared = get_args(annotated)
    if get_origin(kind) in (Union, types.UnionType):
        (kind,) = (one for one in get_args(kind) if one is not types.NoneType)
    return Parameter(name, kind, default, declared)


def _leaves(source: CommandFunction | type[Struct]) -> Iterator[Parameter]:
    """Yield the parameters that the command line can state, with the fields of a struct in the struct's place."""
    for one in _parameters_of(source):
        if one.declared is None:
            yield from _leaves(one.kind)
        else:
            yield one


def _parameters_of(source: CommandFunction | type[Struct]) -> Iterator[Parameter]:
    return _fields(source) if isinstance(source, type) else _parameters(source)


def _arguments(source: CommandFunction | type[Struct], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a function or a struct, taken from the values that click has read."""
    return {one.name: _value(one, values) for one in _parameters_of(source)}


def _value(parameter: Parameter, values: Mapping[str, Any]) -> Any:
    if parameter.declared is None:
        return parameter.kind(**_arguments(parameter.kind, values))
    value = values[parameter.name]
    if value is None or value == ():
        return None if parameter.required else parameter.default
    if get_origin(parameter.kind) is list:
        return list(value)
    return parameter.kind(value)


def _click_parameter(parameter: Parameter) -> click.Parameter:
    declared, repeated = parameter.declared, get_origin(parameter.kind) is list
    read_as = _click_type(get_args(parameter.kind)[0] if repeated else parameter.kind)
    if isinstance(declared, Option) and declared.least is not None:
        read_as = _whole_from(declared.least)
    if isinstance(declared, Argument):
        if repeated and read_as is _TEXT:
            read_as = click.STRING  # the words of a command that is started may be empty
        return _Argument(
            [parameter.name],
            declared.help,
            type=read_as,
            required=parameter.required,
            nargs=-1 if repeated else 1,
            metavar=declared.metavar,
            assigned=declared.assigned,
        )
    assert isinstance(declared, Option)
    names = declared.names or (f"--{parameter.name.replace('_', '-')}",)
    switch = parameter.kind is bool
    has_default = not (parameter.required or switch or repeated or parameter.default is None)
    return click.Option(
        [parameter.name, *names],
        help=declared.help,
        type=None if switch else read_as,
        is_flag=switch or None,  # with False, click lets the user leave the value out
        multiple=repeated,
        required=parameter.required,
        show_default=declared.shown_default or has_default,
        metavar=declared.metavar,
        # click takes even None for a default, and would then require no value.
        **({"default": parameter.default} if has_default else {}),
    )


_EXPONENTS = {"K": 3, "M": 6, "G": 9, "B": 9, "T": 12}


class _Number(click.ParamType):  # type: ignore[type-arg]  # it is no generic class in every release of click
    """Parses a number in ASCII as Python writes it. The error is in our own words, which do not change with the release
    of click.
    """

    def __init__(self, name: str, expected: str, read: Callable[[str], float]) -> None:
        self.name = name
        self._expected = expected
        self._read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            if not value.isascii():  # Python reads the digits of every script
                raise ValueError(value)
            return self._read(value)
        except (ValueError, OverflowError):
            self.fail(f"expected {self._expected}, it is {value!r}{_without_suffix(value)}", param, ctx)


def _without_suffix(text: str) -> str:
    """Return how a number with a letter for its thousands, such as 20B, is written here; empty for any other text."""
    found = re.fullmatch(r"(\d+\.?\d*) ?([kKMGBT])", text)
    return f"; write {found[1]}e{_EXPONENTS[found[2].upper()]}" if found else ""


def _whole(text: str) -> int:
    """Read a whole number, which may be written as 1e6. Raises `ValueError` or `OverflowError` for anything else."""
    try:
        return int(text)
    except ValueError:
        number = float(text)
        if not number.is_integer():
            raise
        return int(number)


def _whole_from(least: int) -> _Number:
    """Return the type of a whole number that is not below another one."""

    def read(text: str) -> int:
        number = _whole(text)
        if number < least:
            raise ValueError(text)
        return number

    return _Number("integer", f"a whole number of at least {least}", read)


def _finite(text: str) -> float:
    """Read a number. Raises `ValueError` for anything else, for one that is not finite, and for one beyond any
    quantity or nearer to 0.
    """
    number = finite_number(text)
    if number is None:
        raise ValueError(text)
    return number


_INTEGER = _Number("integer", "a whole number", _whole)
_FLOAT = _Number("float", f"a number up to {LARGEST:g} in size, and 0 or at least {SMALLEST:g}", _finite)


class _Path(click.Path):
    """Parses a path. An empty one, as of a variable of the shell that is not set, would be the working directory."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("expected a path, it is ''", param, ctx)
        return super().convert(value, param, ctx)


_PATH = _Path(path_type=Path)


class _Text(click.ParamType):  # type: ignore[type-arg]
    """Parses a text. An empty one, as of a variable of the shell that is not set, names nothing."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not str(value).strip():
            self.fail(f"expected a text, it is {value!r}", param, ctx)
        return value


_TEXT = _Text()


def _click_type(kind: Any) -> Any:
    if kind is int:
        return _INTEGER
    if kind is float:
        return _FLOAT
    if kind is Path:
        return _PATH
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return click.Choice([one.value for one in kind])
    return _TEXT


class _Argument(click.Argument):
    """Gives an argument a help text, which only click 8.5 and later has, and other packages hold many users below
    that. `assigned` are the names that its words state as NAME=VALUE.
    """

    def __init__(self, names: list[str], help_text: str, assigned: tuple[str, ...] = (), **attributes: Any) -> None:
        super().__init__(names, **attributes)
        self.help_text = help_text
        self.assigned = assigned

    def record(self, context: click.Context) -> tuple[str, str]:
        """Return the name and the text of the argument for the help page."""
        return self.get_usage_pieces(context)[0], f"{self.help_text}{'  [required]' if self.required else ''}"


class _Command(click.Command):
    """Lists the arguments of a command before its options on the help page, and says of a name that is written as an
    option how it is written here.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            assigned = (name for one in self.params if isinstance(one, _Argument) for name in one.assigned)
            for name in assigned:
                if error.option_name == f"--{name.replace('_', '-')}":
                    said = f"{error.option_name} is no option here, expected {name}=VALUE without dashes"
                    raise click.UsageError(said, ctx) from None
            raise

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        parameters = self.get_params(ctx)
        records = [one.record(ctx) for one in parameters if isinstance(one, _Argument)]
        if records:
            with formatter.section("Arguments"):
                formatter.write_dl(records)
        options = [one.get_help_record(ctx) for one in parameters if isinstance(one, click.Option)]
        with formatter.section("Options"):
            formatter.write_dl([record for record in options if record])
