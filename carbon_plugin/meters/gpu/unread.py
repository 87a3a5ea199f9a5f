"""Estimate, by a model, the energy of GPUs that exist and that no driver reads."""

from __future__ import annotations

from collections.abc import Callable

from carbon_plugin.meters.gpu.vendors import vendor_of
from carbon_plugin.meters.host.model_meter import ModelledPart, ModelMeter, constant
from carbon_plugin.meters.protocol import UnreadGpus
from carbon_plugin.spec.hardware.cluster import Accelerator
from carbon_plugin.spec.metered import DeviceIdentity
from carbon_plugin.spec.numbers.figure import Figure


def unread_meters(
    unread: UnreadGpus | None,
    host_key: str,
    accelerator: Accelerator | None,
    power_w: Figure | None,
    clock: Callable[[], float],
) -> list[ModelMeter]:
    """Return a meter of these GPUs. Return none if there are no such GPUs, or if nobody states the power of each
    (`power_w`, W).

    `accelerator` is their model, None or a CPU where nobody knows it.
    """
    if unread is None or power_w is None:
        return []
    profile = accelerator.name if accelerator is not None and accelerator.kind == "gpu" else None
    unknown = f"{vendor_of(unread.problem.kind).maker} GPU of unknown model"
    note = f"{unread.sentence}; estimated at {power_w.value:.0f} W ({power_w.low:.0f} to {power_w.high:.0f} W) each"

    def part(index: int) -> ModelledPart:
        identity = DeviceIdentity(
            key=f"{host_key}/unread-gpu-{index}",
            name=profile or unknown,
            rung="gpu",
            scope="gpu",
            meter=f"power model: {power_w.source}",
            energy_kind="modelled",
            profile=profile,
            note=note,
        )
        return ModelledPart(identity, constant(power_w.range), estimate=True)

    return [ModelMeter([part(index) for index in range(unread.count)], clock)]
