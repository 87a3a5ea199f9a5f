"""Rules for what a description leaves open hold at any size, and take nothing that cannot be run."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_plugin.spec.defaults import MOST_CHUNKS, SPARE_LAYERS, interleaved_chunks


@given(pp=st.integers(1, 64), layers=st.integers(1, 200), rounds=st.integers(1, 20))
def test_chunks_always_deal_out_the_layers(pp, layers, rounds) -> None:
    taken = interleaved_chunks(pp, layers, pp * rounds)
    assert taken.why
    assert 1 <= taken.value <= MOST_CHUNKS
    if taken.value > 1:
        assert pp * taken.value <= layers
        assert any((layers + spare) % (pp * taken.value) == 0 for spare in range(SPARE_LAYERS + 1))


@pytest.mark.parametrize(
    ("pp", "layers", "micro_batches", "chunks"),
    [(8, 96, 64, 6), (16, 126, 32, 4), (16, 112, 32, 7), (1, 80, 7, 1), (8, 96, 12, 1), (8, 61, 64, 1)],
)
def test_stages_interleave_as_published_layouts_do(pp, layers, micro_batches, chunks) -> None:
    assert interleaved_chunks(pp, layers, micro_batches).value == chunks
