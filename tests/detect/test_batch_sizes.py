"""Sizes of batches: as long as the model reads them, without padding where that is told, and none where it is not."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from carbon_plugin.detect.batch_sizes import FIRST_SIZE, BatchSizes


def ids(rows: int, length: int) -> torch.Tensor:
    return torch.ones(rows, length, dtype=torch.long)


def masked(rows: int, length: int, real: int) -> dict[str, torch.Tensor]:
    return {"input_ids": ids(rows, length), "attention_mask": (torch.arange(length) < real).repeat(rows, 1).long()}


def after(first: list[Any], seq_len: int | None) -> tuple[BatchSizes, dict[str, Any]]:
    sizes = BatchSizes()
    for batch in first:
        sizes.see(batch)
    assert sizes.of_step() is None  # its tokens are known from the model's calls
    return sizes, {name: seen.value for name, seen in sizes.told(seq_len).items()}


def size(sizes: BatchSizes, *batches: Any) -> int | None:
    for batch in batches:
        sizes.see(batch)
    return sizes.of_step()


@pytest.mark.parametrize(
    ("seq_len", "first", "short", "longer"),
    [
        (9, 72, 9, 4 * 17),
        (8, 64, 8, 4 * 16),  # the last token of a batch is a label
        (4, 72 - 8 * 5, 4, 4 * 12),  # five tokens at once are predicted
        (27, 72, 9, 4 * 17),  # the model adds tokens of an image
    ],
)
def test_labels_behind_the_last_token_are_left_out_of_every_step(seq_len, first, short, longer):
    sizes, told = after([ids(4, 9), ids(4, 9)], seq_len)

    assert told[FIRST_SIZE] == first
    assert size(sizes, ids(1, 9)) == short
    assert size(sizes, ids(4, 17)) == longer


def test_padding_is_left_out_where_a_mask_tells_it_and_its_part_of_the_first_step_is_told():
    sizes, told = after([masked(4, 9, 6)], 8)

    assert told[FIRST_SIZE] == 24
    assert told["training.padding_fraction"] == 0.25
    assert size(sizes, masked(2, 9, 3), masked(1, 9, 1)) == 7


def test_step_whose_batches_tell_it_otherwise_has_no_size_and_the_next_one_has():
    sizes, _ = after([masked(4, 9, 6)], 9)

    assert size(sizes, masked(4, 9, 6), ids(4, 9)) is None
    assert size(sizes, masked(4, 9, 2)) == 8


@pytest.mark.parametrize("first", [[], [torch.zeros(2, 3, 4, 4)], [ids(4, 9), torch.zeros(2, 3, 4, 4)]])
def test_where_the_first_step_has_no_size_no_step_has(first):
    sizes, told = after(first, 9)

    assert told == {}
    assert size(sizes, ids(4, 9)) is None


def test_where_the_model_was_not_seen_no_size_is_told():
    sizes, told = after([ids(4, 9)], None)

    assert told == {}
    assert size(sizes, ids(4, 9)) is None
