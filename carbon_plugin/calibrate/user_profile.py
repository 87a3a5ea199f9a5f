"""Write a calibration as files: the device's profile with the fitted constants, and a stack for the software."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from carbon_plugin.calibrate.rows.rows import PublishedRow
from carbon_plugin.calibrate.user_fit import Calibration, FittedConstant
from carbon_plugin.predict.rates.evidence import is_calibrated
from carbon_plugin.spec.hardware.cluster import (
    OWN_RUNS,
    Accelerator,
    Efficiency,
    Node,
    OwnLayout,
    OwnLayouts,
    OwnSoftware,
)
from carbon_plugin.spec.hardware.profiles import find_node
from carbon_plugin.spec.numbers.amounts import plural
from carbon_plugin.spec.numbers.figure import Confidence, Sourced
from carbon_plugin.spec.numbers.range import P90_SIGMAS
from carbon_plugin.spec.parsing.saving import save
from carbon_plugin.spec.stack import Stack, factor_of, host_op_time_of

DIGITS = 6
ENOUGH_ROWS = 8
"""The number of rows from which on a device that nobody had calibrated counts as calibrated, with the narrower
interval. The median draw is then within 6 % on all other rows (docs/calibration.md).
"""


def provenance(calibration: Calibration, origin: str, date: str) -> str:
    """Return one line that says from which rows the constants come, when they were fitted, and how large the error is.

    `origin` is the file or run directory.
    """
    ids = [row.id for row in calibration.rows]
    named = ids[0] if len(ids) == 1 else f"{ids[0]} to {ids[-1]}"
    return (
        f"carbon-plugin calibrate {origin}, {date}: {plural(len(ids), 'row')} ({named}), mean error "
        f"{calibration.mape_before:.1f} % before, {calibration.mape_after:.1f} % after"
    )


def user_profile(rows: Sequence[PublishedRow], calibration: Calibration, source: str) -> Accelerator:
    """Return the profile of the rows' device with the fitted constants in place of its own.

    It keeps its name, so that it overrides the other profile.
    """
    device = rows[0].spec.cluster.accelerator
    enough = is_calibrated(device) or len(calibration.rows) >= ENOUGH_ROWS
    confidence: Confidence = "fitted" if enough else "derived"
    changes: dict[str, Any] = {}
    attention = dict(device.efficiency.attention_flops)
    for constant in calibration.fitted:
        if constant.stack is None and constant.kernel is not None:
            attention[constant.kernel] = _sourced(constant, confidence)
        elif constant.stack is None:
            changes[constant.field] = _sourced(constant, confidence)
    power = calibration.power
    if power is not None:
        changes["sustained_power_w"] = Sourced(
            value=_rounded(power.after_w),
            source=OWN_RUNS,
            confidence="fitted",
            low=_rounded(power.after_w / (1 + P90_SIGMAS * power.spread)),
            high=_rounded(power.after_w * (1 + P90_SIGMAS * power.spread)),
            note=f"was {power.before_w:.4g}; power of {plural(power.runs, 'run')}",
        )
    efficiency: Efficiency = msgspec.structs.replace(device.efficiency, attention_flops=attention, **changes)
    return msgspec.structs.replace(
        device,
        efficiency=efficiency,
        own_software=_own_software(rows, calibration),
        sources={**device.sources, OWN_RUNS: source},
    )


def _own_software(rows: Sequence[PublishedRow], calibration: Calibration) -> tuple[OwnSoftware, ...]:
    """Return what the rows leave to know of each software, with the constants that a plan of it has."""
    stacks = user_stacks(rows, calibration.fitted)
    return tuple(
        OwnSoftware(
            framework=one.framework,
            rows=sum(row.framework == one.framework for row in rows),
            host_op_time_s=host_op_time_of(stacks[one.framework]),
            framework_factor=factor_of(stacks[one.framework]),
            faster=float(f"{one.faster:.4f}"),
            slower=float(f"{one.slower:.4f}"),
            like=_rounded_layouts(calibration.own[one.framework]),
        )
        for one in calibration.carried
    )


def _rounded_layouts(own: OwnLayouts) -> OwnLayouts:
    """Return the layouts that ran with as many digits as a reader of the profile wants."""
    layouts = [
        OwnLayout(
            place={name: _rounded(value) for name, value in one.place.items()},
            deviation=_rounded(one.deviation),
            runs=one.runs,
        )
        for one in own.layouts
    ]
    numbers = {field: _rounded(getattr(own, field)) for field in ("spread", "smooth", "usual", "repeated")}
    return OwnLayouts(**numbers, layouts=tuple(layouts))


def user_stacks(rows: Sequence[PublishedRow], fitted: Iterable[FittedConstant]) -> dict[str, Stack]:
    """Return the stack of each framework by name: that of its first row, with what was fitted of it put in."""
    changes: dict[str, dict[str, float]] = {row.framework: {} for row in rows}
    for constant in fitted:
        if constant.stack is not None:
            changes[constant.stack][constant.field] = _rounded(constant.after)
    first = {row.framework: row.spec.stack for row in reversed(rows)}
    return {name: msgspec.structs.replace(first[name], **values) for name, values in changes.items()}


def write_profile(path: Path, rows: Sequence[PublishedRow], calibration: Calibration, source: str) -> list[Path]:
    """Write the device's profile to `path`, each stack to `stacks/NAME.yaml` beside it, and its node to
    `nodes/NAME.yaml` where no profile that is found without a folder has that name. Return the written paths.

    `source` is the provenance. `carbon-plugin plan --profiles` takes the folder, which needs no other one beside it.
    """
    cluster = rows[0].spec.cluster
    profile = user_profile(rows, calibration, source)
    written = [_write(path, profile, source)]
    if find_node(cluster.node.name) is None:
        written.append(_write(path.parent / "nodes" / f"{cluster.node.name}.yaml", cluster.node, source))
    told = {constant.stack for constant in calibration.fitted}
    for name, stack in user_stacks(rows, calibration.fitted).items():
        if name in told:
            written.append(_write(path.parent / "stacks" / f"{name}.yaml", stack, source))
    return written


def _write(path: Path, value: Accelerator | Node | Stack, source: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    body = msgspec.yaml.encode(_stated(msgspec.to_builtins(value))).decode()
    save(path, f"# {source}\n{body}")
    return path


def _stated(value: Any) -> Any:
    """Return plain data without fields that are None or empty: an absent field means the same and is easier to read."""
    if isinstance(value, dict):
        return {key: _stated(item) for key, item in value.items() if item not in (None, [], {})}
    return [_stated(item) for item in value] if isinstance(value, list) else value


def _sourced(constant: FittedConstant, confidence: Confidence) -> Sourced:
    spread = P90_SIGMAS * constant.spread
    return Sourced(
        value=_rounded(constant.after),
        source=OWN_RUNS,
        confidence=confidence,
        low=_rounded(constant.after / (1 + spread)),
        high=_rounded(constant.after * (1 + spread)),
        note=f"was {constant.before:.4g}",
    )


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
