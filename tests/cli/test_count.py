"""`carbon-plugin count`: from a user's own code to a model that `plan` predicts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from carbon_plugin.detect.factory import count_target
from carbon_plugin.errors import SpecError
from carbon_plugin.predict.step import predict_step
from carbon_plugin.spec.loading import build_run_spec

CODE = """
from torch import nn

def convnet():
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 32 * 32, 10))

def broken():
    raise RuntimeError("no weights here")

number = 3
"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "nets.py").write_text(CODE)
    command = [Path(sys.executable).parent / "carbon-plugin", "count", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_a_users_model_is_counted_and_planned(tmp_path: Path) -> None:
    done = run(tmp_path, "nets:convnet", "--input", "8,3,32,32", "-o", "model.yaml")

    assert done.returncode == 0, done.stderr
    block = yaml.safe_load(done.stdout)
    model = block["model"]
    assert model["parameters"] == model["trainable_parameters"] == 3 * 16 * 9 + 16 + 16 * 32 * 32 * 10 + 10
    convolution, linear = 2 * 32 * 32 * 16 * 3 * 9, 2 * 16 * 32 * 32 * 10
    assert model["forward_flops_per_sample"] == pytest.approx(convolution + linear)
    assert yaml.safe_load((tmp_path / "model.yaml").read_text()) == block
    spec = build_run_spec(
        {
            **block,
            "cluster": {"accelerator": "a100-sxm-80gb", "nodes": 1},
            "training": {"seq_len": 1, "global_batch_size": 4096, "steps": 10},
            "layout": {"dp_replicate": 8, "micro_batch_size": 512},
            "site": {"zone": "FRA"},
        },
        origin="test",
    )
    assert predict_step(spec).accuracy_class == "counted"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nets", "--input", "8,3"), "nets: expected package.module:function"),
        (("nowhere:net", "--input", "8,3"), "importing nowhere failed: ModuleNotFoundError"),
        (("nets:absent", "--input", "8,3"), "nets has no function or class absent"),
        (("nets:number", "--input", "8,3"), "nets has no function or class number"),
        (("nets:broken", "--input", "8,3"), "building the model failed: RuntimeError: no weights here"),
        (("nets:convnet", "--input", "eight"), "--input eight: expected sizes and a torch dtype"),
        (("nets:convnet", "--input", "8,3,16,16"), "its forward pass cannot be traced on 8,3,16,16: RuntimeError"),
    ],
)
def test_what_is_wrong_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    (tmp_path / "nets.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "nets", raising=False)
    target, _, *inputs = arguments

    with pytest.raises(SpecError) as refused:
        count_target(target, inputs)

    assert message in str(refused.value)


def test_an_error_is_one_line(tmp_path: Path) -> None:
    done = run(tmp_path, "nets:absent", "--input", "8,3")

    assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1)
