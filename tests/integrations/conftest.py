"""Real loops under an adapter in two processes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from carbon_plugin.audit.summary import summarise
from carbon_plugin.ledger.reader import manifest_of
from carbon_plugin.ledger.records import Close, Window
from carbon_plugin.ledger.verification.verify import verify_run
from tests.ledgers import ledgers_of

LOOPS = Path(__file__).parent / "jobs" / "loops.py"


@pytest.fixture(scope="session")
def run_loop(torchrun, tmp_path_factory) -> Callable[..., dict[str, Any]]:
    """Run a script of `jobs` in two processes: what it wrote to `result.json`, and what the ledger says
    of its first attempt, and how each was closed."""

    def run(name: str, *arguments: str, needs: tuple[str, ...], script: Path = LOOPS) -> dict[str, Any]:
        missing = [package for package in needs if find_spec(package) is None]
        if missing:
            pytest.skip(f"not installed: {', '.join(missing)}; `make test` installs them")
        folder = tmp_path_factory.mktemp(name)
        environ = {key: value for key, value in os.environ.items() if not key.startswith("CARBON")}
        done = torchrun(
            script,
            name,
            folder / "run",
            *arguments,
            processes=2,
            imported_once=needs,
            check=False,
            env=environ | {"TMPDIR": str(folder), "TORCH_EXTENSIONS_DIR": str(folder)},
        )
        assert (folder / "result.json").exists(), f"{name} did not get to its end:\n{done.stdout}\n{done.stderr}"
        file, *later = ledgers_of(folder / "run")
        windows = [record for record in file.records if isinstance(record, Window)]
        rows = folder / "rows.jsonl"
        return json.loads((folder / "result.json").read_text()) | {
            "stderr": done.stderr,
            "returncode": done.returncode,
            "manifest": manifest_of(file.records),
            "phases": {window.phase for window in windows},
            "steps": sum(window.steps for window in windows),
            "tokens": sum(window.tokens for window in windows),
            "closed": [r.reason for attempt in (file, *later) for r in attempt.records if isinstance(r, Close)],
            "reached": [
                max(r.last_step for r in attempt.records if isinstance(r, Window)) for attempt in (file, *later)
            ],
            "verified": verify_run(folder / "run").ok,
            "energy_kwh": summarise(folder / "run").energy.energy_j / 3.6e6,
            "first_energy_kwh": sum(r.energy_j for r in file.records if isinstance(r, Close)) / 3.6e6,
            "attempt_phases": [
                {record.phase for record in attempt.records if isinstance(record, Window)} for attempt in (file, *later)
            ],
            "losses": [json.loads(path.read_text()) for path in sorted(folder.glob("losses-*.json"))],
            "traces": [json.loads(path.read_text()) for path in sorted(folder.glob("traces-*.json"))],
            "rows": [json.loads(line) for line in rows.read_text().splitlines()] if rows.exists() else [],
        }

    return run
