"""Select published rows of models whose layers differ.

They are predicted with the shipped constants, and no constant is fitted to them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from carbon_plugin.calibrate.rows.rows import PublishedRow
from carbon_plugin.predict.case.from_spec import shape_of
from carbon_plugin.predict.case.inputs import Shape
from carbon_plugin.spec.models.blocks import Block
from carbon_plugin.spec.models.model import TransformerModel


def is_hybrid(row: PublishedRow) -> bool:
    """Return whether the layers of the row's model differ, so that they are priced kind by kind."""
    return bool(_blocks(row))


def without_hybrids(rows: Iterable[PublishedRow]) -> list[PublishedRow]:
    """Return the rows of models with equal layers, which one call predicts together."""
    return [row for row in rows if not is_hybrid(row)]


def hybrid_groups(rows: Sequence[PublishedRow]) -> list[list[PublishedRow]]:
    """Return the rows of models whose layers differ, in groups of models with the same layers and the same tables: each
    kind of layer holds the whole model's vocabulary.
    """
    groups: dict[tuple[Shape, ...], list[PublishedRow]] = {}
    for row in rows:
        if is_hybrid(row):
            assert isinstance(row.spec.model, TransformerModel)  # as `is_hybrid` says
            groups.setdefault(shape_of(row.spec.model).kinds, []).append(row)
    return list(groups.values())


def _blocks(row: PublishedRow) -> tuple[Block, ...]:
    return row.spec.model.blocks if isinstance(row.spec.model, TransformerModel) else ()
