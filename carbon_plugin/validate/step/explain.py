"""Explain the prediction of one row: the terms of the step, beside the measured time and the assumptions."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from carbon_plugin.calibrate.rows.published import all_published_rows
from carbon_plugin.calibrate.rows.rows import next_step, read_rows, unknown_fields
from carbon_plugin.errors import SpecError
from carbon_plugin.plan.search.phrases import phrase_of
from carbon_plugin.predict.result import StepPrediction
from carbon_plugin.predict.step import predict_step
from carbon_plugin.spec.numbers.amounts import plural

GROUPS: Mapping[str, tuple[str, ...]] = {
    "compute": ("matmul", "attention", "scan", "elementwise", "recompute", "head"),
    "exposed communication": ("tp", "cp", "ep", "dp", "dp_shard", "pp_transfer"),
    "bubble": ("pp_bubble",),
    "host": ("host", "offload", "jitter"),
    "optimizer": ("optimizer",),
}
NEAREST, ALIKE = 3, 0.6
"""The most ids that are offered for an unknown one, and how much of both has to agree (`difflib`)."""
OTHER = "software as a whole"
"""Name of the group of terms that stretch all others alike."""


class RowExplanation(Struct, frozen=True, kw_only=True):
    """A row with its prediction by the shipped constants.

    `groups_s` are the terms of the step by group, in seconds; they add up to the step. `ratio` is predicted over
    measured.
    """

    id: str
    source: str
    accelerator: str
    layout: str
    measured_step_time_s: float
    ratio: float
    groups_s: dict[str, dict[str, float]]
    prediction: StepPrediction
    assumed: tuple[str, ...]
    not_read: tuple[str, ...]


def explain_row(name: str, records: Path | None) -> RowExplanation:
    """Return the explanation of a row of a file, or of the shipped ones, by its id.

    Raises `SpecError` for an unknown id, naming the nearest ones, and for a row that cannot be predicted.
    """
    rows, skipped = all_published_rows() if records is None else read_rows(records)
    where = "the published rows" if records is None else str(records)
    for left_out in skipped:
        if left_out.id == name:
            unknown = f"; {unknown_fields(left_out.not_read)}" if left_out.not_read else ""
            raise SpecError(f"{where}: {name}: {left_out.reason}; {next_step(left_out.reason)}{unknown}")
    found = next((row for row in rows if row.id == name), None)
    if found is None:
        near = _nearest(name, [row.id for row in rows])
        meant = f"did you mean {', '.join(near)}? " if near else ""
        ids = "`carbon-plugin list rows` has all ids" if records is None else f"the file has {plural(len(rows), 'row')}"
        raise SpecError(f"--explain {name}: no such row in {where}; {meant}{ids}")
    prediction = predict_step(found.spec)
    assert found.spec.layout is not None  # a row always has one
    return RowExplanation(
        id=name,
        source=found.source,
        accelerator=found.accelerator,
        layout=phrase_of(found.spec.layout),
        measured_step_time_s=found.measured_step_time_s,
        ratio=prediction.step_time_s.value / found.measured_step_time_s,
        groups_s=grouped(prediction.breakdown_s),
        prediction=prediction,
        assumed=found.assumed,
        not_read=found.not_read,
    )


def _nearest(name: str, ids: list[str]) -> list[str]:
    """Return up to three ids: first those that contain what was typed, and then those that resemble it."""
    typed = name.lower()
    holding = [one for one in ids if typed and typed in one.lower()]
    return list(dict.fromkeys([*holding, *difflib.get_close_matches(name, ids, n=NEAREST, cutoff=ALIKE)]))[:NEAREST]


def grouped(breakdown_s: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Return the terms of a step by group. Groups without terms are left out."""
    known = {term for terms in GROUPS.values() for term in terms}
    groups = {**GROUPS, OTHER: tuple(term for term in breakdown_s if term not in known)}
    return {
        group: found
        for group, terms in groups.items()
        if (found := {term: breakdown_s[term] for term in terms if term in breakdown_s})
    }
