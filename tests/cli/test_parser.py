"""The parser that is made from the annotations of a command's function."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import click
import pytest
from msgspec import Struct

from carbon_plugin.cli.options import Argument, CommandFunction, Option, OptionFamily
from carbon_plugin.cli.parser import command_of


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Size(Struct, frozen=True):
    width: Annotated[int | None, Option("Width.")] = None
    depth_mm: Annotated[float, Option("Depth.", names=("-d", "--depth"))] = 1.5


class Box(Struct, frozen=True):
    size: Size
    lid: Annotated[bool, Option("With a lid.")] = False


def called_with(*words: str) -> dict[str, Any]:
    """Return the arguments that a command with one parameter of each kind is called with."""
    seen: dict[str, Any] = {}

    def command(
        colour: Annotated[Colour, Argument("Colour.")],
        places: Annotated[list[Path] | None, Argument("Places.")] = None,
        *,
        box: Box,
        tag: Annotated[list[str] | None, Option("Tag.")] = None,
        as_json: Annotated[bool, Option("JSON.", names=("--json",))] = False,
    ) -> int:
        seen.update(colour=colour, places=places, box=box, tag=tag, as_json=as_json)
        return 7

    assert invoke(command, *words) == 7
    return seen


def invoke(target: CommandFunction | OptionFamily, *words: str) -> int | None:
    command = command_of("box", target)
    with command.make_context("box", list(words)) as context:
        return command.invoke(context)  # type: ignore[no-any-return]


def test_what_is_not_stated_has_the_default_of_the_function_or_struct():
    assert called_with("red") == {
        "colour": Colour.RED,
        "places": None,
        "box": Box(size=Size(width=None, depth_mm=1.5), lid=False),
        "tag": None,
        "as_json": False,
    }


def test_every_word_is_read_as_its_annotation_says_wherever_it_stands():
    words = ["--tag", "a", "blue", "x", "-d", "2", "--width=3", "y", "--lid", "--tag", "-1", "--json"]

    assert called_with(*words) == {
        "colour": Colour.BLUE,
        "places": [Path("x"), Path("y")],
        "box": Box(size=Size(width=3, depth_mm=2.0), lid=True),
        "tag": ["a", "-1"],
        "as_json": True,
    }


@pytest.mark.parametrize(("word", "number"), [("7", 7), ("1e3", 1000), ("-2", -2)])
def test_a_whole_number_may_be_written_with_an_exponent(word, number):
    assert called_with("red", "--width", word)["box"].size.width == number


@pytest.mark.parametrize("word", ["1.5", "nan", "inf", "", "many"])
def test_what_is_no_whole_number_is_refused_with_its_text(word):
    with pytest.raises(click.UsageError) as refused:
        called_with("red", "--width", word)
    assert f"expected a whole number, it is {word!r}" in refused.value.format_message()
    assert "--width" in refused.value.format_message()


@pytest.mark.parametrize(("word", "written"), [("20B", "20e9"), ("1.5T", "1.5e12"), ("300 k", "300e3"), ("7m", None)])
def test_a_number_with_a_letter_for_its_thousands_is_told_how_it_is_written(word, written):
    with pytest.raises(click.UsageError) as refused:
        called_with("red", "--width", word)
    said = refused.value.format_message()
    assert (f"; write {written}" in said) if written else ("; write" not in said)


def test_an_argument_without_a_default_is_required_and_the_help_says_so():
    with pytest.raises(click.MissingParameter):
        called_with()

    def command(name: Annotated[str, Argument("What to show.")], level: Annotated[int, Option("Level.")] = 0) -> None:
        """Show it."""

    page = command_of("box", command).get_help(click.Context(command_of("box", command), info_name="box"))
    assert "NAME  What to show.  [required]" in page
    assert "Level.  [default: 0]" in page


def test_an_option_before_a_subcommand_holds_for_it_too():
    seen: list[Any] = []

    def every(folders: Annotated[list[str] | None, Option("Folder.")] = None) -> None:
        seen.append(("every", folders))

    def one(name: Annotated[str, Argument("Name.")], folders: Annotated[list[str] | None, Option("")] = None) -> int:
        seen.append((name, folders))
        return 3

    family = OptionFamily(main=every, subcommands={"one": one})

    assert invoke(family, "--folders", "a") is None
    assert invoke(family, "--folders", "a", "one", "x", "--folders", "b") == 3
    assert seen == [("every", ["a"]), ("x", ["b", "a"])]
