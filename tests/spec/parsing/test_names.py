"""Names as typed, and what is offered instead of an unknown one."""

from __future__ import annotations

import pytest

from carbon_plugin.spec.parsing.names import edits, nearest, normalized, unknown_name

KNOWN = ["h100-sxm", "h100-pcie", "a100-sxm-80gb", "l4"]


def test_case_blanks_and_underscores_do_not_matter():
    assert normalized("  A100 SXM_80GB ") == "a100-sxm-80gb"


def test_a_name_that_begins_with_what_was_typed_comes_first():
    assert nearest("h10", KNOWN)[:2] == ["h100-sxm", "h100-pcie"]


def test_a_misspelt_name_is_found():
    assert nearest("a100-smx-80gb", KNOWN)[0] == "a100-sxm-80gb"


def test_a_name_that_holds_what_was_typed_is_offered():
    assert nearest("titan", ["torchtitan", "nemo"]) == ["torchtitan"]


@pytest.mark.parametrize(
    ("first", "second", "count"),
    [("texas", "texas", 0), ("texsa", "texas", 1), ("texa", "texas", 1), ("tanzania", "texas", 6), ("", "ab", 2)],
)
def test_edits_count_letters_inserted_left_out_replaced_and_swapped(first, second, count):
    assert edits(first, second) == edits(second, first) == count


def test_a_name_that_begins_what_was_typed_is_offered():
    assert nearest("llama-3.1-8b-instruct-v2", ["llama-3.1-8b", "gpt2"]) == ["llama-3.1-8b"]


def test_a_word_of_another_shape_is_not_offered_for_sharing_letters():
    assert nearest("Texsa", ["Tanzania", "Texas", "Tajikistan"]) == ["Texas"]


def test_a_name_is_as_near_as_its_aliases():
    assert nearest("trilium", ["tpu-v6e", "l4"], {"tpu-v6e": ["trillium"]}) == ["tpu-v6e"]


def test_unknown_name_lists_the_nearest_names_in_one_line():
    message = str(unknown_name("accelerator", "h10", KNOWN))

    assert message.startswith("unknown accelerator 'h10'; nearest: h100-sxm, h100-pcie")
    assert "\n" not in message


def test_unknown_name_lists_all_names_when_none_is_near():
    message = str(unknown_name("node", "zzz", ["dgx-h100", "a", "dgx-h100"]))
    assert message == "unknown node 'zzz'; known: a, dgx-h100"


def test_a_name_of_any_length_is_compared_at_once():
    assert nearest("h100" * 50_000, ["h100-sxm"]) == []
