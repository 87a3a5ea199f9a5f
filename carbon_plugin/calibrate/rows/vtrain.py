"""Read vTrain's measured iteration times (VIA-Research/vTrain, MIT) as rows of the records schema."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from carbon_plugin.errors import SpecError

COLUMNS = ("hidden", "layers", "heads", "seq_len", "n_gpus", "tp", "dp", "pp", "mbs", "gbs", "step_time_ms")
NODE = 8
COMMON: dict[str, Any] = {
    "kind": "benchmark",
    "precision": "fp16",
    "gpu": "A100-80GB-SXM",
    "inter_node": "100 Gb/s per GPU",  # 4 x 200 Gb/s a node of 8 (vTrain, section 5)
    "sp": False,
    "sharding": "none (DP)",
    "recompute": "full",
    "framework": "Megatron-DeepSpeed vTrain",
    "source": "VIA-Research/vTrain",
}


def vtrain_records(name: str, text: str) -> Iterator[dict[str, Any]]:
    """Yield the records of a file called `name` ("vtrain_multi_node"): GPT on A100-80GB, Megatron-DeepSpeed, full
    recompute.

    Raises `SpecError` naming the columns that the file lacks. A value that is no number stays as it is written, so that
    the reader of the row names it.
    """
    reader = csv.DictReader(io.StringIO("".join(line for line in text.splitlines(True) if not line.startswith("#"))))
    missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
    if missing:
        raise SpecError(f"{name}.csv: no column {', '.join(missing)}; expected {', '.join(COLUMNS)}")
    for number, record in enumerate(reader, start=1):
        row = {column: _number(record[column]) for column in COLUMNS}
        milliseconds, hidden, devices = row.pop("step_time_ms"), row["hidden"], row["n_gpus"]
        yield {
            **COMMON,
            **row,
            "step_time_s": milliseconds / 1000 if isinstance(milliseconds, float) else milliseconds,
            "id": f"{name}-{number}",
            "model": f"GPT h{record['hidden']} l{record['layers']}",
            "ffn": 4 * hidden if isinstance(hidden, float) else None,
            "kv_heads": row["heads"],
            "gpus_per_node": min(NODE, devices) if isinstance(devices, float) else None,
        }


def _number(text: str | None) -> float | str | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return text
