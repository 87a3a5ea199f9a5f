"""Read how unevenly the text of a published row spreads over experts, where the row says what the text was."""

from __future__ import annotations

import math

ONE_WORD = "one repeated word, padded"
"""Words of a note for text that is one word again and again and then padding, as some benchmarks train on."""
KINDS_OF_TOKENS = 2
"""The kinds of tokens of such text: the word and the padding."""


def repeated_text_imbalance(kinds: int, top_k: int, experts: int, ranks: int) -> float:
    """Return the expected load of the fullest of `ranks` expert-parallel ranks over the mean load, for text of `kinds`
    kinds of tokens that are equally frequent.

    All tokens of a kind go to the same `top_k` experts: attention over equal values returns that value at every
    position, so that the router sees equal states. The `kinds * top_k` choices fall on the ranks at random, at most
    `kinds` times on one expert. The expected largest number of choices on a rank is the sum of the probabilities that
    it exceeds 0, 1, 2 and so on, which follow by counting (multivariate hypergeometric distribution).
    """
    choices, room = kinds * top_k, kinds * (experts // ranks)
    ways = math.comb(ranks * room, choices)
    most = sum(1 - _ways_below(choices, room, ranks, limit) / ways for limit in range(choices))
    return most * ranks / choices


def _ways_below(choices: int, room: int, ranks: int, limit: int) -> int:
    """Return the number of ways to place the choices so that no rank, which has `room` places, gets more than
    `limit`."""
    ways = [1] + [0] * choices
    for _ in range(ranks):
        ways = [
            sum(ways[total - here] * math.comb(room, here) for here in range(min(limit, room, total) + 1))
            for total in range(choices + 1)
        ]
    return ways[choices]
