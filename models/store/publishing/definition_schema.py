"""The format of agent definitions as JSON Schema, for the documentation."""

from functools import cache
from typing import Any

from models.store.publishing.definition import Definition


@cache
def json_schema() -> dict[str, Any]:
    """The definition as JSON Schema (2020-12), without the rules between fields."""
    schema = Definition.model_json_schema()
    _tidy(schema)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Agent definition"}


@cache
def components() -> dict[str, Any]:
    """The same as OpenAPI component schemas, by name; the definition is `AgentDefinition`."""
    schema = Definition.model_json_schema(ref_template="#/components/schemas/{model}")
    _tidy(schema)
    return {**schema.pop("$defs"), "AgentDefinition": schema}


def _tidy(node: Any) -> None:
    """Remove null defaults, since an absent key is not null, and titles that repeat the key."""
    if isinstance(node, dict):
        if node.get("default", ...) is None:
            del node["default"]
        if isinstance(node.get("title"), str):
            del node["title"]
        for each in node.values():
            _tidy(each)
    elif isinstance(node, list):
        for each in node:
            _tidy(each)
