"""`carbon-plugin scale`: predict time, energy and carbon of a loss or a compute budget, or of a range of them."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from carbon_plugin.cli.options import AsJson, Option, ProfileDirectories, Seed
from carbon_plugin.cli.run_options import FacilityPue, GridIntensity, PrecisionName, SeqLen, StackName
from carbon_plugin.cli.terminal import echo, echo_json, steering_console
from carbon_plugin.errors import SpecError
from carbon_plugin.spec.numbers.amounts import days_phrase
from carbon_plugin.spec.parsing.saving import save

if TYPE_CHECKING:
    from carbon_plugin.plan.scaling.laws import ScalingLaw
    from carbon_plugin.plan.scaling.options import Method
    from carbon_plugin.plan.scaling.table import Sweep
    from carbon_plugin.spec.site import Site

DEADLINE_DAYS = 90.0
ACCELERATOR = "h100-sxm"
GENERATIONS = ("v100-sxm2-32gb", "a100-sxm-80gb", "h100-sxm", "b200-sxm")
ZONES = ("WORLD", "SWE", "FRA", "USA", "IND")
POINTS = 6
MOST_POINTS = 1_000
"""More points of a range than a chart can show apart; each is a search of clusters."""


def scale(
    compute: Annotated[str | None, Option("Training FLOP: 1e24, or a range 1e21:1e26.")] = None,
    loss: Annotated[str | None, Option("Loss to reach, nats a token: 2.0, or a range 2.4:1.9.")] = None,
    law: Annotated[str, Option("Scaling law: chinchilla, hoffmann or moe.")] = "chinchilla",
    accelerator: Annotated[
        list[str] | None,
        Option("Accelerator; may be repeated.", shown_default="h100-sxm; of a range V100, A100, H100, B200"),
    ] = None,
    zone: Annotated[
        list[str] | None,
        Option("Grid zone; may be repeated.", shown_default="of a range WORLD, SWE, FRA, USA, IND"),
    ] = None,
    deadline_days: Annotated[float | None, Option("Longest time that the run may take.", shown_default="90")] = None,
    points: Annotated[int, Option("Points of a range.")] = POINTS,
    intensity_g_per_kwh: GridIntensity = None,
    pue: FacilityPue = None,
    stack: StackName = None,
    precision: PrecisionName = None,
    seq_len: SeqLen = None,
    profiles: ProfileDirectories = None,
    seed: Seed = 0,
    output: Annotated[Path, Option("Directory for table and charts of a range.", names=("-o", "--output"))] = Path(
        "scaling"
    ),
    as_json: AsJson = False,
) -> None:
    """Choose model, tokens, batch, cluster and layout by a scaling law, and predict time, energy and carbon.

    A range also writes scaling.csv, scaling.json and charts.
    """
    import msgspec

    from carbon_plugin.plan.scaling.cheapest import target_of_compute, target_of_loss
    from carbon_plugin.plan.scaling.laws import law_named
    from carbon_plugin.plan.scaling.table import sweep
    from carbon_plugin.spec.numbers.figure import Assumption

    chosen, values = law_named(law), _values(compute, loss, points)
    ranged = len(values) > 1
    targets = [target_of_loss(chosen, value) if loss else target_of_compute(chosen, value) for value in values]
    devices = tuple(accelerator or (GENERATIONS if ranged else (ACCELERATOR,)))
    sites = _sites(zone, intensity_g_per_kwh, pue, ranged=ranged)
    method = _method(stack, precision, seq_len)
    days = DEADLINE_DAYS if deadline_days is None else deadline_days
    with _progress(len(targets) * len(devices)) as advance:
        dirs = tuple(profiles or ())
        result = sweep(targets, devices, sites, days, method=method, profile_dirs=dirs, seed=seed, done=advance)
    chosen_here = (
        ("accelerator", ", ".join(devices), accelerator),
        ("zone", ", ".join(str(site.zone) for site in sites), zone or intensity_g_per_kwh),
        ("deadline", days_phrase(days), deadline_days),
    )
    assumed = [Assumption(field, value, "no other was given") for field, value, given in chosen_here if given is None]
    result = msgspec.structs.replace(result, assumptions=(*assumed, *result.assumptions))
    if not result.points:
        raise SpecError(result.infeasible[0])
    written = _write(result, chosen, output) if ranged else ()
    if as_json:
        echo_json(result)
    else:
        _print(result, chosen, days, written)


def _sites(zones: list[str] | None, g_per_kwh: float | None, pue: float | None, *, ranged: bool) -> list[Site]:
    """Return the sites that are asked for, or those of a range. Raises `SpecError` where one answer has none."""
    from carbon_plugin.spec.site import Site

    if not zones and g_per_kwh is not None:
        return [Site(intensity_g_per_kwh=g_per_kwh, pue=pue)]
    if not zones and not ranged:
        raise SpecError("zone is not given, expected --zone with one, or WORLD for the mean of all grids")
    return [Site(zone=name, intensity_g_per_kwh=g_per_kwh, pue=pue) for name in zones or ZONES]


def _method(stack: str | None, precision: str | None, seq_len: int | None) -> Method:
    """Return what is stated of the training. Raises `SpecError` for a value that cannot be."""
    from carbon_plugin.plan.scaling.options import Method
    from carbon_plugin.spec.parsing.decoding import decode
    from carbon_plugin.spec.parsing.document import Document

    stated = {"stack": stack, "precision": precision, "seq_len": seq_len}
    return decode(Document(stated, "command line", {}), Method)


def _values(compute: str | None, loss: str | None, points: int) -> list[float]:
    """Return the one number that is asked for, or the points of a range. Raises `SpecError` for another question."""
    from carbon_plugin.plan.scaling.table import logarithmic_steps

    if (compute is None) == (loss is None):
        raise SpecError(f"scale: give compute or loss, one of them; got compute={compute} loss={loss}")
    first, last = _ends("compute", compute) if compute is not None else _ends("loss", loss or "")
    if not 2 <= points <= MOST_POINTS:
        raise SpecError(f"points is {points:,}, expected 2 to {MOST_POINTS:,}")
    return [first] if last is None else logarithmic_steps(first, last, points)


def _ends(name: str, text: str) -> tuple[float, float | None]:
    """Return one number and None, or the two ends of a range. Raises `SpecError` for another text."""
    try:
        numbers = [float(part) for part in text.split(":")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or not all(math.isfinite(number) and number > 0 for number in numbers):
        raise SpecError(f"{name} is {text!r}, expected a positive number or a range first:last")
    if len(numbers) == 2 and numbers[0] == numbers[1]:
        raise SpecError(f"{name} is {text!r}, expected a range with different ends")
    return numbers[0], numbers[1] if len(numbers) == 2 else None


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """Show a progress bar if standard error is a terminal. Yields the function to call after each unit of work."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.progress import Progress

    with Progress(console=steering_console(error=True), transient=True) as bar:
        task = bar.add_task("searching clusters", total=total)
        yield lambda: bar.advance(task)


def _print(result: Sweep, law: ScalingLaw, days: float, written: tuple[Path, ...]) -> None:
    """Print the points of a range, of which the files were `written`, or one point where none were."""
    from carbon_plugin.cli.tables.scale_table import print_points, print_range

    if written:
        print_range(result, days)
    else:
        print_points(result, law, days)
    for reason in result.infeasible:
        echo(f"left out: {reason}")
    for path in written:
        echo(f"written: {path}")


def _write(result: Sweep, law: ScalingLaw, folder: Path) -> tuple[Path, ...]:
    """Write the table and the charts into a directory and return their paths."""
    import msgspec

    from carbon_plugin.cli.tables.scale_chart import carbon_chart, share_chart
    from carbon_plugin.plan.scaling.table import csv_text, rows_of

    files = {
        "scaling.csv": csv_text(rows_of(result.points, law)),
        "scaling.json": msgspec.json.format(msgspec.json.encode(result), indent=2).decode() + "\n",
        "carbon-against-loss.svg": carbon_chart(result.points, law),
        "embodied-share.svg": share_chart(result.points),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        save(folder / name, text)
    return tuple(folder / name for name in files)
