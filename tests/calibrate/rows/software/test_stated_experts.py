"""What a row states of how its experts run is one fact, whether a field or the notes have it."""

from __future__ import annotations

from typing import Any

import pytest

from carbon_plugin.calibrate.rows.fields import Fields
from carbon_plugin.calibrate.rows.rows import PublishedRow, parse_rows
from carbon_plugin.calibrate.rows.software.stated_experts import StatedExperts, stated_experts
from carbon_plugin.errors import SpecError

RECORD: dict[str, Any] = {
    "id": "mine-1", "framework": "Megatron-core (2026)", "arch": "qwen3_30b_a3b", "seq_len": 4096, "precision": "bf16",
    "gpu": "H100-80GB-SXM", "n_gpus": 32, "tp": 1, "pp": 1, "ep": 16, "mbs": 1, "gbs": 256, "step_time_s": 3.5,
}  # fmt: skip
NOTHING = StatedExperts(
    routing=None, dispatcher=None, cuda_graphs=None, capacity_factor=None, padded=True, dropless=False
)


def read(**changes: Any) -> PublishedRow:
    """Return `RECORD` with changes, as it is read."""
    (rows, skipped) = parse_rows([{**RECORD, **changes}], {})
    assert not skipped, skipped[0].reason
    return rows[0]


def refusal(**changes: Any) -> str:
    """Return why `RECORD` with changes is skipped."""
    (rows, skipped) = parse_rows([{**RECORD, **changes}], {})
    assert not rows
    return skipped[0].reason


def test_experts_are_padded_to_their_capacity_unless_a_field_or_the_notes_say_otherwise() -> None:
    words, usual = "capacity factor 1.0, not padded", {"capacity_factor": 1.0}
    megatron = {"moe_expert_capacity_factor": 1.0, "moe_pad_expert_input_to_capacity": False}

    assert read(**megatron) == read(notes=words) == read(**usual, pad_to_capacity=False)
    assert read(**usual) == read(**usual, pad_to_capacity=True) != read(notes=words)
    assert read(notes=words, pad_to_capacity=True).spec.stack.static_dispatch


@pytest.mark.parametrize(
    ("field", "value", "notes", "known"),
    [
        ("routing", "natural", "natural routing", "natural"),
        ("routing", "learned", "a natural routing of text", "natural"),
        ("routing", "balanced", "routing balanced by force", "forced"),
        ("dispatcher", "HybridEP", "HybridEP", "hybridep"),
        ("dispatcher", "deepep", "DeepEP over EFA", "deepep"),
        ("dispatcher", "flex", "DeepEP", "deepep"),
        ("dispatcher", "all_to_all", "a plain all-to-all", "all_to_all"),
        ("cuda_graphs", False, "no CUDA graphs", "none"),
        ("cuda_graphs", "scoped", "CUDA graphs of attention and router", "scoped"),
        ("cuda_graphs", "full iteration", "full-iteration CUDA graphs", "iteration"),
        ("capacity_factor", 1.25, "capacity factor 1.25", 1.25),
    ],
)
def test_a_field_and_the_words_of_notes_are_one_fact(field: str, value: object, notes: str, known: object) -> None:
    said = stated_experts(Fields({field: value}))

    assert said == stated_experts(Fields({"notes": notes}))
    assert getattr(said, field) == known
    assert read(**{field: value}) == read(notes=notes)


@pytest.mark.parametrize(
    ("notes", "field", "known"),
    [
        ("natural routing, balanced by biases", "routing", "balanced_in_training"),
        ("natural routing, balanced by an auxiliary loss of 0.01", "routing", "balanced_in_training"),
        ("routing balanced by force in turn (even)", "routing", "in_turn"),
        ("routing balanced by force, in turn", "routing", "in_turn"),
        ("CUDA graphs of the whole step (GraphTrainer)", "cuda_graphs", "other"),
        ("row label: Qwen3_30B_a3B (tokendrop)", "capacity_factor", 1.0),
        ("dropped at a capacity factor of 1.5, not padded", "padded", False),
        ("MoE: forced-balanced routing, dropless", "dropless", True),
    ],
)
def test_notes_say_more_than_fields_have(notes: str, field: str, known: object) -> None:
    assert getattr(stated_experts(Fields({"notes": notes})), field) == known


def test_a_row_that_is_silent_states_nothing() -> None:
    assert stated_experts(Fields({"notes": "job 1365865; each rank in turn logs"})) == NOTHING


def test_a_field_goes_before_notes_that_speak_of_other_runs_too() -> None:
    said = stated_experts(Fields({"notes": "3 % slower than DeepEP, capacity factor 2", "dispatcher": "alltoall"}))

    assert (said.dispatcher, said.capacity_factor) == ("all_to_all", 2.0)
    assert read(dispatcher="alltoall", notes="slower than DeepEP").spec.stack.expert_dispatch == "all_to_all"


def test_a_stated_exchange_goes_before_that_of_the_recipe() -> None:
    recipe = read(framework="Megatron-Bridge")
    stated = read(framework="Megatron-Bridge", dispatcher="alltoall")

    assert (recipe.spec.stack.expert_dispatch, stated.spec.stack.expert_dispatch) == ("deepep", "all_to_all")


@pytest.mark.parametrize("field", ["routing", "dispatcher", "cuda_graphs"])
def test_a_word_that_nothing_knows_is_refused_with_those_that_are_known(field: str) -> None:
    assert refusal(**{field: "somehow"}).startswith(f"{field} is 'somehow', expected one of ")


def test_a_capacity_factor_that_is_no_number_is_refused() -> None:
    with pytest.raises(SpecError, match="capacity_factor is 'ample', expected a positive number"):
        stated_experts(Fields({"capacity_factor": "ample"}))
