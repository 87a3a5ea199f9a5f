"""The published JSON Schemas are those of the structs, so that no change of a field goes without them."""

from __future__ import annotations

from typing import Any

import jsonschema
import msgspec
import pytest

from carbon_plugin.audit.exports.json_schemas import DOCUMENTS, published_schema, schema_of


def unordered(schema: Any) -> Any:
    """Return a schema whose alternatives of a value have no order, because releases of msgspec list them in different
    orders, and without the names of properties that are known, which releases from 0.23 on list.
    """
    if isinstance(schema, dict):
        return {key: unordered(value) for key, value in schema.items() if key != "propertyNames"}
    return sorted(map(unordered, schema), key=repr) if isinstance(schema, list) else schema


@pytest.mark.parametrize("name", DOCUMENTS)
def test_published_schema_is_that_of_the_struct(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(published_schema(name))
    made = msgspec.json.decode(msgspec.json.encode(schema_of(name)))
    assert unordered(published_schema(name)) == unordered(made), (
        "run python -m carbon_plugin.audit.exports.json_schemas"
    )
