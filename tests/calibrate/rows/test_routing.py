"""How unevenly the text of a row spreads over experts."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_plugin.calibrate.rows.routing import ONE_WORD, repeated_text_imbalance
from carbon_plugin.calibrate.rows.rows import parse_rows

MIXTURE: dict[str, Any] = {
    "layers": 24, "hidden": 2880, "moe_ffn": 2880, "heads": 64, "kv_heads": 8, "head_dim": 64, "n_experts": 32,
    "top_k": 4, "vocab": 201088, "mlp": "swiglu",
}  # fmt: skip
ROW: dict[str, Any] = {
    "id": "one", "kind": "benchmark", "arch": "mixture", "seq_len": 4096, "precision": "bf16", "gpu": "H100-80GB-SXM",
    "n_gpus": 8, "gpus_per_node": 8, "tp": 1, "pp": 1, "ep": 8, "sharding": "FSDP", "mbs": 1, "gbs": 8,
    "framework": "torchtitan", "step_time_s": 1.0,
}  # fmt: skip


def counted(kinds: int, top_k: int, experts: int, ranks: int) -> float:
    """Return the same by writing down every way to choose experts."""
    choices = kinds * top_k
    placed = [expert // (experts // ranks) for _ in range(kinds) for expert in range(experts)]
    most = [max(picked.count(rank) for rank in range(ranks)) for picked in itertools.combinations(placed, choices)]
    return sum(most) / len(most) * ranks / choices


@pytest.mark.parametrize(
    ("kinds", "top_k", "experts", "ranks"), [(1, 2, 8, 4), (2, 1, 8, 2), (2, 2, 4, 4), (2, 2, 8, 2)]
)
def test_the_fullest_rank_of_repeated_text_has_the_load_that_counting_every_choice_gives(
    kinds, top_k, experts, ranks
) -> None:
    assert repeated_text_imbalance(kinds, top_k, experts, ranks) == pytest.approx(counted(kinds, top_k, experts, ranks))


@given(kinds=st.integers(1, 3), top_k=st.integers(1, 6), doublings=st.integers(0, 4))
def test_the_load_of_repeated_text_is_balanced_on_one_rank_and_grows_with_ranks(kinds, top_k, doublings) -> None:
    ranks = 2**doublings
    load = repeated_text_imbalance(kinds, top_k, 64, ranks)

    assert load == pytest.approx(1.0) if ranks == 1 else 1 < load <= ranks
    assert load <= repeated_text_imbalance(kinds, top_k, 64, 2 * ranks)


def test_a_row_of_repeated_text_loads_its_fullest_rank_more_and_another_row_does_not() -> None:
    def imbalance(**changes: Any) -> float:
        (row,), _ = parse_rows([{**ROW, **changes}], {"mixture": MIXTURE})
        assert row.spec.model.moe is not None
        return row.spec.model.moe.imbalance

    assert imbalance(notes=f"every sequence is {ONE_WORD}") == repeated_text_imbalance(2, 4, 32, 8) > 2
    assert imbalance(notes=f"every sequence is {ONE_WORD}", ep=1) == 1
    assert imbalance() == 1
