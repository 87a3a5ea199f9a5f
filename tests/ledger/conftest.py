from __future__ import annotations

from pathlib import Path

import pytest

from tests.ledger.builder import Job


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Write a run of two nodes and two attempts, the first of which was killed."""
    Job().write(tmp_path / "run")
    return tmp_path / "run"
