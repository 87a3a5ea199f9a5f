"""`carbon-plugin probe`, alone and as two processes that measure at the same time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pytest

from carbon_plugin.spec.hardware.profiles import load_accelerator, load_node

BIN = Path(sys.executable).parent


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"} | environment
    )


@pytest.fixture(scope="module")
def carbon_plugin(launcher) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command in one process that has imported torch: `carbon_plugin("probe", "--seconds", "0.5")`."""
    return lambda *words, **environment: launcher.run(BIN / "carbon-plugin", *words, env=os.environ | environment)


@pytest.fixture(scope="module")
def two_processes(torchrun, tmp_path_factory) -> tuple[dict, Path]:
    """Return the JSON of a probe by two processes on the CPU, and the folder with the profiles that it wrote."""
    output = tmp_path_factory.mktemp("profiles")
    probe = ("probe", "--name", "here", "-o", output, "--seconds", "0.5", "--json")
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = torchrun(BIN / "carbon-plugin", *probe, processes=2, imported_once=("carbon_plugin.cli.main",), env=hidden)
    return json.loads(done.stdout), output


def test_two_processes_print_one_document_and_write_one_profile(two_processes):
    document, output = two_processes

    assert (document["machine"]["ranks"], document["machine"]["backend"]) == (2, "gloo")
    assert [path.name for path in output.rglob("*.yaml")] == ["here.yaml", "here.yaml"]
    assert load_node("here", profile_dirs=(output,)).accelerators == 2


def test_what_was_measured_is_in_the_profile(two_processes):
    document, output = two_processes
    accelerator = load_accelerator("here", profile_dirs=(output,))

    rates = [gemm["flops_per_s"] for gemm in document["measurements"]["gemms"] if gemm["dtype"] == "fp32"]
    assert accelerator.peak_flops["fp32"].value == pytest.approx(max(rates), rel=1e-5)
    assert accelerator.kind == "cpu"
    assert accelerator.efficiency.gemm_share is not None
    assert accelerator.efficiency.gemm_share.value == pytest.approx(median(rates) / max(rates), rel=1e-5)
    assert accelerator.efficiency.gemm_share.confidence == "measured"
    assert "2 processes at once over gloo" in accelerator.sources["probe"]


def test_collectives_are_measured_at_three_sizes_and_fitted(two_processes):
    document, output = two_processes
    accelerator = load_accelerator("here", profile_dirs=(output,))

    measured = {(one["kind"], one["size_bytes"]) for one in document["measurements"]["collectives"]}
    assert len(measured) == 9
    assert {kind for kind, _ in measured} == {"all_reduce", "all_gather", "reduce_scatter"}
    assert accelerator.scaleup.bandwidth_bytes_per_s.confidence == "measured"
    assert accelerator.scaleup.domain == 2


def test_one_process_tells_what_it_found_and_how_to_use_it(carbon_plugin, tmp_path):
    probe = ("probe", "-o", str(tmp_path), "--seconds", "0.5")
    done = carbon_plugin(*probe, CUDA_VISIBLE_DEVICES="", COLUMNS="120")

    assert done.returncode == 0, done.stderr
    assert "fp32 matrix products" in done.stdout
    assert f"--profiles {tmp_path}" in done.stdout
    assert (
        load_accelerator("this-machine", profile_dirs=(tmp_path,)).scaleup.bandwidth_bytes_per_s.confidence == "assumed"
    )


@pytest.mark.exhaustive
def test_cores_that_others_keep_busy_are_warned_of(tmp_path):
    core = {min(os.sched_getaffinity(0))}
    probe = (str(BIN / "carbon-plugin"), "probe", "-o", str(tmp_path), "--seconds", "0.5", "--json")
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        for other in others:
            os.sched_setaffinity(other.pid, core)
        done = run("taskset", "-c", str(*core), *probe, CUDA_VISIBLE_DEVICES="")
    finally:
        for other in others:
            other.kill()
            other.wait()

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["measurements"]["running_share"] < 0.75  # a fair third
    assert "warning: measured on a busy machine" in done.stderr


def test_several_nodes_are_refused_in_one_line(carbon_plugin, tmp_path):
    done = carbon_plugin("probe", "-o", tmp_path, WORLD_SIZE="4", LOCAL_WORLD_SIZE="2")

    assert done.returncode == 2
    assert "4 ranks over several nodes (2 here)" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_torch_it_says_what_to_install():
    script = "import sys; sys.modules['torch'] = None; sys.argv = ['carbon-plugin', 'probe']; "
    done = run(sys.executable, "-c", script + "from carbon_plugin.cli.main import main; sys.exit(main())")

    assert done.returncode == 2
    assert done.stderr.strip() == "error: probe: measuring needs PyTorch; install it first (pip install torch)"


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (("--seconds", "0"), "seconds is 0, expected a positive number"),
        (("--seconds", "nan"), "'--seconds': expected a number"),
        (("--seconds", "inf"), "'--seconds': expected a number"),
        (("--name", "../elsewhere"), "name is '../elsewhere', expected letters"),
    ],
)
def test_what_cannot_be_probed_is_refused_before_it_is_measured(carbon_plugin, tmp_path, flags, problem):
    done = carbon_plugin("probe", "-o", tmp_path, *flags)

    assert done.returncode == 2
    assert problem in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
