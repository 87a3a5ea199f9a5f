"""A package that is not installed is one sentence that names what needs it and what to install."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from carbon_plugin.errors import FleetError
from carbon_plugin.fleet.query.engine import open_engine
from carbon_plugin.fleet.store.catalogue import empty_catalogue
from carbon_plugin.fleet.store.places import open_place


def report(store: Path, engine: str) -> None:
    with open_engine(open_place(str(store)), empty_catalogue(), engine):
        pass


@pytest.mark.parametrize(
    ("package", "act", "message"),
    [
        ("ibis", lambda store: report(store, "duckdb"), "a report of a fleet needs ibis: [fleet]"),
        ("pyspark", lambda store: report(store, "local[2]"), "engine local[2] needs pyspark: [fleet,spark]"),
        ("fsspec", lambda store: open_place("s3://b/r"), "s3://b/r: an object store needs fsspec: [fleet,s3]"),
    ],
    ids=["report", "engine", "object store"],
)
def test_a_package_that_is_missing_is_named_with_its_extra(tmp_path, monkeypatch, package, act, message):
    pytest.importorskip("pyarrow")
    for name in [package, *(name for name in sys.modules if name.startswith(f"{package}."))]:
        monkeypatch.setitem(sys.modules, name, None)

    with pytest.raises(FleetError, match=re.escape(message.replace("[fleet", "pip install 'carbon-plugin[fleet"))):
        act(tmp_path)

    assert not list(tmp_path.iterdir())
