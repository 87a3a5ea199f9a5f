"""Published rows of models whose layers differ: predicted with the shipped constants, and fitted to nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from carbon_plugin.calibrate.rows.rows import PublishedRow
from carbon_plugin.spec.blocks import Block
from carbon_plugin.spec.model import TransformerModel


def is_hybrid(row: PublishedRow) -> bool:
    """Whether the layers of the row's model differ, so that it is priced kind by kind."""
    return bool(_blocks(row))


def without_hybrids(rows: Iterable[PublishedRow]) -> list[PublishedRow]:
    """The rows of models with equal layers, which go through one call together."""
    return [row for row in rows if not is_hybrid(row)]


def hybrid_groups(rows: Sequence[PublishedRow]) -> list[list[PublishedRow]]:
    """The other rows, those of models with the same layers together."""
    groups: dict[tuple[Block, ...], list[PublishedRow]] = {}
    for row in rows:
        if is_hybrid(row):
            groups.setdefault(_blocks(row), []).append(row)
    return list(groups.values())


def _blocks(row: PublishedRow) -> tuple[Block, ...]:
    return row.spec.model.blocks if isinstance(row.spec.model, TransformerModel) else ()
