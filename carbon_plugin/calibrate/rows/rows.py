"""Read published measurements as runs that can be predicted.

It reads the records schema (`architectures` + `rows`, YAML) and vTrain's CSV. A row that does not say enough is skipped
and the missing field is named. Where a field is merely not stated, a documented default of the row's framework is used
and named in `assumed`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from msgspec import Struct

from carbon_plugin.calibrate.rows.cluster import Hardware, known_hardware, row_cluster
from carbon_plugin.calibrate.rows.execution.fitting_memory import (
    with_filled_memory,
    with_needed_recompute,
    with_share_that_fits,
)
from carbon_plugin.calibrate.rows.execution.layout import row_execution
from carbon_plugin.calibrate.rows.fields import Fields
from carbon_plugin.calibrate.rows.model import PRESET, row_model, trains_adapters, unread_dimensions
from carbon_plugin.calibrate.rows.software.conventions import conventions_of, conventions_of_row
from carbon_plugin.calibrate.rows.spellings import is_spelling, spelled_row
from carbon_plugin.calibrate.rows.step_time import check_possible, row_step_time_s
from carbon_plugin.calibrate.rows.vtrain import vtrain_records
from carbon_plugin.errors import CarbonPluginError, SpecError
from carbon_plugin.predict.assumed import leaves_open_how_experts_run, leaves_open_what_is_gathered
from carbon_plugin.predict.rates.laws import default_attention_kernel
from carbon_plugin.spec.frameworks import UNKNOWN, Conventions
from carbon_plugin.spec.models.model import TransformerModel
from carbon_plugin.spec.models.presets import list_presets
from carbon_plugin.spec.parsing.boundary import in_one_sentence, read_text
from carbon_plugin.spec.parsing.document import load_yaml
from carbon_plugin.spec.parsing.names import nearest, normalized
from carbon_plugin.spec.run import RunSpec, check_input, check_layout
from carbon_plugin.spec.site import Site

NOWHERE = Site(zone=None, intensity_g_per_kwh=0.0, intensity_source="a published step time has no site")
FIRST_COLLECTION = "first"
"""Name of the set of sources of a file that names none."""
NO_STEP_TIME = {"oom_probe": "did not fit in memory", "full_run": "a whole run"}

DESCRIPTIVE = frozenset(
    {
        *(
            "id",
            "set",
            "kind",
            "model",
            "organisation",
            "year",
            "source",
            "confidence",
            "notes",
            "derived",
            "collection",
        ),
        *("params_b", "active_params_b", "attn_flops", "vp", "mem_gib_per_gpu", "mem_excluded", "step_time_s"),
        *("tokens_per_s_per_gpu", "tokens_per_s_total", "samples_per_s", "tflops_per_gpu", "tflops_kind", "mfu_pct"),
        "hfu_pct",
    }
)
"""The fields that describe a row or that another field replaces, so that it is no surprise that they are not used."""
READ = frozenset(
    {
        *("arch", "config", "layers", "hidden", "heads", "kv_heads", "head_dim", "ffn", "vocab", "mlp", "attention"),
        *("tied", "qk_norm", "note", "dropout", "n_experts", "top_k", "moe_ffn", "moe_every", "shared_experts"),
        *("shared_ffn", "sliding_window", "sliding_window_layers"),
        *("dense_layers", "adapters", "lora_rank", "lora_dropout"),
        *("gpu", "n_gpus", "gpus_per_node", "intra_node", "inter_node", "gpu_power_cap_w"),
        *("seq_len", "input_len", "document_len", "scored_len", "padded", "mbs", "gbs", "grad_accum"),
        *("tp", "pp", "cp", "ep", "etp", "dp", "sp", "pipeline_rounds", "sharding", "overlap"),
        *("precision", "optimizer", "reduce_dtype", "recompute", "remat_policy", "activation_offload"),
        *("cpu_offload_layers", "attention_kernel", "framework", "oom"),
        *("routing", "dispatcher", "cuda_graphs", "capacity_factor", "pad_to_capacity"),
    }
)
"""The fields of a row, and of the shape that it names, that are read where they matter (docs/rows.md)."""
STEP_TIME_FIELDS = (
    "step_time_s",
    "tokens_per_s_per_gpu",
    "tokens_per_s_total",
    "samples_per_s",
    "tflops_per_gpu",
    "mfu_pct",
    "hfu_pct",
)
DEGREES = ("tp", "pp", "cp", "ep", "dp")
ROW_FIELDS = "docs/rows.md lists the fields of a row"

MemoryScope = Literal["allocated", "reserved", "device"]
"""What a source reports of memory: the allocator's peak, what the allocator holds, or what the device shows.

What the device shows includes its context and all that the allocator keeps, so that it says little about the need.
"""


class MemoryRow(Struct, frozen=True, kw_only=True):
    """One configuration that ran, or that did not fit (`out_of_memory`), with its peak per device where it is known.

    `of_rank_0` says that the peak is that of the first device, which is not always the fullest one.
    """

    id: str
    source: str
    origin: str
    spec: RunSpec
    out_of_memory: bool = False
    measured_bytes: float | None = None
    scope: MemoryScope = "allocated"
    of_rank_0: bool = False


class PublishedRow(Struct, frozen=True, kw_only=True):
    """One measured configuration.

    `source` is the group that it is reported under. `origin` is who published it; all rows of an origin are left out
    together. `framework` is the name of its stack, `software` its framework and release as stated. `model_key` groups
    the rows of one model over all sources, which are left out together. `collection` names the set of sources that it
    was gathered with. `assumed` is what the row leaves out, and `not_read` are its fields that nothing here knows.
    `power_ratio` is measured over predicted GPU power, where a ledger has both.
    """

    id: str
    source: str
    origin: str
    collection: str
    accelerator: str
    framework: str
    model_key: str
    spec: RunSpec
    measured_step_time_s: float
    measured_memory_bytes: float | None = None
    memory_scope: MemoryScope = "allocated"
    memory_of_rank_0: bool = False
    assumed: tuple[str, ...] = ()
    not_read: tuple[str, ...] = ()
    software: str = ""
    power_ratio: float | None = None


class SkippedRow(Struct, frozen=True, kw_only=True):
    """Names a row whose step time cannot be compared, and the reason.

    `memory` is what it says of memory, where this can be compared. `not_read` are its fields that nothing here knows.
    """

    id: str
    source: str
    reason: str
    memory: MemoryRow | None = None
    not_read: tuple[str, ...] = ()


def read_rows(path: Path) -> tuple[list[PublishedRow], list[SkippedRow]]:
    """Return all rows of a records file. Raises `SpecError` naming the file if it has neither of the two formats."""
    text = read_text(path, SpecError)
    if path.suffix.lower() == ".csv":
        with in_one_sentence(path, "not valid CSV", SpecError):
            return parse_rows(list(vtrain_records(path.stem, text)), {})
    document = load_yaml(text, str(path))
    if not isinstance(document, dict) or not isinstance(document.get("rows"), list):
        raise SpecError(f"{path}: expected a mapping with a list `rows`")
    architectures = document.get("architectures") or {}
    if not isinstance(architectures, dict):
        raise SpecError(f"{path}: architectures is {type(architectures).__name__}, expected a mapping")
    for number, raw in enumerate(document["rows"]):
        if not isinstance(raw, dict):
            raise SpecError(f"{path}: rows[{number}] is {raw!r}, expected a mapping")
    return parse_rows(document["rows"], architectures, collection=str(document.get("collection") or FIRST_COLLECTION))


def parse_rows(
    records: Sequence[Mapping[str, Any]], architectures: Mapping[str, Any], *, collection: str = FIRST_COLLECTION
) -> tuple[list[PublishedRow], list[SkippedRow]]:
    """Return predictable rows and skipped rows of the schema. `architectures` take precedence over the shipped ones."""
    known, hardware = {**shipped_architectures(), **_presets_beside(architectures), **architectures}, known_hardware()
    rows: list[PublishedRow] = []
    skipped: list[SkippedRow] = []
    named: set[str] = set()
    for number, record in enumerate(records):
        identity = str(record.get("id") or f"unnamed-{number}")
        source, row = short_source(identity), Fields(record)
        if identity in named:
            reason = "an earlier row has this id; give each row one of its own, or leave out what is twice in the file"
            skipped.append(SkippedRow(id=identity, source=source, reason=reason))
            continue
        named.add(identity)
        try:
            row = Fields(spelled_row(record))
            rows.append(_row(identity, source, row, known, collection, hardware))
        except (CarbonPluginError, OverflowError) as error:
            reason = " ".join(str(error).split())
            memory = _memory(identity, source, row, known, hardware)
            known_here = READ | DESCRIPTIVE
            unknown = tuple(name for name in row.names() if name not in known_here and not is_spelling(name))
            skipped.append(SkippedRow(id=identity, source=source, reason=reason, memory=memory, not_read=unknown))
    return rows, skipped


def _presets_beside(architectures: Mapping[str, Any]) -> dict[str, Any]:
    """Return the presets as shapes, but for those of whose name the file has one of its own.

    They come before a shipped shape that is named alike (`llama3-8b` before `llama3_8b`), so that a row trains the
    model that a plan of this name does.
    """
    own = {normalized(str(name)) for name in architectures}
    return {name: {PRESET: name} for name in list_presets() if normalized(name) not in own}


def unknown_fields(names: Sequence[str]) -> str:
    """Return a phrase that names fields of a row that nothing here knows, each with the field that may be meant."""
    known = sorted(READ | DESCRIPTIVE)
    meant = {name: nearest(name, known)[:1] for name in names}
    said = (f"{name} (did you mean {close[0]}?)" if close else name for name, close in meant.items())
    return f"fields that nothing here knows: {', '.join(said)}"


@functools.cache
def shipped_architectures() -> Mapping[str, Any]:
    """Return the model shapes that are shipped with the published rows. A records file may refer to them by name."""
    text = (resources.files("carbon_plugin.calibrate.rows") / "published" / "architectures.yaml").read_text("utf-8")
    shapes: dict[str, Any] = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))["architectures"]
    return shapes


def short_source(identity: str) -> str:
    """Return the source group that a row is reported under.

    It consists of the id's first words, which name the data set and device.
    """
    words = identity.split("-")
    return "-".join(words[:2]) if words[0] == "llmf" else words[0]


def origin_of(identity: str) -> str:
    """Return who published a row: the first word of its id, before any dash or underscore.

    Data sets of one laboratory and code on several devices are one origin, because they share an offset.
    """
    return re.split(r"[-_]", identity, maxsplit=1)[0]


def _row(
    identity: str,
    source: str,
    row: Fields,
    architectures: Mapping[str, Any],
    collection: str,
    hardware: Hardware,
) -> PublishedRow:
    kind = row.text("kind")
    if kind in NO_STEP_TIME or row.flag("oom"):
        raise SpecError(f"kind {kind or 'oom_probe'}: {NO_STEP_TIME.get(kind, 'did not fit in memory')}, no step time")
    if row.flag("padded"):
        raise SpecError("padded: sequences are shorter than seq_len, and their lengths are not stated")
    assumed: list[str] = []
    spec, conventions = _spec(identity, row, architectures, hardware, assumed)
    model, cluster, training, layout = spec.model, spec.cluster, spec.training, spec.layout
    assert isinstance(model, TransformerModel)
    assert layout is not None  # as `_spec` makes them
    if conventions.name == UNKNOWN.name:
        assumed.append(f"{spec.stack.population} software")
    elif conventions_of(row.text("framework")) == UNKNOWN:
        assumed.append(f"software priced like {conventions.name}")
    if leaves_open_how_experts_run(spec):
        assumed.append("experts in grouped products")
    if leaves_open_what_is_gathered(spec):
        assumed.append("FSDP2")
    if spec.stack.attention_kernel is None:
        assumed.append(f"attention kernel {default_attention_kernel(cluster.accelerator)}")
    measured_s = row_step_time_s(row, model, cluster, training, layout, assumed)
    check_possible(row, model, cluster, training, layout, measured_s)
    return PublishedRow(
        id=identity,
        source=f"{source}-lora" if trains_adapters(row) else source,
        origin=origin_of(identity),
        collection=collection,
        accelerator=cluster.accelerator.name,
        framework=_own_name(row.text("framework")) if conventions.name == UNKNOWN.name else conventions.name,
        software=row.text("framework"),
        model_key=f"{model.hidden}x{model.layers}" + ("moe" if model.moe else ""),
        spec=spec,
        measured_step_time_s=measured_s,
        measured_memory_bytes=_measured_memory_bytes(row),
        memory_scope=_memory_scope(row, conventions),
        memory_of_rank_0=_is_of_rank_0(row),
        assumed=tuple(assumed),
        not_read=(
            *(name for name in row.never_looked_at() if name not in DESCRIPTIVE),
            *unread_dimensions(row, architectures, READ | DESCRIPTIVE),
        ),
    )


def next_step(reason: str) -> str:
    """Return what to do about a row that was skipped for this reason."""
    if reason.endswith("is not stated"):
        field = reason.removesuffix(" is not stated")
        if field in STEP_TIME_FIELDS:
            return f"state what was measured, one of {', '.join(STEP_TIME_FIELDS)}; {ROW_FIELDS}"
        return f"state {field} in the row{', 1 where there is none' * (field in DEGREES)}; {ROW_FIELDS}"
    if "has no profile" in reason:
        return "`carbon-plugin list accelerators` has the known ones, CARBON_PLUGIN_PROFILES takes your own"
    if "no step time" in reason:
        return "nothing: such a row has no step time to compare"
    return f"correct the row; {ROW_FIELDS}"


def _spec(
    identity: str, row: Fields, architectures: Mapping[str, Any], hardware: Hardware, assumed: list[str]
) -> tuple[RunSpec, Conventions]:
    """Return the run of a row and the conventions of its framework. What was assumed is appended to `assumed`."""
    conventions = conventions_of_row(row)
    cluster = row_cluster(row, assumed, hardware)
    model = row_model(row, architectures, conventions, assumed)
    layout, training, stack = row_execution(row, model, cluster, conventions, assumed)
    check_layout(model, cluster, layout)
    check_input(model, training)
    layout.micro_batches(training.global_batch_size)
    spec = RunSpec(
        name=identity, model=model, cluster=cluster, training=training, site=NOWHERE, layout=layout, stack=stack
    )
    spec = with_share_that_fits(with_needed_recompute(spec, assumed), assumed)
    return with_filled_memory(spec, assumed), conventions


def _memory(
    identity: str, source: str, row: Fields, architectures: Mapping[str, Any], hardware: Hardware
) -> MemoryRow | None:
    """Return the memory result of a row without a step time: that it did not fit, or its peak.

    Return None where neither is known.
    """
    try:
        out_of_memory = bool(row.flag("oom"))
        measured = _measured_memory_bytes(row)
        if not out_of_memory and measured is None:
            return None
        spec, conventions = _spec(identity, row, architectures, hardware, [])
        if not out_of_memory and row.states(*STEP_TIME_FIELDS):
            # A row whose step time contradicts its settings says nothing of what these settings need.
            model, layout = spec.model, spec.layout
            assert isinstance(model, TransformerModel)
            assert layout is not None
            measured_s = row_step_time_s(row, model, spec.cluster, spec.training, layout, [])
            check_possible(row, model, spec.cluster, spec.training, layout, measured_s)
    except (CarbonPluginError, OverflowError):
        return None  # the reason why it was skipped says what is wrong with it
    adapters = isinstance(spec.model, TransformerModel) and spec.model.trainable_fraction < 1
    return MemoryRow(
        id=identity,
        source=f"{source}-lora" if adapters else source,
        origin=origin_of(identity),
        spec=spec,
        out_of_memory=out_of_memory,
        measured_bytes=measured,
        scope=_memory_scope(row, conventions),
        of_rank_0=_is_of_rank_0(row),
    )


def _measured_memory_bytes(row: Fields) -> float | None:
    """Return the peak per device in bytes.

    Return None where it is not stated, or where the row says why no equation here describes it (`mem_excluded`).
    """
    if row.states("mem_excluded"):
        return None
    return row.number("mem_gib_per_gpu") * 2**30 if row.states("mem_gib_per_gpu") else None


def _memory_scope(row: Fields, conventions: Conventions) -> MemoryScope:
    if re.search(r"device[- ]level|nvidia-smi", row.text("notes")):
        return "device"
    return "reserved" if conventions.reports_reserved_memory else "allocated"


def _is_of_rank_0(row: Fields) -> bool:
    return re.search(r"\bof rank 0\b", row.text("notes")) is not None


def _own_name(framework: str) -> str:
    """Return the name of an unknown framework in the form of a stack's name: letters, digits, dots and dashes."""
    return re.sub(r"[^a-z0-9.]+", "-", framework.lower()).strip("-.") or UNKNOWN.name
