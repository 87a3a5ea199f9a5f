"""Answer the scaling question over a range of targets, and write the points and their exponents as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Sequence

from msgspec import Struct

from carbon_plugin.errors import InfeasibleLayoutError, PrecisionError
from carbon_plugin.plan.scaling.cheapest import ScalePoint, answer
from carbon_plugin.plan.scaling.laws import ScalingLaw
from carbon_plugin.plan.scaling.options import AS_USUAL, Method, Target
from carbon_plugin.spec.hardware.profiles import Directories
from carbon_plugin.spec.numbers.figure import Assumption
from carbon_plugin.spec.numbers.units import JOULES_PER_MWH, SECONDS_PER_DAY
from carbon_plugin.spec.site import Site


class Exponents(Struct, frozen=True, kw_only=True):
    """One instance holds slopes of log carbon on one accelerator in one zone, over the points that meet the deadline.

    The carbon of the real run and of the ideal one grows as the reducible loss to the power of minus `real_loss` and
    minus `ideal_loss`. That of the real run grows as compute to the power of `real_compute`, and between the last two
    points `last_compute`; that of the ideal one is proportional to compute.
    """

    accelerator: str
    zone: str
    points: int
    real_loss: float
    ideal_loss: float
    real_compute: float
    last_compute: float


class Sweep(Struct, frozen=True, kw_only=True):
    """One sweep holds all points, their exponents, what could not be trained at all, with the reason, and all
    assumptions.
    """

    points: tuple[ScalePoint, ...]
    exponents: tuple[Exponents, ...]
    infeasible: tuple[str, ...]
    assumptions: tuple[Assumption, ...]


def sweep(
    targets: Sequence[Target],
    accelerators: Sequence[str],
    sites: Sequence[Site],
    deadline_days: float,
    *,
    method: Method = AS_USUAL,
    profile_dirs: Directories = (),
    seed: int = 0,
    done: Callable[[], None] = lambda: None,
) -> Sweep:
    """Answer every target on every accelerator at every site. `done` is called after each target and accelerator.

    Raises the errors of `answer`, except for models that fit nowhere and devices without the precision, which are
    listed.
    """
    points: list[ScalePoint] = []
    assumed: list[Assumption] = []
    infeasible = []
    for accelerator in accelerators:
        for target in targets:
            try:
                found = answer(
                    target, accelerator, sites, deadline_days, method=method, profile_dirs=profile_dirs, seed=seed
                )
                points += found.points
                assumed += found.assumptions
            except (InfeasibleLayoutError, PrecisionError) as error:
                infeasible.append(str(error))
            done()
    offset = targets[0].law.offset
    return Sweep(
        points=tuple(points),
        exponents=tuple(_exponents(points, offset)),
        infeasible=tuple(dict.fromkeys(infeasible)),
        assumptions=tuple(dict.fromkeys(assumed)),
    )


def _exponents(points: Sequence[ScalePoint], offset: float) -> Iterable[Exponents]:
    groups: dict[tuple[str, str], list[ScalePoint]] = {}
    for point in points:
        if point.meets_deadline:
            groups.setdefault((point.accelerator, point.zone), []).append(point)
    for (accelerator, zone), unsorted in groups.items():
        group = sorted(unsorted, key=lambda point: point.compute_flop)
        if len(group) < 2:
            continue
        loss = [math.log(point.loss - offset) for point in group]
        compute = [math.log(point.compute_flop) for point in group]
        real = [math.log(point.total_kg.value) for point in group]
        ideal = [math.log(point.ideal_kg) for point in group]
        yield Exponents(
            accelerator=accelerator,
            zone=zone,
            points=len(group),
            real_loss=-slope(loss, real),
            ideal_loss=-slope(loss, ideal),
            real_compute=slope(compute, real),
            last_compute=slope(compute[-2:], real[-2:]),
        )


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Return the slope of the least-squares line through points of distinct x."""
    mean_x, mean_y = math.fsum(x) / len(x), math.fsum(y) / len(y)
    across = math.fsum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return across / math.fsum((a - mean_x) ** 2 for a in x)


def logarithmic_steps(first: float, last: float, count: int) -> list[float]:
    """Return `count` values from first to last in equal ratios, both included."""
    return [first * (last / first) ** (index / (count - 1)) for index in range(count)]


def rows_of(points: Iterable[ScalePoint], law: ScalingLaw) -> list[dict[str, object]]:
    """Return the points as flat rows, in SI units but for days, hours, MWh and tonnes, which the column names say."""
    return [
        {
            "compute_flop": f"{point.compute_flop:.4g}",
            "loss": round(point.loss, 4),
            "loss_p10": round(point.loss_low, 4),
            "loss_p90": round(point.loss_high, 4),
            "reducible_loss": round(point.loss - law.offset, 5),
            "parameters": f"{point.parameters:.4g}",
            "active_parameters": f"{point.active_parameters:.4g}",
            "tokens": f"{point.tokens:.4g}",
            "model": point.model,
            "accelerator": point.accelerator,
            "zone": point.zone,
            "devices": point.devices,
            "batch_tokens": f"{point.batch:.4g}",
            **{f"critical_batch_{name}": f"{item.critical_batch:.4g}" for name, item in point.by_batch_law.items()},
            "layout": point.layout,
            "step_time_s": f"{point.step_time_s.value:.4g}",
            "step_time_s_p10": f"{point.step_time_s.low:.4g}",
            "step_time_s_p90": f"{point.step_time_s.high:.4g}",
            "mfu": round(point.mfu, 4),
            "goodput": round(point.goodput, 4),
            "meets_deadline": point.meets_deadline,
            "time_days": f"{point.time_s.value / SECONDS_PER_DAY:.4g}",
            "time_days_p10": f"{point.time_s.low / SECONDS_PER_DAY:.4g}",
            "time_days_p90": f"{point.time_s.high / SECONDS_PER_DAY:.4g}",
            "device_hours": f"{point.device_hours.value:.4g}",
            "facility_mwh": f"{point.facility_energy_j.value / JOULES_PER_MWH:.4g}",
            "operational_t": f"{point.operational_kg.value / 1e3:.4g}",
            "embodied_t": f"{point.embodied_kg.value / 1e3:.4g}",
            "embodied_share": round(point.embodied_share, 4),
            "total_t": f"{point.total_kg.value / 1e3:.4g}",
            "total_t_p10": f"{point.total_kg.low / 1e3:.4g}",
            "total_t_p90": f"{point.total_kg.high / 1e3:.4g}",
            "best_case_days": f"{point.best_case_time_s / SECONDS_PER_DAY:.4g}",
            "best_case_t": f"{point.best_case_kg / 1e3:.4g}",
            "ideal_t": f"{point.ideal_kg / 1e3:.4g}",
            "extrapolated": "; ".join(point.extrapolated),
        }
        for point in points
    ]


def csv_text(rows: Sequence[dict[str, object]]) -> str:
    """Return rows as CSV with a header. The columns are those of all rows, in the order of first appearance."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
