"""Fill what a description of a run leaves open, by one set of rules for plans, for detected jobs and for rows.

Each rule says what it takes and why, so that the output can name it.
"""

from __future__ import annotations

from typing import NamedTuple

MOST_CHUNKS = 8
"""Model chunks a pipeline rank holds at most: more cost more transfers than the bubble gives back."""
SPARE_LAYERS = 2
"""Layers that embedding and loss may stand for where stages are dealt out (Llama 3 405B: 126 of 128)."""


class Taken(NamedTuple):
    """A value that was not stated, and why it is taken."""

    value: int
    why: str


def interleaved_chunks(pp: int, layers: int, micro_batches: int) -> Taken:
    """Model chunks a pipeline rank holds where a Megatron-like schedule leaves them open: the largest number up to
    `MOST_CHUNKS` that deals out the layers, with one or two more for embedding and loss. The schedule (Narayanan
    et al. 2021, arXiv 2104.04473) needs the micro-batches to be a multiple of the stages."""
    if pp == 1:
        return Taken(1, "no pipeline")
    if micro_batches % pp:
        return Taken(1, f"{micro_batches} micro-batches are no multiple of {pp} stages")
    for chunks in range(MOST_CHUNKS, 1, -1):
        if chunks * pp <= layers and any((layers + spare) % (pp * chunks) == 0 for spare in range(SPARE_LAYERS + 1)):
            return Taken(chunks, "interleaved as far as the layers allow")
    return Taken(1, "the layers do not divide")


def pipeline_chunks(pp: int, layers: int, micro_batches: int, *, interleaves: bool) -> Taken:
    """Return the model chunks that a pipeline rank holds where nobody states them, for software that `interleaves`
    its pipelines (`Stack.interleaves`) and for software that does not."""
    if not interleaves:
        return Taken(1, "this software gives a rank one chunk unless told otherwise")
    return interleaved_chunks(pp, layers, micro_batches)
