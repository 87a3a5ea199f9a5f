"""Say in one short phrase which layout a job has, and what of it a search has to keep to."""

from __future__ import annotations

from carbon_plugin.plan.search.space import HeldDegrees
from carbon_plugin.spec.layout import AXES, DEGREES, ParallelLayout


def held_phrase(held: HeldDegrees) -> str:
    """Return the held fields in words: "tp 8, recompute full"."""
    words = {True: "true", False: "false"}
    return ", ".join(
        f"{name.replace('micro_batch_size', 'micro-batch').replace('_', ' ') if name not in AXES else name} "
        f"{words[value] if isinstance(value, bool) else ' '.join(value) if isinstance(value, tuple) else value}"
        for name, value in held.items()
    )


def phrase_of(layout: ParallelLayout) -> str:
    """Return a layout in one short phrase that leaves out degrees of 1."""
    degrees = {name: getattr(layout, name) for name in DEGREES}
    parts = [f"{name} {degree}" for name, degree in degrees.items() if degree > 1] or ["one device"]
    if layout.cp > 1 and layout.context_parallel_kind == "all_to_all":
        parts.append("all-to-all cp")
    if layout.zero_stage:
        parts.append(f"ZeRO-{layout.zero_stage}")
    if layout.pipeline_schedule in ("gpipe", "zero_bubble", "dualpipe"):
        parts.append(layout.pipeline_schedule.replace("_", " "))
    if layout.virtual_stages > 1:
        parts.append(f"{layout.virtual_stages} virtual stages")
    if layout.pipeline_rounds > 1:
        parts.append(f"{layout.pipeline_rounds} pipeline rounds")
    switches = {"async tp": layout.async_tp, "experts overlapped": layout.expert_overlap}
    parts += [name for name, on in (switches | {"balanced stages": layout.balanced_stages}).items() if on]
    parts.append(f"micro-batch {layout.micro_batch_size}")
    again = f"recompute {' + '.join(layout.recompute_modules) or layout.recompute}"
    parts.append(again if layout.recompute_share == 1 else f"{again} in {layout.recompute_share:.2g} of the layers")
    return ", ".join(parts)
