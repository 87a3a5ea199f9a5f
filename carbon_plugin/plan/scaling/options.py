"""List the ways to train a target on one kind of hardware: clusters of rising size, batches, and the fastest layout.

Of the options that meet a deadline, the one with least carbon is the best.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator

import msgspec
from msgspec import Struct

from carbon_plugin.errors import SpecError
from carbon_plugin.footprint.account import account
from carbon_plugin.footprint.values import Factors, Footprint
from carbon_plugin.plan.forecast import reservations, run_energies, run_time_figure
from carbon_plugin.plan.goodput import Goodput
from carbon_plugin.plan.real_run import OVERRUNS, best_case, planned_goodput, run_class
from carbon_plugin.plan.scaling.laws import ComputeSplit, ScalingLaw, token_factor
from carbon_plugin.plan.search.layouts import search_layout
from carbon_plugin.predict.rates.laws import peak_of
from carbon_plugin.predict.result import StepPrediction
from carbon_plugin.predict.step import predict_step
from carbon_plugin.spec.defaults import usual_precision, usual_seq_len, usual_stack, with_usual_states
from carbon_plugin.spec.frameworks import planned_as
from carbon_plugin.spec.hardware.cluster import MOST_NODES, Accelerator, Cluster, Node
from carbon_plugin.spec.hardware.profiles import Directories, load_accelerator, load_stack, usual_node
from carbon_plugin.spec.models.model import TransformerModel
from carbon_plugin.spec.numbers.figure import Assumption
from carbon_plugin.spec.numbers.units import SECONDS_PER_DAY
from carbon_plugin.spec.parsing.limits import MOST_WIDTH, check_at_most, check_positive
from carbon_plugin.spec.run import RunSpec
from carbon_plugin.spec.site import Site
from carbon_plugin.spec.stack import Stack
from carbon_plugin.spec.training import Precision, TrainingPlan

BATCH_SHARES = (1.0, 0.5, 0.25)
"""The batches that are tried, over the critical one: a smaller one needs fewer tokens and leaves less work to spread
over devices.
"""
BEST_MFU = 0.7
"""The search begins with the cluster that would meet the deadline at this MFU."""
DOUBLINGS = 7
"""The number of times that the cluster is doubled from there, and how often it is halved where no cluster is in
time.
"""


class Target(Struct, frozen=True, kw_only=True):
    """One target is what is to be trained: a model shape, the tokens that it needs at a small batch, and the loss that
    it reaches.
    """

    law: ScalingLaw
    model: TransformerModel
    split: ComputeSplit
    loss: float


class Method(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One instance holds what is stated of how a target is trained; None is what is usual on the device."""

    stack: str | None = None
    precision: Precision | None = None
    seq_len: int | None = None

    def __post_init__(self) -> None:
        check_positive(self, "seq_len")
        check_at_most(self, MOST_WIDTH, "seq_len")


AS_USUAL = Method()


class DeviceInNode(Struct, frozen=True, kw_only=True):
    """One instance holds a device, its node, and how large models are trained on it; `assumptions` are what nobody
    stated of that.
    """

    device: Accelerator
    node: Node
    precision: Precision
    stack: Stack
    seq_len: int
    assumptions: tuple[Assumption, ...]

    @property
    def devices_per_node(self) -> int:
        """Return the devices used per node: the largest power of two, which any layout divides."""
        return int(2 ** math.floor(math.log2(self.node.accelerators)))

    @property
    def peak_flops(self) -> float:
        """Return the dense FLOP/s of a device in the precision."""
        return peak_of(self.device, self.precision)[1].value

    def training(self, sequences: int) -> tuple[TrainingPlan, list[Assumption]]:
        """Return one step with so many sequences, and what nobody stated of its states."""
        plan = TrainingPlan(seq_len=self.seq_len, global_batch_size=sequences, steps=1, precision=self.precision)
        return with_usual_states(plan, self.stack, ())

    def cluster(self, devices: int) -> Cluster:
        """Return whole nodes with this number of devices, a power of two."""
        nodes = max(1, devices // self.devices_per_node)
        return Cluster(accelerator=self.device, node=self.node, nodes=nodes, devices_per_node=self.devices_per_node)


def hardware_of(accelerator: str, method: Method, profile_dirs: Directories) -> DeviceInNode:
    """Return an accelerator by name, in its usual node, with the method of training.

    Raises `SpecError` for an unknown accelerator or stack, and for a precision that the device does not have.
    """
    device = load_accelerator(accelerator, profile_dirs=profile_dirs)
    precision, seq_len = method.precision or usual_precision(device), usual_seq_len(None)
    stack, plain = usual_stack(device)
    named: list[Assumption] = []
    if method.stack is not None:
        stack = load_stack(method.stack, profile_dirs=profile_dirs)
        named = planned_as(method.stack, stack)
    assumed = (
        (method.seq_len, Assumption("sequence", f"{seq_len.value:,} tokens", seq_len.why)),
        (method.precision, Assumption("training.precision", precision, f"usual on {device.name}")),
        (method.stack, plain),
    )
    found = DeviceInNode(
        device=device,
        node=usual_node(device, None, nodes=2, profile_dirs=profile_dirs),  # a target of any size has several
        precision=precision,
        stack=stack,
        seq_len=method.seq_len or seq_len.value,
        assumptions=(*(assumption for stated, assumption in assumed if stated is None), *named),
    )
    peak_of(device, precision)  # says which precisions the device has
    return msgspec.structs.replace(found, assumptions=(*found.assumptions, *found.training(1)[1]))


class TrainingOption(Struct, frozen=True, kw_only=True):
    """One option is a way to train a target: a run with its layout, its predicted step and its time."""

    spec: RunSpec
    prediction: StepPrediction
    goodput: Goodput

    @property
    def time_s(self) -> float:
        """Return the time of the whole run in seconds."""
        return self.goodput.run_time_s

    def meets(self, deadline_days: float) -> bool:
        """Return whether the run ends within the deadline."""
        return self.time_s <= deadline_days * SECONDS_PER_DAY


LaidOut = Callable[[int, int], tuple[RunSpec, StepPrediction] | None]
"""A function that returns the fastest run on so many devices with so many sequences a step, None if nothing fits."""


def layouts_for(target: Target, hardware: DeviceInNode, site: Site) -> LaidOut:
    """Return the layout search for a target, which searches each cluster and batch once; its specs train
    for one step.
    """

    @functools.cache
    def laid_out(devices: int, sequences: int) -> tuple[RunSpec, StepPrediction] | None:
        training = hardware.training(sequences)[0]
        spec = RunSpec(
            name=target.model.name,
            model=target.model,
            cluster=hardware.cluster(devices),
            training=training,
            site=site,
            stack=hardware.stack,
        )
        try:
            spec = msgspec.structs.replace(spec, layout=search_layout(spec).layout)
        except SpecError:
            return None
        return spec, predict_step(spec)

    return laid_out


def best_option(
    target: Target, critical: float, hardware: DeviceInNode, laid_out: LaidOut, factors: Factors, deadline_days: float
) -> TrainingOption | None:
    """Return the option with least carbon that meets the deadline, else the fastest, or None if nothing fits.

    `critical` is the critical batch, tokens.
    """
    options = list(_options(target, critical, hardware, laid_out, deadline_days))
    in_time = [option for option in options if option.meets(deadline_days)]
    if not in_time:
        return min(options, key=lambda option: option.time_s, default=None)
    return min(in_time, key=lambda option: central_kg(option, factors))


def _options(
    target: Target, critical: float, hardware: DeviceInNode, laid_out: LaidOut, deadline_days: float
) -> Iterator[TrainingOption]:
    """Return runs on clusters of rising size, with each batch, up to one doubling after the deadline is met.

    The carbon of a run hardly falls on a larger cluster, so that no larger one is looked at. Where no cluster meets the
    deadline smaller ones follow, because they fail less often.
    """
    least = target.split.flops / (BEST_MFU * hardware.peak_flops * deadline_days * SECONDS_PER_DAY)
    one_node = int(math.log2(hardware.devices_per_node))
    smallest = max(one_node, math.floor(math.log2(min(least, MOST_NODES / 2**DOUBLINGS))))
    fewer = range(smallest - 1, max(one_node, smallest - DOUBLINGS) - 1, -1)
    met = 0
    for doubling in (*range(smallest, smallest + DOUBLINGS), *fewer):
        if met > 1 or (met == 1 and doubling < smallest):
            return
        found = []
        for share in BATCH_SHARES:
            option = _option(target, critical * share, critical, hardware.seq_len, laid_out, 2**doubling)
            found += [option] if option is not None else []
        yield from found
        met += any(option.meets(deadline_days) for option in found)


def _option(
    target: Target, batch: float, critical: float, seq_len: int, laid_out: LaidOut, devices: int
) -> TrainingOption | None:
    """Return the run with a batch of so many tokens, rounded down, or None if it does not fit or makes no progress."""
    # The batch is a power of two, which any layout divides.
    sequences = 2 ** max(0, math.floor(math.log2(batch / seq_len)))
    found = laid_out(devices, sequences)
    if found is None:
        return None
    spec, prediction = found
    tokens = target.split.tokens * token_factor(sequences * seq_len, critical)
    training = msgspec.structs.replace(spec.training, steps=None, tokens=tokens)
    spec = msgspec.structs.replace(spec, training=training)
    try:
        # Every device is planned in the same way, even one whose constants were fitted to somebody's runs.
        goodput = planned_goodput(spec, prediction, OVERRUNS[run_class(spec)])
        return TrainingOption(spec=spec, prediction=prediction, goodput=goodput)
    except SpecError:
        # The failures leave no progress.
        return None


def best_case_of(option: TrainingOption) -> TrainingOption:
    """Return the same option in the best case of its layout."""
    return msgspec.structs.replace(option, goodput=best_case(option.goodput) or option.goodput)


def footprint_of(option: TrainingOption, factors: Factors, *, draws: int = 2000, seed: int = 0) -> Footprint:
    """Return energy and carbon of the whole run."""
    time = run_time_figure(option.prediction, option.goodput)
    return account(
        run_energies(option.spec.cluster, option.prediction, option.goodput),
        reservations(option.spec.cluster, time.value),
        factors,
        duration_spread=(time.low / time.value, time.high / time.value),
        draws=draws,
        seed=seed,
    )


def central_kg(option: TrainingOption, factors: Factors) -> float:
    """Return the carbon of the whole run without its range, in kgCO2e."""
    return footprint_of(option, factors, draws=1).counted_kg.value
