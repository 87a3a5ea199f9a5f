"""What the training job does with the model: batch, length, precision, optimizer, total work."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from carbon_plugin.errors import SpecError

Precision = Literal["bf16", "fp16", "fp8", "mxfp8", "nvfp4", "fp32", "tf32"]
Optimizer = Literal["adamw", "adam", "sgd", "adafactor", "muon"]


class TrainingPlan(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The work of the run.

    `seq_len` tokens a sequence, `global_batch_size` sequences an optimizer step. The length of the run is
    `steps`, or `tokens` rounded up to whole steps; exactly one is given. `overhead_fraction` is time spent on
    evaluation, checkpoints, restarts and lost work over time spent in training steps.
    """

    seq_len: int
    global_batch_size: int
    steps: int | None = None
    tokens: float | None = None
    precision: Precision = "bf16"
    optimizer: Optimizer = "adamw"
    overhead_fraction: float = 0.0

    def __post_init__(self) -> None:
        for field in ("seq_len", "global_batch_size"):
            if getattr(self, field) < 1:
                raise SpecError(f"training: {field} is {getattr(self, field)}, expected a positive integer")
        if (self.steps is None) == (self.tokens is None):
            raise SpecError(f"training: give steps or tokens, exactly one; got steps={self.steps} tokens={self.tokens}")
        if (self.steps is not None and self.steps < 1) or (self.tokens is not None and self.tokens <= 0):
            raise SpecError(f"training: the run is empty: steps={self.steps} tokens={self.tokens}")
        if self.overhead_fraction < 0:
            raise SpecError(f"training: overhead_fraction is {self.overhead_fraction}, expected 0 or more")

    @property
    def tokens_per_step(self) -> int:
        """Tokens an optimizer step."""
        return self.seq_len * self.global_batch_size

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the run."""
        if self.steps is not None:
            return self.steps
        assert self.tokens is not None  # exactly one is set, checked above
        return max(1, -int(-self.tokens // self.tokens_per_step))
