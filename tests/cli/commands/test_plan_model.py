"""What `carbon-plugin plan` says of the model: notes of its counts, and whether transformers counts the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from carbon_plugin.cli import main as cli

CONFIGS = Path(__file__).parents[2] / "spec" / "huggingface" / "data" / "hf_configs"
PLACE = ["--accelerator", "h100-sxm", "--nodes", "1", "--tokens", "1e9", "--zone", "FRA"]


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.run(["plan", *PLACE, *arguments]) == 0
    return " ".join(capsys.readouterr().out.split())


def smaller(tmp_path: Path, **changes: object) -> Path:
    config = json.loads((CONFIGS / "apertus.json").read_text())
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config | {"num_hidden_layers": 2, "architectures": ["ApertusForCausalLM"]} | changes))
    return path


def test_notes_of_the_model_stand_in_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    shown = said(capsys, "--model", str(CONFIGS / "Qwen--Qwen3-VL-2B-Instruct_config.json"))

    assert "2.13 B parameters" in shown
    assert "vision tower 310 M" in shown


def test_layers_in_no_parameter_count_are_named_for_a_preset_too(capsys: pytest.CaptureFixture[str]) -> None:
    shown = said(capsys, "--model", "deepseek-v3", "--nodes", "64")

    assert "671 B parameters" in shown
    assert "11.6 B parameters more in 1 layer" in shown


def test_a_hybrid_says_that_few_measurements_validate_its_step(capsys: pytest.CaptureFixture[str]) -> None:
    shown = said(capsys, "--model", str(CONFIGS / "kimi-linear-48b.json"), "--nodes", "8")

    assert "49.1 B parameters" in shown
    assert "20 kimi_delta, 7 latent attention" in shown
    assert "which few measurements have validated" in shown


def test_kinds_of_layers_that_are_one_word_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = smaller(tmp_path, layer_types="full")

    assert cli.run(["plan", *PLACE, "--model", str(path)]) == 2

    assert "layer_types: expected a list with a word a layer, got 'full'" in capsys.readouterr().err


def test_the_class_of_transformers_agrees(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")

    shown = said(capsys, "--model", str(smaller(tmp_path)), "--check-model")

    assert "ApertusForCausalLM of transformers" in shown
    assert "as counted here" in shown


def test_a_class_of_transformers_that_has_more_parameters_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers")
    config = smaller(tmp_path)
    spec = tmp_path / "run.yaml"
    spec.write_text(
        f"model: {{config: {config}, layers: 1}}\ntraining: {{seq_len: 4096, global_batch_size: 64, tokens: 1e9}}\n"
    )

    shown = said(capsys, str(spec), "--check-model")

    assert "were counted here (−" in shown
    assert "rests on the wrong shape" in shown


def test_only_a_model_from_a_config_is_compared(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["plan", "--model", "llama3-8b", "--check-model", *PLACE]) == 2
    assert "--check-model needs a model that is read from a config.json" in capsys.readouterr().err


def test_the_software_is_named_by_a_flag_which_replaces_that_of_a_spec(tmp_path: Path, capsys) -> None:
    spec = tmp_path / "run.yaml"
    spec.write_text(
        "model: gpt2\ncluster: {accelerator: h100-sxm, nodes: 1}\nsite: {zone: FRA}\nstack: {preset: ordinary}\n"
        "training: {seq_len: 1024, global_batch_size: 64, steps: 10}\n"
    )

    assert cli.run(["plan", str(spec), "--stack", "megatron-core", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["spec"]["stack"]["population"] == "tuned"
    assert "stack ordinary software" not in said(capsys, "--model", "gpt2", "--stack", "megatron-core")
    assert "ordinary software" in said(capsys, "--model", "gpt2")
    assert cli.run(["plan", str(spec), "--stack", "megatronn"]) == 2
    assert "nearest: megatron, megatron-lm" in capsys.readouterr().err
