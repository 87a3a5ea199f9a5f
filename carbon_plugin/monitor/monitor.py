"""`CarbonMonitor` is the object that an adapter holds. The training thread makes a few calls; the monitor thread does
everything else.

After construction no call raises. A failure of this package leads to one warning and an event in the ledger, and then
the part that failed stays off.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Unpack

from carbon_plugin.ledger.records import RESUMED_EVENT
from carbon_plugin.monitor.guard import Guard
from carbon_plugin.monitor.loggers import Loggers
from carbon_plugin.monitor.processes.launch import hand_down, tell_command
from carbon_plugin.monitor.ranks import Ranks, ranks_from_environ
from carbon_plugin.monitor.run.directory import choose_run_dir
from carbon_plugin.monitor.settings.arguments import MonitorArguments
from carbon_plugin.monitor.settings.documented import with_arguments
from carbon_plugin.monitor.step_counter import StepCounter
from carbon_plugin.monitor.trainings import Training, any_measured, reason_of
from carbon_plugin.spec.numbers.units import SECONDS_PER_HOUR

if TYPE_CHECKING:
    from carbon_plugin.detect.observed import Detected
    from carbon_plugin.monitor.acting.pausing import PausePlan
    from carbon_plugin.monitor.measurement import Measurement
    from carbon_plugin.monitor.running import RunningCall
    from carbon_plugin.monitor.settings.settings import Settings
    from carbon_plugin.sinks.given import Log

# What is large is imported where it is first needed: the settings by the constructor, and what measures by `start`. A
# script that imports a monitor, and a process in which it is disabled, load none of it.

DISABLED_VARIABLE = "CARBON_PLUGIN_DISABLED"
logger = logging.getLogger(__name__)
STATE_VERSION = 1


@with_arguments
class CarbonMonitor(StepCounter):
    """One instance measures one training run, compares it with its plan and projects its end. Every adapter holds one.

    With CARBON_PLUGIN_DISABLED=1 in the environment nothing is checked and every call does nothing.

    Args:
        ranks (Ranks, default None): The place of this process in the job. Without it, the environment tells the place.
        **arguments: Those of `MonitorArguments`.

    Raises:
        CarbonPluginError: An argument cannot be used. Nothing is raised afterwards.
    """

    def __init__(self, *, ranks: Ranks | None = None, **arguments: Unpack[MonitorArguments]) -> None:
        super().__init__()
        self._ranks = ranks or ranks_from_environ(os.environ)
        self.run_dir: Path | None = None
        self._measurement: Measurement | None = None
        self._training: Training | None = None
        self._guard = Guard(self._note)
        self._settings: Settings | None = None
        self._shown = 0  # the version of the figures that `fresh_metrics` returned last
        self.loggers = Loggers()
        if os.environ.get(DISABLED_VARIABLE, "") in ("", "0"):
            from carbon_plugin.monitor.settings.settings import make_settings

            self._settings = make_settings(**arguments)
            self.loggers = self._settings.loggers
            hand_down(os.environ, alone=self._ranks.world_size == 1)
            self.run_dir = self._settings.run_dir or self._chosen_run_dir(self._settings)
            self._base_step = self._settings.step or 0

    @property
    def enabled(self) -> bool:
        """Return whether this process measures at all. With CARBON_PLUGIN_DISABLED=1 it does not."""
        return self._settings is not None

    @property
    def head(self) -> str | None:
        """Return the head of this node's ledger, 32 hex digits. It is the anchor to keep outside of the run
        directory."""
        return self._measurement.work.live.head if self._measurement else None

    def start(
        self,
        *,
        ranks: Ranks | None = None,
        versions: Mapping[str, str] | None = None,
        watched: tuple[Any, ...] = (),
        end: Callable[[str], None] | None = None,
        gives_way: bool = False,
        hindrance: Callable[[], str | None] = lambda: None,
        call: RunningCall | None = None,
    ) -> None:
        """Begin to measure.

        `ranks` gives the place of this process where it was not known at construction, and `versions` the versions of
        the frameworks in use.

        `watched` are the objects that are trained. If an earlier training of this process holds one of them, or has the
        same run directory, that training ends now: the user has run a cell of a notebook again. It goes on where a
        `with` block holds it open, and this one is a part of it. `end` is called to end
        this training in the same case, and when the program ends; the default is `close`.

        A monitor that `gives_way` was started by nobody's script. It does not start where a script measures itself, and
        ends when one begins to.

        `hindrance` says why the training cannot be ended after a step, in words that follow the name of a rank. It
        returns None where somebody asks for `should_stop` and obeys.

        `call` is the call that trains, where nothing tells of an exception that passes through it: the record ends
        within some windows after it.
        """
        settings, run_dir = self._settings, self.run_dir
        started = self._measurement is not None
        if settings is None or run_dir is None or started or (gives_way and any_measured()):
            return
        training = self._training = Training(
            run_dir, watched, gives_way=gives_way, end=end or self.close, disarm=self._disarm
        )
        if not training.takes_place():
            self._training = None
            return
        place = ranks or self._ranks
        self._guard.run(
            "start", lambda: self._start(settings, run_dir, training, place, versions or {}, hindrance, call), None
        )

    def observe(self, detected: Detected, uuids: tuple[str, ...] = ()) -> None:
        """Hand over what was read from live objects, and the UUIDs of the GPUs that this rank computes on."""
        if self.active and self._measurement is not None:
            self._measurement.observe(detected, uuids)

    def resume_at(self, step: int) -> None:
        """Set the step of the run after a checkpoint was loaded, whatever number of steps this process has counted."""
        counted, measurement = self.counted, self._measurement
        self._base_step = step - counted
        if measurement is not None:
            if counted:  # recorded before any window shows the jump
                measurement.work.note(RESUMED_EVENT, f"a checkpoint of step {step} was loaded while training")
            measurement.clock.base_step = self._base_step

    @property
    def step_is_stated(self) -> bool:
        """Return whether the user stated the step of the run."""
        return self._settings is not None and self._settings.step is not None

    @property
    def was_left(self) -> bool:
        """Return whether the record has ended because the `call` that `start` was told of goes on no more."""
        return self._measurement is not None and self._measurement.work.left

    @property
    def quiet(self) -> bool:
        """Return whether the monitor prints nothing at the start and the end."""
        return self._settings is None or self._settings.quiet

    @property
    def may_stop(self) -> bool:
        """Return whether a budget may end the training."""
        budget = self._settings.budget if self._settings is not None else None
        return budget is not None and budget.may_stop

    @property
    def should_stop(self) -> bool:
        """Return whether the training is to end now, because all ranks have agreed to stop after this step.

        Ask for it after a step has been counted. It becomes true on all ranks after the same step, and stays true.
        """
        stop = self._measurement.work.stop if self._measurement is not None else None
        if stop is None or self._settings is None:  # a forked child has no settings
            return False
        return self.step >= stop.at_step and self._guard.run("stop", lambda: stop.reached(self.step), False)

    def pause_where_it_saves(self, above_g_per_kwh: float, *, forecast: str | Path, most_h: float = 12.0) -> float:
        """Pause all ranks after a checkpoint while the grid is dirty, where that saves carbon after the cost of idling.

        Call this on all ranks, after the same step, when the checkpoint is written.

        Args:
            above_g_per_kwh: The intensity above which the run is to pause.
            forecast: A file of intensity for the hours to come (docs/providers.md).
            most_h: The longest pause, hours. Default: 12.

        Returns:
            The seconds of the pause, 0 without one. Nothing is raised: where something is not known, there is no pause.
        """
        plan = self._guard.run("pause", lambda: self._planned_pause(above_g_per_kwh, forecast, most_h), None)
        # Rank 0 tells the others in any case, which else would wait for it.
        return self._guard.run("agreement on a pause", lambda: self._paused(plan, above_g_per_kwh), 0.0)

    def metrics(self) -> dict[str, float]:
        """Return the latest `carbon/*` figures. They are empty on ranks other than 0 and before the first window."""
        return dict(self._measurement.work.live.metrics) if self._measurement else {}

    def fresh_metrics(self) -> dict[str, float]:
        """Return the same as `metrics`, but an empty dict if nothing has changed since the last call."""
        if self._measurement is None or self._measurement.work.live.version == self._shown:
            return {}
        live = self._measurement.work.live
        self._shown = live.version
        return dict(live.metrics)

    def hold_open(self) -> None:
        """Note that a `with` block holds the training open: one of the same objects inside of it does not end it."""
        if self._training is not None:
            self._training.in_block = True

    def log_to(self, log: Log) -> None:
        """Add a logger. It gets each new row of figures at the first step after its window, and the last row at the
        end."""
        self.loggers.add(log)
        if self._measurement is not None:
            self._measurement.clock.attend = True

    def state_dict(self) -> dict[str, Any]:
        """Return plain scalars for a checkpoint. The ledger is authoritative, and these values are never added to
        it."""
        return self._guard.run("state", self._state, {})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint, at the step that `state_dict` has stored in it."""
        self._guard.run("state", lambda: self.resume_at(int(state.get("step", 0))), None)

    def fail(self, part: str, error: BaseException) -> None:
        """Report that a part of an adapter failed. The user gets one warning, the ledger an event, and the part stays
        off."""
        self._guard.fail(part, error)

    def note(self, kind: str, sentence: str) -> None:
        """Write an event into the ledger that a reader of the numbers must know."""
        if self._measurement is not None:
            self._measurement.work.note(kind, sentence)

    def warn(self, kind: str, sentence: str) -> None:
        """Write an event into the ledger, and tell the user the same."""
        self.note(kind, sentence)
        logger.warning("carbon_plugin: %s", sentence)

    def close(self, reason: str = "closed") -> None:
        """Write the last window and the closing record. It waits at most ten seconds, and a second call does
        nothing."""
        if self.active:
            self._guard.run("closing", lambda: self._close(reason), None)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state of a copy, in a worker or of a trainer. The copy has not started: thread, clock and ledger
        stay with this object."""
        state = vars(self) | {"_counting": None, "_clock": None, "_measurement": None, "_training": None}
        state.pop("step_end", None)
        return state

    def __enter__(self) -> CarbonMonitor:
        self.start()
        self.hold_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(reason_of(error))

    def _start(
        self,
        settings: Settings,
        run_dir: Path,
        training: Training,
        place: Ranks,
        versions: Mapping[str, str],
        hindrance: Callable[[], str | None],
        call: RunningCall | None,
    ) -> None:
        from carbon_plugin.monitor.measurement import Measurement

        measurement = self._measurement = Measurement(
            settings, place, run_dir=run_dir, base_step=self._base_step, guard=self._guard, versions=versions,
            hindrance=hindrance, call=call,
        )  # fmt: skip
        measurement.clock.failed = partial(self._fail, "clock")
        self._count_by(measurement.clock)
        training.enter()
        measurement.start(training.enter_again)
        if place.doubt:
            self.warn("ranks", place.doubt)
        tell_command(os.environ)

    def _planned_pause(self, above_g_per_kwh: float, forecast: str | Path, most_h: float) -> PausePlan | None:
        if not self.active or self._measurement is None:
            return None
        from carbon_plugin.monitor.pause import planned_pause

        most_s = most_h * SECONDS_PER_HOUR
        return planned_pause(self._measurement, str(forecast), above_g_per_kwh=above_g_per_kwh, most_s=most_s)

    def _paused(self, plan: PausePlan | None, above_g_per_kwh: float) -> float:
        if not self.active or self._measurement is None:
            return 0.0
        from carbon_plugin.monitor.acting.pausing import sleep_for
        from carbon_plugin.monitor.pause import agreed_pause_s

        pause_s = agreed_pause_s(self._measurement, plan, step=self.step, above_g_per_kwh=above_g_per_kwh)
        if pause_s > 0:
            with self.phase("idle"):
                sleep_for(pause_s)
        return pause_s

    def _state(self) -> dict[str, Any]:
        return {
            "version": STATE_VERSION,
            "step": self.step,
            "energy_kwh": self.metrics().get("carbon/energy_kwh", 0.0),
            "run_dir": str(self.run_dir or ""),
        }

    def _close(self, reason: str) -> None:
        self._count_by(None)
        if self._training is not None:
            self._training.leave()
            self._training = None
        if self._measurement is not None:
            self._measurement.end(reason)

    def _fail(self, part: str, error: BaseException) -> None:
        """Handle a failure on the training thread: stop counting, and let the monitor thread end in an orderly way."""
        self._guard.fail(part, error)
        super()._fail(part, error)
        if self._measurement is not None:
            self._measurement.abandon(f"failed: {part}")

    def _note(self, part: str, sentence: str) -> None:
        measurement = self._measurement
        if measurement is None:
            return
        measurement.work.note("fault", sentence)
        stop = measurement.work.stop
        ended = part == "monitor" and part in self._guard.failures  # it may only have missed something
        # Where all ranks have agreed to stop, this one goes on to count its steps up to that one.
        if ended and not (stop is not None and stop.withdraw()):
            self._count_by(None)
            measurement.leave_loggers()

    def _chosen_run_dir(self, settings: Settings) -> Path | None:
        try:
            return choose_run_dir(settings.name, self._ranks, os.environ).absolute()
        except OSError as error:  # the training must go on without a temporary directory
            self._guard.fail("run directory", error)
            return None

    def _disarm(self) -> None:
        self._count_by(None)
        self._settings = None
        self.loggers.forget()
        if self._measurement is not None:
            self._measurement.forget()
