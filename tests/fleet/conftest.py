from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.fleet_generator import Shape, write_fleet

pytest.importorskip("ibis")
pytest.importorskip("duckdb")

RUNS = 36


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a fleet of 36 runs of 20 minutes: some restart, some were killed, some failed. Tests must not change it."""
    root = tmp_path_factory.mktemp("runs")
    write_fleet(root, RUNS, Shape(windows=20))
    return root


@pytest.fixture(scope="session")
def store(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ingest that fleet into a store. Tests must not change it."""
    from carbon_plugin.fleet.ingest import ingest

    root = tmp_path_factory.mktemp("store")
    ingest([str(runs)], str(root))
    return root
