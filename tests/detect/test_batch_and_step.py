"""What one step shows: shapes of batches, precision, recomputation, optimizer; and that the look leaves no trace."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from carbon_plugin.detect.batch import BatchWatch, batch_shape, called_module
from carbon_plugin.detect.live import FirstStep
from carbon_plugin.detect.step import detect_optimizer, detect_precision, detect_recompute


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


def test_no_hook_is_put_on_a_compiled_model():
    watch = BatchWatch(torch.compile(nn.Linear(2, 2)))

    assert "compiled" in watch.reason
    assert watch.observed() == {}


def test_autocast_is_seen_where_it_acts():
    model = nn.Linear(4, 4)
    watch = BatchWatch(model)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(torch.zeros(2, 4))

    assert detect_precision(model, None, watch.autocast_dtype).value == "bf16"


def test_cast_of_a_wrapper_comes_before_autocast_and_stored_dtype():
    assert detect_precision(nn.Linear(2, 2), "float16", "bfloat16").value == "fp16"
    assert detect_precision(nn.Linear(2, 2).to(torch.bfloat16), None, None).value == "bf16"
    assert detect_precision(nn.Linear(2, 2), None, None).source == "dtype of most parameters"


def test_checkpointing_is_seen_by_wrapper_and_by_flag():
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    blocks = [nn.Linear(4, 4) for _ in range(4)]
    some = nn.Sequential(*(checkpoint_wrapper(b) if i < 2 else b for i, b in enumerate(blocks)))
    flagged = nn.Sequential(nn.Linear(2, 2))
    flagged[0].gradient_checkpointing = True

    observed, remark = detect_recompute(nn.Sequential(some))

    assert observed.value == "full"
    assert "only 2 of" in remark
    assert detect_recompute(flagged)[0].value == "full"
    assert detect_recompute(nn.Linear(2, 2)) == (None, None)


def test_optimizer_is_known_by_its_class_or_the_class_below():
    class Mine(torch.optim.AdamW):
        pass

    parameters = [nn.Parameter(torch.zeros(1))]

    assert detect_optimizer(Mine(parameters)).value == "adamw"
    assert detect_optimizer(torch.optim.SGD(parameters, lr=1)).value == "sgd"
    assert detect_optimizer(object()) is None


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
