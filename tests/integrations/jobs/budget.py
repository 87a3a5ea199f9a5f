"""Trains under a budget that is exceeded at once, until the adapter ends the loop: `budget.py LOOP RUN_DIR`.

Each rank writes the step after which it ended. Every step holds a collective, so that a rank that was left alone would
hang. Where `{rank}` is in the name of the run directory, each rank has its own, and a temporary directory of its own,
as on nodes that share no file system.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from together import enough
from torch import nn

from carbon_plugin.monitor.settings.options import MonitorOptions
from carbon_plugin.spec.budget import CarbonBudget
from carbon_plugin.spec.options import SpanRule
from tests.patience import be_patient

RANK = os.environ["RANK"]
STEP_S, MOST_STEPS = 0.02, 5000
FOLDER = Path(sys.argv[2]).parent
RUN_DIR = sys.argv[2].format(rank=RANK)
if "{rank}" in sys.argv[2]:
    os.environ["TMPDIR"] = tempfile.tempdir = f"{FOLDER}/tmp-{RANK}"
    Path(tempfile.tempdir).mkdir()
if os.environ.get("JOB_UNMEASURED") == RANK:
    os.environ["CARBON_PLUGIN_DISABLED"] = "1"
ARGUMENTS: dict[str, Any] = {
    "site": "FRA",
    "run_dir": RUN_DIR,
    "window_s": 0.3,
    "total_steps": MOST_STEPS,
    "budget": CarbonBudget(energy_kwh=1e-9, on_exceed="stop"),
    "options": MonitorOptions(min_window_s=0.1, span_rule=SpanRule(min_s=0.3, min_steps=3)),
}


def ended(step: int) -> None:
    Path(FOLDER, f"ended-{RANK}").write_text(str(step))


def plain() -> None:
    from carbon_plugin import watch

    dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = nn.parallel.DistributedDataParallel(nn.Linear(8, 8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer, **ARGUMENTS) as carbon:
        for step in range(1, MOST_STEPS + 1):
            model(torch.ones(2, 8)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            time.sleep(STEP_S)
            if carbon.should_stop:
                if dist.get_rank() == 0:
                    torch.save({"step": step}, FOLDER / "checkpoint.pt")
                break
            if enough():
                break
        metrics = carbon.metrics()
    ended(step)
    Path(FOLDER, f"same-{RANK}").write_text(str(torch.equal(model.module.weight, unmeasured(step))))
    if dist.get_rank() == 0:
        Path(FOLDER, "share").write_text(str(metrics.get("carbon/budget_share")))
    dist.barrier()


def unmeasured(steps: int) -> torch.Tensor:
    """Return the weight after these steps of the same loop without this package."""
    torch.manual_seed(0)
    model = nn.parallel.DistributedDataParallel(nn.Linear(8, 8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        model(torch.ones(2, 8)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.module.weight


def hf() -> None:
    from hf_trainer import Tokens
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

    from carbon_plugin.integrations.transformers import CarbonCallback

    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    arguments = TrainingArguments(
        output_dir=str(FOLDER / "out"),
        use_cpu=True,
        max_steps=MOST_STEPS,
        per_device_train_batch_size=2,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    trainer = Trainer(
        model=LlamaForCausalLM(config),
        args=arguments,
        train_dataset=Tokens(),
        callbacks=[CarbonCallback(**ARGUMENTS)],
    )
    trainer.train()
    ended(trainer.state.global_step)


def lightning() -> None:
    import lightning as pl
    from lightning_fit import Model
    from torch.utils.data import DataLoader, TensorDataset

    from carbon_plugin.integrations.lightning import CarbonCallback

    trainer = pl.Trainer(
        default_root_dir=str(FOLDER),
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_steps=MOST_STEPS,
        max_epochs=-1,
        logger=False,
        callbacks=[CarbonCallback(**ARGUMENTS)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    tokens = torch.randint(32, (64, 9))
    trainer.fit(Model(STEP_S), DataLoader(TensorDataset(tokens), batch_size=4))
    ended(trainer.global_step)


def until_stopped(carbon: Any, advance: Callable[[], object], save: Callable[[int], object]) -> None:
    """Train as the loop of a script does that asks for the stop after each step."""
    for step in range(1, MOST_STEPS + 1):
        advance()
        time.sleep(STEP_S)
        if carbon.should_stop:
            save(step)
            break
    ended(step)


def saved_on_rank_0(step: int) -> None:
    if RANK == "0":
        torch.save({"step": step}, FOLDER / "checkpoint.pt")


def decorated() -> None:
    from carbon_plugin import watch_training

    dist.init_process_group("gloo")

    @watch_training(**ARGUMENTS)
    def train(model: nn.Module, optimizer: torch.optim.Optimizer, carbon: Any) -> None:
        def advance() -> None:
            model(torch.ones(2, 8)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()

        until_stopped(carbon, advance, saved_on_rank_0)

    model = nn.parallel.DistributedDataParallel(nn.Linear(8, 8))
    train(model, torch.optim.SGD(model.parameters(), lr=0.1))  # type: ignore[call-arg]  # the decorator gives `carbon`


def accelerate() -> None:
    from accelerate import Accelerator

    from carbon_plugin.integrations.accelerate import watch

    accelerator = Accelerator(cpu=True)
    plain = nn.Linear(8, 8)
    model, optimizer = accelerator.prepare(plain, torch.optim.SGD(plain.parameters(), lr=0.1))

    def advance() -> None:
        accelerator.backward(model(torch.ones(2, 8)).sum())
        optimizer.step()
        optimizer.zero_grad()

    with watch(accelerator, model, optimizer, **ARGUMENTS) as carbon:
        until_stopped(carbon, advance, lambda step: accelerator.save_state(str(FOLDER / "checkpoint")))


def fabric() -> None:
    from lightning.fabric import Fabric

    from carbon_plugin.integrations.fabric import watch

    own = Fabric(accelerator="cpu", devices=2, strategy="ddp")
    own.launch()
    plain = nn.Linear(8, 8)
    model, optimizer = own.setup(plain, torch.optim.SGD(plain.parameters(), lr=0.1))

    def advance() -> None:
        own.backward(model(torch.ones(2, 8)).sum())
        optimizer.step()
        optimizer.zero_grad()

    with watch(own, model, optimizer, **ARGUMENTS) as carbon:
        until_stopped(carbon, advance, lambda step: own.save(FOLDER / "checkpoint.ckpt", {"step": step}))


def deepspeed() -> None:
    import deepspeed as framework

    from carbon_plugin.integrations.deepspeed import watch

    framework.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # else it is compiled here, for a minute
    framework.init_distributed("gloo")
    model = nn.Linear(8, 8)
    config = {
        "train_micro_batch_size_per_gpu": 2,
        "zero_optimization": {"stage": 1},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
    }
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    engine, *_ = framework.initialize(model=model, optimizer=optimizer, config=config)

    def advance() -> None:
        engine.backward(engine(torch.ones(2, 8)).sum())
        engine.step()

    with watch(engine, **ARGUMENTS) as carbon:
        until_stopped(carbon, advance, lambda step: engine.save_checkpoint(str(FOLDER / "checkpoint")))


def megatron() -> None:
    from megatron.core import parallel_state

    from carbon_plugin.integrations.megatron import watch

    dist.init_process_group("gloo")
    parallel_state.initialize_model_parallel(tensor_model_parallel_size=2)
    model = nn.Linear(8, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def advance() -> None:
        loss = model(torch.ones(2, 8)).sum()
        loss.backward()
        dist.all_reduce(loss.detach(), group=parallel_state.get_tensor_model_parallel_group())
        optimizer.step()

    with watch([model], optimizer, **ARGUMENTS) as carbon:
        until_stopped(carbon, advance, saved_on_rank_0)


def torchtitan() -> None:
    import torchtitan_trainer as job

    from carbon_plugin.integrations.torchtitan import watch

    dist.init_process_group("gloo")
    dist.set_timeout = lambda timeout, group: None  # type: ignore[attr-defined]  # of a later torch
    trainer, _ = job.trainer_of("out", MOST_STEPS)
    trainer.config.checkpoint.interval = MOST_STEPS
    job.MEASURED = True
    with watch(trainer, **ARGUMENTS):
        trainer.train()
    trainer.close()
    ended(trainer.step)


def jax() -> None:
    import jax as framework
    import jax.numpy as jnp

    from carbon_plugin.integrations.jax import watch_jax

    update = framework.jit(lambda weights: weights - 0.1 * framework.grad(lambda w: (w * w).sum())(weights))
    weights = jnp.ones(8)

    def advance() -> None:
        nonlocal weights
        weights = update(weights)
        carbon.step()

    with watch_jax(**ARGUMENTS) as carbon:
        until_stopped(carbon, advance, saved_on_rank_0)


LOOPS: tuple[Callable[[], None], ...] = (
    plain, hf, lightning, decorated, accelerate, fabric, deepspeed, megatron, torchtitan, jax,
)  # fmt: skip

if __name__ == "__main__":
    be_patient()
    {loop.__name__: loop for loop in LOOPS}[sys.argv[1]]()
