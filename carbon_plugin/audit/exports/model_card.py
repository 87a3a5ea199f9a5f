"""Make `co2_eq_emissions` of a Hugging Face model card: grams, source, kind of training, place and hardware.

The fields follow "Displaying carbon emissions for your model" of the Hub's documentation. The number is operational
carbon. The manufacture of the hardware is in the words beside it, because readers compare the number with others of
that kind.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import msgspec
from msgspec import Struct

from carbon_plugin.audit.exports.evidence import basis_words, carbon_of, how_known
from carbon_plugin.audit.exports.front_matter import write_key
from carbon_plugin.audit.exports.rounding import significant
from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.errors import ReportError
from carbon_plugin.show import wording
from carbon_plugin.spec.numbers.amounts import plural
from carbon_plugin.spec.numbers.units import GRAMS_PER_KG

KEY = "co2_eq_emissions"
TrainingType = Literal["pre-training", "fine-tuning"]
_DIGITS = 4


class ModelCardEmissions(Struct, frozen=True, kw_only=True):
    """The five fields that the Hub knows. `emissions` are in grams of CO2 equivalents."""

    emissions: float
    source: str
    training_type: TrainingType
    geographical_location: str
    hardware_used: str


def model_card_emissions(summary: AuditSummary, training_type: str | None = None) -> ModelCardEmissions:
    """Return the fields for the card of the model that a run trained.

    If parameters were frozen, the run is a fine-tuning; otherwise `training_type` must be given. Raises `ReportError`
    for a run without carbon or with a kind of training that nobody stated.
    """
    footprint, factors = carbon_of(summary, "model card")
    intensity = factors.intensity
    embodied = "unknown and" if footprint.embodied_kg is None else wording.carbon(footprint.embodied_kg.value)
    source = (
        f"carbon-plugin {summary.plugin_version}: operational ({basis_words(intensity)}), "
        f"PUE {wording.plain(factors.pue.value)}, energy: {how_known(summary)}, one training run, p10-p90 "
        f"{wording.carbon_range(footprint.operational_kg)}; embodied {embodied} not included"
    )
    if summary.coverage.nodes_seen < summary.coverage.nodes:
        source += f"; only {summary.coverage.nodes_seen} of {plural(summary.coverage.nodes, 'node')}"
    if not summary.verification.ok:
        source += "; its ledgers do not verify"
    elif summary.verification.state == "incomplete":
        source += "; its ledgers are not complete"
    return ModelCardEmissions(
        emissions=significant(footprint.operational_kg.value * GRAMS_PER_KG, _DIGITS),
        source=source,
        training_type=_training_type(summary, training_type),
        geographical_location=_place(intensity.zone_name, intensity.asked or intensity.zone),
        hardware_used=summary.work.hardware if summary.work else plural(summary.run.world_size, "rank"),
    )


def write_model_card(path: Path, emissions: ModelCardEmissions) -> None:
    """Set `co2_eq_emissions` in the front matter of a README.md. Everything else in the file stays unchanged.

    Raises `ReportError` for a card whose front matter cannot be kept, or that cannot be written.
    """
    write_key(path, KEY, as_fields(emissions))


def as_yaml(emissions: ModelCardEmissions) -> str:
    """Return the fields as the lines of a front matter."""
    import yaml

    text: str = yaml.safe_dump({KEY: as_fields(emissions)}, sort_keys=False, allow_unicode=True, width=10**6)
    return text


def as_fields(emissions: ModelCardEmissions) -> dict[str, Any]:
    """Return the fields as plain data, in the Hub's order."""
    fields: dict[str, Any] = msgspec.to_builtins(emissions)
    return fields


def _training_type(summary: AuditSummary, stated: str | None) -> TrainingType:
    fraction = summary.work.trainable_fraction if summary.work else None
    if stated is None and fraction is not None and fraction < 1:
        return "fine-tuning"
    return stated_training_type(stated, f"run {summary.run.name}")


def stated_training_type(stated: str | None, of: str) -> TrainingType:
    """Return the kind of training that was stated. Raises `ReportError` for none, or for an unknown word."""
    expected = get_args(TrainingType)
    if stated is None:
        raise ReportError(
            f"model card: training_type is not known of {of}, expected --training-type {' or '.join(expected)}"
        )
    try:
        known: TrainingType = msgspec.convert(stated, type=TrainingType)
    except msgspec.ValidationError:
        raise ReportError(f"model card: training_type is {stated!r}, expected {' or '.join(expected)}") from None
    return known


def _place(name: str, zone: str) -> str:
    return name if name == zone else f"{name} ({zone})"
