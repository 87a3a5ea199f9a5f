"""Read the global batch and the micro-batch of a published row."""

from __future__ import annotations

from carbon_plugin.calibrate.rows.fields import Fields, MissingFieldError
from carbon_plugin.spec.frameworks import Conventions

MAX_UNSPLIT_BATCH = 16
"""The largest number of sequences per rank that count as one micro-batch where neither micro-batch nor accumulation is
stated.
"""


def batch_of(row: Fields, dp: int, stages: int, conventions: Conventions, assumed: list[str]) -> tuple[int, int]:
    """Return global batch and micro-batch in sequences."""
    size, batch, rounds = (row.optional_count(name) for name in ("mbs", "gbs", "grad_accum"))
    if size is not None and stages > 1 and conventions.local_batch_is_split:
        # The stated size is the batch of a data-parallel rank, run as one micro-batch a stage.
        assumed.append(f"mbs {max(1, size // stages)}")
        return batch or size * dp, max(1, size // stages)
    if batch is None:
        if size is None:
            raise MissingFieldError("gbs")
        assumed.append(f"gbs {size * dp * (rounds or 1)}")
        return size * dp * (rounds or 1), size
    if size is None:
        share = max(1, batch // dp)
        # Megatron's relatives split a rank's share into micro-batches of one unless they are told otherwise.
        whole = rounds is None and stages == 1 and share <= MAX_UNSPLIT_BATCH and not conventions.interleaves
        size = share if whole else max(1, share // rounds) if rounds else 1
        assumed.append(f"mbs {size}")
    return batch, size
