"""Collect the content of the ledger's manifest: the effective spec, the prediction, the factors, and notes on what is
missing.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from carbon_plugin.detect.observed import Detected, Observed
from carbon_plugin.detect.resolve.effective import Effective, World
from carbon_plugin.detect.resolve.rules import resolve
from carbon_plugin.errors import CarbonPluginError
from carbon_plugin.footprint.run_factors import resolve_factors
from carbon_plugin.footprint.values import Factors
from carbon_plugin.monitor.ranks import Ranks
from carbon_plugin.monitor.settings.settings import Settings
from carbon_plugin.predict.result import StepPrediction
from carbon_plugin.predict.step import predict_step
from carbon_plugin.spec.numbers.figure import Assumption

Notes = list[tuple[str, str]]
"""Pairs (kind, sentence) that are recorded as events."""


class Context(Struct, frozen=True, kw_only=True):
    """Describes the job as far as it is known. `notes` are the events that its ledger must record about it."""

    effective: Effective
    prediction: StepPrediction | None
    factors: Factors | None
    notes: Notes

    @property
    def assumptions(self) -> tuple[Assumption, ...]:
        """Return every assumption that a number of this run rests on, each once."""
        found = [*self.effective.assumptions]
        found += self.prediction.assumptions if self.prediction else ()
        found += self.factors.assumptions if self.factors else ()
        return tuple(dict.fromkeys(found))

    @property
    def predicted_step_time_s(self) -> float | None:
        """Return the predicted step time, s, or None without a prediction."""
        return self.prediction.step_time_s.value if self.prediction else None

    def document(self, value: Any) -> dict[str, Any] | None:
        """Return a struct as plain data for a manifest, and None for None."""
        return None if value is None else msgspec.to_builtins(value)


def build_context(settings: Settings, ranks: Ranks, detected: Detected | None, accelerator: Observed | None) -> Context:
    """Return the context of a job. `accelerator` is the profile of the GPUs that the driver names, or None without
    any."""
    world = World(
        world_size=ranks.world_size,
        nodes=ranks.nodes,
        devices_per_node=ranks.local_world_size,
        accelerator=accelerator,
    )
    planned = settings.forecast.spec if settings.forecast else None
    effective = resolve(planned, settings.declared, detected, world)
    notes: Notes = []
    prediction = factors = None
    if effective.spec is not None:
        try:
            prediction = predict_step(effective.spec)
        except CarbonPluginError as error:
            notes.append(("no_prediction", str(error)))
    if effective.site is not None:
        factors = resolve_factors(effective.site, effective.charged)
    if detected is not None:
        notes += [("difference", sentence) for sentence in effective.differences]
        notes += [("missing", sentence) for sentence in effective.missing]
        notes += detected.problems
        notes.append(("detection", f"live objects were read once, in {1000 * detected.duration_s:.1f} ms"))
    return Context(effective=effective, prediction=prediction, factors=factors, notes=notes)
