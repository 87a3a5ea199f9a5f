"""Read DeepSpeed from its engine: ZeRO stage and its groups, Ulysses, pipeline, experts, accumulation and precision.

An adapter hands over the engine, or the model itself is the engine, which wraps it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from carbon_plugin.detect.job import Findings, Job
from carbon_plugin.detect.observed import Observed
from carbon_plugin.spec.numbers.amounts import plural

_QUANTISED = (
    ("qwZ", "weights", "zero_quantized_weights"),
    ("qwZ", "frozen weights", "zero_quantized_nontrainable_weights"),
    ("qgZ", "gradients", "zero_quantized_gradients"),
)
"""The parts of ZeRO++ that send fewer bytes: the name, what is quantised, and the method of the engine that tells."""


def read(job: Job) -> Findings | None:
    """Return the layout and the step that a DeepSpeed engine states, or None without one."""
    engine = _engine(job)
    if engine is None:
        return None
    seen = {f"layout.{axis}": value for axis, value in _axes(engine).items()} | _step(engine)
    return Findings(fields=seen, problems=tuple(("layout", remark) for remark in _remarks(engine)))


def _engine(job: Job) -> Any:
    kind = sys.modules["deepspeed.runtime.engine"].DeepSpeedEngine
    # Accelerate keeps the engine inside a wrapper of its own.
    candidates = (job.framework, job.model, getattr(job.framework, "engine", None), getattr(job.model, "module", None))
    return next((candidate for candidate in candidates if isinstance(candidate, kind)), None)


def _axes(engine: Any) -> dict[str, Observed]:
    stated, dp, sp = engine.zero_optimization_stage(), int(engine.dp_world_size), int(engine.sequence_parallel_size)
    # The bf16 optimizer, which a pipeline in bf16 gets, gives every rank a share of the states at stage 0 too.
    by_optimizer = stated == 0 and type(engine.optimizer).__name__ == "BF16_Optimizer"
    stage = 1 if by_optimizer else stated
    # Releases that still have MiCS shard within groups of this size; -1 means that MiCS is not used.
    mics = int(getattr(engine, "mics_shard_size", int)())
    among = mics if mics > 0 else dp
    shard, replicate = (among, dp // among) if stage else (1, dp)
    zero = f"DeepSpeed engine, ZeRO stage {stated} over {plural(dp, 'rank')}"
    zero += " and BF16_Optimizer, which shards states" if by_optimizer else ""
    zero += f" in groups of {among} (MiCS)" if among != dp else ""
    axes = {
        "dp_shard": Observed(shard, zero),
        "dp_replicate": Observed(replicate, zero),
        "zero_stage": Observed(stage if shard > 1 else 0, zero),
        # Ulysses splits the sequence and exchanges it for heads around the attention core.
        "cp": Observed(sp, "engine.sequence_parallel_size"),
    }
    if sp > 1:
        axes["context_parallel_kind"] = Observed("all_to_all", "DeepSpeed-Ulysses")
    grid = getattr(engine, "grid", None)
    pp = int(grid.get_pipe_parallel_world_size()) if grid is not None else 1
    axes["pp"] = Observed(pp, "engine.grid" if grid is not None else f"class {type(engine).__name__}")
    if grid is not None:  # the engine's model-parallel ranks are its stages too
        axes["tp"] = Observed(int(grid.get_slice_parallel_world_size()), "engine.grid")
    else:
        given, automatic = int(engine.mp_world_size), int(engine.autotp_size())
        automatically = Observed(automatic, "AutoTP of DeepSpeed, engine.autotp_size()")
        # An engine that AutoTP has split counts the same ranks as model-parallel ones too.
        axes["tp"] = automatically if automatic > 1 else Observed(given, "engine.mp_world_size")
    if pp > 1:
        axes["pipeline_schedule"] = Observed("1f1b", "TrainSchedule of PipelineEngine")
        axes["virtual_stages"] = Observed(1, "PipelineEngine")
    return axes | _experts()


def _experts() -> dict[str, Observed]:
    """Return the expert parallelism by the named groups, of which there is one for each size in use; the largest
    counts.
    """
    groups = getattr(sys.modules.get("deepspeed.utils.groups"), "_EXPERT_PARALLEL_GROUP", {})
    sizes = {name: int(group.size()) for name, group in groups.items()}
    if not sizes:
        return {}
    name = max(sizes, key=lambda name: sizes[name])
    return {"ep": Observed(sizes[name], f"DeepSpeed's expert group {name!r}")}


def _step(engine: Any) -> dict[str, Observed]:
    precision, why = "fp32", "neither bf16 nor fp16 is enabled"
    for name, enabled in (("bf16", engine.bfloat16_enabled()), ("fp16", engine.fp16_enabled())):
        if enabled:
            precision, why = name, f"{name} is enabled"
    fields = {
        "training.micro_batches": Observed(
            int(engine.gradient_accumulation_steps()), "engine.gradient_accumulation_steps()"
        ),
        "layout.micro_batch_size": Observed(
            int(engine.train_micro_batch_size_per_gpu()), "engine.train_micro_batch_size_per_gpu()"
        ),
    }
    if precision != "fp32" or not _autocasts(engine):
        fields["training.precision"] = Observed(precision, f"DeepSpeed config: {why}")
    if _device(engine.zero_offload_optimizer()) is not None:
        fields["training.optimizer_offload"] = Observed(True, "engine.zero_offload_optimizer()")
    if (stage := engine.zero_optimization_stage()) > 0:
        fields["stack.shard_unit"] = Observed("bucket", f"DeepSpeed engine, ZeRO stage {stage}")
    return fields


def _autocasts(engine: Any) -> bool:
    """Return whether torch's autocast, which the batch shows, or Apex decides on the precision.

    Releases before or after either of them have no such method.
    """
    return any(bool(getattr(engine, name, bool)()) for name in ("torch_autocast_enabled", "amp_enabled"))


def _remarks(engine: Any) -> Iterator[str]:
    if _device(engine.zero_offload_param()) is not None:
        yield "DeepSpeed keeps parameters in host memory; predicted as on the device"
    secondary = int(engine.zero_hpz_partition_size())
    if secondary > 1:
        yield f"hpZ of ZeRO++ keeps second shards among {secondary} ranks; predicted without"
    for name, what, method in _QUANTISED:
        if bool(getattr(engine, method, bool)()):  # older releases have fewer of these methods
            yield f"{name} of ZeRO++ quantises the {what} that it sends; predicted as not quantised"


def _device(config: Any) -> str | None:
    """Return where an offload configuration keeps things, or None for "none" or where there is no configuration."""
    device = getattr(config, "device", None)
    name = str(getattr(device, "value", device))
    return None if device is None or name == "none" else name
