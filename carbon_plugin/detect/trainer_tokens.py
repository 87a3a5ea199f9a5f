"""Count tokens as a Hugging Face Trainer counts them, else as its batches show them, without waiting for a device.

`num_items_in_batch` is no such count: it is the number of labels in the loss, and a prompt has no labels. It is on the
device, so that reading it would wait for the step.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from carbon_plugin.detect.tensors import tokens_in_host_memory

_COUNTERS = {"num_input_tokens_seen": "num_input_tokens_seen", "_total_train_tokens": "num_tokens"}
"""The counters of the Trainer's state and of the trainers of TRL, with their names in the trainer's rows. Both add up
all ranks.
"""


class TrainerTokens:
    """One instance counts the tokens of a training.

    `once` says that the trainer's own count has each token once: ranks that share a batch count it several times,
    except in TRL's count. `ranks` is the number of ranks that have batches of their own. `source` says how the tokens
    of the last step were counted.
    """

    def __init__(self, state: Any, *, once: bool, ranks: int) -> None:
        self.source: str | None = None
        self._once, self._ranks = once, ranks
        self._counted: dict[str, int] = {"num_input_tokens_seen": int(state.num_input_tokens_seen)}
        self._in_batches: int | None = 0
        self._padded = False

    def see(self, batches: Iterable[Any]) -> None:
        """Count the tokens in the batches of the next step on this rank."""
        for batch in batches:
            found = tokens_in_host_memory(batch)
            if found is None or self._in_batches is None:
                self._in_batches = None
                return
            self._in_batches += found.tokens
            self._padded |= not found.without_padding

    def of_step(self, state: Any, trainer: Any) -> int | None:
        """Return the tokens over all ranks of the step that ended, or None where nothing counts them."""
        in_batches, self._in_batches = self._in_batches, 0
        for (name, shown), owner in zip(_COUNTERS.items(), (state, trainer), strict=True):
            now = getattr(owner, name, None)
            if not isinstance(now, int | float) or isinstance(now, bool):
                continue
            before, self._counted[name] = self._counted.get(name, 0), int(now)
            if now > before and (self._once or owner is trainer):
                self.source = f"{shown} of the trainer"
                return int(now) - before
        if in_batches:
            padding = (
                "padding included, where a batch does not say what is padding" if self._padded else "without padding"
            )
            self.source = f"batches of rank 0, {padding}" + (f", times {self._ranks} ranks" * (self._ranks > 1))
            return in_batches * self._ranks
        return None
