"""Make the JSON Schemas of the report, of every export and of the configuration file, published in `schemas/`.

They follow from the structs: `python -m carbon_plugin.audit.exports.json_schemas` writes them again after a change.
"""

from __future__ import annotations

from importlib import resources
from inspect import cleandoc
from pathlib import Path
from typing import Any

import msgspec

from carbon_plugin.audit.exports.eu_ai_act import EuAiActReport
from carbon_plugin.audit.exports.ghg import GhgReport
from carbon_plugin.audit.exports.model_card import ModelCardEmissions
from carbon_plugin.audit.exports.of_programme import EuAiActModelReport, GhgModelReport
from carbon_plugin.audit.exports.sci import SciReport
from carbon_plugin.audit.exports.sci_ai import SciAiReport
from carbon_plugin.audit.programme import Programme
from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.spec.configuration import Configuration

DIALECT = "https://json-schema.org/draft/2020-12/schema"
FOLDER = resources.files("carbon_plugin.audit.exports") / "schemas"

DOCUMENTS: dict[str, type[msgspec.Struct]] = {
    "report": AuditSummary,
    "programme": Programme,
    "sci": SciReport,
    "sci-ai": SciAiReport,
    "model-card": ModelCardEmissions,
    "eu-ai-act": EuAiActReport,
    "ghg": GhgReport,
    "eu-ai-act-model": EuAiActModelReport,
    "ghg-model": GhgModelReport,
    "configuration": Configuration,
}
"""Every document by the name of its schema."""


def schema_of(name: str) -> dict[str, Any]:
    """Return the schema of a document, made from its struct."""
    schema: dict[str, Any] = _undented(msgspec.json.schema(DOCUMENTS[name]))
    return {"$schema": DIALECT, "title": f"carbon-plugin {name}", **schema}


def _undented(schema: Any) -> Any:
    """Return a schema whose descriptions are not indented, as docstrings are, which releases of msgspec before 0.23
    leave as they are."""
    if isinstance(schema, list):
        return [_undented(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: cleandoc(one) if key == "description" and isinstance(one, str) else _undented(one)
        for key, one in schema.items()
    }


def published_schema(name: str) -> dict[str, Any]:
    """Return the schema of a document as it is shipped."""
    schema: dict[str, Any] = msgspec.json.decode((FOLDER / f"{name}.json").read_bytes())
    return schema


def write_schemas(folder: Path) -> None:
    """Write the schema of every document into a folder."""
    folder.mkdir(exist_ok=True)
    for name in DOCUMENTS:
        schema = msgspec.json.encode(schema_of(name), order="sorted")
        (folder / f"{name}.json").write_bytes(msgspec.json.format(schema, indent=2) + b"\n")


if __name__ == "__main__":
    write_schemas(Path(str(FOLDER)))
