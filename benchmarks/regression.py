"""Regression on past runs beside this package: both predict the step times of sources that they never saw.

    pip install -r requirements/benchmarks.in           # in an environment of its own, beside this package
    python benchmarks/regression.py --page              # five minutes; writes the table of docs/validation.md

Two learners read what the model reads of each published row: every field of model, layout, training and stack, the
device with its peak and memory, the number of devices, and the time at peak. They learn the measured time over that
time from the rows of eleven twelfths of the sources, and predict those of the last twelfth. The same learners then
learn how far this package's predictions without the source are off, which says whether these fields hold anything that
the equations miss.

The learners are a random forest and gradient boosting of scikit-learn. Every source has the same weight in learning and
in the error. Of the settings in `LEARNERS`, which were chosen once, the better is shown: that favours the regression.
Writes benchmarks/results/regression.json, and with --page the table of docs/validation.md.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from results_file import write_result
from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor

from carbon_plugin.calibrate.rows.published import all_published_rows
from carbon_plugin.calibrate.rows.rows import PublishedRow
from carbon_plugin.predict.rates.laws import peak_of
from carbon_plugin.validate.step.baselines import six_nd
from carbon_plugin.validate.step.step_time import validate

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "docs"))

from marked_tables import replace_marked, table  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "regression.json"
PAGE = ROOT / "docs" / "validation.md"
FOLDS = 12
FEWEST_SOURCES = 3
"""A word of a field is a feature if rows of at least so many sources have it: no learner can carry a rarer one over."""
FURTHEST = 1.0
"""Errors of our predictions count with at most this logarithm in learning, so that a few do not rule the rest."""

Floats = NDArray[np.float64]

BOOSTING = {"loss": "absolute_error", "learning_rate": 0.05, "subsample": 0.5, "max_features": 0.3, "random_state": 0}
LEARNERS: dict[str, tuple[Callable[[], Any], ...]] = {
    "random forest": tuple(
        lambda leaf=leaf: RandomForestRegressor(300, min_samples_leaf=leaf, max_features=0.3, random_state=0)
        for leaf in (3, 10, 30)
    ),
    "gradient boosting": tuple(
        lambda trees=trees, depth=depth: GradientBoostingRegressor(n_estimators=trees, max_depth=depth, **BOOSTING)
        for trees, depth in ((150, 3), (300, 4))
    ),
}


class Rows(NamedTuple):
    """One instance holds what is known of each row, as arrays of shape (rows,): its features (rows, features), its
    source, whether it is a mixture, and the logarithms of the measured time over our prediction without the source and
    over the time of 6 N D.
    """

    features: Floats
    source: NDArray[np.str_]
    mixture: NDArray[np.bool_]
    over_ours: Floats
    over_flops: Floats


def rows() -> Rows:
    """Return the published rows that are predicted."""
    published = {row.id: row for row in all_published_rows()[0]}
    kept = [(published[row.id], row) for row in validate().rows if row.skipped is None and row.id in published]
    ours = [row.left_out_step_time_s or row.predicted_step_time_s for _, row in kept]
    measured = np.log([row.measured_step_time_s for row, _ in kept])
    return Rows(
        features=encoded([fields_of(row) for row, _ in kept], [row.origin for row, _ in kept]),
        source=np.array([row.origin for row, _ in kept]),
        mixture=np.array([bool(row.moe) for _, row in kept]),
        over_ours=measured - np.log(np.array(ours, dtype=float)),
        over_flops=measured - np.log([six_nd(row) for row, _ in kept]),
    )


def fields_of(row: PublishedRow) -> dict[str, object]:
    """Return the fields of a row that a prediction reads, by name."""
    spec, device = row.spec, row.spec.cluster.accelerator
    fields: dict[str, object] = {"framework": row.framework, "device": device.name, "generation": device.architecture}
    for part in (spec.model, spec.layout, spec.training, spec.stack, getattr(spec.model, "moe", None)):
        values = {} if part is None else {name: getattr(part, name) for name in part.__struct_fields__}
        fields |= {f"{type(part).__name__}.{name}": value for name, value in values.items() if _plain(value)}
    return fields | {
        "adapters": getattr(spec.model, "adapters", None) is not None,
        "devices": spec.cluster.devices,
        "devices of a node": spec.cluster.node.accelerators,
        "parameters": float(spec.model.parameters),
        "memory": device.memory_bytes.value,
        "memory bandwidth": device.memory_bandwidth_bytes_per_s.value,
        "peak": peak_of(device, spec.training.precision)[1].value,
        "time of 6 N D": six_nd(row),
    }


def _plain(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def encoded(fields: Sequence[dict[str, object]], sources: Sequence[str]) -> Floats:
    """Return the features, shape (rows, features): logarithms of numbers, and a column for each word of a field that
    rows of several sources have.
    """
    columns = []
    for name in dict.fromkeys(name for row in fields for name in row):
        values = [row.get(name) for row in fields]
        if any(isinstance(value, str) for value in values):
            pairs = {(str(value), source) for value, source in zip(values, sources, strict=True)}
            several = [word for word, count in Counter(word for word, _ in pairs).items() if count >= FEWEST_SOURCES]
            columns += [np.array([str(value) == word for value in values], dtype=float) for word in several]
        else:
            numbers = np.array([-1.0 if value is None else float(value) for value in values])  # type: ignore[arg-type]
            columns.append(np.where(numbers < 0, -1.0, np.log1p(np.maximum(numbers, 0))))
    return np.array([column for column in columns if np.ptp(column) > 0]).T


def learned(learner: Callable[[], Any], known: Rows, wanted: Floats) -> Floats:
    """Return what a learner says of each row, shape (rows,), after it saw the rows of other folds of sources."""
    names, number, counts = np.unique(known.source, return_inverse=True, return_counts=True)
    fold = (np.random.default_rng(0).permutation(names.size) % FOLDS)[number]
    found = np.zeros(wanted.size)
    for left_out in range(FOLDS):
        here = fold == left_out
        one = learner().fit(known.features[~here], wanted[~here], sample_weight=1 / counts[number[~here]])
        found[here] = one.predict(known.features[here])
    return found


def errors(known: Rows, left: Floats) -> dict[str, float]:
    """Return the mean relative error in percent, with every source counted once, of predictions from which the
    measured times differ by these logarithms, for all rows and for each kind of model.
    """
    off = 100 * np.abs(np.expm1(-left))
    kinds = {"dense": ~known.mixture, "mixtures": known.mixture}
    return {
        kind: float(np.mean([np.mean(off[of & (known.source == name)]) for name in np.unique(known.source[of])]))
        for kind, of in kinds.items()
    }


def compared(known: Rows) -> dict[str, dict[str, float]]:
    """Return the errors of this package, of each learner alone, and of this package with each learner's correction."""
    bounded = np.clip(known.over_ours, -FURTHEST, FURTHEST)
    found = {"this package": errors(known, known.over_ours)}
    alone = {
        f"{name} on past runs": [
            errors(known, known.over_flops - learned(one, known, known.over_flops)) for one in ones
        ]
        for name, ones in LEARNERS.items()
    }
    corrected = {
        f"this package, its errors learned by {name}": [
            errors(known, known.over_ours - learned(one, known, bounded)) for one in ones
        ]
        for name, ones in LEARNERS.items()
    }
    best = {name: min(ones, key=lambda one: sum(one.values())) for name, ones in (alone | corrected).items()}
    return found | best


def main() -> None:
    """Compare, write the result, and with --page the table of the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="write the table into docs/validation.md")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    known = rows()
    found = compared(known)
    sources = int(np.unique(known.source).size)
    counted = {"rows": known.source.size, "sources": sources, "features": known.features.shape[1]}
    print(write_result(options.output, {**counted, "mean_error_percent": found}))
    if options.page:
        lines = [[name, *(f"{one[kind]:.1f} %" for kind in ("dense", "mixtures"))] for name, one in found.items()]
        replace_marked(
            PAGE, {"regression": table(["prediction of sources that were not seen", "dense", "mixtures"], lines)}
        )


if __name__ == "__main__":
    main()
