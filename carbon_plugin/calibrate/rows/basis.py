"""Put runs that were planned with constants of an earlier calibration on one basis with those before it.

The second run of a cluster is usually planned with what the first one taught. Its record then carries fitted constants,
and its deviation from them is another thing than that of the first run from the shipped ones. Both are taken against
the constants that no run of the user had moved yet, where a run of those is among them.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from carbon_plugin.calibrate.rows.rows import PublishedRow
from carbon_plugin.predict.rates.evidence import runs_of
from carbon_plugin.predict.step import predict_step
from carbon_plugin.spec.hardware.cluster import Accelerator


def on_one_basis(rows: Sequence[PublishedRow]) -> list[PublishedRow]:
    """Return the rows of one accelerator with the device's constants that the first row without a calibration has, and
    with the software's constants that the first such row of the same framework has.

    Where every row was planned with a calibration the first one is taken. Rows of several accelerators, and rows
    without any calibration, are returned as they are.
    """
    devices = [row.spec.cluster.accelerator for row in rows]
    if len({row.accelerator for row in rows}) > 1 or not any(device.own_software for device in devices):
        return list(rows)
    device = next((device for device in devices if not device.own_software), devices[0])
    first: dict[str, PublishedRow] = {}
    for row in sorted(rows, key=_learned):
        first.setdefault(row.framework, row)
    return [_moved(row, device, first[row.framework]) for row in rows]


def _learned(row: PublishedRow) -> bool:
    """Return whether the software of a row has constants that the user's own runs told."""
    return runs_of(row.spec.cluster.accelerator, row.spec.stack) is not None


def _moved(row: PublishedRow, device: Accelerator, first: PublishedRow) -> PublishedRow:
    """Return a row on another basis. Its measured power stays the same, so that the ratio to the prediction moves."""
    stack = row.spec.stack
    if _learned(row):
        constants = {name: getattr(first.spec.stack, name) for name in ("framework_factor", "host_op_time_s")}
        stack = msgspec.structs.replace(stack, **constants)
    cluster = msgspec.structs.replace(row.spec.cluster, accelerator=device)
    spec = msgspec.structs.replace(row.spec, cluster=cluster, stack=stack)
    ratio = row.power_ratio
    if ratio is not None:
        ratio *= predict_step(row.spec).gpu_power_w.value / predict_step(spec).gpu_power_w.value
    return msgspec.structs.replace(row, spec=spec, power_ratio=ratio)
