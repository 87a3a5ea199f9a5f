"""`carbon-plugin calibrate`: fit the constants of the user's device and software to measured rows or runs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from carbon_plugin.cli.options import Argument, AsJson, Option
from carbon_plugin.cli.terminal import echo, echo_json
from carbon_plugin.errors import SpecError
from carbon_plugin.spec.numbers.amounts import percent, plural

if TYPE_CHECKING:
    from carbon_plugin.calibrate.rows.rows import PublishedRow, SkippedRow
    from carbon_plugin.calibrate.user_fit import Calibration

LEARNED = {
    "gemm_share": "matrix share",
    "fp8_gemm_share": "matrix share",
    "attention_flops": "attention",
    "memory_share": "memory share",
    "overlap_contention": "network share",
    "scaleup_share": "network share",
    "scaleup_latency_s": "network share",
    "scaleout_share": "network share",
    "scaleout_latency_s": "network share",
    "all_to_all_share": "network share",
    "host_op_time_s": "host",
}
"""The part of the step that a constant is about, as it is printed."""
MOST_ROWS_SHOWN = 8
WORSE_POINTS = 3.0
"""By how many points the mean error must grow before the rows are said to disagree among themselves."""
FIRST_DIGITS = 5e-4
"""The relative difference below which two constants agree in the first three digits."""


def calibrate(
    measured: Annotated[
        list[Path] | None,
        Argument("Run directories with ledgers, or files of rows (YAML, or vTrain's CSV)."),
    ] = None,
    output: Annotated[Path | None, Option("Write the profile to this file.", names=("-o", "--output"))] = None,
    reproduce_shipped: Annotated[bool, Option("Refit from the published rows and compare to what is shipped.")] = False,
    as_json: AsJson = False,
) -> int:
    """Fit constants to measured step times. A constant that the rows cannot tell is refused with a reason.

    `plan --profiles FOLDER` then uses the written profile instead of ours. Constants of the software are written to
    FOLDER/stacks.
    """
    if reproduce_shipped:
        if measured or output is not None:
            raise SpecError("calibrate: --reproduce-shipped fits the published rows, expected no rows and no --output")
        return _reproduce(as_json)
    if not measured:
        raise SpecError("calibrate: expected a run directory or a file of rows, or --reproduce-shipped")
    from carbon_plugin.calibrate.rows.basis import on_one_basis
    from carbon_plugin.calibrate.rows.from_ledger import ledger_rows
    from carbon_plugin.calibrate.rows.rows import read_rows
    from carbon_plugin.calibrate.user_fit import calibrate as fit_rows

    rows: list[PublishedRow] = []
    skipped: list[SkippedRow] = []
    for path in dict.fromkeys(measured):
        found, left_out = ledger_rows(path) if path.is_dir() else read_rows(path)
        rows += found
        skipped += left_out
    rows = on_one_basis(rows)
    calibration = fit_rows(rows, skipped)
    written = []
    told = bool(calibration.fitted) or calibration.power is not None
    if output is not None and told:
        from datetime import UTC, datetime

        from carbon_plugin.calibrate.user_profile import provenance, write_profile

        source = provenance(calibration, " ".join(path.name for path in measured), datetime.now(UTC).date().isoformat())
        written = write_profile(output, rows, calibration, source)
    if as_json:
        echo_json(calibration)
    else:
        _print(calibration)
    for path in written:
        echo(f"written to {path}", error=as_json)
    if written:
        echo(
            _how_to_use(written[0].parent, [path.stem for path in written if path.parent.name == "stacks"]),
            error=as_json,
        )
    if not told:
        echo("error: the rows tell no constant; nothing is written", error=True)
        return 1
    return 0


def _how_to_use(folder: Path, stacks: list[str]) -> str:
    """Return the command that plans with what was written to a folder. A plan takes fitted software only by name."""
    software = f" --stack {' or '.join(stacks)}" if stacks else ""
    return f"use it: carbon-plugin plan run.yaml --profiles {folder}{software}"


def _reproduce(as_json: bool) -> int:
    from carbon_plugin.calibrate.shipped import compare, refit

    constants = compare(*refit())
    if as_json:
        echo_json(constants)
        return 0
    apart = 0
    for constant in constants:
        same = constant.shipped is not None and abs(constant.refitted / constant.shipped - 1) < FIRST_DIGITS
        apart += not same
        shipped = "none" if constant.shipped is None else f"{constant.shipped:.4g}"
        echo(f"{constant.name:56s} refitted {constant.refitted:<10.4g} shipped {shipped}{'' if same else '  <-'}")
    echo(f"{len(constants)} constants, {apart} differ in the first 3 digits")
    return 1 if apart else 0


def _print(calibration: Calibration) -> None:
    echo(f"{calibration.accelerator}: {plural(len(calibration.rows), 'row')}, {len(calibration.skipped)} skipped")
    for row in calibration.skipped:
        echo(f"  skipped {row.id}: {row.reason}")
    for known in calibration.rows[:MOST_ROWS_SHOWN]:
        echo(
            f"  {known.id}: the median step took {known.measured_s:.4g} s; predicted {known.before_s:.4g} s before, "
            f"{known.after_s:.4g} s after"
        )
    if len(calibration.rows) > MOST_ROWS_SHOWN:
        echo(f"  {plural(len(calibration.rows) - MOST_ROWS_SHOWN, 'more row')} in --json")
    for kept in calibration.carried:
        echo(
            f"  {plural(kept.layouts, 'layout')} in software '{kept.framework}' {_pace(kept.shift)} than predicted, of "
            f"which {_percent_of(kept.carried)} is put down to the cluster: layouts of one cluster differ by "
            f"{_percent_of(kept.spread)}"
        )
        echo(
            f"  of what clusters differ by, the range of a plan in software '{kept.framework}' keeps "
            f"{percent(kept.faster, 0)} for steps shorter than predicted and {percent(kept.slower, 0)} for longer ones"
        )
    echo("  a plan of one of these layouts takes over what is its own, and one of a like layout what both share")
    count = plural(len(calibration.rows), "row")
    for constant in calibration.fitted:
        name = constant.field if constant.kernel is None else f"{constant.field}.{constant.kernel}"
        name += f" of {constant.stack}" if constant.stack else ""
        learned = LEARNED.get(constant.field, "software")
        change = f"{constant.before:.4g} -> {constant.after:.4g} ± {percent(constant.spread, 1)}"
        echo(f"  fitted  {name}: {change} ({learned}, from {count}; ± {percent(constant.spread_before, 1)} before)")
    power = calibration.power
    if power is not None:
        change = f"{power.before_w:.4g} -> {power.after_w:.4g} W ± {percent(power.spread, 1)}"
        echo(f"  fitted  sustained_power_w: {change} (power, from {plural(power.runs, 'run')})")
    for refused in calibration.refused:
        echo(f"  refused {refused.name}: {refused.reason}")
    echo(
        f"mean error {calibration.mape_before:.1f} % before, {calibration.mape_after:.1f} % after, by constants and "
        "offsets alone"
    )
    if calibration.mape_after > calibration.mape_before + WORSE_POINTS:
        echo(
            "the rows differ more among themselves than the constants explain, so that no offset of the cluster suits "
            "all of them: look at the rows above, and leave out a run that others disturbed"
        )


def _pace(shift: float) -> str:
    """Return a mean logarithm of measured over predicted time in words: "took 12 % longer"."""
    return f"took {_percent_of(shift)} {'longer' if shift > 0 else 'less'}"


def _percent_of(logarithm: float) -> str:
    return percent(abs(math.expm1(logarithm)), 0)
