"""Sum up the sizes of the batches of each step, so that a short batch counts for less than those of the first step.

A size is not yet a number of tokens, because ranks may share a batch, or a model may add tokens of its own. The tokens
of the first step are known from the model's calls. Those of a later step are to them as its size is to the first one's.
"""

from __future__ import annotations

from typing import Any

from carbon_plugin.detect.observed import Observed
from carbon_plugin.detect.tensors import batch_shape, tokens_in_host_memory

FIRST_SIZE = "training.first_batch_size"
"""The field of a `Detected` with the size of the first step's batches."""
MOST_LABELS = 8
"""A batch of token ids is often longer than the model is called with, by the labels of the last tokens: one, or as many
as a model predicts at once."""


class BatchSizes:
    """One instance sums up the sizes of the batches of a training on this rank, without waiting for a device.

    A size is the number of tokens that are no padding where the first batch says what is padding, and else of its
    places. A step with a batch that says it otherwise, or whose size is not known, has none. The first step has none
    either, because its tokens are known.
    """

    def __init__(self) -> None:
        self._without_padding: bool | None = None
        self._labels = 0
        self._lengths: set[int] = set()
        self._rows = self._places = 0
        self._sum: int | None = 0
        self._first: int | None = None
        self._told = False

    def see(self, batch: Any) -> None:
        """Add a batch of the next step."""
        found, shape = tokens_in_host_memory(batch), batch_shape(batch)
        rows, length = (None, None) if shape is None else shape[0]
        if found is None or rows is None or length is None or self._sum is None:
            self._sum = None
            return
        if self._without_padding is None:
            self._without_padding = found.without_padding
        if self._first is None:
            self._rows, self._places = self._rows + rows, self._places + rows * length
            self._lengths.add(length)
        if found.without_padding != self._without_padding:
            self._sum = None
        else:
            self._sum += found.tokens if self._without_padding else rows * max(0, length - self._labels)

    def of_step(self) -> int | None:
        """Return the size of the step that ended, or None where it is not known, and for the first step."""
        size, self._sum = self._sum, 0
        if self._first is None:
            self._first = size or 0
            return None
        return size if self._told else None

    def told(self, seq_len: int | None) -> dict[str, Observed]:
        """Return the fields that say how tokens are counted, after the first step. `seq_len` is the length that the
        model was called with. They are empty where the size of the first step is not known.
        """
        if not self._first or seq_len is None:
            return {}
        more = min(self._lengths) - seq_len
        self._labels = more if len(self._lengths) == 1 and 0 < more <= MOST_LABELS else 0
        places = self._places - self._labels * self._rows
        told, what, first = {}, "the places", places
        if self._without_padding:
            what, first = "the tokens without padding", self._first
            if first < places:
                told["training.padding_fraction"] = Observed(
                    1 - first / places, "the masks of the first step's batches"
                )
        self._told = True
        said = f"{what} in its batches on rank 0, over the {first:,} of the first step, whose tokens are known"
        told["tokens"] = Observed("step by step", said)
        told[FIRST_SIZE] = Observed(first, "the first step's batches")
        return told
