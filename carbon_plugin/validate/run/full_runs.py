"""Predict the device-hours of whole published runs from tokens, model and devices, and compare them with the reported
hours.

What a source leaves out is assumed and named. Nothing is fitted to these rows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any

import msgspec
import yaml
from msgspec import Struct

from carbon_plugin.calibrate.rows.device_names import accelerator_name
from carbon_plugin.calibrate.rows.execution.layout import row_execution
from carbon_plugin.calibrate.rows.fields import Fields
from carbon_plugin.calibrate.rows.rows import NOWHERE, shipped_architectures
from carbon_plugin.calibrate.rows.software.conventions import conventions_of_row
from carbon_plugin.errors import CarbonPluginError, InfeasibleLayoutError, SpecError
from carbon_plugin.plan.forecast import run_time_figure
from carbon_plugin.plan.goodput import run_goodput
from carbon_plugin.plan.real_run import planned_goodput
from carbon_plugin.plan.search.layouts import search_layout
from carbon_plugin.plan.search.phrases import phrase_of
from carbon_plugin.predict.step import predict_step
from carbon_plugin.spec.hardware.cluster import Cluster
from carbon_plugin.spec.hardware.profiles import default_node_for, load_accelerator
from carbon_plugin.spec.layout import ParallelLayout, Recompute
from carbon_plugin.spec.models.model import TransformerModel
from carbon_plugin.spec.models.presets import load_preset
from carbon_plugin.spec.numbers.amounts import plural
from carbon_plugin.spec.numbers.figure import Figure
from carbon_plugin.spec.numbers.units import SECONDS_PER_HOUR
from carbon_plugin.spec.run import RunSpec
from carbon_plugin.spec.stack import Stack
from carbon_plugin.spec.training import TrainingPlan

BATCH_TOKENS = 4 * 2**20
"""Largest number of tokens in a step of a run whose batch is not stated. It is usual for models of 7 B parameters and
more."""
USUAL_DEVICES = 512
"""Devices of a run whose number is not stated. Device-hours depend on it only weakly."""

SHAPES: dict[str, dict[str, Any]] = {
    "palm-540b": {"kv_heads": 1, "head_dim": 256, "ffn": 4 * 18432},
    "starcoderbase-15b": {
        "layers": 40, "hidden": 6144, "heads": 48, "kv_heads": 1, "ffn": 4 * 6144, "vocab": 49152, "gated": False,
        "tied_embeddings": True, "learned_positions": 8192,
    },
    "llama2-34b": {"layers": 48, "hidden": 8192, "heads": 64, "kv_heads": 8, "ffn": 22016, "vocab": 32000},
}  # fmt: skip
"""Dimensions that the rows leave out, from memory. Each set gives the stated number of parameters within 1 %."""


class FullRunRow(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One whole run.

    `predicted_device_hours` are those of the best case of its layout, `real_run_device_hours` those that a plan gives.
    `ratio` is best case over published, and `goodput` the share of the predicted time that trains. `skipped` says why
    there is no prediction.
    """

    id: str
    model: str
    source: str
    published_device_hours: float | None = None
    predicted_device_hours: Figure | None = None
    real_run_device_hours: Figure | None = None
    ratio: float | None = None
    mfu: float | None = None
    goodput: float | None = None
    layout: str | None = None
    assumed: tuple[str, ...] = ()
    skipped: str | None = None


def full_run_rows() -> tuple[FullRunRow, ...]:
    """Return every shipped row of a whole run with its prediction, or with the reason why it cannot be predicted."""
    return tuple(_row(raw) for raw in full_run_sources())


def full_run_sources() -> list[dict[str, Any]]:
    """Return the shipped rows in the form in which they are written."""
    text = (resources.files("carbon_plugin.calibrate.rows") / "published" / "full_runs.yaml").read_text("utf-8")
    rows: list[dict[str, Any]] = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))["rows"]
    return rows


def planned_run(raw: Mapping[str, Any], assumed: list[str], stack: Stack | None = None) -> RunSpec:
    """Return the run of a row with a layout, on `stack`, or on unknown software without one. A row that names its
    framework runs on the stack of that.

    Values that the row leaves out are appended to `assumed`. Raises `SpecError` where the run cannot be predicted.
    """
    spec = _spec(raw, assumed)
    if states_software(raw):
        return _as_stated(raw, spec, assumed)
    return _laid_out(raw, spec if stack is None else msgspec.structs.replace(spec, stack=stack), assumed)


def states_software(raw: Mapping[str, Any]) -> bool:
    """Return whether a row names the framework of the run, so that it is read as rows of step times are."""
    return "framework" in raw


def _as_stated(raw: Mapping[str, Any], spec: RunSpec, assumed: list[str]) -> RunSpec:
    """Return the run with layout, formats and stack as the row states them, and as its framework has the rest."""
    assert isinstance(spec.model, TransformerModel)  # `_model` returns no other
    row = Fields(raw)
    layout, step, stack = row_execution(row, spec.model, spec.cluster, conventions_of_row(row), assumed)
    training = msgspec.structs.replace(step, steps=None, tokens=spec.training.tokens)
    return msgspec.structs.replace(spec, layout=layout, training=training, stack=stack)


def _row(raw: Mapping[str, Any]) -> FullRunRow:
    head = FullRunRow(id=str(raw["id"]), model=str(raw["model"]), source=str(raw["source"]))
    assumed: list[str] = []
    try:
        spec = planned_run(raw, assumed)
        prediction = predict_step(spec)
        goodput = run_goodput(spec, prediction)
        real = planned_goodput(spec, prediction)
    except CarbonPluginError as error:
        return msgspec.structs.replace(head, skipped=str(error))
    hours = run_time_figure(prediction, goodput).scaled(spec.cluster.devices / SECONDS_PER_HOUR, "h")
    assert spec.layout is not None  # just chosen or read
    return msgspec.structs.replace(
        head,
        published_device_hours=float(raw["gpu_hours"]),
        predicted_device_hours=hours,
        real_run_device_hours=run_time_figure(prediction, real).scaled(spec.cluster.devices / SECONDS_PER_HOUR, "h"),
        ratio=hours.value / float(raw["gpu_hours"]),
        mfu=prediction.mfu,
        goodput=goodput.useful_share,
        layout=phrase_of(spec.layout),
        assumed=tuple(assumed),
    )


def _spec(raw: Mapping[str, Any], assumed: list[str]) -> RunSpec:
    model = _model(raw, assumed)
    cluster = _cluster(raw, assumed)
    seq_len = int(raw["seq_len"])
    batch = raw.get("gbs")
    if batch is None:
        # Every device gets the same number of sequences, the largest power of two with which the step does not exceed
        # the usual batch.
        batch = cluster.devices * 2 ** max(0, math.floor(math.log2(BATCH_TOKENS / seq_len / cluster.devices)))
        assumed.append(f"{batch:,} sequences a step")
    training = TrainingPlan(
        seq_len=seq_len,
        global_batch_size=int(batch),
        tokens=float(raw["tokens_total_t"]) * 1e12,
        precision=raw["precision"],
    )
    return RunSpec(name=str(raw["id"]), model=model, cluster=cluster, training=training, site=NOWHERE)


def _model(raw: Mapping[str, Any], assumed: list[str]) -> TransformerModel:
    if "preset" in raw:
        return load_preset(str(raw["preset"]))
    known = shipped_architectures().get(str(raw.get("arch")), {})
    missing = SHAPES.get(str(raw["id"]), {})
    shape = {**known, **{key: value for key, value in raw.items() if value is not None}, **missing}
    if missing:
        assumed.append(f"{', '.join(missing)} from memory")
    for field in ("layers", "hidden", "heads", "ffn", "vocab"):
        if field not in shape:
            raise SpecError(f"{field} is not stated")
    gated = bool(shape.get("gated", "gelu" not in str(shape.get("mlp", ""))))
    return TransformerModel(
        name=str(raw["model"]),
        layers=int(shape["layers"]),
        hidden=int(shape["hidden"]),
        heads=int(shape["heads"]),
        kv_heads=int(shape.get("kv_heads") or shape["heads"]),
        head_dim=int(shape.get("head_dim") or shape["hidden"] // shape["heads"]),
        ffn=int(shape["ffn"]),
        vocab=int(shape["vocab"]),
        gated=gated,
        tied_embeddings=bool(shape.get("tied_embeddings", not gated)),
        learned_positions=int(shape.get("learned_positions", 0)),
        source=str(shape.get("source", "published run")),
    )


def _cluster(raw: Mapping[str, Any], assumed: list[str]) -> Cluster:
    device = load_accelerator(accelerator_name(str(raw["gpu"])))
    node = default_node_for(device)
    devices = raw.get("n_gpus")
    if devices is None:
        devices = USUAL_DEVICES
        assumed.append(plural(devices, "device"))
    return Cluster(
        accelerator=device, node=node, nodes=int(devices) // node.accelerators, devices_per_node=node.accelerators
    )


def _laid_out(raw: Mapping[str, Any], spec: RunSpec, assumed: list[str]) -> RunSpec:
    """Return the run with its stated degrees, and with the fastest micro-batch and recompute that fit.

    Without stated degrees the run gets the fastest of all layouts. Raises `InfeasibleLayoutError` where nothing fits.
    """
    if raw.get("tp") is None and raw.get("sharding") is None:
        assumed.append("the fastest layout that fits")
        return msgspec.structs.replace(spec, layout=search_layout(spec).layout)
    best: RunSpec | None = None
    fastest_s = math.inf
    for layout in _stated_layouts(raw, spec):
        tried = msgspec.structs.replace(spec, layout=layout)
        step = predict_step(tried)
        if step.memory.fits and step.step_time_s.value < fastest_s:
            best, fastest_s = tried, step.step_time_s.value
    if best is None:
        raise InfeasibleLayoutError("no micro-batch and recompute fit in the stated degrees of parallelism")
    unstated = [name for name, key in (("micro-batch", "mbs"), ("recompute", "recompute")) if raw.get(key) is None]
    if unstated:
        assumed.append(f"the fastest {' and '.join(unstated)} that fit")
    return best


def _stated_layouts(raw: Mapping[str, Any], spec: RunSpec) -> Iterator[ParallelLayout]:
    tp, pp = int(raw.get("tp") or 1), int(raw.get("pp") or 1)
    dp = spec.cluster.devices // (tp * pp)
    share = spec.training.global_batch_size // dp
    sizes = [int(raw["mbs"])] if raw.get("mbs") else [size for size in (1, 2, 4, 8) if share % size == 0]
    kinds: tuple[Recompute, ...] = ("none", "selective", "operators", "full")
    stated = str(raw.get("recompute") or "")
    if "selective" in stated:
        kinds = ("operators",)
    elif stated == "yes":
        kinds = ("full",)
    for size, kind in itertools.product(sizes, kinds):
        yield ParallelLayout(
            tp=tp,
            pp=pp,
            dp_shard=dp,
            zero_stage=3 if "FSDP" in str(raw.get("sharding")) else 1,
            sequence_parallel=tp > 1,
            micro_batch_size=size,
            recompute=kind,
        )
