"""The boundary for files of others: depth, types, numbers and moments, each refused with its place."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from carbon_plugin.errors import SpecError
from carbon_plugin.plan.forecast import make_forecast
from carbon_plugin.printable import one_line, printable
from carbon_plugin.spec.loading import load_run_spec
from carbon_plugin.spec.parsing.boundary import (
    DEEPEST,
    Place,
    finite_number,
    parse_json,
    read_text,
    too_deep,
    whole_number,
)

ROOT = Path(__file__).resolve().parents[3]


def nested(depth: int) -> bytes:
    return b'{"a":[' * (depth // 2) + b"[" * (depth % 2) + b"]" * (depth % 2) + b"]}" * (depth // 2)


@pytest.mark.parametrize(
    ("data", "deep"),
    [
        (nested(DEEPEST), False),
        (nested(DEEPEST + 1), True),
        (b"[" * 100_000, True),
        (b"[" * DEEPEST, False),  # does not close, which is the parser's to say
        (json.dumps(["[" * 1000, '"[' * 1000, [[]] * 1000]).encode(), False),
    ],
)
def test_nesting_is_counted_without_recursion_and_outside_of_text(data: bytes, deep: bool) -> None:
    assert too_deep(data) is deep


class Value(Struct):
    number: float


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\xff\xfe", r"^x\.json: not a value: "),
        (b"[" * 100_000, r"^x\.json: not a value: it is nested deeper than 100 levels$"),
        (b'{"number": 1e308}', r"^x\.json: number is 1e\+308, expected a number up to 1e\+30$"),
        (b'{"number": "1"}', r"^x\.json: not a value: "),
        (b'{"number": NaN}', r"^x\.json: not a value: "),
        (b"", r"^x\.json: not a value: "),
    ],
)
def test_json_that_cannot_be_is_refused_in_one_line(data: bytes, problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        parse_json(data, "x.json", "not a value", SpecError, Value)


def test_text_that_is_no_utf_8_is_refused_with_its_place_and_a_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc\xff")
    (tmp_path / "b").write_bytes(b"\xef\xbb\xbfabc")

    with pytest.raises(SpecError, match=r"a: cannot be read: not UTF-8 \(.* at byte 3\)$"):
        read_text(tmp_path / "a", SpecError)
    assert read_text(tmp_path / "b", SpecError) == "abc"


@pytest.mark.parametrize(
    ("method", "value", "problem"),
    [
        ("mapping", 3, "expected a mapping"),
        ("items", {}, "expected a list"),
        ("text", 3, "expected text"),
        ("moment_s", "9999-01-01T00:00:00Z", "expected a moment in the years 2000 to 2099"),
        ("moment_s", "soon", "expected a moment such as"),
    ],
)
def test_a_value_of_another_kind_is_named_with_its_place(method: str, value: object, problem: str) -> None:
    place = Place({"a": [{"b": value}]}, "x.json", SpecError).field("a").items()[0].field("b")

    with pytest.raises(SpecError, match=rf"^x\.json: a\[0\]\.b is .*, {problem}"):
        getattr(place, method)()


@pytest.mark.parametrize("value", ["²", "-1", "1" * 400, True, 1.5, 9, {}])
def test_a_count_is_a_whole_number_in_bounds(value: object) -> None:
    with pytest.raises(SpecError, match="expected a whole number up to 8"):
        Place(value, "x.json", SpecError, ("n",)).count(8)
    assert Place("8", "x.json", SpecError).count(8) == 8


@pytest.mark.parametrize("text", ["²", "٣", "", "-1", "1" * 19])
def test_only_ascii_digits_are_a_whole_number(text: str) -> None:
    assert whole_number(text) is None


@pytest.mark.parametrize("text", ["nan", "inf", "1e400", "x", None, True, "1e-300", -1e-31])
def test_what_is_not_finite_or_nearer_to_0_than_any_quantity_is_no_number(text: object) -> None:
    assert finite_number(text) is None


@given(st.text())
def test_printable_text_has_no_control_character_and_an_error_has_one_line(text: str) -> None:
    assert not [letter for letter in printable(text) if ord(letter) < 32 and letter not in "\n\t"]
    assert "\n" not in one_line(text)
    assert str(SpecError(text)) == one_line(text)


@pytest.mark.parametrize(
    ("field", "problem"),
    [
        (
            "evaluation: {every_steps: 1, sequences: 1000000000000000}",
            "evaluation: sequences is 1e+15, expected at most",
        ),
        (
            "evaluation: {every_steps: 1, sequences: 1000000000000}",
            "devices fail every .* s, which leaves no progress",
        ),
        ("evaluation: {every_steps: 1, sequences: 1e300}", "training.evaluation.sequences: expected int up to 1e\\+30"),
    ],
)
def test_a_huge_evaluation_is_refused_before_it_makes_an_absurd_figure(
    tmp_path: Path, field: str, problem: str
) -> None:
    text = (ROOT / "examples" / "specs" / "llama3-8b-h100.yaml").read_text()
    text = re.sub(r"  overhead_fraction:.*\n", "", text)
    (tmp_path / "run.yaml").write_text(text.replace("training:\n", f"training:\n  {field}\n"))

    with pytest.raises(SpecError, match=problem.replace("1e+15", r"1e\+15")):
        make_forecast(load_run_spec(tmp_path / "run.yaml"))
