"""YAML with places: YAML 1.2 scalars, lines of every value, and refusals that name them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_plugin.errors import SpecError
from carbon_plugin.spec.parsing.boundary import dotted
from carbon_plugin.spec.parsing.document import load_yaml, overlay, parse_document, read_document


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("NO", "NO"),
        ("off", "off"),
        ("15e12", 15e12),
        ("1.5E+3", 1500.0),
        (".5", 0.5),
        ("1:30", "1:30"),
        ("2024-05-01", "2024-05-01"),
        ("010", 10),
        ("1_000_000", 1_000_000),
        ("'5'", "5"),
        ('"true"', "true"),
        ("true", True),
        ("~", None),
        ("", None),
        ("-7", -7),
        ("12abc", "12abc"),
    ],
)
def test_scalars_follow_yaml_1_2(text, value):
    parsed = parse_document(f"key: {text}", "x.yaml").value["key"]

    assert parsed == value
    assert type(parsed) is type(value)


@given(st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False)))
def test_a_number_as_python_prints_it_is_read_back(number):
    parsed = parse_document(f"key: {number!r}", "x.yaml").value["key"]

    assert parsed == number
    assert type(parsed) is type(number)


def test_every_value_knows_its_line():
    document = parse_document("a: 1\nb:\n  c:\n    - 1\n    - d: 2\n", "x.yaml")

    assert document.place(("a",)) == "x.yaml:1"
    assert document.place(("b", "c")) == "x.yaml:3"
    assert document.place(("b", "c", 1, "d")) == "x.yaml:5"


def test_something_missing_is_placed_at_what_surrounds_it():
    document = parse_document("a: 1\nb:\n  c: 1\n", "x.yaml")

    assert document.place(("b", "missing", "deeper")) == "x.yaml:2"
    assert parse_document("", "x.yaml").place(("a",)) == "x.yaml"


def test_a_key_given_twice_is_refused_with_both_lines():
    with pytest.raises(SpecError, match=r"^x\.yaml:3: layout\.tp: given twice, first at x\.yaml:2$"):
        parse_document("layout:\n  tp: 1\n  tp: 2\n", "x.yaml")


@pytest.mark.parametrize("text", ["a: 1\nrows:\n  - {gbs: 64, gbs: 128}\n", '{"rows": [{"gbs": 64,\n\n"gbs": 128}]}'])
def test_a_key_given_twice_is_refused_in_plain_values_too(text):
    with pytest.raises(SpecError, match=r"^x\.yaml:3: not valid YAML: 'gbs' is given twice, first in line [13]$"):
        load_yaml(text, "x.yaml")


def test_plain_values_may_take_over_those_of_an_anchor_and_change_one():
    text = "base: &base {tp: 1, pp: 2}\nrow: {<<: *base, tp: 4}\n"

    assert load_yaml(text, "x.yaml")["row"] == {"tp": 4, "pp": 2}


def test_plain_values_may_take_over_those_of_an_anchor_that_lies_deeper_and_itself_takes_over_others():
    text = "base: &base {tp: 1}\nfirst:\n  row: &row {<<: *base, tp: 4}\nsecond: {<<: *row, pp: 2}\n"

    found = load_yaml(text, "x.yaml")

    assert found["first"]["row"] == {"tp": 4}
    assert found["second"]["pp"] == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1, 2\n", r"^x\.yaml:2: not valid YAML: "),
        ("\t- x", r"^x\.yaml:1: not valid YAML: "),
        ("a: \x00", r"^x\.yaml: not valid YAML: "),
        ("a: &x [*x]", r"^x\.yaml:1: a\[0\]: the value contains itself$"),
        ("? [a]\n: 1\n", r"^x\.yaml:1: the file: a key must be a plain word$"),
        ("--- 1\n--- 2\n", r"^x\.yaml:2: not valid YAML: "),
        ("[" * 100_000, r"^x\.yaml: nested deeper than 100 levels$"),
    ],
)
def test_what_is_not_a_document_is_refused_in_one_line(text, message):
    with pytest.raises(SpecError, match=message) as refused:
        parse_document(text, "x.yaml")

    assert "\n" not in str(refused.value)


def test_aliases_of_aliases_that_stand_for_more_than_memory_holds_are_refused():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]

    for read in (parse_document, load_yaml):
        with pytest.raises(SpecError, match=r"^x\.yaml:7: expected at most 1,000,000 values in a file; an alias "):
            read("\n".join(lines), "x.yaml")


@given(st.text(max_size=200))
def test_any_text_is_a_document_or_a_spec_error(text):
    with suppress(SpecError):
        parse_document(text, "x.yaml")


@given(st.text(alphabet="ab:-[]{}&*#'\"|>? \n\t1.", max_size=60))
def test_any_punctuation_is_a_document_or_a_spec_error(text):
    with suppress(SpecError):
        parse_document(text, "x.yaml")


def test_a_missing_file_and_one_that_is_not_text_are_named(tmp_path: Path):
    binary = tmp_path / "run.yaml"
    binary.write_bytes(b"\xff\xfe\x00\xd8")

    with pytest.raises(SpecError, match=r"nope\.yaml: no such file"):
        read_document(tmp_path / "nope.yaml")
    with pytest.raises(SpecError, match=r"run\.yaml: cannot be read: "):
        read_document(binary)
    with pytest.raises(SpecError, match="cannot be read"):
        read_document(tmp_path)


def test_an_overlay_merges_mappings_and_says_where_its_values_come_from():
    document = parse_document("a: {b: 1, c: 2}\nd: auto\n", "x.yaml")

    changed = overlay(document, {"a": {"b": 5}, "d": {"tp": 8}, "e": 7}, "command line")

    assert changed.value == {"a": {"b": 5, "c": 2}, "d": {"tp": 8}, "e": 7}
    assert changed.place(("a", "b")) == "command line"
    assert changed.place(("a", "c")) == "x.yaml:1"
    assert changed.place(("d", "tp")) == "command line"
    assert document.value["a"] == {"b": 1, "c": 2}


def test_a_rule_over_fields_of_two_origins_names_both():
    changed = overlay(parse_document("a: {b: 1, c: 2}\nd: 3\n", "x.yaml"), {"a": {"b": 5}}, "command line")

    both = r"^x\.yaml:1 and command line: a: b is 5$"
    with pytest.raises(SpecError, match=both), changed.located(("a",), field=True):
        raise SpecError("b is 5")
    with pytest.raises(SpecError, match=r"^x\.yaml:2: d is 3$"), changed.located(("d",)):
        raise SpecError("d is 3")


def test_keys_are_written_as_users_read_them():
    assert dotted(("dies", 0, "count")) == "dies[0].count"
    assert dotted(()) == ""
