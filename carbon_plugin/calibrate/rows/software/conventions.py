"""Find the framework of a published row by its name, release, device and notes."""

from __future__ import annotations

import re

import msgspec

from carbon_plugin.calibrate.rows.fields import Fields
from carbon_plugin.calibrate.rows.software.releases import release_of
from carbon_plugin.spec.frameworks import (
    BRIDGE_FINE_TUNING,
    COMPILED,
    DEEPSPEED,
    HF_TRAINER,
    LLM_C,
    MEGATRON_2021,
    MEGATRON_2023,
    MEGATRON_BRIDGE,
    MEGATRON_CORE,
    NEMO_BEFORE_FLASH,
    ON_TPU,
    ORDINARY_SOFTWARE,
    PYTORCH,
    PYTORCH_FSDP1,
    TRAINER,
    UNKNOWN,
    Conventions,
    framework_beginning,
    framework_named,
)
from carbon_plugin.spec.stack import ORDINARY, TUNED

FINE_TUNING = re.compile(r"(?i)\bfine-?tun|\bsft\b")
"""Words of a note for a run that trains a finished model on. Packed documents are no sign of it: pre-training packs
too."""
PLAIN = (UNKNOWN, ORDINARY_SOFTWARE, PYTORCH, PYTORCH_FSDP1, TRAINER, HF_TRAINER)
"""PyTorch and what runs its modules as they are, which is other software where a compiler fuses them."""
FLASH_SINCE = (23, 8)
OLD_MEGATRON = re.compile(r"megatron-lm.*\b20(19|2[0-2])\b")
OWN_MODULES = re.compile(r"megatron-lm.*\b2023\b")
CORE_MODULES = re.compile(r"megatron-lm.*\b20(2[4-9]|[3-9]\d)\b")
"""Megatron-LM trains the modules of Megatron-core unless told otherwise since 2024 (`--use-legacy-models` of its
arguments.py)."""
MEGATRON_BY_YEAR = ((OLD_MEGATRON, MEGATRON_2021), (OWN_MODULES, MEGATRON_2023), (CORE_MODULES, MEGATRON_CORE))
FUSED_BY_HAND = re.compile(
    r"(?i)\bliger\b(?! fused linear)|\bunsloth\b|fms-acceleration fused|flash-attention training"
)
"""Libraries of kernels that fuse by hand what `torch.compile` fuses: norms, gates, rotary positions and loss
(linkedin/Liger-Kernel; unslothai/unsloth, whose kernels are those of foundation-model-stack/fms-acceleration's
plugins/fused-ops-and-kernels too; training/README.md of Dao-AILab/flash-attention)."""
OWN_KERNELS = re.compile(r"(?i)\bfused (norm|kernels)|\bown cuda kernels")
"""Words of software whose norms, rotary positions and gates are single kernels, though nobody compiled it."""
NO_FRAMEWORK = re.compile(r"\bCUDA and C(\+\+)?(?![\w+])")
"""Words of programs that are kernels and the code that launches them."""
PYTORCH_BASED = re.compile(
    r"(?i)torch|transformers|hugging|\bhf\b|lightning|accelerate|\btrl\b|\bpeft\b|axolotl|llama-?factory|xtuner|^fsdp|^ddp"
)
UNDER_DEEPSPEED = re.compile(r"(hf trainer|hugging face).*\bdeepspeed\b")
"""Trainers of transformers' modules that hand them to DeepSpeed, whose hooks gather what it shards module by module."""
XLA_DEVICE = re.compile(r"(?i)pytorch/?-?xla|\btorch_?xla\b")
"""PyTorch that XLA runs: a whole step is one compiled program."""
MANY_DEVICES = 1024
"""From so many devices on, software that nobody here knows counts as tuned like Megatron-core, where it cuts layers or
stages. An hour of them costs thousands of dollars, and those who published such jobs tuned code of their own for them:
Llama 3 (arXiv 2407.21783 section 3.3), MegaScale (arXiv 2402.15627 section 3) and PaLM (arXiv 2204.02311 section 4)."""


def conventions_of_row(row: Fields) -> Conventions:
    """Return the defaults of the row's framework.

    Plain PyTorch, and software that nobody here knows, is compiled software where the row says so. XLA compiles unknown
    software on TPUs, and unknown software that cuts a model over many devices is tuned.
    """
    found = conventions_of(row.text("framework"))
    cut = any((row.optional_count(axis) or 1) > 1 for axis in ("tp", "pp"))
    if found == UNKNOWN and cut and (row.optional_count("n_gpus") or 1) >= MANY_DEVICES:
        return MEGATRON_CORE
    framework = row.text("framework")
    if found == MEGATRON_BRIDGE and FINE_TUNING.search(row.text("notes")):
        return BRIDGE_FINE_TUNING
    if found == UNKNOWN and row.text("gpu").upper().startswith("TPU"):
        return ON_TPU
    if found == UNKNOWN and NO_FRAMEWORK.search(framework):
        return LLM_C
    words = " ".join(row.text(name) for name in ("framework", "overlap", "notes"))
    by_hand = FUSED_BY_HAND.search(words) or XLA_DEVICE.search(framework)
    if found in PLAIN and (by_hand or "compile" in row.text("overlap")):
        return COMPILED if found == UNKNOWN else msgspec.structs.replace(found, name=COMPILED.name)
    return found


def conventions_of(framework: str) -> Conventions:
    """Return the defaults of a framework by its name and release. An unknown one gets those of plain PyTorch FSDP."""
    text = framework.lower()
    if (named := framework_named(text)) is not None:
        return named
    for dated, conventions in MEGATRON_BY_YEAR:
        if dated.match(text):
            return conventions
    if re.match(r"nemo 2[0-3]\.", text) and "mlperf" not in text and release_of(text) < FLASH_SINCE:
        return NEMO_BEFORE_FLASH
    found = framework_beginning(text)
    if found in PLAIN and UNDER_DEEPSPEED.match(text):
        found = DEEPSPEED
    if "mlperf" in text and found.stack.population == ORDINARY:
        # Submissions to a benchmark are tuned for their hardware, whatever the name of the software.
        return msgspec.structs.replace(found, name=TUNED, fields={**found.fields, "reentrant": found.reentrant})
    return found


def is_pytorch(conventions: Conventions, row: Fields) -> bool:
    """Return whether modules and optimizer may be PyTorch's own: its software is known here, or is named after it."""
    return conventions.name != UNKNOWN.name or PYTORCH_BASED.search(row.text("framework")) is not None
