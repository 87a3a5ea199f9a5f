"""Whatever is in a file that somebody else has written: a result whose numbers can be, or one sentence of ours.

A hundred mutations of each kind of file here, and thirty of a ledger, which takes a whole audit; thousands of new ones
with `make fuzz`.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carbon_plugin.errors import CarbonPluginError
from tests.fuzz.readers import READERS

seeds = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("kind", [kind for kind in READERS if kind not in ("ledger", "intensity as Parquet")])
@given(seed=seeds)
def test_any_file_is_read_or_refused_in_one_sentence(kind: str, seed: int) -> None:
    READERS[kind](random.Random(seed))


@given(seed=seeds)
def test_any_parquet_file_is_read_or_refused_in_one_sentence(seed: int) -> None:
    pytest.importorskip("pyarrow")
    READERS["intensity as Parquet"](random.Random(seed))


@settings(max_examples=max(30, settings.default.max_examples // 4))
@given(seed=seeds)
def test_any_ledger_is_audited_or_refused_in_one_sentence(seed: int) -> None:
    READERS["ledger"](random.Random(seed))


@pytest.mark.parametrize("kind", ["sacct", "Kubernetes", "spec", "forecast", "model card", "intensity as CSV"])
def test_mutations_reach_both_outcomes(kind: str) -> None:
    """One mutation of a spec in twenty is still a spec."""
    outcomes = [READERS[kind](random.Random(seed)) for seed in range(120)]
    refused = sum(isinstance(found, CarbonPluginError) for found in outcomes)
    assert 0 < refused < 120
