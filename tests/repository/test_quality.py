"""Lint, format and types, as tests, so that one command says whether the repository is in order."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "command",
    [
        ("ruff", "check", "."),
        ("ruff", "format", "--check", "."),
        # Reading torch's own types takes more than a minute where nothing is cached.
        pytest.param(("mypy", "carbon_plugin"), marks=pytest.mark.exhaustive),
        pytest.param(("tests.repository.unknown_names",), marks=pytest.mark.exhaustive),
    ],
    ids=["lint", "format", "types", "names"],
)
def test_the_tools_find_nothing(command):
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
