"""TRL's own number of tokens is that of the audit; `make test-lowest` goes without TRL."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

from carbon_plugin.audit.summary import summarise

JOB = Path(__file__).parent / "jobs" / "sft.py"


@pytest.mark.skipif(find_spec("trl") is None, reason="not installed: trl")
def test_tokens_are_those_that_trl_counts_without_padding(launcher, tmp_path):
    done = launcher().run(JOB, tmp_path, env={**os.environ, "TMPDIR": str(tmp_path), "HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stderr

    progress = summarise(tmp_path / "run").progress

    (said,) = [line for line in done.stdout.splitlines() if line.startswith("TOKENS ")]
    assert progress.tokens == int(float(said.removeprefix("TOKENS "))) > 0
    assert progress.tokens_source == "counted step by step; num_tokens of the trainer"
