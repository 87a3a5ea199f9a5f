"""A process that can open no file at some moment: the system refuses each file that the monitor opens, once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from carbon_plugin.ledger.reader import manifest_of, read_run
from carbon_plugin.ledger.records import Close, Window
from tests.monitor.conftest import started

STEPS, GPUS = 5, 2


@pytest.fixture(scope="module")
def refused(simulated_nvml, monitor_launcher, tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """Return the folder of the runs, and what the job has told."""
    folder = tmp_path_factory.mktemp("refused")
    with started(simulated_nvml, monitor_launcher, folder) as start:
        output, errors = start("refused.py", folder).communicate(timeout=240)
    return folder, json.loads(output.splitlines()[-1]) if output else pytest.fail(errors)


def test_no_part_is_off_and_each_training_has_all_of_its_steps_and_devices_in_one_ledger(refused):
    folder, told = refused
    assert told["off"] == {}
    assert len(told["refused"]) > 20

    for path in folder.glob("run-*"):
        (file,) = read_run(path).files
        windows = [record for record in file.records if isinstance(record, Window)]
        devices = manifest_of(file.records).devices
        assert [(close.reason, close.steps) for close in file.records if isinstance(close, Close)] == [
            ("closed", STEPS)
        ]
        assert sum(window.tokens for window in windows) == 10 * STEPS
        assert sum(device.rung == "gpu" for device in devices) == GPUS
        assert {"host", "network"} < {device.rung for device in devices}


def test_no_training_leaves_an_open_file(refused):
    assert len(set(refused[1]["files"])) == 1


def test_a_process_that_is_refused_a_file_joins_its_launch_later(refused):
    assert len(refused[1]["joins"]) > 3
    assert refused[1]["joined"] == [[False, ["host"]]] * len(refused[1]["joined"])
