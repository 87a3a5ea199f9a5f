"""Write a paragraph for a paper: the energy and carbon of a run, how they are known, the factors, and every number's
range.
"""

from __future__ import annotations

from carbon_plugin.audit.exports.evidence import basis_words, carbon_of, effective_flops, how_known, origin_of
from carbon_plugin.audit.findings.run import Work
from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.audit.sentences import phrases
from carbon_plugin.footprint.values import Factors, Footprint
from carbon_plugin.show import wording
from carbon_plugin.spec.numbers.amounts import plural, verb


def paper_paragraph(summary: AuditSummary) -> str:
    """Return the paragraph as plain text. Raises `ReportError` for a run without carbon."""
    footprint, factors = carbon_of(summary, "paper")
    sentences = [
        _what_ran(summary),
        _energy(summary, footprint, factors),
        _carbon(summary, footprint, factors),
        _method(summary, footprint, factors),
        *_limits(summary),
    ]
    return " ".join(filter(None, sentences))


def _what_ran(summary: AuditSummary) -> str:
    work, progress = summary.work, summary.progress
    name = work.model if work and work.model else summary.run.name
    size = f" ({_parameters(work)})" if work and work.parameters else ""
    hardware = work.hardware if work else plural(summary.run.world_size, "rank")
    sentence = (
        f"We trained {name}{size} on {hardware} for {wording.duration(summary.period.active_s)} "
        f"({wording.device_time(summary.reserved.device_s)} of reserved device time; "
        f"{plural(progress.steps, 'optimizer step')}"
    )
    if progress.tokens:
        sentence += f", {wording.number(progress.tokens)} tokens, {progress.tokens_source}"
    flops = effective_flops(summary)
    if flops:
        sentence += f", {flops:.2e} FLOP counted from the architecture"
    if summary.waste.redone_steps:
        redone = summary.waste.redone_steps
        sentence += (
            f"; {redone:,} of the steps {verb(redone, 'was', 'were')} done twice and "
            f"{verb(redone, 'is', 'are')} included"
        )
    return f"{sentence})."


def _parameters(work: Work) -> str:
    counted = f"{wording.number(work.parameters or 0)} parameters"
    if work.planned_parameters is None:
        return counted
    return f"{counted} as counted in the live model, where the plan has {wording.number(work.planned_parameters)}"


def _energy(summary: AuditSummary, footprint: Footprint, factors: Factors) -> str:
    machines, facility = footprint.energy_j["it"], footprint.energy_j["facility"]
    return (
        f"The machines used {wording.energy(machines.value)} "
        f"({wording.energy_range(machines)}; {how_known(summary)}), with the "
        f"facility around them (PUE {wording.plain(factors.pue.value)}) {wording.energy(facility.value)}."
    )


def _carbon(summary: AuditSummary, footprint: Footprint, factors: Factors) -> str:
    intensity = factors.intensity
    adds = (
        f"the manufacture of the hardware adds {wording.carbon(footprint.embodied_kg.value)} "
        f"({wording.carbon_range(footprint.embodied_kg)}), {wording.carbon(footprint.total_kg.value)} in total."
        if footprint.embodied_kg is not None and footprint.total_kg is not None
        else "the manufacture of the hardware is not known and not included."
    )
    sentence = (
        f"At {wording.number(phrases.grid_g_per_kwh(summary))} gCO2e/kWh "
        f"({intensity.figure.source}; {basis_words(intensity)}) this is "
        f"{wording.carbon(footprint.operational_kg.value)} of operational emissions "
        f"({wording.carbon_range(footprint.operational_kg)}); {adds}"
    )
    if footprint.market is not None:
        sentence += f" The market-based figure is {wording.carbon(footprint.market.operational_kg.value)}."
    return sentence


def _method(summary: AuditSummary, footprint: Footprint, factors: Factors) -> str:
    meters = sorted({device.identity.meter for device in summary.devices})
    charged = f"; embodied emissions are charged by {factors.amortisation}" if footprint.embodied_kg is not None else ""
    return (
        f"Energy was recorded in windows over the whole job ({', '.join(meters)}) with carbon-plugin "
        f"{summary.plugin_version}{charged}. Ranges are p10 to p90 of sampled input uncertainties."
    )


def _limits(summary: AuditSummary) -> list[str]:
    role = summary.run.role
    scope = f"The figures are of this run (role {role}) only" if role else "The figures are of this run only"
    return [f"{scope}; other runs of the project are not included.", *origin_of(summary).limits]
