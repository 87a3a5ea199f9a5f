"""JAX in two real processes of `jax.distributed` on CPUs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from carbon_plugin.integrations.jax import watch_jax
from carbon_plugin.ledger.reader import manifest_of, read_run
from carbon_plugin.ledger.records import Close, Window
from carbon_plugin.ledger.verification.verify import verify_run
from tests.integrations.jobs.telling import told
from tests.ledgers import ledger_of
from tests.ports import free_port

JOB = Path(__file__).parent / "jobs" / "jax_loop.py"


def test_a_loop_without_jax_counts_the_steps_that_the_script_tells(tmp_path):
    with watch_jax(site="FRA", run_dir=tmp_path / "run", quiet=True) as carbon:
        carbon.step()
        with carbon.phase("evaluation"):
            pass
        assert not carbon.should_stop

    (file,) = read_run(tmp_path / "run").files
    assert [(r.reason, r.steps) for r in file.records if isinstance(r, Close)] == [("closed", 1)]


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> tuple[Path, list[Any]]:
    """Return the run directory of a job of two processes, and what each printed."""
    pytest.importorskip("jax")
    folder = tmp_path_factory.mktemp("jax")
    port = free_port()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CARBON")}
    env = kept | {"JAX_PLATFORMS": "cpu", "TMPDIR": str(folder)}
    processes = [
        subprocess.Popen(
            [sys.executable, str(JOB), str(folder / "run"), str(rank), "2", str(port)],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    said = []
    for process in processes:
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        said += told(output, "LOSSES")
    return folder / "run", said


@pytest.mark.exhaustive
class TestTwoProcesses:
    def test_losses_are_bit_identical_and_torch_is_not_imported(self, job):
        for bare, measured, has_torch, processes in job[1]:
            assert len(bare) == 12
            assert measured == bare
            assert (has_torch, processes) == (False, 2)

    def test_both_share_one_ledger_with_steps_tokens_and_phases(self, job):
        file = ledger_of(job[0])
        manifest = manifest_of(file.records)
        windows = [record for record in file.records if isinstance(record, Window)]

        assert (manifest.world_size, "jax" in manifest.versions) == (2, True)
        assert [(r.reason, r.steps) for r in file.records if isinstance(r, Close)] == [("closed", 12)]
        assert sum(window.tokens for window in windows) == 12 * 32
        assert {"train", "evaluation"} <= {window.phase for window in windows}
        assert sum(part.energy_j for window in windows for part in window.energies) > 0
        assert verify_run(job[0]).ok
