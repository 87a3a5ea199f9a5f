"""The intensity of a report is that of the windows: which sources were in force, by share, and what they count."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from carbon_plugin.audit.exports.evidence import basis_of, grid_factor
from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.audit.sentences.narrative import warnings
from carbon_plugin.audit.summary import summarise
from carbon_plugin.errors import ReportError
from carbon_plugin.footprint.run_factors import resolve_factors
from carbon_plugin.footprint.values import Basis, Factors, Intensity
from carbon_plugin.ledger.identity import agree_run
from carbon_plugin.ledger.records import Event, Manifest, Record, Window
from carbon_plugin.ledger.writer import LedgerWriter
from carbon_plugin.spec.site import Site
from tests.ledger.builder import RUN_START_UNIX_S, Attempt, Job

LIVE = {"provider": "neso", "zone": "GB", "at_unix_s": RUN_START_UNIX_S, "scope": "direct", "boundary": "consumption"}
NOW = LIVE | {"licence": "CC-BY-4.0", "interval_s": 1800.0}
ELSEWHERE = Basis(scope="direct", signal="average", boundary="consumption")
TABLE = Basis(scope="lifecycle", signal="average", boundary="generation")

Change = Callable[[list[Record]], list[Record]]


def audited(factors: Factors, directory: Path, *changes: Change) -> AuditSummary:
    """Return the audit of a run on one node under these factors, with one attempt for each change to its records."""
    attempts = [Attempt(0, 6, starts_after_s=30.0) for _ in changes]
    job = Job(
        nodes=1,
        attempts=attempts,
        factors=msgspec.to_builtins(factors),
        intensity_g_per_kwh=factors.intensity.figure.value,
        noise=0.0,
    )
    identity = agree_run(directory, name="simulated", run_id="a" * 32)
    for number, change in enumerate(changes):
        start_s = RUN_START_UNIX_S + 1000.0 * number
        writer = LedgerWriter(directory, run_id=identity.run_id, node=0, attempt=number)
        for record in change(job.records(identity.run_id, 0, number, attempts[number], start_s)):
            writer.write(record)
        writer.close()
    return summarise(directory)


def unchanged(records: list[Record]) -> list[Record]:
    return records


def second_half(g_per_kwh: float, origin: str | None, data: dict[str, Any] | None) -> Change:
    """Return a change that gives half of the windows another intensity and adds the event that ledgers record of it.
    The energies of the windows are alike.
    """

    def change(records: list[Record]) -> list[Record]:
        train = [record for record in records if isinstance(record, Window) and record.phase == "train"]
        others = [record for record in records if not isinstance(record, Window)]
        half = [
            msgspec.structs.replace(record, intensity_g_per_kwh=g_per_kwh, intensity_origin=origin)
            for record in train[3:]
        ]
        manifest, *rest = others
        event = (
            [] if data is None else [Event(at_unix_s=RUN_START_UNIX_S, kind="grid_intensity", message="", data=data)]
        )
        return [manifest, *train[:3], *half, *event, *[record for record in rest if isinstance(record, Event)]]

    return change


def at(factors: Factors) -> Change:
    """Return a change that puts these factors into the manifest and their intensity into all windows."""

    def change(records: list[Record]) -> list[Record]:
        value = factors.intensity.figure.value
        replaced: list[Record] = []
        for record in records:
            if isinstance(record, Manifest):
                replaced.append(msgspec.structs.replace(record, factors=msgspec.to_builtins(factors)))
            elif isinstance(record, Window):
                replaced.append(msgspec.structs.replace(record, intensity_g_per_kwh=value, intensity_origin="static"))
            else:
                replaced.append(record)
        return replaced

    return change


def intensity_of(summary: AuditSummary) -> Intensity:
    assert summary.factors is not None
    return summary.factors.intensity


def test_a_run_on_its_factors_states_them_as_they_are(factors: Factors, tmp_path: Path) -> None:
    assert intensity_of(audited(factors, tmp_path, unchanged, unchanged)) == factors.intensity


@pytest.mark.parametrize(
    ("origin", "data"), [("live", NOW | {"origin": "live"}), (None, LIVE | {"origin": "live"})], ids=["now", "before"]
)
def test_a_live_half_of_another_basis_leaves_none(
    factors: Factors, tmp_path: Path, origin: str | None, data: dict[str, Any]
) -> None:
    summary = audited(factors, tmp_path, second_half(99.0, origin, data))

    intensity, stated = intensity_of(summary), factors.intensity
    assert intensity.basis is None
    assert set(intensity.bases) == {TABLE, ELSEWHERE}
    assert intensity.figure.value == pytest.approx((99.0 + stated.figure.value) / 2, rel=1e-3)
    assert {round(part.g_per_kwh, 6): pytest.approx(part.share) for part in intensity.parts} == {
        99.0: 0.5,
        round(stated.figure.value, 6): 0.5,
    }
    assert "50 % neso, zone GB, live (direct, average, consumption)" in intensity.figure.source
    assert any("counts different things" in warning for warning in warnings(summary))
    with pytest.raises(ReportError, match="SCI: the intensity of France counts different things during the run"):
        basis_of(summary.factors, "SCI")  # type: ignore[arg-type]


def test_licences_and_granularity_of_all_sources_are_stated(factors: Factors, tmp_path: Path) -> None:
    summary = audited(factors, tmp_path, second_half(99.0, "live", NOW | {"origin": "live"}))

    factor = grid_factor(summary, summary.factors)  # type: ignore[arg-type]
    assert set(factor.licence.split(" and ")) == {"CC-BY-4.0", factors.intensity.licence}
    assert factor.granularity_time.startswith(("annual and every 30 min", "every 30 min and annual"))
    assert factor.applied_g_per_kwh == pytest.approx(factor.figure.value)


def test_live_values_of_the_same_basis_keep_it(factors: Factors, tmp_path: Path) -> None:
    own = msgspec.structs.replace(factors, intensity=msgspec.structs.replace(factors.intensity, basis=ELSEWHERE))

    intensity = intensity_of(audited(own, tmp_path, second_half(99.0, "live", NOW | {"origin": "live"})))

    assert intensity.basis == ELSEWHERE
    assert len(intensity.parts) == 2


def test_a_value_that_ages_between_two_bases_has_none(factors: Factors, tmp_path: Path) -> None:
    intensity = intensity_of(audited(factors, tmp_path, second_half(70.0, "ageing", NOW | {"origin": "ageing"})))

    assert intensity.basis is None
    assert any("ageing into Our World in Data" in part.source for part in intensity.parts)


def test_a_series_keeps_its_basis_and_loses_the_period_of_the_stated_mean(factors: Factors, tmp_path: Path) -> None:
    figure = msgspec.structs.replace(factors.intensity.figure, source="now.csv: mean of all of it")
    series = msgspec.structs.replace(factors.intensity, figure=figure, attribution="now.csv", granularity="hourly")
    own = msgspec.structs.replace(factors, intensity=series)

    for directory, origin in (("now", "series"), ("before", None)):
        intensity = intensity_of(audited(own, tmp_path / directory, second_half(90.0, origin, {"origin": "series"})))
        assert intensity.basis == TABLE
        assert {part.source for part in intensity.parts} == {"now.csv: mean of all of it", "now.csv"}


def test_a_live_source_that_the_ledger_does_not_name_has_no_basis(factors: Factors, tmp_path: Path) -> None:
    for directory, data in (("silent", None), ("broken", LIVE | {"origin": "live", "scope": 3})):
        intensity = intensity_of(audited(factors, tmp_path / directory, second_half(99.0, "live", data)))
        assert intensity.basis is None
        assert "a live service that the ledger does not name" in intensity.figure.source


def test_attempts_at_two_places_name_both(factors: Factors, tmp_path: Path) -> None:
    germany = resolve_factors(Site(zone="DEU", pue=1.2), None)

    summary = audited(factors, tmp_path, unchanged, at(msgspec.structs.replace(germany, embodied_kg={})))

    intensity = intensity_of(summary)
    assert intensity.basis == TABLE
    assert set(intensity.zone.split(" and ")) == {"FRA", "DEU"}
    assert factors.intensity.figure.value < intensity.figure.value < germany.intensity.figure.value
