"""Nothing of ours is on what scripts make of a model while it trains, nor on any of their objects after the end."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.integrations.jobs.telling import told

JOB = Path(__file__).parent / "jobs" / "left.py"
ADAPTERS = {
    "pytorch": "torch",
    "compiled": "torch",
    "decorated": "torch",
    "lightning": "lightning",
    "transformers": "transformers",
}
"""What trains, and the package that it needs. `test_loops.py` asks the same of the loops of other frameworks."""


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_nothing_of_ours_can_be_reached_from_the_users_objects(adapter, launcher, tmp_path):
    if find_spec(ADAPTERS[adapter]) is None:
        pytest.skip(f"not installed: {ADAPTERS[adapter]}")
    done = launcher.run(JOB, adapter, tmp_path, env={**os.environ, "TMPDIR": str(tmp_path)})
    assert done.returncode == 0, done.stderr

    found = dict(told(done.stdout, "FOUND"))
    assert {moment: names for moment, names in found.items() if names} == {}
    assert {"after step 1", "after step 2", "at the end"} <= found.keys()
