"""Lint, format and types, as tests, so that one command says whether the repository is in order."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.repository.unknown_names import is_of_a_rename

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


@pytest.mark.parametrize(
    ("told", "counts"),
    [
        ('Module "carbon_plugin.spec.site" has no attribute "Sight"  [attr-defined]', True),
        ('Unexpected keyword argument "sit" for "Site"  [call-arg]', True),
        (
            'Cannot find implementation or library stub for module named "carbon_plugin.gone.x"  [import-not-found]',
            True,
        ),
        ('Cannot find implementation or library stub for module named "zeus.monitor"  [import-not-found]', False),
        ("Function is missing a type annotation  [no-untyped-def]", False),
    ],
)
def test_what_a_rename_leaves_behind_counts_and_missing_types_do_not(told, counts):
    assert is_of_a_rename(f"tests/x.py:1: error: {told}") == counts
