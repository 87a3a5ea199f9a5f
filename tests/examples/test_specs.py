"""Every shipped spec loads, fits its machines and plans without a warning about its layout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from carbon_plugin.spec.loading import load_run_spec

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SPECS = sorted((EXAMPLES / "specs").glob("*.yaml"))
DEMOS = sorted((EXAMPLES / "demo").glob("*.yaml"))

PROFILE = """
name: this-machine
full_name: a machine as `carbon-plugin probe` describes one
vendor: test
architecture: x86_64
kind: cpu
peak_flops:
  fp32: {value: 1.0e11, source: t, confidence: measured}
  bf16: {value: 4.0e11, source: t, confidence: measured}
memory_bytes: {value: 8.0e10, source: t, confidence: read}
memory_bandwidth_bytes_per_s: {value: 2.0e10, source: t, confidence: measured}
tdp_w: {value: 5.0, source: t, confidence: assumed}
idle_power_w: {value: 1.0, source: t, confidence: assumed}
scaleup: {technology: gloo-loopback, bandwidth_bytes_per_s: {value: 1.0e9, source: t, confidence: measured}, domain: 2}
scaleout_bandwidth_bytes_per_s: {value: 1.0e9, source: t, confidence: measured}
embodied_kg: {value: 12.0, source: t, confidence: assumed}
sources: {t: test}
"""
NODE = """
name: this-machine
full_name: a machine as `carbon-plugin probe` describes one
accelerator: this-machine
accelerators: 2
host:
  cpu: test
  sockets: 1
  cpu_tdp_w: {value: 10, source: t, confidence: assumed}
  dram_bytes: {value: 2.5e10, source: t, confidence: read}
  ssd_bytes: {value: 1.0e12, source: t, confidence: read}
  nics: 0
  base_power_w: {value: 5, source: t, confidence: assumed}
  overhead_fraction: {value: 0.1, source: t, confidence: assumed}
  embodied_kg: {value: 150, source: t, confidence: assumed}
network:
  technology: none
  bandwidth_bytes_per_s: {value: 1.0e9, source: t, confidence: measured}
  power_w_per_device: {value: 0, source: t, confidence: derived}
  embodied_kg_per_device: {value: 0, source: t, confidence: derived}
sources: {t: test}
"""


@pytest.fixture
def machine(tmp_path):
    """Make a profile directory for the specs that run on the machine that was probed."""
    (tmp_path / "accelerator.yaml").write_text(PROFILE, encoding="utf-8")
    (tmp_path / "node.yaml").write_text(NODE, encoding="utf-8")
    return tmp_path


def test_there_are_specs_to_test():
    assert len(SPECS) >= 5
    assert [path.name for path in DEMOS] == ["cpu.yaml", "gpu.yaml"]


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_spec_loads_under_the_name_of_its_file(path):
    assert load_run_spec(path).name == path.stem


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_spec_is_planned_and_fits(path, command_line):
    done = command_line("plan", path, "--json")

    assert done.returncode == 0, done.stderr
    forecast = json.loads(done.stdout)
    assert forecast["prediction"]["memory"]["fits"]
    assert sum(forecast["prediction"]["breakdown_s"].values()) == pytest.approx(
        forecast["prediction"]["step_time_s"]["value"]
    )


@pytest.mark.parametrize("path", DEMOS, ids=lambda path: path.stem)
def test_demo_spec_is_planned_on_a_probed_machine(path, machine, command_line):
    done = command_line("plan", path, "--profiles", machine, "--steps", "80", "--json")

    assert done.returncode == 0, done.stderr
    forecast = json.loads(done.stdout)
    assert forecast["total_steps"] == 80
    assert forecast["spec"]["cluster"]["accelerator"]["name"] == "this-machine"


def test_the_gpu_demo_can_be_fitted_to_a_single_device(machine, command_line):
    flags = ["--devices-per-node=1", "--dp-shard=1", "--global-batch-size=8", "--precision=fp32"]
    done = command_line("plan", EXAMPLES / "demo" / "gpu.yaml", "--profiles", machine, *flags, "--json")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["spec"]["layout"]["dp_shard"] == 1
