"""A tool as the protocol describes it to a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAX_DESCRIPTION = 1024


def function_of(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the entry of a request's `tools` for a tool's `{"name", "description", "parameters"}`."""
    function = {
        "name": tool["name"],
        "description": tool["description"][:MAX_DESCRIPTION],
        "parameters": _as_object(tool["parameters"]),
    }
    return {"type": "function", "function": function}


def _as_object(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a schema whose top is an object, as endpoints demand.

    A choice of objects becomes one object with the properties of all; its description says which of them go together.
    That allows more than the tool does: what is wrong all the same, the tool's own check finds.
    """
    variants = [_resolved(schema, item) for item in schema.get("oneOf") or schema.get("anyOf") or ()]
    if not variants:
        return {**schema, "type": "object", "properties": schema.get("properties", {})}
    properties: dict[str, Any] = {}
    for variant in variants:
        for name, value in variant.get("properties", {}).items():
            properties[name] = _either(properties[name], value) if name in properties else value
    required = [name for name in properties if all(name in variant.get("required", ()) for variant in variants)]
    description = "One of: " + " | ".join(map(_in_words, variants))
    merged = {"type": "object", "properties": properties, "required": required, "description": description}
    return merged | ({"$defs": schema["$defs"]} if "$defs" in schema else {})


def _resolved(schema: Mapping[str, Any], item: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = schema.get("$defs", {}).get(item.get("$ref", "").rpartition("/")[2], item)
    return found


def _either(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    if one == other:
        return one
    values = [value for part in (one, other) for value in part.get("enum", [part["const"]] if "const" in part else [])]
    if values and all("const" in part or "enum" in part for part in (one, other)):
        return {"type": "string", "enum": values}
    return {"anyOf": [*one.get("anyOf", [one]), *other.get("anyOf", [other])]}


def _in_words(variant: Mapping[str, Any]) -> str:
    required = variant.get("required", ())
    parts = []
    for name, value in variant.get("properties", {}).items():
        text = f"{name}={value['const']}" if "const" in value else name
        parts.append(text if name in required or "const" in value else f"{text}?")
    about = f" ({variant['description']})" if "description" in variant else ""
    return f"{', '.join(parts)}{about}"
