"""Compute the constants that profiles and stacks ship, from the published rows and by the same fit.

`python -m carbon_plugin.calibrate.shipped` rewrites them in a source checkout after the rows or the equations change.
`carbon-plugin calibrate --reproduce-shipped` fits again and compares.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from msgspec import Struct

from carbon_plugin.calibrate.fit import FACTOR, Fit, fit_populations, problem_of
from carbon_plugin.calibrate.parameters import (
    ANCHOR_FRAMEWORKS,
    BLACKWELL_LEVEL,
    CAPPED_H100,
    FACTOR_FRAMEWORKS,
    FAMILIES,
    HOST_GROUPS,
    KERNELS,
    ORDINARY_FRAMEWORKS,
    SMALLER_DIES,
    VENDOR_FRAMEWORKS,
    calibration_rows,
    cluster_offsets,
    fitted_rows,
    shipped_parameters,
)
from carbon_plugin.calibrate.rows.published import published_rows
from carbon_plugin.calibrate.rows.table import RowArrays, family, tabulate
from carbon_plugin.predict.rates.laws import attention_rate, gemm_share_law, memory_share_law, peak_16bit
from carbon_plugin.predict.rates.resolve import CALIBRATION, prior_constants
from carbon_plugin.spec.hardware.cluster import Accelerator
from carbon_plugin.spec.hardware.profiles import list_accelerators
from carbon_plugin.spec.stack import STACKS

BLOCK_HEAD = "# Calibration: constants of the step-time model, fitted on the published rows (make calibrate)."
CITATION = "carbon-plugin calibrate --reproduce-shipped: fitted on the rows in carbon_plugin/calibrate/rows/published"
DIGITS = 4


class ShippedConstant(Struct, frozen=True, kw_only=True):
    """One constant as the fit gives it and as it is shipped. `shipped` is None where nothing is shipped."""

    name: str
    refitted: float
    shipped: float | None


def refit() -> tuple[RowArrays, Fit]:
    """Return the rows and a new fit of the shipped calibration."""
    table = tabulate(published_rows()[0])
    problem = problem_of(table, (*shipped_parameters(), *cluster_offsets(table)))
    return table, fit_populations(problem, fitted_rows(table))


def compare(table: RowArrays, fitted: Fit) -> list[ShippedConstant]:
    """Return every shipped constant beside its refitted value."""
    found = []
    for device in list_accelerators():
        for field, value in device_constants(device, fitted, table).items():
            shipped = _shipped(device, field)
            found.append(ShippedConstant(name=f"{device.name}.{field}", refitted=value, shipped=shipped))
    for framework, values in stack_constants(fitted).items():
        stack = STACKS.get(framework)
        for field, value in values.items():
            shipped = getattr(stack, field) if stack is not None else None
            found.append(ShippedConstant(name=f"stack {framework}.{field}", refitted=value, shipped=shipped))
    return found


def device_constants(device: Accelerator, fitted: Fit, table: RowArrays) -> dict[str, float]:
    """Return the constants of one device, with keys as in `Efficiency` ("attention_flops.<kernel>" for kernels).

    The result is empty outside the calibrated families. Devices that are related to measured ones take the multipliers
    of their family on the law.
    """
    group = "capped" if device.name == CAPPED_H100 else family(device)
    if (
        family(device) not in FAMILIES
        or not {"fp16", "bf16"} & set(device.peak_flops)
        or device.architecture in SMALLER_DIES
    ):
        return {}
    peak = peak_16bit(device)
    prior = prior_constants()
    level = fitted.multiplier(BLACKWELL_LEVEL) if group == "blackwell" else 1.0
    numbers = {
        "gemm_share": gemm_share_law(device.tdp_w.value, peak, device.architecture)
        * fitted.multiplier(f"gemm_share.{group}")
        * level,
        "memory_share": memory_share_law(device.memory_bandwidth_bytes_per_s.value)
        * fitted.multiplier(f"memory_share.{group}"),
    }
    for kernel in KERNELS:
        seen = (table.family == family(device)) & (table.kernel == kernel) & calibration_rows(table)
        if np.any(seen):
            own = group == "capped" and np.any(seen & (table.accelerator == CAPPED_H100))
            multiplier = fitted.multiplier(f"attention_flops.{group if own else family(device)}.{kernel}")
            numbers[f"attention_flops.{kernel}"] = attention_rate(kernel, device, peak) * multiplier
    if "fp8" in device.peak_flops:
        numbers["fp8_gemm_share"] = fitted.multiplier(f"fp8_gemm_share.{family(device)}") / level
    for name in ("overlap_contention", "scaleup_latency_s", "scaleout_latency_s", "scaleout_share", "all_to_all_share"):
        numbers[name] = prior[name] * fitted.multiplier(name)
    return {name: float(f"{value:.{DIGITS}g}") for name, value in numbers.items()}


def stack_constants(fitted: Fit) -> dict[str, dict[str, float]]:
    """Return host cost and factors of each framework."""
    host = prior_constants()["host_op_time_s"]
    found: dict[str, dict[str, float]] = {}
    for group, members in (*HOST_GROUPS.items(), ("ordinary", ORDINARY_FRAMEWORKS)):
        for framework in members:
            value = host * fitted.multiplier(f"host_op_time_s.{group}")
            found[framework] = {"host_op_time_s": float(f"{value:.{DIGITS}g}")}
    factors = dict.fromkeys((*ANCHOR_FRAMEWORKS, *ORDINARY_FRAMEWORKS), 1.0)
    vendor = fitted.multiplier(f"{FACTOR}.vendor")
    factors |= dict.fromkeys(VENDOR_FRAMEWORKS, vendor)
    factors |= {name: vendor * fitted.multiplier(f"{FACTOR}.{name}") for name in FACTOR_FRAMEWORKS}
    for framework, value in factors.items():
        found[framework]["framework_factor"] = float(f"{value:.{DIGITS}g}")
    for framework in ORDINARY_FRAMEWORKS:
        value = fitted.multiplier("overhead.ordinary")
        found[framework]["overhead_factor"] = float(f"{value:.{DIGITS}g}")
    return found


def efficiency_block(device: Accelerator, constants: dict[str, float], measured: bool) -> str:
    """Return the YAML block of a profile."""
    confidence = "fitted" if measured else "derived"
    lines = [BLOCK_HEAD, "efficiency:"]
    attention = [name for name in constants if name.startswith("attention_flops.")]
    for name, value in constants.items():
        entry = f"{{value: {_number(value)}, source: {CALIBRATION}, confidence: {confidence}}}"
        if name in attention:
            if name == attention[0]:
                lines.append("  attention_flops:")
            lines.append(f"    {name.split('.')[1]}: {entry}")
        else:
            lines.append(f"  {name}: {entry}")
    return "\n".join(lines) + "\n"


def rewrite_profiles(folder: Path, table: RowArrays, fitted: Fit) -> Iterator[Path]:
    """Put the fitted constants into the profiles of a source checkout, and yield the files that were written."""
    measured = set(table.accelerator[calibration_rows(table)])
    for device in list_accelerators():
        path = folder / "accelerators" / f"{device.name}.yaml"
        body = re.split(r"\n# Calibration: ", path.read_text("utf-8"))[0].rstrip() + "\n"
        body = re.sub(rf'  (?:predictor-study|{CALIBRATION}): ".*"\n', "", body)
        constants = device_constants(device, fitted, table)
        if constants:
            body = re.sub(r"\nsources:\n", f'\nsources:\n  {CALIBRATION}: "{CITATION}"\n', body)
            body += "\n" + efficiency_block(device, constants, device.name in measured)
        path.write_text(body, "utf-8")
        yield path


def rewrite_stacks(path: Path, fitted: Fit) -> None:
    """Put the fitted host costs and factors into the stacks file, line by line, keeping its comments."""
    document: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))
    text = path.read_text("utf-8")
    for framework, values in stack_constants(fitted).items():
        if framework not in document:
            continue
        for field, value in values.items():
            pattern = rf"(^{re.escape(framework)}:\n(?:  .*\n)*?  {field}: )\S+"
            text = re.sub(pattern, lambda m, v=value: m.group(1) + _number(v), text, flags=re.M)  # type: ignore[misc]
    path.write_text(text, "utf-8")


def _number(value: float) -> str:
    """Return a float as YAML reads it: an exponent needs a point before it and a sign after it."""
    text = f"{value:.{DIGITS}g}"
    if "e" in text and "." not in text:
        text = text.replace("e", ".0e")
    return text


def _shipped(device: Accelerator, field: str) -> float | None:
    name, _, kernel = field.partition(".")
    value = getattr(device.efficiency, name)
    if kernel:
        value = value.get(kernel)
    return None if value is None else float(value.value)


def main() -> None:
    """Rewrite the shipped constants of the source checkout that this file belongs to."""
    root = Path(__file__).resolve().parents[2]
    table, fitted = refit()
    written = list(rewrite_profiles(root / "hardware_profiles", table, fitted))
    rewrite_stacks(root / "carbon_plugin" / "spec" / "data" / "stacks.yaml", fitted)
    sys.stdout.write(f"{len(written)} profiles and the stacks rewritten\n")


if __name__ == "__main__":
    main()
