"""Describe the work of a training run: batch, sequence length, precision, optimizer and number of steps."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from msgspec import Struct

from carbon_plugin.errors import SpecError
from carbon_plugin.spec.parsing.limits import MOST_COUNT, MOST_WIDTH, check_at_most, check_not_negative, check_positive

Precision = Literal["bf16", "fp16", "fp8", "mxfp8", "nvfp4", "fp32", "tf32"]
PRECISION_NAMES: Mapping[str, Precision] = MappingProxyType(
    {
        "bf16": "bf16",
        "bfloat16": "bf16",
        "bf16-mixed": "bf16",
        "fp16": "fp16",
        "float16": "fp16",
        "16-mixed": "fp16",
        "half": "fp16",
        "16": "fp16",
        "fp32": "fp32",
        "float32": "fp32",
        "32": "fp32",
        "tf32": "tf32",
        "fp8": "fp8",
        "float8": "fp8",
        "mxfp8": "mxfp8",
        "nvfp4": "nvfp4",
    }
)
"""The names by which people call a precision: ours, those of PyTorch and of Lightning."""
Optimizer = Literal["adamw", "adam", "sgd", "adafactor", "muon"]
RunKind = Literal["production", "benchmark"]
StateDtype = Literal["fp32", "bf16", "fp8"]
MOST_TOKENS = 1e18
"""This is ten thousand times the tokens of the largest run for which anybody evaluated a scaling law: more is a
slip.
"""
MOST_OVERHEAD = 100.0
"""The largest overhead, as a multiple of the time in steps: a run that loses more makes no progress."""


class Evaluation(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One instance holds how a run is evaluated: `sequences` are passed forward after every `every_steps` optimizer
    steps.
    """

    every_steps: int
    sequences: int

    def __post_init__(self) -> None:
        check_positive(self, "every_steps", "sequences", owner="evaluation: ")
        check_at_most(self, MOST_COUNT, "every_steps", "sequences", owner="evaluation: ")


class Reliability(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One instance holds the inputs of the time that a run loses to start-up, checkpoints and failures. Values that are
    not set are assumed, with a source and a range.

    `startup_time_s` is the time from allocation to the first steady step. `mtbf_device_hours` is the mean number of
    device-hours between two failures that stop the job, and `restart_time_s` the time from a failure until training
    goes on. A checkpoint is written every `checkpoint_every_steps` steps (unset: at the interval that loses least) and
    stops training for `checkpoint_write_s`. Where that time is unset, it follows from the size of the checkpoint and
    `storage_bytes_per_s_per_node`, or with `asynchronous_checkpoints` from the copy to host memory.
    """

    startup_time_s: float | None = None
    mtbf_device_hours: float | None = None
    restart_time_s: float | None = None
    checkpoint_every_steps: int | None = None
    checkpoint_write_s: float | None = None
    storage_bytes_per_s_per_node: float | None = None
    asynchronous_checkpoints: bool = False

    def __post_init__(self) -> None:
        check_not_negative(self, "startup_time_s", "restart_time_s", "checkpoint_write_s", owner="reliability: ")
        check_positive(self, "mtbf_device_hours", "checkpoint_every_steps", owner="reliability: ")
        check_positive(self, "storage_bytes_per_s_per_node", owner="reliability: ")
        if self.checkpoint_write_s is not None and self.storage_bytes_per_s_per_node is not None:
            raise SpecError("reliability: give checkpoint_write_s or storage_bytes_per_s_per_node, not both")
        if self.asynchronous_checkpoints and self.storage_bytes_per_s_per_node is not None:
            raise SpecError(
                "reliability: storage_bytes_per_s_per_node counts only without asynchronous_checkpoints, which stop "
                "training for the copy to host memory"
            )


class TrainingPlan(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One plan holds the work of a run.

    `seq_len` is in tokens per sequence, `global_batch_size` in sequences per optimizer step. The length of the run is
    `steps`, or `tokens` rounded up to whole steps; exactly one of them is given. `optimizer_state_dtype` is the type of
    the moments. Without `master_weights` parameters, gradients and update stay in the training precision ("pure bf16").
    `optimizer_in_backward` updates a layer as soon as its gradient is there, so that the gradients are never all kept.
    `optimizer_offload` keeps states and master weights in host memory, with FSDP the sharded parameters too, and
    updates them there. `activation_offload` is the share of layers whose activations are kept in host memory until the
    backward pass.

    `input_len` is the number of tokens of one input of an encoder (the text of an encoder-decoder, the patches of an
    image of a vision tower); a sequence has `inputs_per_sequence` of them, 0 where a model with a tower trains on text
    alone. `scored_len` is the number of tokens of a sequence for which head and loss are computed (None: all of them),
    as in pre-training of BERT that gathers the masked ones.

    `evaluation` and `reliability` say what else takes time. `overhead_fraction`, where it is stated, replaces both: it
    is the time spent on evaluation, checkpoints, restarts and lost work over the time spent in training steps. `kind`
    says whether the run is planned as real runs are (docs/goodput.md), or as the best case of its layout: a benchmark
    of some hundred steps.
    """

    seq_len: int
    global_batch_size: int
    steps: int | None = None
    tokens: float | None = None
    precision: Precision = "bf16"
    optimizer: Optimizer = "adamw"
    optimizer_state_dtype: StateDtype = "fp32"
    master_weights: bool = True
    optimizer_in_backward: bool = False
    optimizer_offload: bool = False
    activation_offload: float = 0.0
    input_len: int | None = None
    inputs_per_sequence: int = 1
    scored_len: int | None = None
    overhead_fraction: float | None = None
    evaluation: Evaluation | None = None
    reliability: Reliability = Reliability()
    kind: RunKind = "production"

    def __post_init__(self) -> None:
        check_positive(self, "seq_len", "global_batch_size", "steps", "tokens", owner="training: ")
        check_positive(self, "input_len", "scored_len", owner="training: ")
        if (self.scored_len or 0) > self.seq_len:
            raise SpecError(f"training: scored_len is {self.scored_len}, expected at most seq_len {self.seq_len}")
        check_not_negative(self, "inputs_per_sequence", owner="training: ")
        check_at_most(self, MOST_WIDTH, "seq_len", "global_batch_size", owner="training: ")
        check_at_most(self, MOST_WIDTH, "input_len", "inputs_per_sequence", owner="training: ")
        check_at_most(self, MOST_COUNT, "steps", owner="training: ")
        if (self.steps is None) == (self.tokens is None):
            raise SpecError(f"training: give steps or tokens, exactly one; got steps={self.steps} tokens={self.tokens}")
        if self.tokens is not None and self.tokens > MOST_TOKENS:
            raise SpecError(f"training: tokens is {self.tokens:g}, expected at most {MOST_TOKENS:g}")
        if self.tokens is not None and self.tokens < 1:
            raise SpecError(f"training: tokens is {self.tokens:g}, expected at least 1, such as 15e12 for 15 trillion")
        if not 0 <= self.activation_offload <= 1:
            raise SpecError(f"training: activation_offload is {self.activation_offload:g}, expected 0 to 1")
        if self.overhead_fraction is not None:
            if not 0 <= self.overhead_fraction <= MOST_OVERHEAD:
                raise SpecError(
                    f"training: overhead_fraction is {self.overhead_fraction:g}, expected 0 to {MOST_OVERHEAD:g}"
                )
            if self.evaluation is not None or self.reliability != Reliability():
                raise SpecError(
                    f"training: overhead_fraction {self.overhead_fraction:g} stands for all time outside the steps; "
                    "give it, or evaluation and reliability, not both"
                )

    @property
    def tokens_per_step(self) -> int:
        """Return the number of tokens in an optimizer step."""
        return self.seq_len * self.global_batch_size

    @property
    def total_steps(self) -> int:
        """Return the number of optimizer steps of the run."""
        if self.steps is not None:
            return self.steps
        assert self.tokens is not None  # `__post_init__` has checked that exactly one is set
        return max(1, -int(-self.tokens // self.tokens_per_step))


def plainly_named(training: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a training plan as somebody wrote them, with our name for its precision."""
    precision = training.get("precision")
    known = PRECISION_NAMES.get(precision.lower()) if isinstance(precision, str) else None
    return {**training, "precision": known} if known is not None else dict(training)
