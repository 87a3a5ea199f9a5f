"""Every reader of files that others write, each as a function from a seed to an outcome."""

from __future__ import annotations

import functools
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec
import numpy as np
import yaml

from carbon_plugin.audit.allocation.kubernetes import read_kubernetes
from carbon_plugin.audit.allocation.reconcile import reconcile
from carbon_plugin.audit.allocation.slurm import read_sacct
from carbon_plugin.audit.exports.evidence import read_summary
from carbon_plugin.audit.exports.front_matter import write_key
from carbon_plugin.audit.report.text import render_text
from carbon_plugin.audit.report.write import render_json
from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.audit.summary import summarise
from carbon_plugin.calibrate.rows.rows import read_rows
from carbon_plugin.footprint.live.electricity_maps import ElectricityMaps
from carbon_plugin.footprint.live.neso import Neso
from carbon_plugin.footprint.live.watttime import WattTime
from carbon_plugin.footprint.run_factors import resolve_factors
from carbon_plugin.footprint.series.file import load_trace
from carbon_plugin.ledger.identity import read_identity
from carbon_plugin.meters.node.address import parse_address
from carbon_plugin.meters.node.files import CsvSource
from carbon_plugin.meters.node.open import open_source
from carbon_plugin.net.http import HttpClient, HttpError
from carbon_plugin.plan.forecast import load_forecast, make_forecast
from carbon_plugin.spec.hardware.profiles import load_accelerator, load_node
from carbon_plugin.spec.huggingface.config import load_hf_config
from carbon_plugin.spec.loading import load_run_spec
from carbon_plugin.spec.site import Site
from tests.fuzz.mutations import as_json, damaged, outcome
from tests.ledger.builder import Attempt, Job
from tests.ledger.chaining import chained, payloads_of

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "audit" / "allocation" / "data" / "scheduler"
NOON_UNIX_S = datetime.fromisoformat("2026-11-28T12:00:00Z").timestamp()


@contextmanager
def file_with(content: bytes, name: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        yield path


@functools.cache
def summary() -> AuditSummary:
    """Return the audit of a small run with carbon, with which a scheduler's record is compared."""
    factors = resolve_factors(Site(zone="FRA", pue=1.2), None)
    with tempfile.TemporaryDirectory() as folder:
        job = Job(nodes=1, attempts=[Attempt(0, 6)], factors=msgspec.to_builtins(factors), intensity_g_per_kwh=41.44)
        job.write(Path(folder))
        return summarise(folder)


SACCT = b"""JobID|JobName|State|Start|End|ElapsedRaw|AllocTRES
4711|llama|NODE_FAIL|2026-11-20T08:00:00|2026-11-20T10:00:00|7200|billing=96,cpu=96,gres/gpu=8,gres/gpu:h100=8,node=1
4711.batch|batch|CANCELLED|2026-11-20T08:00:00|2026-11-20T10:00:00|7200|cpu=96,gres/gpu=8,mem=1T,node=1
4711|llama|COMPLETED|2026-11-20T11:00:00|2026-11-20T12:00:00|3600|cpu=96,gres/gpu:h100=4,gres/gpu:a100=2,node=1
4712|next|PENDING|Unknown|Unknown|0|
4713|small|CANCELLED by 1000|2026-11-20T12:00:00|2026-11-20T12:00:30|30|cpu=4,gres/gpu=1,mem=8G,node=1
"""


def sacct(rng: random.Random) -> Any:
    with file_with(damaged(SACCT, rng), "jobs.txt") as path:
        return outcome(lambda: reconcile(summary(), read_sacct(path), "sacct"))


@functools.cache
def pods() -> Any:
    items = [item for name in ("reborn", "namespaces", "mig", "micro", "pending") for item in _items(name)]
    claims: list[Any] = [{"name": "g", "resourceClaimName": "c"}]
    items[0]["spec"] |= {"initContainers": [{"resources": {"limits": {"amd.com/gpu": 1}}}], "resourceClaims": claims}
    results = [{"device": "a"}, {"device": "b"}]
    items.append(
        {
            "kind": "ResourceClaim",
            "metadata": {"name": "c"},
            "status": {"allocation": {"devices": {"results": results}}, "reservedFor": [{"name": "w-0"}]},
        }
    )
    return {"kind": "List", "items": items}


def _items(name: str) -> Any:
    return msgspec.json.decode((DATA / f"{name}.json").read_bytes())["items"]


def kubernetes(rng: random.Random) -> Any:
    def read() -> Any:
        found = read_kubernetes(path, gpus_by_host={"w-0": 8}, until_unix_s=NOON_UNIX_S)
        return reconcile(summary(), found, "Kubernetes")

    with file_with(as_json(pods(), rng), "pods.json") as path:
        return outcome(read)


def _hours(count: int) -> list[str]:
    return [f"2025-01-0{1 + hour // 24}T{hour % 24:02d}:00Z" for hour in range(count)]


INTENSITY = (
    "datetime,carbon_intensity,price\n" + "".join(f"{h},{100 + n},3\n" for n, h in enumerate(_hours(30)))
).encode()


def intensity_csv(rng: random.Random) -> Any:
    with file_with(damaged(INTENSITY, rng), "grid.csv") as path:
        return outcome(lambda: _means(path))


def _means(path: Path) -> Any:
    trace = load_trace(str(path))
    return [float(trace.g_per_kwh.mean()), float(trace.start_unix_s[0]), float(trace.end_unix_s), trace.step_s]


def intensity_parquet(rng: random.Random) -> Any:
    import pyarrow as pa
    from pyarrow import parquet

    moments: Any = rng.choice(
        (
            _hours(30),
            _hours(30),
            _hours(30),
            [datetime(2025, 1, 1, n % 24, tzinfo=UTC) for n in range(30)],
            list(np.array([rng.randrange(-(2**62), 2**62) for _ in range(30)], dtype="datetime64[us]")),
            [rng.choice((None, n, "x")) for n in range(30)] if rng.random() < 0.1 else list(range(30)),
            [b"\xff"] * 30,
        )
    )
    values: Any = rng.choice(
        (
            [100.0 + n for n in range(30)],
            [200 + n for n in range(30)],
            [300.5] * 30,
            [rng.choice((1.0, float("nan"), float("inf"), 1e308, -1.0, None)) for _ in range(30)],
            ["100"] * 30,
            [[1.0]] * 30,
            [{"a": 1}] * 30,
            [True] * 30,
        )
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "grid.parquet"
        try:
            parquet.write_table(pa.table({"datetime": moments, "carbon_intensity": values}), path)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            path.write_bytes(b"PAR1")
        if rng.random() < 0.4:
            path.write_bytes(damaged(path.read_bytes(), rng))
        return outcome(lambda: _means(path))


@functools.cache
def forecast_document() -> Any:
    spec = load_run_spec(ROOT / "examples" / "specs" / "llama3-8b-h100.yaml")
    return msgspec.to_builtins(make_forecast(spec))


def forecast(rng: random.Random) -> Any:
    with file_with(as_json(forecast_document(), rng), "forecast.json") as path:
        return outcome(lambda: load_forecast(path))


@functools.cache
def specs() -> list[tuple[bytes, Any]]:
    found = []
    for path in sorted((ROOT / "examples" / "specs").glob("*.yaml")):
        document = yaml.safe_load(path.read_text())
        document["training"]["evaluation"] = {"every_steps": 100, "sequences": 64}
        document["training"]["reliability"] = {"startup_time_s": 300, "mtbf_device_hours": 50_000}
        if document.get("layout", "auto") != "auto":
            found.append((path.read_bytes(), document))
    return found


def _yaml(text: bytes, document: Any, rng: random.Random) -> bytes:
    """Return damaged YAML, or JSON of misshapen data, which is YAML too."""
    return damaged(text, rng) if rng.random() < 0.4 else as_json(document, rng)


def spec(rng: random.Random) -> Any:
    def read() -> Any:
        made = load_run_spec(path)
        return make_forecast(made) if made.layout is not None else made

    text, document = rng.choice(specs())
    with file_with(_yaml(text, document, rng), "run.yaml") as path:
        return outcome(read)


@functools.cache
def profiles() -> list[tuple[str, bytes, Any]]:
    chosen = ("accelerators/h100-sxm", "accelerators/mi300x", "nodes/hgx-h100", "nodes/workstation-1")
    files = [ROOT / "hardware_profiles" / f"{name}.yaml" for name in chosen]
    return [(p.parent.name, p.read_bytes(), yaml.safe_load(p.read_text())) for p in files if p.exists()]


def profile(rng: random.Random) -> Any:
    kind, text, document = rng.choice(profiles())
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / kind).mkdir()
        (Path(folder) / kind / "mine.yaml").write_bytes(_yaml(text, document, rng))
        load: Callable[..., Any] = load_accelerator if kind == "accelerators" else load_node
        return outcome(lambda: load(document["name"], profile_dirs=[folder]))


def node_csv(rng: random.Random) -> Any:
    rows = "".join(f"{time.time() - 5 + n},{900 + n},J\n" for n in range(5))
    with file_with(damaged(f"time,watts,unit\n{rows}".encode(), rng), "power.csv") as path:
        source = CsvSource(parse_address(f"csv://{path}?column=watts"))
        return outcome(lambda: source.ask(1.0))


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


@functools.cache
def services() -> list[Any]:
    return [ElectricityMaps("FR", "t"), Neso(), WattTime("CAISO_NORTH", "u", "p")]


def provider(rng: random.Random) -> Any:
    intensity = {"forecast": 120, "actual": 131, "index": "moderate"}
    point = {"point_time": _now(), "value": 1000.0}
    meta = {"region": "CAISO_NORTH", "signal_type": "co2_moer", "units": "lbs_co2_per_mwh"}
    meta |= {"data_point_period_seconds": 300}  # type: ignore[dict-item]
    documents: list[Any] = [
        {"zone": "FR", "carbonIntensity": 41, "datetime": _now()},
        {"data": [{"from": _now(), "to": _now(), "intensity": intensity}]},
        {"data": [point, point], "meta": meta},
    ]
    service, document = rng.choice(list(zip(services(), documents, strict=True)))
    body = as_json(document, rng)

    def answer(_self: HttpClient, path: str, **_request: Any) -> bytes:
        return b'{"token": "t"}' if path == "/login" and rng.random() < 0.9 else body

    with patch.object(HttpClient, "get", answer):
        return outcome(lambda: service.latest(1.0))


ANSWERS: dict[str, dict[str, Any]] = {
    "prometheus+http://host:9090?query=watts": {
        "/api/v1/query": {"status": "success", "data": {"resultType": "vector", "result": [
            {"metric": {"instance": "n1"}, "value": [1_760_000_000.1, "612.5"]},
        ]}},
    },
    "redfish://host": {
        "/redfish/v1/Chassis": {"Members": [{"@odata.id": "/redfish/v1/Chassis/1/"}]},
        "/redfish/v1/Chassis/1/EnvironmentMetrics": {"PowerWatts": {"Reading": 612.5}, "EnergyJoules": {"Reading": 9}},
        "/redfish/v1/Chassis/1/Power": {"PowerControl": [{"Name": "System Power", "PowerConsumedWatts": 612}]},
    },
}  # fmt: skip
"""What hosts answer by path, by the address of the node meter that asks them."""


def node_service(rng: random.Random) -> Any:
    address, documents = rng.choice(list(ANSWERS.items()))
    source = open_source(parse_address(address), {})
    chosen = rng.choice(list(documents))
    answers = {path: msgspec.json.encode(document) for path, document in documents.items()}
    answers[chosen] = as_json(documents[chosen], rng)

    def body(_self: HttpClient, path: str, **_request: Any) -> bytes:
        found = answers.get(path.partition("?")[0].rstrip("/"))
        if found is None:
            raise HttpError("has no such resource", "not_found")
        return found

    with patch.object(HttpClient, "get", body):
        return outcome(lambda: source.ask(1.0))


COMMANDS = {
    "ipmi": (
        "carbon_plugin.meters.node.ipmi.run_command",
        b"\n    Instantaneous power reading:                   155 Watts\n    Power reading state is:  activated\n",
    ),
    "slurm": (
        "carbon_plugin.meters.node.slurm.run_command",
        b"NodeName=n1 CurrentWatts=612 AveWatts=4294967294 ConsumedJoules=1234567\n",
    ),
}


def node_command(rng: random.Random) -> Any:
    kind = rng.choice(list(COMMANDS))
    asked, told = COMMANDS[kind]
    output = damaged(told, rng).decode(errors="replace")
    source = open_source(parse_address(kind), {"SLURMD_NODENAME": "n1"})
    with patch(asked, lambda *_: output):
        return outcome(lambda: source.ask(1.0))


CARD = b"""---
license: mit
tags: [text, x]
co2_eq_emissions:
  emissions: 12
  source: old
---
# Model
"""


def card(rng: random.Random) -> Any:
    with file_with(damaged(CARD, rng), "README.md") as path:
        return outcome(lambda: write_key(path, "co2_eq_emissions", {"emissions": 1.5, "source": "x"}))


HF = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
    "num_attention_heads": 32, "num_key_value_heads": 8, "num_hidden_layers": 32, "vocab_size": 128256,
    "tie_word_embeddings": False, "head_dim": 128, "max_position_embeddings": 8192, "hidden_act": "silu",
    "num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": None, "rope_scaling": {"factor": 8.0},
}  # fmt: skip


def hf_config(rng: random.Random) -> Any:
    with file_with(as_json(HF, rng), "config.json") as path:
        return outcome(lambda: load_hf_config(path))


@functools.cache
def records() -> list[tuple[str, bytes, Any]]:
    folder = ROOT / "carbon_plugin" / "calibrate" / "rows" / "published"
    document = yaml.safe_load((folder / "korthikanti.yaml").read_text())
    document["rows"] = document["rows"][:6]
    csv_lines = (folder / "vtrain_single_node.csv").read_bytes().split(b"\n")[:8]
    return [("rows.yaml", yaml.safe_dump(document).encode(), document), ("vtrain.csv", b"\n".join(csv_lines), None)]


def calibration_rows(rng: random.Random) -> Any:
    name, text, document = rng.choice(records())
    content = damaged(text, rng) if document is None else _yaml(text, document, rng)
    with file_with(content, name) as path:
        return outcome(lambda: [row.measured_step_time_s for row in read_rows(path)[0]])


@functools.cache
def report_document() -> Any:
    return msgspec.json.decode(render_json(summary()))


def report(rng: random.Random) -> Any:
    with file_with(as_json(report_document(), rng), "report.json") as path:
        return outcome(lambda: [read_summary(path), len(render_text(read_summary(path)))])


def identity(rng: random.Random) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        document = {"version": 1, "run_id": "a" * 32, "created_unix_s": 1.76e9, "name": "x", "role": None}
        (Path(folder) / "run.json").write_bytes(as_json(document, rng))
        return outcome(lambda: read_identity(folder))


@functools.cache
def ledger_folder() -> Path:
    factors = resolve_factors(Site(zone="FRA", pue=1.2), None)
    folder = Path(tempfile.mkdtemp())
    job = Job(
        nodes=2,
        attempts=[Attempt(0, 4, closed=False), Attempt(60, 4, 60.0)],
        factors=msgspec.to_builtins(factors),
        intensity_g_per_kwh=41.44,
        forecast=forecast_document(),
        prediction=forecast_document()["prediction"],
    )
    job.write(folder)
    return folder


def ledger(rng: random.Random) -> Any:
    """Write a run with one ledger that is damaged, or that holds misshapen records in a chain that was
    computed again.
    """
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        shutil.copytree(ledger_folder(), run_dir)
        path = rng.choice(sorted(run_dir.glob("node-*.jsonl")))
        if rng.random() < 0.3:
            path.write_bytes(damaged(path.read_bytes(), rng))
        else:
            path.write_bytes(rechained(path.read_bytes(), rng))
        return outcome(lambda: _audited(run_dir))


def _audited(run_dir: Path) -> Any:
    found = summarise(run_dir)
    text = render_text(found)
    assert not any(ord(letter) < 32 and letter != "\n" for letter in text), "a control character in the terminal"
    return msgspec.structs.replace(found, events=[], run=msgspec.structs.replace(found.run, effective={}))


def rechained(content: bytes, rng: random.Random) -> bytes:
    """Misshape one record, and compute the whole chain anew."""
    payloads = payloads_of(content)
    at = rng.choice((0, rng.randrange(len(payloads)), rng.randrange(len(payloads))))
    record = msgspec.json.decode(payloads[at])
    payloads[at] = as_json(record, rng).replace(b"\n", b" ")
    return chained(payloads)


READERS: dict[str, Callable[[random.Random], Any]] = {
    "sacct": sacct,
    "Kubernetes": kubernetes,
    "intensity as CSV": intensity_csv,
    "intensity as Parquet": intensity_parquet,
    "forecast": forecast,
    "spec": spec,
    "profile": profile,
    "node meter as CSV": node_csv,
    "node meter over HTTP": node_service,
    "node meter by command": node_command,
    "provider": provider,
    "model card": card,
    "config.json": hf_config,
    "rows": calibration_rows,
    "report.json": report,
    "run.json": identity,
    "ledger": ledger,
}
