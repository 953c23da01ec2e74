"""Turns a pydantic JSON schema into the structural OpenAPI v3 schema that a CRD needs.

A CRD's schema has no references, no unions (but int-or-string and preserved free-form parts), no
nulls. Whatever cannot be said in one raises: a generated CRD must never mean less than the types.
"""

from typing import Any, Final

Schema = dict[str, Any]

_KEPT: Final = {
    "type", "description", "enum", "format", "pattern", "minLength", "maxLength", "minimum",
    "maximum", "minItems", "maxItems", "minProperties", "maxProperties",
}  # fmt: skip
_IGNORED: Final = {"title", "examples", "$defs", "required", "properties", "items", "default"}
_EXTENSION: Final = "x-kubernetes-"
FREE_FORM: Final = f"{_EXTENSION}preserve-unknown-fields"
INT_OR_STRING: Final = f"{_EXTENSION}int-or-string"


class Untranslatable(ValueError):
    """The types say something that a structural schema cannot."""


def structural(schema: Schema) -> Schema:
    """Return the structural form of a pydantic JSON schema.

    Raises:
        Untranslatable: naming the path of what cannot be said.
    """
    _refuse_recursion(schema)
    return _convert(schema, schema.get("$defs", {}), "")


def _refuse_recursion(schema: Schema) -> None:
    """A structural schema is a finite tree; a type inside itself would never end."""
    definitions: dict[str, Schema] = schema.get("$defs", {})

    def visit(part: Any, inside: tuple[str, ...]) -> None:
        if isinstance(part, list):
            for item in part:
                visit(item, inside)
        elif isinstance(part, dict):
            name = str(part.get("$ref", "")).rsplit("/", 1)[-1]
            if name in inside:
                raise Untranslatable(f"{name} contains itself")
            if name in definitions:
                visit(definitions[name], (*inside, name))
            visit([value for key, value in part.items() if key not in ("$defs", "default")], inside)

    visit(schema, ())


def _convert(schema: Schema, definitions: dict[str, Schema], path: str) -> Schema:
    schema = _resolved(schema, definitions, path)
    if schema.get(INT_OR_STRING):
        return _int_or_string(schema)
    if "type" not in schema and not {"enum", "const"} & schema.keys():
        return {FREE_FORM: True, **_described(schema)}
    found: Schema = {}
    for key, value in schema.items():
        if key in _KEPT or key.startswith(_EXTENSION):
            found[key] = value
        elif key == "const":
            found["enum"] = [value]
        elif key == "additionalProperties":
            _add_map(found, value, definitions, path)
        elif key not in _IGNORED:
            raise Untranslatable(f"{path or 'the root'}: {key} has no place in a structural schema")
    if "items" in schema:
        found["items"] = _convert(schema["items"], definitions, f"{path}[]")
    elif schema.get("type") == "array":
        raise Untranslatable(f"{path}: an array needs a type for its items")
    if "properties" in schema:
        found["properties"] = {
            name: _convert(inner, definitions, f"{path}.{name}" if path else name)
            for name, inner in schema["properties"].items()
        }
    if schema.get("required"):
        found["required"] = schema["required"]
    # Absent and empty strings mean the same, and Kubernetes 1.20 refuses an empty default.
    if schema.get("default") not in (None, ""):
        found["default"] = _default(schema["default"], found)
    return found


def _resolved(schema: Schema, definitions: dict[str, Schema], path: str) -> Schema:
    """Follow references and drop `| None`: an absent field says the same."""
    while "$ref" in schema or "anyOf" in schema:
        rest = {k: v for k, v in schema.items() if k not in ("$ref", "anyOf")}
        if "$ref" in schema:
            inner = definitions[schema["$ref"].rsplit("/", 1)[1]]
        elif schema.get(INT_OR_STRING):
            return schema
        else:
            choices = [choice for choice in schema["anyOf"] if choice.get("type") != "null"]
            if len(choices) != 1:
                raise Untranslatable(f"{path}: a union has no place in a structural schema")
            inner = choices[0]
        schema = {**inner, **rest}
    return schema


def _int_or_string(schema: Schema) -> Schema:
    """As controller-gen writes it; a bound applies to values of its own type only."""
    bounds = {key: value for key, value in schema.items() if key in _KEPT - {"description"}}
    choices = [{"type": "integer"}, {"type": "string"}]
    return {INT_OR_STRING: True, "anyOf": choices, **bounds, **_described(schema)}


def _described(schema: Schema) -> Schema:
    return {"description": schema["description"]} if "description" in schema else {}


def _add_map(found: Schema, value: Any, definitions: dict[str, Schema], path: str) -> None:
    """`additionalProperties`: false is what a CRD does anyway, true is free-form, else a map."""
    if value is True:
        found[FREE_FORM] = True
    elif isinstance(value, dict):
        found["additionalProperties"] = _convert(value, definitions, f"{path}.*")


def _default(value: Any, schema: Schema) -> Any:
    """Return a default without what absence says, or what the nested defaults say already."""
    if not isinstance(value, dict):
        return value
    properties = schema.get("properties", {})
    return {
        name: _default(inner, properties.get(name, {}))
        for name, inner in value.items()
        if inner not in (None, "") and not _implied(inner, properties.get(name, {}))
    }


def _implied(value: Any, schema: Schema) -> bool:
    return "default" in schema and _default(value, schema) == schema["default"]
