"""Define the options of a monitor that a configuration file may state and that most jobs leave at their defaults."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from carbon_plugin.spec.stack import Stack

SHORT_BY = 0.05
"""A span may be shorter than stated by this share, because a monitor that wakes for each window does so a little late,
and the next time a little less so (our convention)."""


class SpanRule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Says when a span is long enough: after `min_s` and `min_steps`, or after `long_steps` where a step takes more
    than `min_s`. Spans end at the last step of a window, so that one may lack less than a step, or a twentieth, of
    `min_s`: without that, every other window of `min_s` would end none.

    The first `warmup_steps` of a process are left out, because they pay for compilation, autotuning and the allocator.
    """

    min_s: float = 10.0
    min_steps: int = 10
    long_steps: int = 3
    warmup_steps: int = 3

    def enough(self, steps: int, duration_s: float) -> bool:
        """Return whether this number of steps in this time, s, makes a span."""
        if steps < 1:
            return False
        lacks_s = self.min_s - duration_s
        if lacks_s > 0 and lacks_s >= max(duration_s / steps, SHORT_BY * self.min_s):
            return False
        return steps >= self.min_steps or (steps >= self.long_steps and duration_s / steps > self.min_s)


class OptionFields(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One instance holds the options of a monitor as a configuration file states them. None stands for "not stated".

    Args:
        training: Fields of the training plan that live objects do not show, such as `activation_checkpointing`.
        node: Name of the profile of the node.
        stack: Constants of the software stack.
        reserved_gpus: The job's GPUs on each node (UUIDs or NVML indices), where the environment does not tell.
        min_window_s: The least length of a window in seconds, for tests.
        span_rule: When a comparison span is long enough.
    """

    training: dict[str, Any] | None = None
    node: str | None = None
    stack: Stack | None = None
    reserved_gpus: list[str | int] | None = None
    min_window_s: float | None = None
    span_rule: SpanRule | None = None
