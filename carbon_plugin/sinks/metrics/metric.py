"""List the metrics for Prometheus and OpenTelemetry, with the unit and the meaning of each.

The names of both follow from one list. Units are base units, as both ask for: joules, watts, seconds, grams.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import Struct

from carbon_plugin.sinks.row import PREFIX
from carbon_plugin.spec.numbers.units import GRAMS_PER_KG, JOULES_PER_KWH, SECONDS_PER_HOUR

UCUM = {"joules": "J", "watts": "W", "seconds": "s", "grams": "g", "ratio": "1", "": "1"}
"""The units as OpenTelemetry writes them."""


class RunMetric(Struct, frozen=True, kw_only=True):
    """One metric of a run.

    `key` is the key of the figure in a row without its prefix. The figure times `factor` is in `unit`. A `counter`
    never falls.
    """

    key: str
    name: str
    unit: str
    help: str
    factor: float = 1.0
    counter: bool = False

    @property
    def prometheus_name(self) -> str:
        """Return the name for Prometheus, without the `_total` that a counter has on the wire."""
        return "_".join(part for part in ("carbon_plugin", self.name, self.unit) if part)

    @property
    def otel_name(self) -> str:
        """Return the name for OpenTelemetry, which states the unit separately."""
        return f"carbon_plugin.{self.name}"


def _ranged(key: str, name: str, unit: str, factor: float, what: str) -> Iterator[RunMetric]:
    for end, said in (("", ""), ("_low", ", p10 of its range"), ("_high", ", p90 of its range")):
        yield RunMetric(key=key + end, name=name + end, unit=unit, factor=factor, help=what + said)


METRICS: tuple[RunMetric, ...] = (
    RunMetric(
        key="energy_kwh",
        name="energy",
        unit="joules",
        factor=JOULES_PER_KWH,
        counter=True,
        help="Energy of GPUs, hosts and network that the run has used so far",
    ),
    RunMetric(
        key="estimated_energy_kwh",
        name="estimated_energy",
        unit="joules",
        factor=JOULES_PER_KWH,
        help="Part of the energy that stands for devices that could not be read",
    ),
    RunMetric(
        key="measured_share",
        name="measured_energy",
        unit="ratio",
        help="Share of the energy so far that meters told; a model of the hardware states the rest",
    ),
    RunMetric(key="power_w", name="power", unit="watts", help="Power of the run over its last windows"),
    RunMetric(
        key="operational_kg",
        name="operational_emissions",
        unit="grams",
        factor=GRAMS_PER_KG,
        counter=True,
        help="CO2e of the electricity that the run has used so far",
    ),
    RunMetric(
        key="embodied_kg",
        name="embodied_emissions",
        unit="grams",
        factor=GRAMS_PER_KG,
        counter=True,
        help="CO2e of the manufacture of what the run has reserved so far",
    ),
    RunMetric(
        key="total_kg",
        name="emissions",
        unit="grams",
        factor=GRAMS_PER_KG,
        counter=True,
        help="CO2e of electricity and manufacture together so far",
    ),
    RunMetric(
        key="projected_by_rates",
        name="projected_by_rates",
        unit="ratio",
        help="1 where what remains is projected by measured rates, 0 where it is by the prediction",
    ),
    *_ranged(
        "projected_energy_kwh", "projected_energy", "joules", JOULES_PER_KWH, "Energy of the whole run as projected"
    ),
    *_ranged(
        "projected_operational_kg",
        "projected_operational_emissions",
        "grams",
        GRAMS_PER_KG,
        "CO2e of the electricity of the whole run as projected",
    ),
    *_ranged(
        "projected_embodied_kg",
        "projected_embodied_emissions",
        "grams",
        GRAMS_PER_KG,
        "CO2e of the manufacture for the whole run as projected",
    ),
    *_ranged("projected_total_kg", "projected_emissions", "grams", GRAMS_PER_KG, "CO2e of the whole run as projected"),
    RunMetric(
        key="remaining_h",
        name="remaining",
        unit="seconds",
        factor=SECONDS_PER_HOUR,
        help="Time to the last step as projected",
    ),
    RunMetric(key="step_time_s", name="step_time", unit="seconds", help="Measured time of an optimizer step"),
    RunMetric(
        key="predicted_step_time_s",
        name="predicted_step_time",
        unit="seconds",
        help="Predicted time of an optimizer step of the effective spec",
    ),
    RunMetric(key="step_time_ratio", name="step_time", unit="ratio", help="Measured over predicted step time"),
    RunMetric(
        key="budget_share",
        name="budget",
        unit="ratio",
        help="Largest amount of the run over its limit: projected, or spent where nothing is projected",
    ),
    RunMetric(
        key="coverage_gpus",
        name="measured_gpus",
        unit="ratio",
        help="Share of the GPUs of the run whose last window was measured",
    ),
)


def values_of(metrics: Mapping[str, float]) -> Iterator[tuple[RunMetric, float]]:
    """Yield each metric that a row has, with its value in the unit of the metric."""
    for family in METRICS:
        value = metrics.get(PREFIX + family.key)
        if value is not None:
            yield family, value * family.factor


class Rising:
    """Keeps the highest value of each counter, so that a counter never falls during the life of this process.

    An energy may be corrected downwards when a lost GPU answers again. A counter that falls would be taken for one that
    began anew.
    """

    def __init__(self) -> None:
        self._highest: dict[tuple[str, ...], float] = {}

    def value(self, key: tuple[str, ...], value: float) -> float:
        """Return the value, or the highest earlier value of this key if that is larger."""
        highest = max(value, self._highest.get(key, 0.0))
        self._highest[key] = highest
        return highest
