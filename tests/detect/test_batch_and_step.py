"""What one step shows: shapes of batches, precision, recomputation, optimizer; and that the look leaves no trace."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from carbon_plugin.detect.batch import BatchWatch, called_module
from carbon_plugin.detect.job import Job
from carbon_plugin.detect.live import FirstStep
from carbon_plugin.detect.readers.order import read_all
from carbon_plugin.detect.readers.step import (
    detect_adapters,
    detect_compiled,
    detect_optimizer,
    detect_optimizer_state,
    detect_precision,
)
from carbon_plugin.detect.tensors import batch_shape
from carbon_plugin.integrations import pytorch
from carbon_plugin.ledger.reader import manifest_of, read_run


def seen(watch: BatchWatch) -> dict[str, object]:
    return {name: value.value for name, value in watch.observed().items()}


def test_calls_in_training_mode_are_the_micro_batches():
    model = nn.Embedding(10, 4)
    watch = BatchWatch(model)

    for _ in range(3):
        model(torch.zeros(2, 7, dtype=torch.long))
    with torch.no_grad():
        model(torch.zeros(5, 9, dtype=torch.long))
    model.eval()(torch.zeros(5, 9, dtype=torch.long))

    assert seen(watch) == {"layout.micro_batch_size": 2, "training.micro_batches": 3, "training.seq_len": 7}


@pytest.mark.parametrize(
    ("batch", "shape"),
    [
        ({"labels": torch.zeros(4, 9), "input_ids": torch.zeros(4, 8, dtype=torch.long)}, (4, 8)),
        ([torch.zeros(6, 5, 3), torch.zeros(6, dtype=torch.long)], (6, 5)),
        ((torch.zeros(2, 3, 32, 32), torch.zeros(2)), (2, None)),
        ({"mask": torch.ones(3, 4, dtype=torch.bool), "x": torch.zeros(3, 6, dtype=torch.int32)}, (3, 6)),
    ],
)
def test_tokens_are_told_from_other_tensors(batch, shape):
    found = batch_shape(batch)

    assert found is not None
    assert found[0] == shape


def test_batch_without_tensors_has_no_shape():
    assert batch_shape(({"text": "words"}, 3)) is None


class Padded(nn.Module):
    """Takes what a collator hands out beside the token ids."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 4)

    def forward(self, input_ids: torch.Tensor, **_: torch.Tensor) -> torch.Tensor:
        return self.table(input_ids)


def called_with(**tensors: torch.Tensor) -> dict[str, object]:
    model = Padded()
    watch = BatchWatch(model)
    model(input_ids=torch.zeros(2, 8, dtype=torch.long), **tensors)
    return seen(watch)


def test_padding_is_counted_by_its_mask():
    mask = torch.ones(2, 8, dtype=torch.long)
    mask[1, 2:] = 0

    found = called_with(attention_mask=mask, position_ids=torch.zeros(2, 8, dtype=torch.long))

    assert found["training.padding_fraction"] == 6 / 16
    assert "training.mean_document_tokens" not in found  # positions in the padding say nothing


@pytest.mark.parametrize(
    "packed",
    [
        {"position_ids": torch.tensor([[0, 1, 2, 0, 1, 2, 3, 0], [0, 1, 2, 3, 4, 5, 6, 7]])},
        {"cu_seqlens": torch.tensor([0, 3, 7, 8, 16], dtype=torch.int32)},
    ],
)
def test_packed_documents_are_counted_by_their_boundaries(packed):
    assert called_with(**packed)["training.mean_document_tokens"] == 4


def test_sequences_of_one_document_each_are_not_packed():
    assert "training.mean_document_tokens" not in called_with(position_ids=torch.arange(8).repeat(2, 1))


def test_steps_that_a_gradient_scaler_skipped_are_not_micro_batches():
    model, skipped = nn.Linear(4, 4), 0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20)  # too high for fp16: the first steps overflow
    watch, steps = BatchWatch(model), []
    optimizer.register_step_post_hook(lambda *_: steps.append(1))
    while not steps:
        optimizer.zero_grad()
        for _ in range(2):
            with torch.autocast("cpu", dtype=torch.float16):
                loss = model(torch.ones(2, 4)).sum()
            scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        skipped += not steps

    found = watch.observed()["training.micro_batches"]

    assert skipped > 0
    assert found.value == 2
    assert f"{2 * skipped} more in steps that were skipped" in found.source


def test_dropped_gradients_are_no_skipped_step_where_no_scaler_can_be():
    model = nn.Linear(4, 4)
    watch = BatchWatch(model)

    for _ in range(2):
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model(torch.zeros(2, 4)).sum().backward()

    assert seen(watch)["training.micro_batches"] == 2


def test_no_hook_is_put_on_a_compiled_model():
    watch = BatchWatch(torch.compile(nn.Linear(2, 2)))

    assert "compiled" in watch.reason
    assert watch.observed() == {}


def test_function_that_is_compiled_around_a_watched_model_is_not_compiled_again():
    from torch._dynamo.testing import CompileCounter  # takes seconds, which every worker would spend that collects it

    model, counter = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU(), nn.Linear(2, 2))), CompileCounter()
    watch = BatchWatch(model)

    @torch.compile(fullgraph=True, backend=counter)
    def step(x):
        return model(x).sum()

    for _ in range(3):
        step(torch.zeros(3, 2)).backward()
        watch.remove()

    assert counter.frame_count == 1
    assert "compiled function" in watch.reason
    model(torch.zeros(3, 2))
    assert watch.calls == 0


def test_module_that_takes_no_hooks_leaves_none_on_the_others():
    plain = nn.Linear(2, 2)
    model = nn.Sequential(plain, torch.jit.script(nn.Linear(2, 2)))
    watch = BatchWatch(model)

    model(torch.zeros(3, 2)).sum().backward()
    watch.remove()

    assert seen(watch)["layout.micro_batch_size"] == 3
    assert not plain._forward_pre_hooks


def test_scripted_model_is_seen_as_any_other(tmp_path, caplog):
    model = torch.jit.script(nn.Linear(2, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    with pytorch.watch(model, optimizer, site="FRA", run_dir=tmp_path) as carbon:
        model(torch.zeros(3, 2)).sum().backward()
        optimizer.step()

    assert carbon.monitor.step == 1
    assert "switched off" not in caplog.text
    assert manifest_of(read_run(tmp_path).files[0].records).effective["layout.micro_batch_size"]["value"] == 3


def test_autocast_is_seen_where_it_acts():
    model = nn.Linear(4, 4)
    watch = BatchWatch(model)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(torch.zeros(2, 4))

    assert detect_precision(model, None, watch.autocast_dtype).value == "bf16"


class CastsInside(nn.Module):
    """As Accelerate patches a forward pass, and as many a model is written."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.inner(x)


def test_autocast_that_begins_inside_of_the_forward_pass_is_seen():
    model = CastsInside()
    watch = BatchWatch(model)
    model(torch.randn(2, 4)).sum().backward()
    watch.remove()

    assert detect_precision(model, None, watch.autocast_dtype).value == "bf16"
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_autocast_that_is_off_where_the_products_are_does_not_count():
    class CastsNothing(CastsInside):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", enabled=False):
                return self.inner(x)

    model = CastsNothing()
    watch = BatchWatch(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(torch.randn(2, 4)).sum().backward()
    watch.remove()

    assert detect_precision(model, None, watch.autocast_dtype).value == "fp32"


@pytest.mark.parametrize("compiled", [False, True])
def test_mixed_precision_of_accelerate_is_read_also_where_no_hook_may_be(compiled):
    state = pytest.importorskip("accelerate.state")
    from accelerate import Accelerator

    state.AcceleratorState._reset_state(reset_partial_state=True)
    try:
        model = Accelerator(cpu=True, mixed_precision="bf16").prepare(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)))
        if compiled:
            model.compile(backend="eager")
        watch = BatchWatch(model)
        model(torch.randn(2, 4)).sum().backward()
        watch.remove()
        seen = read_all(Job(model=model, world_size=1, batch=watch))
        other = read_all(Job(model=nn.Linear(4, 4), world_size=1))
    finally:
        state.AcceleratorState._reset_state(reset_partial_state=True)

    assert seen.fields["training.precision"].value == "bf16"
    assert other.fields["training.precision"].value == "fp32"


def test_cast_of_a_wrapper_comes_before_autocast_and_stored_dtype():
    assert detect_precision(nn.Linear(2, 2), "float16", "bfloat16").value == "fp16"
    assert detect_precision(nn.Linear(2, 2).to(torch.bfloat16), None, None).value == "bf16"
    assert detect_precision(nn.Linear(2, 2), None, None).source == "dtype of most parameters"


def test_optimizer_is_known_by_its_class_or_the_class_below():
    class Mine(torch.optim.AdamW):
        pass

    parameters = [nn.Parameter(torch.zeros(1))]

    assert detect_optimizer(Mine(parameters)).value == "adamw"
    assert detect_optimizer(torch.optim.SGD(parameters, lr=1)).value == "sgd"
    assert detect_optimizer(object()) is None


def test_adam_that_decays_weights_apart_is_adamw():
    parameters = [nn.Parameter(torch.zeros(1))]

    assert detect_optimizer(torch.optim.Adam(parameters)).value == "adam"
    assert detect_optimizer(torch.optim.Adam(parameters, decoupled_weight_decay=True)).value == "adamw"


@pytest.mark.parametrize(
    ("dtype", "seen_as"), [(torch.float32, "fp32"), (torch.bfloat16, "bf16"), (torch.uint8, "8-bit")]
)
def test_precision_of_optimizer_states_is_that_of_the_tensors_it_keeps(dtype, seen_as):
    parameter = nn.Parameter(torch.zeros(4, 4))
    optimizer = torch.optim.AdamW([parameter])
    optimizer.state[parameter] = {"step": torch.tensor(1.0), "exp_avg": torch.zeros(4, 4, dtype=dtype)}

    assert detect_optimizer_state(optimizer).value == seen_as


def test_optimizer_without_states_has_no_precision_of_them():
    assert detect_optimizer_state(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1)) is None


def test_optimizer_of_a_framework_is_seen_through():
    class Wrapper:
        def __init__(self, optimizer):
            self.optimizer = optimizer

    inner = torch.optim.Adafactor([nn.Parameter(torch.zeros(1))])

    assert detect_optimizer(Wrapper(Wrapper(inner))).value == "adafactor"


def test_low_rank_adapters_are_named_with_their_rank():
    layer = nn.Linear(16, 16)
    layer.lora_A, layer.lora_B = nn.Linear(16, 4, bias=False), nn.Linear(4, 16, bias=False)

    assert detect_adapters(nn.Sequential(layer)).value == "LoRA of rank 4"
    assert detect_adapters(nn.Linear(16, 16)) is None


def test_compiler_counts_where_it_fuses_most_of_the_model():
    small, large = nn.Linear(2, 2), nn.Linear(32, 32)
    small.compile()

    assert detect_compiled(nn.Sequential(small, large)) is None
    assert detect_compiled(nn.Sequential(small, torch.compile(large))).value is True
    assert detect_compiled(torch.compile(large, backend="eager")) is None


@pytest.mark.parametrize(
    ("module", "name", "precision"),
    [
        ("torchao.float8.float8_linear", "Float8Linear", "fp8"),
        ("torchao.prototype.mx_formats.mx_linear", "MXLinear", "mxfp8"),
        ("torchao.quantization.linear", "Linear", "fp32"),
        ("transformer_engine.pytorch.module.linear", "Linear", "fp8"),
    ],
)
def test_low_precision_modules_are_known_by_their_class(module, name, precision):
    kind = type(name, (nn.Linear,), {"__module__": module, "fp8": True})

    assert detect_precision(nn.Sequential(kind(4, 4)), None, None).value == precision


def test_transformer_engine_outside_of_its_autocast_runs_in_the_dtype_of_its_parameters():
    kind = type("Linear", (nn.Linear,), {"__module__": "transformer_engine.pytorch.module.linear", "fp8": False})

    assert detect_precision(kind(4, 4).to(torch.bfloat16), None, None).value == "bf16"


def test_recipe_of_transformer_engine_names_the_precision():
    recipe = type("MXFP8BlockScaling", (), {})()
    body = {"__module__": "transformer_engine.pytorch.module.linear", "fp8": True, "fp8_meta": {"recipe": recipe}}

    assert detect_precision(type("Linear", (nn.Linear,), body)(4, 4), None, None).value == "mxfp8"


def test_module_that_gets_the_batches_is_the_child_with_most_parameters():
    frame = nn.Module()
    frame.metric, frame.net = nn.Linear(2, 2), nn.Linear(64, 64)

    assert called_module(frame) is frame.net
    assert called_module(frame.net) is frame.net


def test_a_look_leaves_neither_hooks_nor_changes():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(16, 8), nn.Linear(8, 16))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = {name: value for name, value in vars(model).items() if "hooks" in name}
    counts = {name: len(value) for name, value in before.items() if hasattr(value, "__len__")}
    first = FirstStep(model)
    model(torch.zeros(2, 4, dtype=torch.long)).sum().backward()
    optimizer.step()
    random = torch.random.get_rng_state()

    detected, gpus = first.look(model, world_size=1, optimizer=optimizer)

    assert {name: len(getattr(model, name)) for name in counts} == counts
    assert torch.equal(random, torch.random.get_rng_state())
    assert detected.layout.unexplained == 1
    assert detected.device_kind == "cpu"
    assert gpus == ()
    assert detected.problems == ()


def test_what_breaks_while_looking_is_a_problem_and_no_exception():
    class Hostile(nn.Module):
        def modules(self):
            raise RuntimeError("no")

    detected, _ = FirstStep(nn.Linear(1, 1)).look(Hostile(), world_size=4)

    assert detected.layout.axes == {}
    assert {kind for kind, _ in detected.problems} == {"not_detected"}
