"""Typed values out of documents: what is accepted, and how a refusal reads."""

from __future__ import annotations

import re
from typing import Literal

import pytest
from msgspec import Struct

from carbon_plugin.errors import InfeasibleLayoutError, SpecError
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.models.model import TransformerModel
from carbon_plugin.spec.parsing.decoding import decode
from carbon_plugin.spec.parsing.document import Document, parse_document
from carbon_plugin.spec.training import TrainingPlan


class Inner(Struct, frozen=True):
    count: int
    share: float = 1.0


class Outer(Struct, frozen=True):
    inner: Inner
    named: dict[str, Inner] = {}
    listed: list[Inner] = []
    word: str | None = None
    kind: Literal["ring", "tree"] = "ring"
    stage: Literal[0, 1, 2] = 0
    on: bool = False


def decoded(text: str) -> Outer:
    return decode(parse_document(text, "x.yaml"), Outer)


def test_nested_structs_lists_and_mappings_are_built():
    outer = decoded("inner: {count: 1}\nnamed: {a: {count: 2}}\nlisted: [{count: 3}, {count: 4, share: 0.5}]\n")

    assert outer == Outer(Inner(1), {"a": Inner(2)}, [Inner(3), Inner(4, 0.5)])


def test_a_whole_float_is_taken_for_an_int_and_an_int_for_a_float():
    outer = decoded("inner: {count: 4e3, share: 2}\nstage: 2.0\n")

    assert outer.inner == Inner(4000, 2.0)
    assert type(outer.inner.count) is int
    assert outer.stage == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("inner: {count: eight}", "x.yaml:1: inner.count: expected int, got 'eight'"),
        ("inner: {count: 1.5}", "x.yaml:1: inner.count: expected int, got 1.5"),
        ("inner: {count: true}", "x.yaml:1: inner.count: expected int, got True"),
        ("inner:\n  count:\n", "x.yaml:2: inner.count: expected int, got nothing"),
        ("inner:\n  count: 1\n  share: x", "x.yaml:3: inner.share: expected number, got 'x'"),
        ("inner: {count: 1, share: 1e-300}", "x.yaml:1: inner.share: expected 0 or at least 1e-30 in size, got 1e-300"),
        ("inner: {count: 1, share: 1e999}", "x.yaml:1: inner.share: expected number, got inf"),
        ("inner: 5", "x.yaml:1: inner: expected a mapping, got 5"),
        ("inner: {count: 1}\nnamed: [1]", "x.yaml:2: named: expected a mapping, got [1]"),
        ("inner: {count: 1}\nnamed:\n  a: {count: b}", "x.yaml:3: named.a.count: expected int, got 'b'"),
        ("inner: {count: 1}\nlisted: 3", "x.yaml:2: listed: expected a list, got 3"),
        ("inner: {count: 1}\nlisted:\n- count: 1\n- count: b", "x.yaml:4: listed[1].count: expected int, got 'b'"),
        ("inner: {count: 1}\nword: 3", 'x.yaml:2: word: expected text, got 3; write it in quotes: "3"'),
        ("inner: {count: 1}\nkind: rign", "x.yaml:2: kind: expected one of ring, tree, got 'rign'"),
        ("inner: {count: 1}\nstage: 7", "x.yaml:2: stage: expected one of 0, 1, 2, got 7"),
        ("inner: {count: 1}\non: yes", "x.yaml:2: on: expected true or false, got 'yes'"),
        ("word: a", "x.yaml:1: field inner is missing, expected a mapping"),
        ("inner: {}", "x.yaml:1: inner: field count is missing, expected int"),
        ("inner: {count: 1}\nnaned: {}", "x.yaml:2: naned: unknown field; nearest: named"),
        ("inner: {count: 1, zz: 1}", "x.yaml:1: inner.zz: unknown field; known: count, share"),
        (
            "inner: {count: 1, share: 1,35}",
            "x.yaml:1: inner.35: unknown field; a comma in braces begins a new field; write the number before it with "
            "a point, such as 1.35",
        ),
        ("[1]", "x.yaml:1: expected a mapping, got [1]"),
    ],
)
def test_a_refusal_names_place_field_value_and_expectation(text, message):
    with pytest.raises(SpecError, match=f"^{re.escape(message)}$"):
        decoded(text)


def test_a_rule_of_the_struct_keeps_its_error_type_and_gains_the_place():
    document = parse_document("layout:\n  dp_shard: 8\n", "x.yaml")

    with pytest.raises(InfeasibleLayoutError, match=r"^x\.yaml:1: layout: dp_shard 8 shards nothing"):
        decode(document, ParallelLayout, ("layout",))


def test_a_missing_choice_between_fields_is_explained():
    document = Document({"seq_len": 8, "global_batch_size": 1}, "command line", {})

    with pytest.raises(SpecError, match=r"^command line: training: give steps or tokens, exactly one"):
        decode(document, TrainingPlan)


def test_the_tag_of_a_struct_may_be_stated():
    fields = {"name": "m", "layers": 1, "hidden": 8, "heads": 2, "kv_heads": 2, "head_dim": 4, "ffn": 16, "vocab": 10}

    assert decode(Document(fields | {"type": "transformer"}, "x", {}), TransformerModel).hidden == 8
