"""The agent meters the whole node, whatever its environment reserves for a job."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from carbon_plugin.monitor.agent.devices import NodeDevices

ONCE = """
from carbon_plugin.cli.main import main
from tests.patience import be_patient
be_patient()
main()
"""


@pytest.mark.parametrize(
    "variables", [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "", "SLURM_JOB_GPUS": "1"}]
)
def test_every_gpu_of_the_node_is_read_whatever_is_visible_to_a_job(simulated_nvml, variables):
    pytest.importorskip("prometheus_client", reason="prometheus_client is not installed; `make test` installs it")

    done = subprocess.run(
        [sys.executable, "-c", ONCE, "agent", "--once"],
        env=simulated_nvml("gpus=2;power=300,400", **variables), capture_output=True, text=True, check=True,
    )  # fmt: skip

    powers = re.findall(r'^carbon_plugin_device_power_watts\{.*rung="gpu"\} (\S+)$', done.stdout, flags=re.MULTILINE)
    assert sorted(map(float, powers)) == [300.0, 400.0]


def test_energy_grows_from_nothing_and_never_falls():
    devices = NodeDevices(None, {})
    first, second = devices.read(), devices.read()
    devices.close()

    assert [device.key for device in first] == [device.key for device in second]
    assert first
    for before, after in zip(first, second, strict=True):
        assert 0 <= before.energy_j <= after.energy_j
        assert after.power_w >= 0
