"""Hold published rows as one set of arrays, so that all of them are predicted in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from carbon_plugin.calibrate.rows.rows import PublishedRow
from carbon_plugin.predict.arrays import Values
from carbon_plugin.predict.case.from_spec import layout_of, shape_of, work_of
from carbon_plugin.predict.case.inputs import Layout, Shape, StepWork, stack_cases, take
from carbon_plugin.predict.own_runs import place_of
from carbon_plugin.predict.rates.datasheet import datasheet
from carbon_plugin.predict.rates.laws import NARROW, default_attention_kernel
from carbon_plugin.predict.rates.rates import Constants, Datasheet, Rates, combine
from carbon_plugin.predict.rates.resolve import CALIBRATION, resolve_constants
from carbon_plugin.predict.time.schedule import StepTime, step_time
from carbon_plugin.spec.hardware.cluster import Accelerator, Efficiency
from carbon_plugin.spec.models.model import TransformerModel
from carbon_plugin.spec.numbers.figure import Sourced
from carbon_plugin.spec.run import RunSpec
from carbon_plugin.spec.stack import ORDINARY, TUNED, Stack, overhead_of
from carbon_plugin.spec.training import Precision


@dataclass(frozen=True, slots=True)
class RowArrays:
    """Holds the arrays of n rows.

    `shipped` are the constants of profiles and stacks, and `prior` those that laws and priors give without any
    calibration (with framework factors of 1). `sheet` holds the shipped framework factors. Labels are string arrays of
    shape (n,). `ordinary` marks the rows of software that shares the overhead of ordinary software.
    """

    rows: tuple[PublishedRow, ...]
    shape: Shape
    layout: Layout
    work: StepWork
    sheet: Datasheet
    shipped: Constants
    prior: Constants
    prior_factor: NDArray[np.float64]
    measured_s: NDArray[np.float64]
    source: NDArray[np.str_]
    origin: NDArray[np.str_]
    collection: NDArray[np.str_]
    accelerator: NDArray[np.str_]
    family: NDArray[np.str_]
    framework: NDArray[np.str_]
    kernel: NDArray[np.str_]
    model_key: NDArray[np.str_]
    narrow: NDArray[np.bool_]
    sparse: NDArray[np.bool_]
    ordinary: NDArray[np.bool_]


def tabulate(rows: Sequence[PublishedRow]) -> RowArrays:
    """Return the arrays of all rows. Counted models do not occur among published rows."""
    specs = [row.spec for row in rows]
    devices = [spec.cluster.accelerator for spec in specs]
    return RowArrays(
        rows=tuple(rows),
        shape=stack_cases([shape_of(_transformer(row)) for row in rows]),
        layout=stack_cases([layout_of(spec.layout) for spec in specs if spec.layout is not None]),
        work=stack_cases([work_of(spec.training, spec.stack) for spec in specs]),
        sheet=stack_cases([datasheet(spec.cluster, spec.stack, spec.training.precision) for spec in specs]),
        shipped=_constants(specs, lambda device, stack: (device, stack)),
        prior=_constants(specs, lambda device, stack: (_blank(device), _bare(stack))),
        prior_factor=np.ones(len(rows)),
        measured_s=np.array([row.measured_step_time_s for row in rows]),
        source=np.array([row.source for row in rows]),
        origin=np.array([row.origin for row in rows]),
        collection=np.array([row.collection for row in rows]),
        accelerator=np.array([device.name for device in devices]),
        family=np.array([family(device) for device in devices]),
        framework=np.array([row.framework for row in rows]),
        kernel=np.array([s.stack.attention_kernel or default_attention_kernel(s.cluster.accelerator) for s in specs]),
        model_key=np.array([row.model_key for row in rows]),
        narrow=np.array([spec.training.precision in NARROW for spec in specs]),
        sparse=np.array([_transformer(row).moe is not None for row in rows]),
        ordinary=np.array([_shares_overhead(spec.stack) for spec in specs]),
    )


def _constants(specs: Sequence[RunSpec], known: Callable[[Accelerator, Stack], tuple[Accelerator, Stack]]) -> Constants:
    """Return the constants of each run, from what is `known` of its device and stack.

    Those of one device object, stack and precision are resolved once.
    """
    found: dict[tuple[int, Stack, Precision], Constants] = {}
    each = []
    for spec in specs:
        key = (id(spec.cluster.accelerator), spec.stack, spec.training.precision)
        if key not in found:
            device, stack = known(spec.cluster.accelerator, spec.stack)
            found[key], _ = resolve_constants(device, stack, spec.training.precision)
        each.append(found[key])
    return stack_cases(each)


def rates_of(specs: Sequence[RunSpec]) -> Rates:
    """Return the rates of each run under its profile's and stack's own constants."""
    sheets = [datasheet(spec.cluster, spec.stack, spec.training.precision) for spec in specs]
    return combine(stack_cases(sheets), _constants(specs, lambda device, stack: (device, stack)))


def select(table: RowArrays, mask: NDArray[np.bool_] | NDArray[np.intp]) -> RowArrays:
    """Return the rows where `mask`, of shape (n,), is true, or those at indices, which may repeat."""
    index = np.arange(table.measured_s.size)[mask]
    picked: dict[str, Any] = {}
    for field in fields(table):
        column = getattr(table, field.name)
        if field.name == "rows":
            picked["rows"] = tuple(column[i] for i in index)
        else:
            picked[field.name] = take(column, index) if is_dataclass(column) else column[index]
    return RowArrays(**picked)


def predict(table: RowArrays, constants: Constants, framework_factor: Values | None = None) -> StepTime:
    """Return the step times of all rows under constants, with the shipped framework factors unless others are given."""
    sheet = table.sheet if framework_factor is None else replace(table.sheet, framework_factor=framework_factor)
    return step_time(table.shape, table.layout, table.work, combine(sheet, constants))


def places_of(table: RowArrays) -> list[dict[str, float]]:
    """Return where the layout of each row lies among layouts (`predict.own_runs`)."""
    place = place_of(table.shape, table.layout, table.work, table.narrow.astype(np.float64))
    columns = {name: np.broadcast_to(column, table.narrow.shape) for name, column in place.items()}
    return [{name: float(column[row]) for name, column in columns.items()} for row in range(table.narrow.size)]


class Cases(NamedTuple):
    """Rows as the equations take them, for one of many predictions, and their places among all rows."""

    places: NDArray[np.intp]
    shape: Shape
    layout: Layout
    work: StepWork
    sheet: Datasheet


def cases_of(table: RowArrays, rows: NDArray[np.intp]) -> tuple[Cases, ...]:
    """Return the rows at indices, which may repeat, with dense models and mixtures apart.

    Together the equations would price experts for every dense model too.
    """
    sparse = table.sparse[rows]
    parts = [np.flatnonzero(members) for members in (~sparse, sparse) if np.any(members)]
    return tuple(
        Cases(
            places,
            take(table.shape, rows[places]),
            take(table.layout, rows[places]),
            take(table.work, rows[places]),
            take(table.sheet, rows[places]),
        )
        for places in parts
    )


def step_time_of(
    cases: Sequence[Cases], constants: Constants, framework_factor: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the step times of all rows of `cases` under constants, in seconds."""
    total = np.empty_like(framework_factor)
    for places, shape, layout, work, sheet in cases:
        own = replace(sheet, framework_factor=framework_factor[places])
        total[places] = step_time(shape, layout, work, combine(own, take(constants, places))).total
    return total


def family(device: Accelerator) -> str:
    """Return the architecture family, which is the level at which devices share constants."""
    return device.architecture.split("-")[0].split("+")[0]


def _blank(device: Accelerator) -> Accelerator:
    """Return the device without the constants that the fit gave it. What others measured of it stays."""
    known: dict[str, Any] = {
        field: value
        for field, value in msgspec.structs.asdict(device.efficiency).items()
        if isinstance(value, Sourced) and value.source != CALIBRATION
    }
    return msgspec.structs.replace(device, efficiency=Efficiency(**known))


def _bare(stack: Stack) -> Stack:
    # Nothing is fitted to the overhead of tuned software on other makers' devices, so that a bare stack keeps it.
    overhead = None if stack.population == TUNED else 1.0
    bare = {"host_op_time_s": None, "framework_factor": 1.0, "overhead_factor": overhead, "population": TUNED}
    return msgspec.structs.replace(stack, **bare)


def _shares_overhead(stack: Stack) -> bool:
    """Return whether the overhead that is fitted to ordinary software holds for a stack: one that is compiled states
    its own, because its chains are kernels like those of tuned software."""
    return stack.population == ORDINARY and overhead_of(stack) == overhead_of(Stack())


def _transformer(row: PublishedRow) -> TransformerModel:
    assert isinstance(row.spec.model, TransformerModel)  # `rows` builds nothing else
    return row.spec.model
