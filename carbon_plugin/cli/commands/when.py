"""`carbon-plugin when`: find the start of a planned run at which it emits least."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from carbon_plugin.cli.options import Argument, AsJson, Option, Seed
from carbon_plugin.cli.run_options import RunOptions, run_of
from carbon_plugin.cli.terminal import echo, echo_json
from carbon_plugin.errors import SpecError
from carbon_plugin.spec.numbers.units import SECONDS_PER_DAY, SECONDS_PER_HOUR

if TYPE_CHECKING:
    from carbon_plugin.plan.whatif.best_start import BestStart

_LENGTH = re.compile(r"(\d+(?:\.\d+)?)\s*(h|d)?")


def when(
    spec: Annotated[Path | None, Argument("Run spec (YAML). Flags override its fields.")] = None,
    *,
    options: RunOptions,
    within: Annotated[str, Option("Latest start from now: 48h, 3d, or hours.")] = "48h",
    forecast: Annotated[
        Path | None, Option("CSV or Parquet file of intensity for the hours to come; else the site's live service.")
    ] = None,
    column: Annotated[str | None, Option("Column of the intensity in that file, where several could be meant.")] = None,
    timezone: Annotated[
        str | None, Option("Time zone of that file, an IANA name or UTC, where its times have no offset.")
    ] = None,
    now: Annotated[str | None, Option("The moment that counts as now, for instance 2026-01-01T00:00Z.")] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Find the best start of a run within the next hours, and what it saves against a start now."""
    from carbon_plugin.footprint.live.forecast import forecast_trace
    from carbon_plugin.footprint.series.file import load_trace
    from carbon_plugin.plan.forecast import make_forecast, require_fit
    from carbon_plugin.plan.whatif.best_start import find_best_start
    from carbon_plugin.spec.parsing.moment import unix_s
    from carbon_plugin.spec.site import SeriesFile

    within_s = seconds_of(within)
    now_unix_s = time.time() if now is None else unix_s(now, "--now")
    run = run_of(spec, options, searching=False)
    if forecast is None and (column, timezone) != (None, None):
        raise SpecError("--column and --timezone say how a file is read: give it with --forecast")
    file = None if forecast is None else SeriesFile(path=str(forecast), column=column, timezone=timezone)
    trace = load_trace(file) if file is not None else forecast_trace(run.site, os.environ)
    plan = make_forecast(run, seed=seed)
    if not options.force:
        require_fit(plan)
    found = find_best_start(plan, trace, now_unix_s=now_unix_s, within_s=within_s)
    if as_json:
        echo_json(found)
    else:
        _print(found)


def seconds_of(text: str) -> float:
    """Return the seconds of a length of time such as "48h" or "2d". Raises `SpecError` for anything else."""
    match = _LENGTH.fullmatch(text.strip())
    if match is None or float(match[1]) <= 0:
        raise SpecError(f"--within is {text!r}, expected hours or days such as 48h or 2d")
    return float(match[1]) * (SECONDS_PER_DAY if match[2] == "d" else SECONDS_PER_HOUR)


def _print(found: BestStart) -> None:
    from carbon_plugin.show import wording

    now, best, saved = found.now, found.best, found.saved_kg
    echo(f"{found.name}: the run takes {wording.duration(found.run_time_s.value)}; grid: {found.source}")
    echo("")
    for label, one in (("now", now), ("best", best)):
        kg = one.operational_kg
        echo(
            f"{label:<5} {one.start}  {one.g_per_kwh:7.1f} g/kWh  {wording.carbon(kg.value)} of operational carbon "
            f"({wording.carbon_range(kg)})"
        )
    echo("")
    if best.start_unix_s == now.start_unix_s:
        echo("No later start is better: start now.")
    else:
        hours = (best.start_unix_s - now.start_unix_s) / SECONDS_PER_HOUR
        echo(
            f"Starting {hours:.1f} hours from now saves {wording.carbon(saved.value)} "
            f"({wording.carbon_range(saved)}), {wording.percent(found.saved_share)} of the operational carbon."
        )
    for note in found.notes:
        echo(f"- {note}")
