"""Sums of groups: added up from finer groups, they are those that the engine gives for the groups themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from carbon_plugin.fleet.query import queries
from carbon_plugin.fleet.query.engine import open_engine
from carbon_plugin.fleet.store.catalogue import read_catalogue
from carbon_plugin.fleet.store.places import open_place

FINER = ("team", "region", queries.MONTH)


@pytest.mark.parametrize("months", [None, (202_511, 202_512)], ids=["all months", "two months"])
def test_sums_of_finer_groups_are_those_that_the_engine_gives_with_its_runs_and_order(
    store: Path, months: tuple[int, int] | None
) -> None:
    place = open_place(str(store))
    catalogue = read_catalogue(place)
    assert catalogue is not None
    with open_engine(place, catalogue, months=months) as engine:
        finer = queries.sums_by(engine, FINER, months)
        for by in ((), ("region",), (queries.MONTH,), ("team", queries.MONTH), FINER):
            asked = queries.sums_by(engine, by, months)
            added = queries.sums_of(finer, engine, by, months)
            names = (*by, *queries.MEASURES, "runs")
            assert added == [{name: row[name] for name in names} for row in asked]
    assert len({row["team"] for row in finer}) > 1
    assert len(finer) > len({row["team"] for row in finer}) + len({row[queries.MONTH] for row in finer})
