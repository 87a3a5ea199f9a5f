"""`carbon-plugin count`: from a user's own code to a model that `plan` predicts."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import yaml

from carbon_plugin.detect.shape.factory import count_target
from carbon_plugin.errors import SpecError
from carbon_plugin.predict.step import predict_step
from carbon_plugin.spec.loading import build_run_spec

CODE = """
from torch import nn

def convnet():
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 32 * 32, 10))

class TokenMixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.block = nn.Embedding(100, 64), nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)

    def forward(self, ids):
        return self.block(self.embed(ids))

def broken():
    raise RuntimeError("no weights here")

number = 3
"""


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(launcher, tmp_path: Path) -> Run:
    """Run the command in a folder with the user's code: `run("count", "nets:convnet")`."""
    (tmp_path / "nets.py").write_text(CODE)
    return partial(launcher.run, Path(sys.executable).parent / "carbon-plugin", cwd=tmp_path)


def test_a_users_model_is_counted_and_planned(run: Run, tmp_path: Path) -> None:
    done = run("count", "nets:convnet", "--input", "8,3,32,32", "-o", "model.yaml")

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


def planned(block: dict, seq_len: int) -> dict:
    return {
        **block,
        "cluster": {"accelerator": "a100-sxm-80gb", "nodes": 1},
        "training": {"seq_len": seq_len, "global_batch_size": 4096, "tokens": 1e12},
        "layout": {"dp_replicate": 8, "micro_batch_size": 8},
        "site": {"zone": "FRA"},
    }


def test_a_plan_of_another_length_counts_the_model_anew(run: Run, tmp_path: Path) -> None:
    done = run("count", "nets:TokenMixer", "--input", "4,512:int64")
    assert done.returncode == 0, done.stderr
    block = yaml.safe_load(done.stdout)
    model = block["model"]
    assert (model["seq_len"], model["samples"], model["target"]) == (512, 4, "nets:TokenMixer")
    flops = {}
    for seq_len in (512, 8192):
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(planned(block, seq_len)))
        plan = run("plan", "run.yaml", "--json")
        assert plan.returncode == 0, plan.stderr
        flops[seq_len] = json.loads(plan.stdout)["spec"]["model"]["forward_flops_per_sample"]

    assert flops[512] == model["forward_flops_per_sample"]
    assert flops[8192] > 16 * flops[512]  # attention grows with the square of the length, and all else with the length


def test_a_count_at_another_length_without_its_code_names_the_command_that_helps(run: Run, tmp_path: Path) -> None:
    done = run("count", "nets:TokenMixer", "--input", "4,512:int64")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "run.yaml").write_text(yaml.safe_dump(planned(yaml.safe_load(done.stdout), 8192)))
    (tmp_path / "nets.py").unlink()

    plan = run("plan", "elsewhere/run.yaml")

    assert plan.returncode == 2
    assert "counted at 512 tokens a sample, but training.seq_len is 8192" in plan.stderr
    assert "carbon-plugin count nets:TokenMixer --input 4,8192:int64" in plan.stderr


def without_length() -> dict:
    counts = {"parameters": 10, "trainable_parameters": 10, "forward_flops_per_sample": 1e9, "kernels": 5}
    return {"model": {"type": "counted", **counts, "activation_bytes_per_sample": 1e6, "source": "images"}}


def test_a_sample_of_a_model_that_was_counted_without_a_length_has_no_tokens() -> None:
    with pytest.raises(SpecError, match=r"a sample has no tokens, but training.seq_len is 512; plan with seq_len 1"):
        predict_step(build_run_spec(planned(without_length(), 512), origin="test"))

    one = build_run_spec(planned(without_length(), 1), origin="test")
    unstated = planned(without_length(), 1)
    del unstated["training"]["seq_len"]
    taken = build_run_spec(unstated, origin="test")

    assert taken.training == one.training
    assert ("training.seq_len", "1") in {(item.field, item.value) for item in taken.assumptions}
    assert "training.seq_len" not in {item.field for item in one.assumptions}
    assert predict_step(taken).step_time_s == predict_step(one).step_time_s


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nets", "--input", "8,3"), "nets: expected package.module:function"),
        (("nowhere:net", "--input", "8,3"), "importing nowhere failed: ModuleNotFoundError"),
        (("nets:absent", "--input", "8,3"), "nets has no function or class absent"),
        (("nets:number", "--input", "8,3"), "nets has no function or class number"),
        (("nets:broken", "--input", "8,3"), "building the model failed: RuntimeError: no weights here"),
        (("nets:convnet", "--input", "eight"), "--input eight: expected sizes and a torch dtype"),
        (("nets:convnet", "--input", "99999999999,99999999999"), "cannot be traced on 99999999999,99999999999: "),
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


def test_without_torch_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(SpecError, match="pip install torch"):
        count_target("nets:convnet", ["8,3,32,32"])


def test_an_error_is_one_line(run: Run) -> None:
    done = run("count", "nets:absent", "--input", "8,3")

    assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1)
