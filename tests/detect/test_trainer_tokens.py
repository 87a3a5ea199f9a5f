"""Tokens of a Hugging Face Trainer: its own counts first, then its batches, and never a number that nothing shows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from carbon_plugin.detect.tensors import tokens_in_host_memory
from carbon_plugin.detect.trainer_tokens import TrainerTokens

IDS = torch.ones(2, 8, dtype=torch.long)
MASK = torch.tensor([[1] * 8, [1] * 3 + [0] * 5])


@pytest.mark.parametrize(
    ("batch", "tokens"),
    [
        ({"input_ids": IDS, "attention_mask": MASK}, (11, True)),
        ({"input_ids": IDS, "position_ids": torch.arange(8).repeat(2, 1)}, (16, True)),
        ({"input_ids": IDS, "cu_seq_lens_q": torch.tensor([0, 3, 16])}, (16, True)),
        ({"input_ids": IDS, "labels": IDS}, (16, True)),
        ({"input_ids": IDS, "labels": torch.where(MASK == 1, IDS, -100)}, (16, False)),  # padding, or a prompt
        ({"input_ids": IDS}, (16, False)),
        ({"input_ids": IDS, "attention_mask": MASK.to("meta")}, None),
        ({"pixel_values": torch.zeros(2, 3, 4, 4)}, None),
        ({}, None),
    ],
)
def test_tokens_of_a_batch_are_without_padding_where_it_says_what_is_padding(batch, tokens):
    assert tokens_in_host_memory(batch) == tokens


def state(seen: int = 0) -> Any:
    return SimpleNamespace(num_input_tokens_seen=seen)


def test_count_of_the_trainers_state_comes_first():
    counter = TrainerTokens(state(100), once=True, ranks=2)
    counter.see([{"input_ids": IDS, "attention_mask": MASK}])

    assert counter.of_step(state(130), SimpleNamespace(_total_train_tokens=25.0)) == 30
    assert counter.of_step(state(170), SimpleNamespace(_total_train_tokens=60.0)) == 40
    assert counter.source == "num_input_tokens_seen of the trainer"


def test_trainers_of_trl_count_for_themselves_also_where_ranks_share_a_batch():
    counter = TrainerTokens(state(), once=False, ranks=2)

    assert counter.of_step(state(64), SimpleNamespace(_total_train_tokens=16)) == 16
    assert counter.of_step(state(128), SimpleNamespace(_total_train_tokens=27)) == 11
    assert counter.source == "num_tokens of the trainer"


def test_batches_are_counted_where_the_trainer_counts_nothing():
    counter = TrainerTokens(state(), once=True, ranks=2)
    counter.see([{"input_ids": IDS, "attention_mask": MASK}] * 2)

    assert counter.of_step(state(), SimpleNamespace()) == 2 * 2 * 11
    assert counter.source == "batches of rank 0, without padding, times 2 ranks"


def test_places_of_a_batch_that_does_not_tell_its_padding_count_and_that_is_said():
    counter = TrainerTokens(state(), once=True, ranks=1)
    counter.see([{"input_ids": IDS}, {"input_ids": IDS[:1]}])

    assert counter.of_step(state(), None) == 16 + 8
    assert "padding included" in counter.source


def test_step_with_a_batch_that_cannot_be_read_is_not_counted_and_the_next_one_is():
    counter = TrainerTokens(state(), once=True, ranks=1)
    counter.see([{"input_ids": IDS, "attention_mask": MASK}, {"pixel_values": torch.zeros(2, 3, 4, 4)}])

    assert counter.of_step(state(), None) is None
    counter.see([{"input_ids": IDS, "attention_mask": MASK}])
    assert counter.of_step(state(), None) == 11


@pytest.mark.parametrize("odd", [torch.tensor(5), "5", True, None])
def test_count_that_is_no_plain_number_is_not_read(odd):
    assert TrainerTokens(state(), once=True, ranks=1).of_step(state(), SimpleNamespace(_total_train_tokens=odd)) is None
