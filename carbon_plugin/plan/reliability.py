"""Find what a run loses time to: the stated values on failures, checkpoints, start-up and evaluation, or else assumed
ones with source and range.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from carbon_plugin.predict.case.from_spec import optimizer_state_bytes
from carbon_plugin.spec.models.model import CountedModel
from carbon_plugin.spec.numbers.amounts import number, quantity
from carbon_plugin.spec.numbers.figure import Assumption, Figure
from carbon_plugin.spec.numbers.units import BYTE_RATE_UNITS, SECONDS_PER_HOUR, STEP_TIME_UNITS
from carbon_plugin.spec.run import RunSpec

WEIGHT_BYTES = 4
"""The bytes of a weight in a checkpoint, which holds fp32 weights beside the optimizer's states."""
HOST_COPY_BYTES_PER_S = 10e9
"""The rate at which a device copies to host memory for an asynchronous checkpoint: well below one PCIe 4 x16 link (our
convention).
"""


def _assumed(value: float, low: float, high: float, unit: str, source: str) -> Figure:
    return Figure(value, low, high, unit, "assumed", source)


MTBF = _assumed(
    50_700,
    29_500,
    82_000,
    "device-hours",
    "Llama 3 405B: 419 unexpected interruptions in 54 days on 16,384 H100 (arXiv 2407.21783, table 5); range: two "
    "A100 clusters with 6.5 and 2.34 failures in 1,000 node-days (arXiv 2410.21680)",
)
RESTART = _assumed(
    600,
    180,
    1200,
    "s",
    "convention, below the 1,000 s that more than 90 % effective time under 466 interruptions leaves for a restart "
    "with redone work (Llama 3 405B, arXiv 2407.21783, section 3.3.4)",
)
STARTUP_ONE_NODE = _assumed(20, 5, 120, "s", "convention: imports, loading, compilation, first batches")
STARTUP = _assumed(
    300,
    30,
    1050,
    "s",
    "convention within MegaScale's 1,047 s on 2,048 GPUs before tuning and under 30 s after (arXiv 2402.15627)",
)
STORAGE = _assumed(
    1e9,
    0.3e9,
    3.5e9,
    "B/s a node",
    "Llama 3's storage: 2 TB/s sustained and 7 TB/s at peak for 2,048 nodes (arXiv 2407.21783, section 3.3.1)",
)
EVALUATION = _assumed(
    0.0,
    0.0,
    0.1,
    "evaluated sequences a trained one",
    "none was stated; Megatron-LM's defaults (100 batches every 1,000 steps) would be the upper end",
)


class Losses(Struct, frozen=True):
    """One instance holds the inputs of the model of losses in SI units.

    `evaluation` is the number of evaluated sequences a trained one, `pause_s` the pause of one checkpoint, and `mtbf_s`
    the mean time between failures of the whole job.
    """

    startup_s: float
    evaluation: float
    pause_s: float
    mtbf_s: float
    restart_s: float


def checkpoint_bytes(spec: RunSpec) -> float:
    """Return the bytes of one checkpoint: weights and optimizer states of everything that is trained."""
    model = spec.model
    trained = (
        model.trainable_parameters if isinstance(model, CountedModel) else model.parameters * model.trainable_fraction
    )
    return trained * (WEIGHT_BYTES + optimizer_state_bytes(spec.training))


def stated_or_assumed(spec: RunSpec, size: float) -> tuple[dict[str, Figure], list[Assumption]]:
    """Return every input as stated, or else as assumed, and the assumptions in words."""
    given, evaluation = spec.training.reliability, spec.training.evaluation
    usual = {
        "reliability.startup_time_s": STARTUP_ONE_NODE if spec.cluster.nodes == 1 else STARTUP,
        "reliability.mtbf_device_hours": MTBF,
        "reliability.restart_time_s": RESTART,
    }
    stated = {
        "reliability.startup_time_s": given.startup_time_s,
        "reliability.mtbf_device_hours": given.mtbf_device_hours,
        "reliability.restart_time_s": given.restart_time_s,
    }
    if given.checkpoint_write_s is not None:
        stated["reliability.checkpoint_write_s"] = given.checkpoint_write_s
    elif not given.asynchronous_checkpoints:
        stated["reliability.storage_bytes_per_s_per_node"] = given.storage_bytes_per_s_per_node
        usual["reliability.storage_bytes_per_s_per_node"] = STORAGE
    share = None
    if evaluation is not None:
        share = evaluation.sequences / evaluation.every_steps / spec.training.global_batch_size
    stated["evaluation"], usual["evaluation"] = share, EVALUATION
    inputs = {
        name: Figure(value, value, value, "", "declared", "stated") if value is not None else usual[name]
        for name, value in stated.items()
    }
    assumptions = [
        Assumption(f"training.{name}", _with_range(inputs[name]), inputs[name].source)
        for name, value in stated.items()
        if value is None
    ]
    if given.checkpoint_write_s is None and given.asynchronous_checkpoints:
        said = f"{quantity(HOST_COPY_BYTES_PER_S, BYTE_RATE_UNITS)} from a device to host memory, our convention"
        pause = quantity(_host_copy_s(spec, size), STEP_TIME_UNITS)
        assumptions.append(Assumption("training.reliability.checkpoint_write_s", pause, said))
    return inputs, assumptions


def _host_copy_s(spec: RunSpec, size: float) -> float:
    return size / spec.cluster.devices / HOST_COPY_BYTES_PER_S


def _with_range(figure: Figure) -> str:
    shown = figure.scaled(1e-9, f"G{figure.unit}") if figure.unit.startswith("B/s") else figure
    value, low, high = (number(end) for end in (shown.value, shown.low, shown.high))
    return f"{value} {shown.unit} ({low} to {high})"


def losses_of(spec: RunSpec, inputs: Mapping[str, Figure], size: float) -> Losses:
    """Return the inputs of the model of losses in SI units, for checkpoints of `size` bytes."""
    cluster = spec.cluster
    value = {name: figure.value for name, figure in inputs.items()}
    pause = value.get("reliability.checkpoint_write_s")
    if pause is None:
        storage = value.get("reliability.storage_bytes_per_s_per_node")
        pause = _host_copy_s(spec, size) if storage is None else size / cluster.nodes / storage
    return Losses(
        startup_s=value["reliability.startup_time_s"],
        evaluation=value["evaluation"],
        pause_s=pause,
        mtbf_s=value["reliability.mtbf_device_hours"] * SECONDS_PER_HOUR / cluster.devices,
        restart_s=value["reliability.restart_time_s"],
    )
