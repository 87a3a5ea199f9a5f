"""`torch.compile` around the model, the optimizer or the whole step compiles the same with us as without."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from carbon_plugin.integrations.pytorch import TorchCarbon, watch
from carbon_plugin.ledger.reader import manifest_of, read_run

STEPS = 4


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    from torch import _dynamo  # takes seconds, which only these tests need

    _dynamo.reset()
    yield
    _dynamo.reset()


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.relu(self.up(x)))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def optimizer_alone(model: nn.Module, optimizer: Any) -> Callable[[], None]:
    @torch.compile(backend="eager")
    def compiled() -> None:
        optimizer.step()

    def step() -> None:
        model(torch.ones(3, 4)).sum().backward()
        compiled()

    return step


def whole_step(model: nn.Module, optimizer: Any) -> Callable[[], None]:
    @torch.compile(backend="eager")
    def step() -> None:
        model(torch.ones(3, 4)).sum().backward()
        optimizer.step()

    return step


def model_as_a_module(model: nn.Module, optimizer: Any) -> Callable[[], None]:
    compiled = torch.compile(model, backend="eager")

    def step() -> None:
        compiled(torch.ones(3, 4)).sum().backward()
        optimizer.step()

    return step


def blocks_in_place(model: nn.Module, optimizer: Any) -> Callable[[], None]:
    for block in model.blocks:
        block.compile(backend="eager")

    def step() -> None:
        model(torch.ones(3, 4)).sum().backward()
        optimizer.step()

    return step


def loss_beside_the_model(model: nn.Module, optimizer: Any) -> Callable[[], None]:
    loss = torch.compile(lambda x: (x * x).sum(), backend="eager")

    def step() -> None:
        loss(model(torch.ones(3, 4))).backward()
        optimizer.step()

    return step


WAYS = [optimizer_alone, whole_step, model_as_a_module, blocks_in_place, loss_beside_the_model]


def compiled_like(
    make: Callable[[nn.Module, Any], Callable[[], None]], run_dir: Path | None, *, warm: bool = False
) -> tuple[dict[str, int], int, list[float], TorchCarbon | None]:
    """Return (frames, graph breaks, weights at the end, our loop) of a few steps. With `warm`, one step is compiled
    before our loop begins.
    """
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    torch.manual_seed(0)
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    step = make(model, optimizer)
    if warm:
        step()
    with nullcontext() if run_dir is None else watch(model, optimizer, run_dir=run_dir) as carbon:
        for _ in range(STEPS):
            optimizer.zero_grad()
            step()
    weights = model.head.weight.flatten().tolist()
    return counters["frames"]["total"], sum(counters["graph_break"].values()), weights, carbon


CASES = [
    pytest.param(make, warm, id=f"{make.__name__}-compiled {when}", marks=marks)
    for make in WAYS
    for warm, when, marks in (
        (False, "after", ()),
        # Tracing an optimizer takes a second each time, and two of the ways do it.
        (True, "before", pytest.mark.exhaustive if make in (optimizer_alone, whole_step) else ()),
    )
]


@pytest.mark.parametrize(("make", "warm"), CASES)
def test_compiler_sees_the_same_frames_and_breaks_with_us_and_without(make, warm, tmp_path):
    frames, breaks, weights, _ = compiled_like(make, None, warm=warm)

    frames_with, breaks_with, weights_with, carbon = compiled_like(make, tmp_path / "run", warm=warm)

    assert (frames_with, breaks_with) == (frames, breaks)
    assert weights_with == weights
    assert carbon.monitor.step == STEPS + warm


@pytest.mark.parametrize("make", [optimizer_alone, blocks_in_place, loss_beside_the_model])
def test_batches_are_seen_although_something_inside_or_beside_is_compiled(make, tmp_path):
    compiled_like(make, tmp_path / "run")

    fields = manifest_of(read_run(tmp_path / "run").files[0].records).effective

    assert fields["layout.micro_batch_size"]["value"] == 3
    assert fields["training.micro_batches"]["value"] == 1


def test_step_that_is_said_inside_of_compiled_code_is_counted_and_not_traced(tmp_path):
    model = Model()
    carbon = watch(model, run_dir=tmp_path / "run")

    @torch.compile(backend="eager")
    def step() -> None:
        model(torch.ones(3, 4)).sum().backward()
        with carbon.phase("evaluation"):
            pass
        carbon.step()

    from torch._dynamo.utils import counters

    counters.clear()
    for _ in range(STEPS):
        step()
    carbon.close()

    assert carbon.monitor.step == STEPS
    assert not [frame for frame in torch._dynamo.convert_frame.input_codes.seen if "carbon_plugin" in str(frame)]
