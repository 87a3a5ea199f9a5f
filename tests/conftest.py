"""Fixtures that the tests of several packages share."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from carbon_plugin.monitor.measurement import USED_BY_THE_THREAD
from tests.browsing import BROWSER, PATIENCE_MS, Opened, open_page
from tests.launcher.client import CommandLine, Launcher

# The same examples in every run, so that a red test is the change that was made. `make test-all` runs more of them
# (thorough), and `make fuzz` looks for new ones (explore).
# A deadline an example would be a timed assertion.
settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=50)
settings.register_profile("thorough", derandomize=True, deadline=None, max_examples=300)
settings.register_profile("explore", max_examples=2000, deadline=None)
settings.load_profile("repeatable")

# The tests start hundreds of processes. Where Python may not write bytecode, as in many containers, each of them would
# compile this package anew, and each worker would rewrite the assertions of all test files.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# What a terminal or an earlier use of this package has set is no part of what a test states.
for variable in [*os.environ]:
    if variable in ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR") or variable.startswith("CARBON_PLUGIN_"):
        del os.environ[variable]

# A suite started in the background of a shell ignores Ctrl-C, and so would every process that it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

TESTS = Path(__file__).parent
TORCH = ("torch", "torch._dynamo", "torch.distributed.fsdp", "torch.distributed.pipelining", "torch.distributed.tensor")
"""What most jobs import sooner or later: the first optimizer of a process imports the compiler."""
MONITOR = ("carbon_plugin.monitor.monitor", "carbon_plugin.monitor.measurement", *USED_BY_THE_THREAD)
"""What jobs import that are measured without a framework."""
COMMANDS = (
    "carbon_plugin.cli.main", "carbon_plugin.cli.commands.audit", "carbon_plugin.cli.commands.doctor",
    "carbon_plugin.cli.commands.plan", "carbon_plugin.audit.report.write", "numpy.random", "psutil", "pynvml",
    "rich.console", "yaml",
)  # fmt: skip
"""What a command imports sooner or later, which is most of what it costs."""
LONGEST_FIRST = (
    "examples", "integrations", "monitor", "meters", "detect", "safety", "fleet", "validate", "repository", "calibrate",
    "cli", "plan/scaling", "audit/report", "deploy",
)  # fmt: skip
"""Folders and files of tests in the order in which workers take them, so that none is left alone with a long one."""


def simulator(name: str) -> Path:
    """Return the folder of a library of `tests/`, which is built once, and again only when its sources change."""
    # A folder a worker, so that none loads what another one is still writing.
    place = Path("build", os.environ.get("PYTEST_XDIST_WORKER", ""))
    # A path within the folder: make takes one with a space, as that of the checkout may be, for two.
    command = ["make", "-C", str(TESTS / name), f"OUT={place}"]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, f"{name} does not build:\n{built.stdout}\n{built.stderr}"
    return TESTS / name / place


def pytest_configure(config: pytest.Config) -> None:
    """Give this process a temporary directory of its own, which its jobs inherit.

    Jobs of one host agree there on who meters a GPU, and simulated GPUs of most tests have the same names, so that a
    test would share their energy with one in another worker or another checkout that runs at the same time.
    """
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())  # pytest's own folders outlive this process
    # Beside that of the process that started this worker, not inside: paths of sockets may have 107 characters.
    os.environ["TMPDIR"] = tempfile.tempdir = tempfile.mkdtemp(prefix="cp-", dir=os.environ["PYTEST_DEBUG_TEMPROOT"])
    config.add_cleanup(lambda: shutil.rmtree(os.environ["TMPDIR"], ignore_errors=True))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that take longest; the order within a file stays."""

    def position(item: pytest.Item) -> int:
        place = item.path.relative_to(TESTS).as_posix()
        return next((number for number, name in enumerate(LONGEST_FIRST) if place.startswith(name)), len(LONGEST_FIRST))

    items.sort(key=position)
    gc.collect()
    gc.freeze()  # what was collected lives as long as this process, and need not be looked through again and again


@pytest.fixture(scope="session")
def nvml_simulator() -> Path:
    """Return the folder of the simulated `libnvidia-ml.so.1`."""
    return simulator("nvml_simulator")


@pytest.fixture(scope="session")
def settable_clock() -> Callable[[Path], dict[str, str]]:
    """Return the variables for a process whose wall clock is ahead by the seconds in a file, from the moment that the
    file is written.
    """
    # A name and not a path: the loader takes a path with a space, as that of the checkout may be, for two.
    found = {"LD_PRELOAD": "libclock.so", "LD_LIBRARY_PATH": str(simulator("clock_simulator"))}
    return lambda file: {**found, "CLOCK_STEP_FILE": str(file)}


@pytest.fixture(scope="session")
def simulated_nvml(nvml_simulator: Path) -> Callable[..., dict[str, str]]:
    """Return the environment of a process under a simulated driver: `simulated_nvml("gpus=2;power=300,400", RANK="0")`.

    The epoch is now unless the spec names one. GPU and SLURM variables of this process are not passed on; keyword
    arguments are added, and folders of libraries among them are searched after that of the driver.
    """

    def environment(spec: str, **variables: str) -> dict[str, str]:
        hidden = ("CUDA_", "GPU_", "SLURM_", "NVML_SIM")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
        searched = [variables.pop("LD_LIBRARY_PATH", None), kept.get("LD_LIBRARY_PATH")]
        libraries = [str(nvml_simulator), *filter(None, searched)]
        timed = spec if "epoch=" in spec else f"{spec};epoch={time.monotonic()}"
        return {**kept, "LD_LIBRARY_PATH": os.pathsep.join(libraries), "NVML_SIM": timed, **variables}

    return environment


@pytest.fixture(scope="session")
def simulated_amd() -> Callable[..., dict[str, str]]:
    """Return the environment of a process under a simulated AMD SMI library and the real module `amdsmi`:
    `simulated_amd("gpus=2;parts=2")`.

    There is no NVIDIA driver beside it, unless the folder of one is given as `LD_LIBRARY_PATH`.
    """
    if find_spec("amdsmi") is None:  # without the library it cannot be imported here
        pytest.skip("needs carbon-plugin[amd]")
    folder = simulator("amd_smi_simulator")

    def environment(spec: str, **variables: str) -> dict[str, str]:
        hidden = ("CUDA_", "GPU_", "SLURM_", "NVML_SIM", "HIP_", "ROCR_", "ROCM_", "LD_LIBRARY_PATH")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
        timed = spec if "epoch=" in spec else f"{spec};epoch={time.monotonic()}"
        libraries = [str(folder), *filter(None, [variables.pop("LD_LIBRARY_PATH", None)])]
        return {**kept, "LD_LIBRARY_PATH": os.pathsep.join(libraries), "AMD_SIM": timed, **variables}

    return environment


@pytest.fixture
def offline_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Provide the module `wandb`, which writes its runs below the test's folder and asks no server.

    A process of W&B reads its environment once, so what an earlier test of this worker started ends before and after.
    """
    wandb = pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    wandb.teardown()
    yield wandb
    wandb.teardown()


@pytest.fixture(scope="session")
def launcher() -> Iterator[Launcher]:
    """Start a process that imports torch and then forks jobs: `launcher.run(script, "--flag", env=...)`."""
    launcher = Launcher(TORCH)
    yield launcher
    launcher.close()


@pytest.fixture(scope="session")
def monitor_launcher() -> Iterator[Launcher]:
    """Start a process that imports the monitor, but not torch, and then forks jobs."""
    launcher = Launcher(MONITOR)
    yield launcher
    launcher.close()


@pytest.fixture(scope="session")
def command_line() -> Iterator[CommandLine]:
    """Run `carbon-plugin` in a process that is forked from one that has imported it: `command_line("plan", spec)`.

    A test of what a command imports, or when, needs an interpreter of its own.
    """
    launcher = Launcher(COMMANDS)
    yield partial(launcher.run, Path(sys.executable).with_name("carbon-plugin"))
    launcher.close()


@pytest.fixture(scope="session")
def torchrun(launcher: Launcher) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a script in several real processes on this host: `torchrun(script, "--flag", processes=2, env=...)`.

    Torch and the modules named by `imported_once` are imported before the ranks are forked, which halves what a short
    job costs.
    """

    def run(
        script: Path,
        *arguments: str | Path,
        processes: int,
        imported_once: tuple[str, ...] = (),
        env: dict[str, str] | None = None,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        done = launcher.run(script, *arguments, processes=processes, modules=imported_once, env=env)
        assert done.returncode == 0 or not check, f"{script.name} failed:\n{done.stdout}\n{done.stderr}"
        return done

    return run


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Start a Chromium that the tests of a module share."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        options = {"args": ["--no-sandbox", "--disable-gpu"], "timeout": PATIENCE_MS}
        started = driver.chromium.launch(executable_path=BROWSER, **options)
        yield started
        started.close()


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Opened]]:
    """Open a page by its path; every page of a test is closed at its end."""
    contexts = []

    def open_it(path: Path, width_px: int = 1440, scheme: str = "light", *, scripts: bool = True) -> Opened:
        size = {"width": width_px, "height": 900}
        contexts.append(browser.new_context(viewport=size, color_scheme=scheme, java_script_enabled=scripts))
        contexts[-1].set_default_timeout(PATIENCE_MS)
        return open_page(contexts[-1], path)

    yield open_it
    for context in contexts:
        context.close()
