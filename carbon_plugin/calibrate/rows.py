"""Published measurements as runs that the predictor can predict.

Reads the records schema (`architectures` + `rows`, YAML) and vTrain's CSV. A row that does not say enough is
skipped with the missing field named; a documented default of its framework is used where the field is only
unstated, and named in `assumed`.
"""

from __future__ import annotations

import csv
import functools
import io
import re
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
import yaml
from msgspec import Struct

from carbon_plugin.calibrate.conventions import Conventions, accelerator_name, conventions_of, stack_of
from carbon_plugin.errors import CarbonPluginError, SpecError
from carbon_plugin.spec.figure import Sourced
from carbon_plugin.spec.hardware import Cluster
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.model import MixtureOfExperts, MultiLatentAttention, TransformerModel
from carbon_plugin.spec.profiles import load_accelerator, load_node
from carbon_plugin.spec.run import RunSpec, check_layout
from carbon_plugin.spec.site import Site
from carbon_plugin.spec.stack import Stack
from carbon_plugin.spec.training import TrainingPlan

NOWHERE = Site(zone=None, intensity_g_per_kwh=0.0, intensity_source="a published step time has no site")
MAX_UNSPLIT_BATCH = 16
"""Sequences a rank that are taken for one micro-batch where neither micro-batch nor accumulation is stated."""
VTRAIN_NIC_BYTES_PER_S = 12.5e9
"""4 x 200 Gb/s a node of 8 (vTrain, section 5)."""


class PublishedRow(Struct, frozen=True, kw_only=True):
    """One measured configuration. `model_key` groups rows of one model over all sources (for leaving it out)."""

    id: str
    source: str
    accelerator: str
    framework: str
    model_key: str
    spec: RunSpec
    measured_step_time_s: float
    measured_memory_bytes: float | None = None
    memory_is_reserved: bool = False
    assumed: tuple[str, ...] = ()


class SkippedRow(Struct, frozen=True, kw_only=True):
    """A row that cannot be predicted, and why."""

    id: str
    source: str
    reason: str


class _MissingError(Exception):
    """A field that has no default is not stated."""


def read_rows(path: Path) -> tuple[list[PublishedRow], list[SkippedRow]]:
    """All rows of a records file. Raises `SpecError` naming the file if it is neither of the two formats."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}") from error
    if path.suffix == ".csv":
        return list(_vtrain_rows(path.stem, text)), []
    try:
        document = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise SpecError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict) or not isinstance(document.get("rows"), list):
        raise SpecError(f"{path}: expected a mapping with a list `rows`")
    architectures = {**shipped_architectures(), **(document.get("architectures") or {})}
    rows: list[PublishedRow] = []
    skipped: list[SkippedRow] = []
    for number, raw in enumerate(document["rows"]):
        if not isinstance(raw, dict):
            raise SpecError(f"{path}: rows[{number}] is {raw!r}, expected a mapping")
        identity, source = str(raw.get("id", f"row {number}")), short_source(raw)
        try:
            rows.append(_row(identity, source, raw, architectures))
        except _MissingError as missing:
            skipped.append(SkippedRow(id=identity, source=source, reason=f"{missing} is not stated"))
        except CarbonPluginError as error:
            skipped.append(SkippedRow(id=identity, source=source, reason=str(error)))
    return rows, skipped


@functools.cache
def shipped_architectures() -> Mapping[str, Any]:
    """Model shapes shipped with the published rows; a records file may refer to them by name."""
    text = (resources.files("carbon_plugin.calibrate") / "published" / "architectures.yaml").read_text("utf-8")
    shapes: dict[str, Any] = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))["architectures"]
    return shapes


def short_source(raw: Mapping[str, Any]) -> str:
    """The source group that a row is reported under: the id's first words, which name the data set and device."""
    words = str(raw.get("id", "unnamed")).split("-")
    return "-".join(words[:2]) if words[0] == "llmf" else words[0]


def _row(identity: str, source: str, raw: dict[str, Any], architectures: Mapping[str, Any]) -> PublishedRow:
    if raw.get("kind") in ("oom_probe", "lora_benchmark", "full_run") or raw.get("oom"):
        raise SpecError(f"kind {raw.get('kind')}: not a step time of full training")
    framework = str(raw.get("framework") or "unknown")
    conventions = conventions_of(framework, accelerator_name(str(_need(raw, "gpu"))))
    assumed: list[str] = []
    model = _model(raw, architectures, conventions, assumed)
    cluster = _cluster(raw, assumed)
    layout, training, stack = _execution(raw, model, cluster, conventions, assumed)
    check_layout(model, cluster, layout)
    layout.micro_batches(training.global_batch_size)
    spec = RunSpec(
        name=identity, model=model, cluster=cluster, training=training, site=NOWHERE, layout=layout, stack=stack
    )
    memory = raw.get("mem_gib_per_gpu")
    return PublishedRow(
        id=identity,
        source=source,
        accelerator=cluster.accelerator.name,
        framework=conventions.name,
        model_key=f"{model.hidden}x{model.layers}" + ("moe" if model.moe else ""),
        spec=spec,
        measured_step_time_s=_step_time(raw, model, cluster, training, layout),
        measured_memory_bytes=float(memory) * 2**30 if memory is not None else None,
        memory_is_reserved=conventions.reports_reserved_memory,
        assumed=tuple(assumed),
    )


def _need(raw: Mapping[str, Any], *names: str) -> Any:
    for name in names:
        if raw.get(name) is not None:
            return raw[name]
    raise _MissingError(names[0])


def _model(
    raw: dict[str, Any], architectures: Mapping[str, Any], conventions: Conventions, assumed: list[str]
) -> TransformerModel:
    arch = raw.get("arch")
    if arch is not None and arch not in architectures:
        raise SpecError(f"arch {arch} is not among the file's architectures")
    shape = {**(architectures[arch] if arch else {}), **{k: v for k, v in raw.items() if v is not None}}
    layers, hidden, heads = (int(_need(shape, name)) for name in ("layers", "hidden", "heads"))
    vocab = shape.get("vocab")
    if vocab is None:
        vocab = 51200
        assumed.append("vocab 51200")
    moe = _experts(shape)
    ffn = int(_need(shape, "ffn")) if moe is None else int(shape.get("ffn") or moe.expert_ffn)
    mla = _latent_attention(shape)
    gated = "swiglu" in str(shape.get("mlp", "gelu")) or "gated" in str(shape.get("mlp", ""))
    window = re.search(r"(\d+)-token sliding", str(shape.get("note", "")))
    return TransformerModel(
        name=str(raw.get("model", arch)),
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=int(shape.get("kv_heads") or heads),
        head_dim=int(shape.get("head_dim") or hidden // heads),
        ffn=ffn,
        vocab=int(vocab),
        gated=gated,
        tied_embeddings=not gated,
        dropout=conventions.dropout,
        sliding_window=int(window.group(1)) if window else None,
        sliding_window_layers=layers // 2 if window else None,
        mla=mla,
        moe=moe,
        source=str(shape.get("source", "records file")),
    )


def _experts(shape: Mapping[str, Any]) -> MixtureOfExperts | None:
    if not shape.get("n_experts"):
        return None
    width = int(shape.get("moe_ffn") or _need(shape, "ffn"))
    return MixtureOfExperts(
        experts=int(shape["n_experts"]),
        top_k=int(_need(shape, "top_k")),
        expert_ffn=width,
        shared_ffn=int(shape.get("shared_experts") or 0) * width,
        every=int(shape.get("moe_every") or 1),
        first_dense_layers=_dense_layers(shape),
    )


def _dense_layers(shape: Mapping[str, Any]) -> int:
    """Leading dense layers. A model cut to a few layers keeps one: SimuMax's measured memory of the cut DeepSeek-V3
    (104 GiB on 8 devices) fits three sparse layers of four and no other number."""
    stated = int(shape.get("dense_layers") or 0)
    return min(stated, 1) if shape.get("kind") == "benchmark_truncated_layers" else stated


def _latent_attention(shape: Mapping[str, Any]) -> MultiLatentAttention | None:
    text = str(shape.get("attention", ""))
    if not text.startswith("MLA"):
        return None
    ranks = {name: int(value) for name, value in re.findall(r"(q_lora|kv_lora|qk_nope|qk_rope|v) (\d+)", text)}
    return MultiLatentAttention(
        q_lora_rank=ranks.get("q_lora"),
        kv_lora_rank=ranks["kv_lora"],
        qk_nope_head_dim=ranks["qk_nope"],
        qk_rope_head_dim=ranks["qk_rope"],
        v_head_dim=ranks["v"],
    )


def _cluster(raw: dict[str, Any], assumed: list[str]) -> Cluster:
    device = load_accelerator(accelerator_name(str(_need(raw, "gpu"))))
    if device.default_node is None:
        raise SpecError(f"gpu {device.name} has no node profile")
    node = load_node(device.default_node)
    devices = int(_need(raw, "n_gpus"))
    per_node = min(devices, int(raw.get("gpus_per_node") or node.accelerators))
    if devices % per_node:
        raise SpecError(f"n_gpus {devices} is not a multiple of gpus_per_node {per_node}")
    if per_node > node.accelerators:
        # A larger chassis of the same part (DGX-2): same device, more of them on the switch.
        node = msgspec.structs.replace(node, accelerators=per_node)
        scaleup = msgspec.structs.replace(device.scaleup, domain=max(per_node, device.scaleup.domain))
        device = msgspec.structs.replace(device, scaleup=scaleup)
    nic = nic_bytes_per_s(str(raw.get("inter_node") or ""), per_node)
    if nic is not None:
        bandwidth = Sourced(nic, "the row's inter_node", "read")
        node = msgspec.structs.replace(
            node, network=msgspec.structs.replace(node.network, bandwidth_bytes_per_s=bandwidth)
        )
    elif devices > per_node:
        assumed.append(f"network {node.network.bandwidth_bytes_per_s.value / 1.25e8:.0f} Gb/s a device")
    cap = raw.get("gpu_power_cap_w")
    if cap is not None and float(cap) < device.tdp_w.value:
        device = msgspec.structs.replace(device, tdp_w=Sourced(float(cap), "the row's power cap", "read"))
    return Cluster(accelerator=device, node=node, nodes=devices // per_node, devices_per_node=per_node)


def nic_bytes_per_s(text: str, per_node: int) -> float | None:
    """One-way bytes/s of NIC a device from a phrase such as "1600 Gb/s RoCE per node" or "8x NDR400 IB"."""
    if match := re.search(r"(\d+)\s*Gb/?s?p?s?\b.*per node", text):
        return float(match.group(1)) * 1.25e8 / per_node
    if match := re.search(r"(\d+)\s*Gb/s.*per GPU", text):
        return float(match.group(1)) * 1.25e8
    if match := re.search(r"(\d+)x\s*(?:HDR|NDR)(\d+)|RoCE (\d+)x(\d+)G", text):
        count, rate = [int(group) for group in match.groups() if group]
        return count * rate * 1.25e8 / 8
    return None


def _execution(
    raw: dict[str, Any], model: TransformerModel, cluster: Cluster, conventions: Conventions, assumed: list[str]
) -> tuple[ParallelLayout, TrainingPlan, Stack]:
    if raw.get("tp") is None and raw.get("sharding") is None and cluster.devices > 1:
        raise _MissingError("tp")
    tp, pp, cp, ep = (int(raw.get(axis) or 1) for axis in ("tp", "pp", "cp", "ep"))
    dp = cluster.devices // (tp * pp * cp)
    stage = _zero_stage(raw, conventions, assumed) if dp * cp > 1 else 0
    batch, size = _batch(raw, dp, conventions, assumed)
    overlap = str(raw.get("overlap") or "")
    chunks = int(raw.get("vp") or (2 if "interleaved" in overlap else 1)) if pp > 1 else 1
    if chunks * pp > model.layers:
        chunks = max(1, model.layers // pp)
    recompute = _recompute(raw, conventions, assumed)
    sequence = raw.get("sp")
    shards = _hybrid_shards(raw, dp) if stage == 3 else dp
    layout = ParallelLayout(
        tp=tp,
        cp=cp,
        pp=pp,
        dp_replicate=dp if stage == 0 else dp // shards,
        dp_shard=1 if stage == 0 else shards,
        ep=ep,
        zero_stage=stage,  # type: ignore[arg-type]
        sequence_parallel=bool(conventions.sequence_parallel if sequence is None else sequence) and tp > 1,
        pipeline_schedule="dualpipe"
        if conventions.dualpipe and pp % 2 == 0
        else "interleaved"
        if chunks > 1
        else "1f1b",
        virtual_stages=chunks,
        micro_batch_size=size,
        recompute=recompute,  # type: ignore[arg-type]
        recompute_reentrant=conventions.reentrant,
        async_tp=conventions.async_tp or "async TP" in overlap or "tp-comm-overlap" in overlap,
        context_parallel_kind=conventions.context_parallel,  # type: ignore[arg-type]
    )
    precision = _precision(str(_need(raw, "precision")))
    training = TrainingPlan(
        seq_len=int(_need(raw, "seq_len")),
        global_batch_size=batch,
        steps=1,
        precision=precision,  # type: ignore[arg-type]
    )
    stack = stack_of(conventions, raw, sparse=model.moe is not None, device=cluster.accelerator, precision=precision)
    return layout, training, stack


def _zero_stage(raw: Mapping[str, Any], conventions: Conventions, assumed: list[str]) -> int:
    text = str(raw.get("sharding") or "")
    for mark, stage in (
        ("ZeRO-3", 3),
        ("ZeRO-2", 2),
        ("ZeRO-1", 1),
        ("distributed optimizer", 1),
        ("FSDP", 3),
        ("none", 0),
    ):
        if mark in text:
            return stage
    assumed.append(f"sharding ZeRO-{conventions.zero_stage}")
    return conventions.zero_stage


def _hybrid_shards(raw: Mapping[str, Any], dp: int) -> int:
    """Shard group of a hybrid layout: MaxText's "DP n" replicas, or Megatron-FSDP "over n"."""
    text = str(raw.get("sharding") or "")
    if match := re.search(r"DP (\d+)$", text):
        return dp // int(match.group(1))
    if match := re.search(r"over (\d+)$", text):
        return min(dp, int(match.group(1)))
    return dp


def _batch(raw: Mapping[str, Any], dp: int, conventions: Conventions, assumed: list[str]) -> tuple[int, int]:
    """(global batch, micro-batch) in sequences."""
    size, batch, rounds = raw.get("mbs"), raw.get("gbs"), raw.get("grad_accum")
    stages = int(raw.get("pp") or 1)
    if size is not None and stages > 1 and conventions.local_batch_is_split:
        # The stated size is the batch of a data-parallel rank, run as one micro-batch a stage.
        total = int(batch or int(size) * dp)
        assumed.append(f"mbs {max(1, int(size) // stages)}")
        return total, max(1, int(size) // stages)
    if batch is None:
        if size is None:
            raise _MissingError("gbs")
        assumed.append(f"gbs {int(size) * dp * int(rounds or 1)}")
        return int(size) * dp * int(rounds or 1), int(size)
    if size is None:
        share = max(1, int(batch) // dp)
        whole = rounds is None and stages == 1 and share <= MAX_UNSPLIT_BATCH
        size = share if whole else max(1, share // int(rounds)) if rounds else 1
        assumed.append(f"mbs {size}")
    return int(batch), int(size)


def _recompute(raw: Mapping[str, Any], conventions: Conventions, assumed: list[str]) -> str:
    text = str(raw.get("recompute") or "")
    if not text:
        assumed.append(f"recompute {conventions.recompute}")
        return conventions.recompute
    if "per-op" in text or "selective AC" in text:
        return "operators"
    for word in ("none", "full", "selective"):
        if word in text:
            return word
    return "full"


def _precision(text: str) -> str:
    word = re.split(r"[\s/-]", text, maxsplit=1)[0]
    if word in ("bf16", "fp16", "fp32", "mxfp8", "nvfp4"):
        return word
    if word == "fp8":
        return "mxfp8" if text.startswith("fp8-mx") else "fp8"
    raise SpecError(f"precision {text!r} is not one that the model knows")


def _step_time(
    raw: Mapping[str, Any], model: TransformerModel, cluster: Cluster, training: TrainingPlan, layout: ParallelLayout
) -> float:
    """Measured seconds a step: stated, or from tokens/s, or from FLOP/s or MFU with the row's own FLOP convention."""
    derived = raw.get("derived") or {}
    if raw.get("step_time_s") is not None:
        return float(raw["step_time_s"])
    rate = raw.get("tokens_per_s_per_gpu") or derived.get("tokens_per_s_per_gpu")
    if rate is not None and not (derived.get("step_time_s") and raw.get("gbs")):
        return training.tokens_per_step / (float(rate) * cluster.devices)
    if derived.get("step_time_s") is not None:
        return float(derived["step_time_s"])
    return _flops_convention(raw, model, training, layout) / (_achieved_flops(raw, cluster) * cluster.devices)


def _achieved_flops(raw: Mapping[str, Any], cluster: Cluster) -> float:
    if raw.get("tflops_per_gpu") is not None:
        return float(raw["tflops_per_gpu"]) * 1e12
    peak = cluster.accelerator.peak_flops["bf16"].value
    return float(_need(raw, "mfu_pct")) / 100 * peak


def _flops_convention(
    raw: Mapping[str, Any], model: TransformerModel, training: TrainingPlan, layout: ParallelLayout
) -> float:
    from carbon_plugin.predict.case import layout_of, shape_of, work_of
    from carbon_plugin.predict.flops import layer_forward_flops, step_flops

    shape, work = shape_of(model), work_of(training, Stack())
    products, hardware = step_flops(shape, layout_of(layout), work)
    counted = float(hardware if "hardware" in str(raw.get("tflops_kind")) else products)
    full = "causal" not in str(raw.get("attn_flops") or "full")
    if full:
        attention = float(layer_forward_flops(shape, work)[1]) * training.global_batch_size
        passes = 4 if "hardware" in str(raw.get("tflops_kind")) and layout.recompute == "full" else 3
        counted += attention * passes
    return counted


def _vtrain_rows(source: str, text: str) -> Iterator[PublishedRow]:
    """vTrain's measured iteration times: GPT on A100-80GB, Megatron-DeepSpeed fp16, full recompute."""
    reader = csv.DictReader(io.StringIO("".join(line for line in text.splitlines(True) if not line.startswith("#"))))
    conventions = conventions_of("Megatron-DeepSpeed vTrain", "a100-sxm-80gb")
    device = load_accelerator("a100-sxm-80gb")
    assert device.default_node is not None  # shipped profile
    node = load_node(device.default_node)
    nic = Sourced(VTRAIN_NIC_BYTES_PER_S, "vTrain: 4 x 200 Gb/s a node", "read")
    node = msgspec.structs.replace(node, network=msgspec.structs.replace(node.network, bandwidth_bytes_per_s=nic))
    for number, record in enumerate(reader, start=1):
        try:
            row = {name: float(value) for name, value in record.items()}
        except (TypeError, ValueError) as error:
            raise SpecError(f"{source}.csv: data row {number}: {error}") from error
        field = {name: int(value) for name, value in row.items()}
        hidden, layers, heads = field["hidden"], field["layers"], field["heads"]
        model = TransformerModel(
            name=f"GPT h{hidden} l{layers}",
            layers=layers,
            hidden=hidden,
            heads=heads,
            kv_heads=heads,
            head_dim=hidden // heads,
            ffn=4 * hidden,
            vocab=51200,
            gated=False,
            tied_embeddings=True,
            dropout=conventions.dropout,
            source="vTrain",
        )
        per_node = min(8, field["n_gpus"])
        cluster = Cluster(accelerator=device, node=node, nodes=field["n_gpus"] // per_node, devices_per_node=per_node)
        layout = ParallelLayout(
            tp=field["tp"],
            pp=field["pp"],
            dp_replicate=field["dp"],
            micro_batch_size=field["mbs"],
            recompute="full",
            recompute_reentrant=True,
        )
        training = TrainingPlan(seq_len=field["seq_len"], global_batch_size=field["gbs"], steps=1, precision="fp16")
        identity = f"{source}-{number}"
        yield PublishedRow(
            id=identity,
            source=source,
            accelerator=device.name,
            framework=conventions.name,
            model_key=f"{hidden}x{layers}",
            spec=RunSpec(
                name=identity,
                model=model,
                cluster=cluster,
                training=training,
                site=NOWHERE,
                layout=layout,
                stack=conventions.stack,
            ),
            measured_step_time_s=row["step_time_ms"] / 1000,
            assumed=("vocab 51200",),
        )
