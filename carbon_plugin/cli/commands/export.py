"""`carbon-plugin export`: write what a run used in the form that a standard, a regulator or a model card asks for."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Struct, convert, to_builtins

from carbon_plugin.cli.options import Argument, Option
from carbon_plugin.cli.terminal import echo
from carbon_plugin.spec.parsing.saving import save

if TYPE_CHECKING:
    from carbon_plugin.audit.exports.model_card import ModelCardEmissions


class Format(StrEnum):
    """Lists the forms of the export. All but `model-card` and `paper` are JSON with a published schema."""

    SCI = "sci"
    SCI_AI = "sci-ai"
    MODEL_CARD = "model-card"
    EU_AI_ACT = "eu-ai-act"
    GHG = "ghg"
    PAPER = "paper"


class Boundary(StrEnum):
    """Says whose electricity and hardware the run used."""

    OWN = "own"
    COLO = "colo"
    CLOUD = "cloud"


class GhgOptions(Struct, frozen=True):
    """Options of the form `ghg`: what a ledger cannot know."""

    organisational_boundary: Annotated[Boundary | None, Option("ghg: whose electricity and hardware.")] = None
    acquisition_year: Annotated[int | None, Option("ghg: year in which own hardware was bought.")] = None
    direct_g_per_kwh: Annotated[
        float | None,
        Option(
            "ghg: combustion emissions of the grid, g/kWh, where the run's are lifecycle.", names=("--direct-factor",)
        ),
    ] = None
    lifecycle_g_per_kwh: Annotated[
        float | None,
        Option(
            "ghg: lifecycle emissions of the grid, g/kWh, where the run's are direct.", names=("--lifecycle-factor",)
        ),
    ] = None
    factor_source: Annotated[str | None, Option("ghg: publisher, year and zone of the factor given here.")] = None
    grid_loss: Annotated[float | None, Option("ghg: share of what is fed into the grid that is lost.")] = None


def export(
    runs: Annotated[
        list[Path],
        Argument("Run directory or report.json; several, or one above them, for a whole programme.", metavar="RUN..."),
    ],
    format_: Annotated[Format, Option("Form of the export.", names=("--format", "-f"))],
    output: Annotated[
        Path | None, Option("File to write; a model card is edited, not replaced.", names=("-o", "--output"))
    ] = None,
    *,
    ghg: GhgOptions,
    training_type: Annotated[str | None, Option("model-card: pre-training or fine-tuning.")] = None,
    covers: Annotated[
        list[str] | None, Option("sci-ai: role of which all runs of the programme are here, or all. Repeatable.")
    ] = None,
) -> None:
    """Export a run. If its numbers do not fit the form, say what is missing and write nothing."""
    from carbon_plugin.audit.exports.evidence import read_summary

    if format_ is Format.SCI_AI:
        from carbon_plugin.audit.exports.sci_ai import sci_ai_report
        from carbon_plugin.audit.programme_runs import summaries_of

        _write_json(sci_ai_report(summaries_of(runs), covers or ()), output)
        return
    if _is_programme(runs):
        _export_programme(runs, format_, output, ghg, training_type)
        return
    summary = read_summary(runs[0])
    match format_:
        case Format.SCI:
            from carbon_plugin.audit.exports.sci import sci_report

            _write_json(sci_report(summary), output)
        case Format.EU_AI_ACT:
            from carbon_plugin.audit.exports.eu_ai_act import eu_ai_act_report

            _write_json(eu_ai_act_report(summary), output)
        case Format.PAPER:
            from carbon_plugin.audit.exports.paper import paper_paragraph

            _write(paper_paragraph(summary) + "\n", output)
        case Format.MODEL_CARD:
            from carbon_plugin.audit.exports import model_card as card

            _write_card(card.model_card_emissions(summary, training_type), output)
        case Format.GHG:
            from carbon_plugin.audit.exports.ghg import ghg_report
            from carbon_plugin.audit.exports.ghg_factors import GhgInputs

            inputs = convert(_stated(ghg), GhgInputs)
            _write_json(ghg_report(summary, inputs), output)


def _is_programme(runs: list[Path]) -> bool:
    from carbon_plugin.audit.programme_runs import find_runs

    return len(runs) > 1 or (runs[0].is_dir() and len(find_runs(runs)) > 1)


def _export_programme(
    runs: list[Path], format_: Format, output: Path | None, ghg: GhgOptions, training_type: str | None
) -> None:
    """Export all runs of a programme as one model."""
    from carbon_plugin.audit.exports import of_programme as model
    from carbon_plugin.audit.programme_runs import summaries_of
    from carbon_plugin.errors import ReportError

    if format_ is Format.SCI:
        raise ReportError("sci is the score of one run, and several are given: sci-ai is that of a whole programme")
    audited = summaries_of(runs)
    match format_:
        case Format.EU_AI_ACT:
            _write_json(model.eu_ai_act_of_programme(audited), output)
        case Format.PAPER:
            _write(model.paper_of_programme(audited) + "\n", output)
        case Format.MODEL_CARD:
            _write_card(model.model_card_of_programme(audited, training_type), output)
        case _:
            from carbon_plugin.audit.exports.ghg_factors import GhgInputs

            _write_json(model.ghg_of_programme(audited, convert(_stated(ghg), GhgInputs)), output)


def _stated(ghg: GhgOptions) -> dict[str, Any]:
    """Return what was stated for an inventory. Raises `ReportError` where the boundary was not."""
    from carbon_plugin.errors import ReportError

    if ghg.organisational_boundary is None:
        raise ReportError(
            "GHG: the organisational boundary is not stated, expected --organisational-boundary own, colo or "
            "cloud: whose electricity and hardware it is decides the scope"
        )
    stated: dict[str, Any] = to_builtins(ghg)
    return stated


def _write_card(emissions: ModelCardEmissions, output: Path | None) -> None:
    from carbon_plugin.audit.exports import model_card as card

    if output is None:
        echo(card.as_yaml(emissions), end="")
    else:
        card.write_model_card(output, emissions)
        echo(f"{card.KEY} written into {output}")


def _write_json(document: Any, output: Path | None) -> None:
    import msgspec

    from carbon_plugin.audit.exports.rounding import presentable

    _write(msgspec.json.format(msgspec.json.encode(presentable(document)), indent=2).decode() + "\n", output)


def _write(text: str, output: Path | None) -> None:
    if output is None:
        echo(text, end="")
        return
    save(output, text)
    echo(f"export written to {output}")
