"""A row is read under the names that other software gives its fields, and what nothing knows is named."""

from __future__ import annotations

from typing import Any

import pytest

from carbon_plugin.calibrate.rows.device_names import accelerator_name
from carbon_plugin.calibrate.rows.rows import PublishedRow, parse_rows
from carbon_plugin.calibrate.rows.spellings import (
    MILLISECONDS,
    ROW_NAMES,
    SHAPE_NAMES,
    STEP_RATES,
    spelled_row,
)

RECORD: dict[str, Any] = {
    "id": "mine-1",
    "framework": "Megatron-core (2026)",
    "arch": "mine",
    "seq_len": 4096,
    "precision": "bf16",
    "gpu": "H100-80GB-SXM",
    "n_gpus": 32,
    "tp": 2,
    "pp": 2,
    "cp": 1,
    "dp": 8,
    "vp": 2,
    "ep": 4,
    "etp": 1,
    "dispatcher": "DeepEP",
    "recompute": "selective",
    "sp": True,
    "mbs": 1,
    "gbs": 256,
    "grad_accum": 32,
    "mem_gib_per_gpu": 50.0,
    "step_time_s": 3.5,
}
SHAPE: dict[str, Any] = {
    "layers": 8, "hidden": 2048, "ffn": 6144, "moe_ffn": 768, "heads": 32, "kv_heads": 4, "n_experts": 64, "top_k": 4,
    "shared_experts": 1, "dense_layers": 1, "vocab": 50304, "mlp": "swiglu", "tied": False,
}  # fmt: skip


def parsed(record: dict[str, Any], shape: dict[str, Any]) -> PublishedRow:
    """Return the one row of a file."""
    (rows, skipped) = parse_rows([record], {"mine": shape})
    assert not skipped, skipped[0].reason
    return rows[0]


def read(shape: dict[str, Any] = SHAPE, **changes: Any) -> PublishedRow:
    """Return `RECORD` with changes, as it is read. A change to None leaves the field out."""
    return parsed({**RECORD, **changes}, shape)


def refusal(**changes: Any) -> str:
    """Return why `RECORD` with changes is skipped."""
    (rows, skipped) = parse_rows([{**RECORD, **changes}], {"mine": SHAPE})
    assert not rows
    return skipped[0].reason


@pytest.mark.parametrize(("name", "other"), [(name, other) for name in ROW_NAMES for other in ROW_NAMES[name]])
@pytest.mark.parametrize("written", [str, str.upper, lambda word: word.replace("_", "-")])
def test_a_field_is_read_under_the_names_that_other_software_gives_it(name: str, other: str, written: Any) -> None:
    renamed = {written(other) if key == name else key: value for key, value in RECORD.items()}
    assert name not in renamed

    assert parsed(renamed, SHAPE) == read()


@pytest.mark.parametrize(
    ("name", "other"), [(name, other) for name in SHAPE_NAMES if name in SHAPE for other in SHAPE_NAMES[name]]
)
def test_a_dimension_is_read_under_the_names_of_a_config_and_of_megatron(name: str, other: str) -> None:
    renamed = {other if key == name else key: value for key, value in SHAPE.items()}

    assert read(renamed) == read()
    assert read({}, **renamed).spec == read({}, **SHAPE).spec


@pytest.mark.parametrize(
    ("argument", "value", "field", "same"),
    [
        ("virtual_pipeline_model_parallel_size", None, "vp", 1),
        ("recompute_granularity", None, "recompute", "none"),
        ("recompute_granularity", "full", "recompute", "full"),
        ("gradient_checkpointing", None, "recompute", None),
        ("use_distributed_optimizer", True, "sharding", "distributed optimizer (ZeRO-1)"),
        ("use-distributed-optimizer", False, "sharding", "DDP"),
        ("moe_router_force_load_balancing", True, "routing", "balanced"),
        ("moe_router_force_load_balancing", False, "routing", "natural"),
        ("moe_router_force_load_balancing", None, "routing", None),
    ],
)
def test_an_argument_of_megatron_says_what_megatron_means_by_it(
    argument: str, value: object, field: str, same: object
) -> None:
    left = {key: stated for key, stated in RECORD.items() if key != field}
    said = left if same is None else {**left, field: same}

    assert parsed({**left, argument: value}, SHAPE) == parsed(said, SHAPE)


def test_an_argument_that_is_neither_true_nor_false_is_refused_by_its_name() -> None:
    assert refusal(use_distributed_optimizer="maybe").startswith("use_distributed_optimizer is 'maybe'")
    assert "sharding is 'DDP' and use_distributed_optimizer says" in refusal(
        sharding="DDP", use_distributed_optimizer=True
    )


@pytest.mark.parametrize(("gpu", "chips"), [("TPU v3-32", 16), ("v5p-64", 32), ("v6e-32", 32)])
def test_a_slice_of_tpus_says_how_many_chips_there_are(gpu: str, chips: int) -> None:
    taken = {"framework": "MaxText", "gpu": gpu, "tp": 1, "pp": 1, "vp": 1, "dp": None, "grad_accum": None}

    assert read(**taken, n_gpus=None).spec == read(**taken, n_gpus=chips).spec


def test_no_two_fields_go_by_one_name() -> None:
    names = [*ROW_NAMES, *SHAPE_NAMES]
    others = [other for table in (ROW_NAMES, SHAPE_NAMES) for known in table.values() for other in known]

    assert len({*names, *others, *MILLISECONDS}) == len([*names, *others, *MILLISECONDS])


def test_two_names_of_a_field_may_agree_and_must_not_differ() -> None:
    assert read(num_gpus=32) == read()
    assert refusal(num_gpus=64) == "n_gpus is 32 and num_gpus says 64, which is the same field; keep one of them"


def test_a_row_in_which_two_names_differ_does_not_call_one_of_them_unknown() -> None:
    _, (skipped,) = parse_rows([{**RECORD, "num_gpus": 64, "step_time_ms": 5, "colour": "green"}], {"mine": SHAPE})

    assert skipped.not_read == ("colour",)


@pytest.mark.parametrize("name", MILLISECONDS)
def test_a_step_time_may_be_in_milliseconds(name: str) -> None:
    for stated in (3500, "3500"):  # a cell of a table is text
        assert read(step_time_s=None, **{name: stated}).measured_step_time_s == pytest.approx(3.5)
    for empty in (None, ""):
        assert read(step_time_s=3.5, **{name: empty}).measured_step_time_s == 3.5
    assert "expected a positive number" in refusal(step_time_s=None, **{name: "3.5 s"})


def test_a_step_time_may_be_a_rate_of_steps_and_mfu_a_share() -> None:
    assert read(step_time_s=None, steps_per_second=0.25).measured_step_time_s == pytest.approx(4.0)
    assert "expected a positive number" in refusal(step_time_s=None, steps_per_s=0)
    share, percent = (read(step_time_s=None, mfu=said) for said in (0.2, "20"))
    assert share == percent == read(step_time_s=None, mfu_pct=20)
    assert "expected a positive number" in refusal(step_time_s=None, mfu=-1)


def test_rates_of_tokens_are_read_by_the_names_that_logs_give_them() -> None:
    by_device = [
        read(step_time_s=None, **{name: 9000}).measured_step_time_s
        for name in ("tokens_per_s_per_gpu", "tokens_per_sec_per_gpu", "tokens/s/device", "Tokens per second per GPU")
    ]
    assert len(set(by_device)) == 1
    assert read(step_time_s=None, total_tokens_per_second=9000 * 32).measured_step_time_s == by_device[0]


def test_torchtitans_degrees_of_data_parallelism_say_how_it_shards() -> None:
    titan = {"framework": "torchtitan (2026)", "tp": 1, "pp": 1, "ep": 1, "dp": None, "grad_accum": None}
    said = {
        (shards, copies): read(**titan, dp_shard=shards, dp_replicate=copies, step_time_s=99).spec.layout
        for shards, copies in ((32, 1), (8, 4), (1, 32))
    }
    degrees = {key: (layout.zero_stage, layout.dp_shard, layout.dp_replicate) for key, layout in said.items()}
    assert degrees == {(32, 1): (3, 32, 1), (8, 4): (3, 8, 4), (1, 32): (0, 1, 32)}
    assert "dp is 8 and dp_shard times dp_replicate says 32" in refusal(**titan | {"dp": 8}, dp_shard=32)
    compiled = read(**titan, dp_shard=32, compile=True, step_time_s=99)
    assert compiled == read(**titan, dp_shard=32, overlap="torch.compile", step_time_s=99)
    assert "compile" not in compiled.not_read
    assert read(**titan, dp_shard=32, compile=False, step_time_s=99) == read(**titan, dp_shard=32, step_time_s=99)


@pytest.mark.parametrize(
    ("said", "stage", "shards", "copies"),
    [
        ({"dp_replicate": 4}, 3, 8, 4),
        ({"dp_replicate": 4, "dp_shard": -1}, 3, 8, 4),
        ({"dp_shard": -1}, 3, 32, 1),
        ({"data-parallel-replicate-degree": 4, "data_parallel_shard_degree": 8}, 3, 8, 4),
        ({"dp_replicate": 4, "dp_shard": 8, "sharding": "FSDP2"}, 3, 8, 4),
        ({"dp_replicate": 4, "sharding": "FSDP2"}, 3, 8, 4),
    ],
)
def test_copies_of_shards_are_kept_whatever_else_the_row_says_of_them(
    said: dict[str, Any], stage: int, shards: int, copies: int
) -> None:
    titan = {"framework": "torchtitan (2026)", "tp": 1, "pp": 1, "ep": 1, "dp": None, "grad_accum": None}
    row = read(**titan, **said, step_time_s=99)

    assert (row.spec.layout.zero_stage, row.spec.layout.dp_shard, row.spec.layout.dp_replicate) == (
        stage,
        shards,
        copies,
    )
    assert not {"dp_shard", "dp_replicate"} & {*row.not_read}


def test_a_degree_that_is_no_count_is_refused_by_its_name() -> None:
    assert refusal(dp_shard="many") == "dp_shard is 'many', expected a positive number"
    assert refusal(dp_replicate=0) == "dp_replicate is 0, expected a positive number"


def test_a_model_that_a_preset_has_needs_no_architecture() -> None:
    named, stated = (read(arch=arch, model="Mistral 7B", ep=1) for arch in (None, "mistral-7b"))
    assert named.spec == stated.spec
    assert [line for line in named.assumed if line not in stated.assumed] == ["arch mistral-7b"]
    assert "layers is not stated" in refusal(arch=None, model="our 8B")
    assert "hidden is not stated" in refusal(arch=None, model="Llama 3.1 8B", layers=12)


@pytest.mark.parametrize(
    ("field", "said", "meant"),
    [
        ("precision", "bf16_mixed", "bf16"),
        ("dtype", "bfloat16", "bf16"),
        ("remat", "nothing_saveable", "full"),
        ("recompute", "SAVE_NOTHING", "full"),
        ("gradient_checkpointing", True, "full"),
        ("activation_checkpointing", "selective", "selective"),
    ],
)
def test_precision_and_recompute_are_read_in_the_words_of_other_software(field: str, said: Any, meant: str) -> None:
    spec = read(**{"precision": None, "recompute": None, field: said}).spec
    assert meant in (spec.training.precision, spec.layout.recompute)


@pytest.mark.parametrize("gpu", ["32x H100-80GB-SXM", "32 x H100-80GB-SXM", "32× H100-80GB-SXM"])
def test_a_number_of_devices_may_stand_before_their_name(gpu: str) -> None:
    assert read(gpu=gpu, n_gpus=None) == read()
    assert "n_gpus is 8 and gpu says 32" in refusal(gpu=gpu, n_gpus=8)


def test_dimensions_that_nothing_knows_are_named() -> None:
    assert read({**SHAPE, "warp": 9}).not_read == ("mine: warp",)
    assert read().not_read == ()


def test_a_shared_expert_and_a_window_may_be_stated_by_their_width() -> None:
    shape = {**SHAPE, "shared_experts": None, "shared_ffn": 1536, "sliding_window": 1024}
    model = read(shape).spec.model
    twice = read({**SHAPE, "shared_experts": 2}).spec.model

    assert model.moe == twice.moe
    assert (model.sliding_window, model.sliding_window_layers) == (1024, None)
    assert read({**shape, "sliding_window_layers": 3}).spec.model.sliding_window_layers == 3


CONFIG = {
    "model_type": "qwen3", "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 8,
    "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 64, "vocab_size": 50304,
}  # fmt: skip


@pytest.mark.parametrize("shape", [SHAPE, {"config": CONFIG}], ids=["dimensions", "config"])
@pytest.mark.parametrize(
    "said", [{"kind": "lora"}, {"kind": "lora_benchmark"}, {"lora_rank": 8}, {"adapters": "attention"}]
)
def test_adapters_are_trained_alone_wherever_a_row_speaks_of_them(shape: dict[str, Any], said: dict[str, Any]) -> None:
    ep = {} if shape is SHAPE else {"ep": None, "etp": None}
    whole, adapted = read(shape, **ep), read(shape, **ep, **said)

    assert adapted.source == f"{whole.source}-lora"
    assert whole.spec.model.trainable_fraction == 1
    assert 0 < adapted.spec.model.trainable_fraction < 0.1
    assert adapted.not_read == ()


def test_a_field_whose_name_is_no_text_is_left_for_the_reader_to_name() -> None:
    assert spelled_row({**RECORD, 16: "x"})[16] == "x"  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("field", "said", "plain"),
    [
        ("recompute", True, "full"),
        ("recompute", False, "none"),
        ("precision", "bfloat16", "bf16"),
        ("precision", "32", "fp32"),
        ("attention_kernel", "math", "eager"),
        ("attention_kernel", "mem_efficient", "flash"),
        ("sharding", "FULL_SHARD", "fsdp"),
        ("sharding", "SHARD_GRAD_OP", "ZeRO-2"),
        ("sharding", "stage 2", "ZeRO-2"),
        ("sharding", "DeepSpeed stage3", "ZeRO-3"),
    ],
)
def test_words_of_pytorch_lightning_and_deepspeed_say_what_ours_do(field: str, said: object, plain: str) -> None:
    ordinary: dict[str, Any] = {"framework": "PyTorch", "tp": 1, "pp": 1, "ep": 1, "dp": 32, "gbs": 32, "grad_accum": 1}
    dense = {**SHAPE, "n_experts": None, "top_k": None, "moe_ffn": None, "shared_experts": None, "dense_layers": None}
    found, wanted = (read(dense, **ordinary, **{field: value}).spec for value in (said, plain))
    assert found == wanted


@pytest.mark.parametrize(
    ("said", "device"),
    [("Tesla T4", "T4"), ("NVIDIA Tesla T4", "T4"), ("GeForce RTX 4090", "RTX 4090"), ("Tesla V100", "V100")],
)
def test_a_device_may_have_the_name_of_its_line_ahead(said: str, device: str) -> None:
    assert accelerator_name(said) == accelerator_name(device)


@pytest.mark.parametrize("name", STEP_RATES)
def test_a_step_time_may_be_steps_a_second_under_any_of_their_names(name: str) -> None:
    assert read(step_time_s=None, **{name: 1 / 3.5}).measured_step_time_s == pytest.approx(3.5)
