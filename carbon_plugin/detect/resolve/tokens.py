"""Determine the tokens of a step where nobody counts them at each step: as stated, as planned, or from the
first batch.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from carbon_plugin.detect.resolve.fields import FieldTable
from carbon_plugin.spec.numbers.amounts import percent

OTHER_BATCHES = 2.0
"""Batches after the first have between half and twice its tokens (our convention): texts differ in length, and trainers
pad a batch to its longest. A plan or a script that agrees with the first batch is believed instead.
"""
_SMALLER = "a smaller one, such as the last of an epoch, counts like it"
TOKENS = "tokens"
"""The field that says how an adapter counts the tokens of each step."""
DECLARED = "declared: tokens_per_step"
_FIELDS = ("training.seq_len", "training.global_batch_size")


class StepTokens(NamedTuple):
    """Holds the tokens that count for a step, and those that the first step's batch shows."""

    a_step: int | None
    of_first_step: int | None


def note_tokens(table: FieldTable, declared: int | None, places: int | None, *, sized: bool = False) -> StepTokens:
    """Record the tokens of a step with their source, and return them, each None where nothing tells it.

    `declared` is what the script declared; `places` is the number of places for tokens in a step's batch, including
    padding. `sized` says that the size of each step's batches is told, so that the first one stands only for itself.

    One rule holds for all adapters: what the script declares comes before what an adapter counts, because whoever
    passes `tokens_per_step` knows of packing, padding or a model that adds tokens of its own.
    """
    rows = [row for name in _FIELDS if (row := table.rows.get(name)) is not None]
    sources = list(dict.fromkeys(str(row["source"]) for row in rows))
    seen = any(source.startswith("detected") for source in sources)
    padding = table.rows.get("training.padding_fraction") if seen else None
    first = places
    if places is not None and padding is not None:
        first = max(1, round(places * (1 - float(padding["value"]))))
    if declared is not None:
        table.note("tokens_per_step", declared, DECLARED)
        if TOKENS in table.rows:
            counted = str(table.rows[TOKENS]["source"]).removeprefix("detected: ")
            table.note(TOKENS, "as declared", f"{DECLARED}; counted beside it, and not used: {counted}")
        elif seen and first is not None and not 1 / OTHER_BATCHES <= declared / first <= OTHER_BATCHES:
            said = f"declared {declared:,}, detected {first:,} in the first step's batch"
            table.differences.append(f"tokens_per_step: {said}; declared counts")
        return StepTokens(declared, first)
    if places is None or first is None:
        return StepTokens(None, None)
    if not seen:
        table.note("tokens_per_step", places, "; ".join(sources))
        return StepTokens(places, places)
    if sized:
        source = (
            f"as the first step's batch shows, {_without(padding)}; every other step counts by the size of its batches"
        )
        table.note("tokens_per_step", first, source)
        return StepTokens(first, first)
    if all(row["detected"] in (row["planned"], row["declared"]) for row in rows):
        said = "planned" if all(row["detected"] == row["planned"] for row in rows) else "stated"
        table.note("tokens_per_step", places, f"as {said}, and as the first step's batch shows; {_SMALLER}")
        return StepTokens(places, first)
    low, high = round(first / OTHER_BATCHES), round(first * OTHER_BATCHES)
    source = f"the first step's batch stands for that of every step, {_without(padding)}: {low:,} to {high:,}"
    table.note("tokens_per_step", first, source, between=(low, high))
    return StepTokens(first, first)


def _without(padding: dict[str, Any] | None) -> str:
    return "padding included" if padding is None else f"{percent(float(padding['value']), 0)} padding left out"
