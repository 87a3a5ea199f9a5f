"""Count the steps and phases of one training on its own thread, as long as that has an effect.

This file knows nothing of meters, ledgers and figures. `monitor.monitor` starts and ends what uses the counts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from carbon_plugin.ledger.records import Phase
from carbon_plugin.monitor.clock import PhaseNames, TrainingClock


class StepCounter:
    """Counts steps and phases with the clock that it is given. Without a clock every call does nothing.

    `CarbonMonitor` derives from it. No call raises.
    """

    def __init__(self) -> None:
        self._counting: TrainingClock | None = None  # the clock while calls have an effect
        self._clock: TrainingClock | None = None  # the same, which is kept after the last step
        self._base_step = 0
        self._phase_names = PhaseNames()

    @property
    def active(self) -> bool:
        """Return whether calls have an effect: the monitor has started, is not closed, has not failed, and this is not
        a forked child."""
        return self._counting is not None

    def step_end(self, tokens: int | None = None) -> None:
        """Count an optimizer step that has ended. `tokens` is the number of tokens that the whole job processed in it,
        if the caller knows it."""
        # While steps count, `_count_by` puts the method of the clock in this place, so that a step costs one call.
        if self._counting is not None:
            self._counting.step_end(tokens)

    def tell_tokens(self, tokens: int) -> None:
        """Note the tokens of the whole job in the step that was counted last, which came without them."""
        try:
            if self._counting is not None:
                self._counting.tell(tokens)
        except Exception as error:
            self._fail("clock", error)

    def enter(self, phase: Phase) -> Phase:
        """Begin a phase and return the one before it."""
        clock = self._counting
        if clock is None:
            return phase
        try:
            phase = self._phase_names.named(phase)
            return clock.enter(phase)
        except Exception as error:
            self._fail("clock", error)
            return phase

    @contextlib.contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        """Count the block as a phase, such as evaluation or checkpointing. The phase before it goes on after the
        block."""
        before = self.enter(name)
        try:
            yield
        finally:
            self.enter(before)

    @property
    def counted(self) -> int:
        """Return how many optimizer steps this process has counted."""
        return self._clock.mark.steps if self._clock is not None else 0

    @property
    def step(self) -> int:
        """Return how many optimizer steps the whole run has done so far."""
        return self._base_step + self.counted

    def _count_by(self, clock: TrainingClock | None) -> None:
        """Let this clock count from now on. Without a clock (None) nothing is counted."""
        before, self._counting = self._counting, clock
        if before is not None:
            before.leave()
            vars(self).pop("step_end", None)
        if clock is not None:
            self._clock = clock
            vars(self)["step_end"] = clock.step_end

    def _fail(self, part: str, error: BaseException) -> None:
        """Handle a failure on the training thread: stop counting."""
        self._count_by(None)
