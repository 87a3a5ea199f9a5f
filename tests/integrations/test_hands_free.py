"""`carbon-plugin run`: scripts that nobody edited, started by Python, and by torchrun in two processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from carbon_plugin.detect.primary import TAKE_OVER
from carbon_plugin.integrations.hands_free import STOPS
from carbon_plugin.ledger.reader import manifest_of, read_run
from carbon_plugin.ledger.records import Close, Event, Window
from carbon_plugin.ledger.verification.verify import verify_run
from tests.integrations.jobs.telling import told
from tests.ledgers import ledger_of, ledgers_of
from tests.monitor.launching import wait_until

JOBS = Path(__file__).parent / "jobs"
BIN = str(Path(sys.executable).parent / "carbon-plugin")
STEPS, SKIPPED = 12, 1
FINDER = "import sys, torch.optim.optimizer as o; print(getattr(sys, 'users_own', None), type(o.__loader__).__name__, "
FINDER += "[p for p in sys.path if p.endswith('startup')], [f for f in sys.meta_path if 'After' in repr(f)], o.hooks)"


def environment(**variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CARBON")}
    return kept | {"OMP_NUM_THREADS": "1"} | variables


def closes(run_dir: Path) -> list[tuple[str, int]]:
    """Return how each ledger of a run was closed, and its steps."""
    return [
        (record.reason, record.steps)
        for file in ledgers_of(run_dir)
        for record in file.records
        if isinstance(record, Close)
    ]


@pytest.fixture(scope="module")
def by_hooks(launcher, tmp_path_factory) -> tuple[Path, dict[str, list[Any]]]:
    """Run the loops of `by_hooks.py` without us and with us. Return the folder of their runs, and what both printed, by
    loop.
    """
    folder = tmp_path_factory.mktemp("by_hooks")
    said: dict[str, list[Any]] = {}
    for variables in ({"CARBON_PLUGIN_DISABLED": "1"}, {}):
        env = environment(TMPDIR=str(folder), **variables)
        done = launcher.run(JOBS / "by_hooks.py", folder, env=env)
        assert done.returncode == 0, done.stderr
        for loop, *result in told(done.stdout, "RESULT"):
            said.setdefault(loop, []).append(result)
    return folder, said


@pytest.mark.parametrize(
    ("loop", "steps"),
    [
        ("gan", 8),
        ("one_a_parameter", 8),
        ("wrapped", 8),
        ("one_group_at_a_time", 8),
        ("made_anew", 8),
        ("compiled", 8),
        ("second_stage", 4 + 103 - TAKE_OVER + 1),
    ],
)
def test_an_iteration_is_one_step_whatever_optimizers_step_in_it(by_hooks, loop, steps):
    assert closes(by_hooks[0] / loop) == [("the loop ended", steps)]


def test_trainings_end_with_the_same_weights_to_the_last_bit_and_no_hook_is_left(by_hooks):
    for bare, measured in by_hooks[1].values():
        assert measured == bare
        assert bare[1] == 0


def test_a_resumed_run_goes_on_at_the_step_of_its_optimizer(by_hooks):
    (file,) = read_run(by_hooks[0] / "resumed").files
    assert max(record.last_step for record in file.records if isinstance(record, Window)) == 8
    assert closes(by_hooks[0] / "resumed") == [("the loop ended", 4)]


def test_a_script_that_measures_itself_has_one_record(by_hooks):
    assert not (by_hooks[0] / "watches_itself").exists()
    assert closes(by_hooks[0] / "own") == [("closed", 8)]


def test_a_script_that_begins_to_measure_itself_is_left_alone_from_then_on(by_hooks):
    assert closes(by_hooks[0] / "watches_itself_later") == [("the script began to measure itself", 1)]
    assert closes(by_hooks[0] / "later") == [("closed", 8)]


def test_a_failure_of_ours_leaves_the_training_as_it_was(by_hooks):
    (file,) = read_run(by_hooks[0] / "fails").files

    assert by_hooks[1]["fails"] == by_hooks[1]["made_anew"]
    assert any("hands-free: RuntimeError: ours" in r.message for r in file.records if isinstance(r, Event))


@pytest.fixture
def small_torch(tmp_path) -> Path:
    """Make a folder with a package `torch` that has nothing but the hooks of its optimizers."""
    package = tmp_path / "torch" / "optim"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").touch()
    names = ("register_optimizer_step_pre_hook", "register_optimizer_step_post_hook")
    functions = "".join(f"def {name}(hook): hooks.append(hook.__name__)\n" for name in names)
    (package / "optimizer.py").write_text(f"hooks = []\n{functions}")
    return tmp_path


def started(folder: Path, *options: str, code: str = FINDER, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [BIN, "run", *options, "--", sys.executable, "-c", code]
    env = environment(PYTHONPATH=str(folder), **variables)
    return subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, check=False)


def test_start_leaves_nothing_that_a_script_can_see_and_runs_the_users_own_sitecustomize(small_torch):
    (small_torch / "sitecustomize.py").write_text("import sys; sys.users_own = 'ran'\n")

    done = started(small_torch, "--quiet")

    assert (done.stdout.strip(), done.stderr) == ("ran SourceFileLoader [] [] ['_before', '_after']", "")


def test_an_error_of_the_users_own_sitecustomize_is_told_as_without_us(small_torch):
    (small_torch / "sitecustomize.py").write_text("raise RuntimeError('the user\\'s own')\n")

    done = started(small_torch)

    assert "the user's own" in done.stderr
    assert done.stdout.strip() == "None SourceFileLoader [] [] ['_before', '_after']"


def test_nothing_is_hooked_where_measuring_is_off(small_torch):
    done = started(small_torch, CARBON_PLUGIN_DISABLED="1")

    assert done.stdout.strip() == "None SourceFileLoader [] [] []"


def test_exit_code_and_arguments_are_those_of_the_command(small_torch):
    done = started(small_torch, "--quiet", code="import sys; sys.exit(7)")

    assert (done.returncode, done.stdout, done.stderr) == (7, "", "")


CHILD = "import subprocess, sys; subprocess.run([sys.executable, '-c', {!r}])"
MEASURED = (
    "from carbon_plugin.monitor.monitor import CarbonMonitor\nwith CarbonMonitor(run_dir='measured', quiet=True): pass"
)
FORKED = "import os; os.fork() or os._exit(0); os.wait()"
ENDS_ITSELF = "import os, sys\nif os.fork(): os.wait()\nelse: sys.exit()"
SHUTS_ALL = "import os, subprocess; subprocess.run(['true']); os.closerange(3, 64)"


@pytest.mark.parametrize(
    ("code", "options", "said"),
    [
        ("import torch.optim.optimizer", (), ["no optimizer of torch made a step in this program"]),
        ("print('no torch')", (), ["torch was never imported in this program"]),
        ("import torch.optim.optimizer", ("--quiet",), []),
        (CHILD.format(MEASURED), (), []),  # a launcher
        (CHILD.format("import torch.optim.optimizer"), (), ["a step in this program, nor in the processes that it st"]),
        (FORKED, (), ["made a step in this program, nor in the processes"]),  # a loader's worker
        (ENDS_ITSELF, (), ["made a step in this program, nor in the processes"]),
        (SHUTS_ALL, (), []),  # whether a child was measured cannot be known any more
    ],
)
def test_a_program_without_a_step_is_told_at_its_end_that_nothing_was_metered(small_torch, code, options, said):
    done = started(small_torch, *options, code=code)

    lines = done.stderr.splitlines()
    assert done.returncode == 0
    assert len(lines) == len(said)
    assert all(words in line and "nothing was metered" in line for words, line in zip(said, lines, strict=True))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--site", "FRX", "--", "true"), "'FRX'"),
        (("--total-steps", "0", "--", "true"), "total_steps is 0"),
        (("--log", "nowhere", "--", "true"), "'nowhere'"),
        (("--", "no-such-program"), "there is no program 'no-such-program'"),
    ],
)
def test_a_mistake_is_told_in_one_line_before_anything_starts(arguments, said):
    done = subprocess.run([BIN, "run", *arguments], capture_output=True, text=True, check=False, env=environment())

    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.fixture(scope="module")
def torchrun_twice(tmp_path_factory) -> dict[str, Any]:
    """Run a training of two processes under torchrun, bare and by `carbon-plugin run`. Return what each printed, and
    the run.
    """
    folder = tmp_path_factory.mktemp("unedited")
    # One byte a start, because lines that several processes print to one pipe can mix.
    (folder / "sitecustomize.py").write_text(
        "import os\nwith open(os.environ['SITES'], 'ab', buffering=0) as file:\n    file.write(b'x')\n"
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    measured = [BIN, "run", "--site", "FRA", "--run-dir", "run", "--total-steps", "20", "--log", "csv", "--", *torchrun]
    said = {}
    for name, command in (("bare", torchrun), ("measured", measured)):
        sites = folder / f"sites of {name}"
        env = environment(
            TMPDIR=str(folder),
            PYTHONPATH=str(folder),
            SITES=str(sites),
            PAUSE_S="0.05" if name == "measured" else "0",
        )
        done = subprocess.run(
            [*command, str(JOBS / "unedited.py")], env=env, cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        said[name] = {rank: (losses, left) for rank, losses, left in told(done.stdout, "RESULT")}
        said[f"{name} sites"] = sites.stat().st_size
        said[f"{name} stderr"] = done.stderr
    return said | {"run": folder / "run"}


@pytest.mark.exhaustive
class TestUnderTorchrun:
    def test_losses_of_both_ranks_are_bit_identical_and_nothing_is_left(self, torchrun_twice):
        assert len(torchrun_twice["bare"][1][0]) == 2 * STEPS
        assert torchrun_twice["measured"] == torchrun_twice["bare"]
        assert torchrun_twice["measured"][0][1] == 0

    def test_the_users_own_sitecustomize_runs_in_as_many_processes_as_without_us(self, torchrun_twice):
        # `carbon-plugin` itself is one more process of Python.
        assert torchrun_twice["measured sites"] == torchrun_twice["bare sites"] + 1

    def test_ranks_share_one_ledger_and_launcher_and_loaders_have_none(self, torchrun_twice):
        file = ledger_of(torchrun_twice["run"])
        manifest = manifest_of(file.records)

        assert manifest.world_size == 2
        assert manifest.total_steps == 20
        assert (torchrun_twice["run"] / "metrics.csv").read_text().count("\n") >= 2
        assert verify_run(torchrun_twice["run"]).ok

    def test_steps_that_the_scaler_skips_are_time_and_energy_but_no_steps(self, torchrun_twice):
        file = ledger_of(torchrun_twice["run"])
        windows = [record for record in file.records if isinstance(record, Window)]

        assert closes(torchrun_twice["run"]) == [("exit", STEPS - SKIPPED)]
        assert sum(part.energy_j for window in windows for part in window.energies) > 0
        assert sum(window.duration_s for window in windows) >= 0.05 * STEPS

    def test_it_says_what_it_cannot_see(self, torchrun_twice):
        file = ledger_of(torchrun_twice["run"])
        said = [record.message for record in file.records if isinstance(record, Event)]

        assert any("Tokens, model and layout" in sentence for sentence in said)
        assert "Tokens, model and layout" in torchrun_twice["measured stderr"]
        manifest = manifest_of(file.records)
        assert manifest.prediction is None
        assert manifest.effective["step_counter"]["source"].endswith("AdamW of 161 values on this rank")


def under_a_budget(folder: Path, *, handles: str, until: str) -> tuple[list[int], list[str], str]:
    """Train in two ranks beyond a budget that ends at SIGTERM, or until the ledger says something: the step after which
    each ended, the events of the budget, and standard error."""
    env = environment(
        TMPDIR=str(folder),
        JOB_HANDLES=handles,
        JOB_UNTIL=str(folder / "enough"),
        CARBON_PLUGIN_BUDGET_ENERGY_KWH="0.000000001",
        CARBON_PLUGIN_BUDGET_ON_EXCEED="stop",
        CARBON_PLUGIN_WINDOW_S="0.3",
        CARBON_PLUGIN_OPTIONS_MIN_WINDOW_S="0.1",
        CARBON_PLUGIN_OPTIONS_SPAN_RULE="{min_s: 0.3, min_steps: 3}",
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [BIN, "run", "--run-dir", "run", "--total-steps", "5000", "--", *torchrun, str(JOBS / "preempted.py")]
    ledger = folder / "run" / "node-0.attempt-0.jsonl"
    with subprocess.Popen(command, env=env, cwd=folder, stderr=subprocess.PIPE, text=True) as job:
        # Few lines go to standard error, so that they wait in the pipe meanwhile.
        wait_until(lambda: job.poll() is not None or (ledger.exists() and until in ledger.read_text()))
        (folder / "enough").touch()
        _, errors = job.communicate()
    assert job.returncode == 0, errors
    file = ledger_of(folder / "run")
    events = [r.message for r in file.records if isinstance(r, Event) and r.kind.startswith("budget_stop")]
    return [int((folder / f"ended-{rank}").read_text()) for rank in range(2)], events, errors


@pytest.mark.exhaustive
def test_a_budget_ends_a_script_that_saves_at_sigterm_on_all_ranks_after_the_same_step(tmp_path):
    (first, second), events, said = under_a_budget(tmp_path, handles="01", until='"type":"close"')

    assert 0 < first == second < 5000
    assert [torch.load(tmp_path / f"checkpoint-{rank}.pt")["step"] for rank in range(2)] == [first, first]
    *tries, agreed = events  # a rank that the machine held up may have missed proposals before
    assert all("training goes on, and a later step is proposed" in event for event in tries)
    assert agreed.startswith(f"all ranks stop after step {first:,}: the budget is exceeded")
    assert STOPS in said
    ((reason, steps),) = closes(tmp_path / "run")
    assert steps == first
    assert reason.startswith(f"stopped after step {first:,}: the budget is exceeded")


@pytest.mark.exhaustive
def test_no_rank_gets_sigterm_where_one_of_them_has_no_handler(tmp_path):
    refused = "because rank 1 has no handler of SIGTERM"
    (first, second), events, _ = under_a_budget(tmp_path, handles="0", until=refused)

    assert 0 < first == second < 5000
    assert any(refused in event for event in events)
    assert not any(event.startswith("all ranks stop") for event in events)
    assert not list(tmp_path.glob("checkpoint-*"))
