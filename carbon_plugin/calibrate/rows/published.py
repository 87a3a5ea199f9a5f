"""Read the published measurements that this package ships as rows."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Literal

import msgspec
from msgspec import Struct

from carbon_plugin.calibrate.rows.hybrids import without_hybrids
from carbon_plugin.calibrate.rows.rows import PublishedRow, SkippedRow, read_rows
from carbon_plugin.spec.hardware.profiles import PROFILES_VARIABLE

BLIND_PREDICTIONS = "blind_predictions.yaml"
BLIND_SETS = "blind_sets.yaml"
CLASSES = "classes"
ROUNDS = "rounds"
NOT_STEP_TIMES = ("architectures.yaml", "full_runs.yaml", "carbon.yaml", BLIND_PREDICTIONS, BLIND_SETS)
"""Files among the published ones that hold no step times."""


ModelKind = Literal["dense", "mixtures"]


class BlindSet(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One instance says what a collection of rows holds that was predicted blind.

    `name` says which blind set it belongs to. `inside_range_percent` is the share of its rows that lay inside the 80 %
    range which was printed when they were predicted, for each kind of model that it has.
    """

    collection: str
    name: str
    holds: str
    inside_range_percent: Mapping[ModelKind, float]


def published_rows() -> tuple[list[PublishedRow], list[SkippedRow]]:
    """Return the shipped rows of models with equal layers, to which constants are fitted, and the skipped rows."""
    rows, skipped = all_published_rows()
    return without_hybrids(rows), skipped


def all_published_rows() -> tuple[list[PublishedRow], list[SkippedRow]]:
    """Return all shipped rows, and the skipped rows. They are read once for each list of profile directories."""
    rows, skipped = _rows_under(os.environ.get(PROFILES_VARIABLE, ""))
    return list(rows), list(skipped)


@cache
def _rows_under(profile_directories: str) -> tuple[tuple[PublishedRow, ...], tuple[SkippedRow, ...]]:
    """Return the rows as they are with the profiles of those directories, from which the reader takes the hardware."""
    folder = resources.files("carbon_plugin.calibrate.rows") / "published"
    rows: list[PublishedRow] = []
    skipped: list[SkippedRow] = []
    with resources.as_file(folder) as path:
        for file in sorted(path.iterdir()):
            if file.suffix in (".yaml", ".csv") and file.name not in NOT_STEP_TIMES:
                found, missing = read_rows(file)
                rows += found
                skipped += missing
    return tuple(rows), tuple(skipped)


@cache
def blind_predictions() -> Mapping[str, float]:
    """Return the seconds per step that were predicted for rows, by id, before anybody chose anything in sight of
    them.

    A row whose step is read as several of the steps that were predicted takes as many times longer.
    """
    sections = _blind()
    rounds = sections[ROUNDS]
    return {
        row: float(seconds) * float(rounds.get(row, 1))
        for name, rows in sections.items()
        if name not in (CLASSES, ROUNDS)
        for row, seconds in rows.items()
    }


@cache
def blind_classes() -> Mapping[str, str]:
    """Return, by id, the class of accuracy in which a row was predicted blind, for rows that are in another one now."""
    return {row: str(kind) for row, kind in _blind()[CLASSES].items()}


def blind_sets() -> tuple[BlindSet, ...]:
    """Return the shipped blind sets in the order in which they were predicted."""
    text = (resources.files("carbon_plugin.calibrate.rows") / "published" / BLIND_SETS).read_bytes()
    return msgspec.yaml.decode(text, type=tuple[BlindSet, ...])


def _blind() -> dict[str, dict[str, float | str]]:
    text = (resources.files("carbon_plugin.calibrate.rows") / "published" / BLIND_PREDICTIONS).read_bytes()
    return msgspec.yaml.decode(text, type=dict[str, dict[str, float | str]])
