"""Determine the tokens of a step where nobody counts them at each step: as stated, as planned, or from the
first batch.
"""

from __future__ import annotations

from typing import Any

from carbon_plugin.detect.resolve.fields import FieldTable
from carbon_plugin.spec.numbers.amounts import percent

OTHER_BATCHES = 2.0
"""Batches after the first have between half and twice its tokens (our convention): texts differ in length, and trainers
pad a batch to its longest. A plan or a script that agrees with the first batch is believed instead.
"""
_SMALLER = "a smaller one, such as the last of an epoch, counts like it"
_FIELDS = ("training.seq_len", "training.global_batch_size")


def note_tokens(table: FieldTable, declared: int | None, places: int | None, *, sized: bool = False) -> int | None:
    """Record the tokens of a step with their source, and return them, or None where nothing tells them.

    `declared` is what the script declared; `places` is the number of places for tokens in a step's batch, including
    padding. `sized` says that the size of each step's batches is told, so that the first one stands only for itself.
    """
    if declared is not None:
        table.note("tokens_per_step", declared, "declared: tokens_per_step")
        return declared
    if places is None:
        return None
    rows = [table.rows[name] for name in _FIELDS]
    sources = list(dict.fromkeys(str(row["source"]) for row in rows))
    if not any(source.startswith("detected") for source in sources):
        table.note("tokens_per_step", places, "; ".join(sources))
        return places
    padding = table.rows.get("training.padding_fraction")
    tokens = places if padding is None else max(1, round(places * (1 - float(padding["value"]))))
    if sized:
        source = (
            f"as the first step's batch shows, {_without(padding)}; every other step counts by the size of its batches"
        )
        table.note("tokens_per_step", tokens, source)
        return tokens
    if all(row["detected"] in (row["planned"], row["declared"]) for row in rows):
        said = "planned" if all(row["detected"] == row["planned"] for row in rows) else "stated"
        table.note("tokens_per_step", places, f"as {said}, and as the first step's batch shows; {_SMALLER}")
        return places
    low, high = round(tokens / OTHER_BATCHES), round(tokens * OTHER_BATCHES)
    source = f"the first step's batch stands for that of every step, {_without(padding)}: {low:,} to {high:,}"
    table.note("tokens_per_step", tokens, source, between=(low, high))
    return tokens


def _without(padding: dict[str, Any] | None) -> str:
    return "padding included" if padding is None else f"{percent(float(padding['value']), 0)} padding left out"
