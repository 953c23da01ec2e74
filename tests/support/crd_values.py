"""Objects that a CRD's schema accepts, drawn from the schema itself."""

from typing import Any

from hypothesis import strategies as st

Schema = dict[str, Any]

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=12)
FREE = st.dictionaries(TEXT, TEXT | st.integers() | st.booleans() | st.lists(TEXT), max_size=2)


def accepted(schema: Schema, most: int = 3) -> st.SearchStrategy[Any]:
    """Return a strategy over the values of a structural schema.

    Lists have `most` items, and those in lists fewer, so that values stay small.
    """
    if schema.get("x-kubernetes-int-or-string"):
        return st.integers(0, 10**6) | _text(schema)
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if schema.get("type") == "object":
        return _object(schema, most)
    if schema.get("type") == "array":
        return _array(schema, most)
    kinds = {"string": _text, "integer": _integer}
    if schema.get("type") in kinds:
        return kinds[schema["type"]](schema)
    return st.booleans() if schema.get("type") == "boolean" else FREE


def _object(schema: Schema, most: int) -> st.SearchStrategy[Any]:
    if "additionalProperties" in schema:
        values = accepted(schema["additionalProperties"], max(1, most - 1))
        return st.dictionaries(TEXT, values, max_size=min(most, schema.get("maxProperties", most)))
    if "properties" not in schema:
        return FREE
    required = set(schema.get("required", ()))
    fields = {name: accepted(inner, most) for name, inner in schema["properties"].items()}
    return st.fixed_dictionaries(
        {name: field for name, field in fields.items() if name in required},
        optional={name: field for name, field in fields.items() if name not in required},
    )


def _array(schema: Schema, most: int) -> st.SearchStrategy[Any]:
    low = schema.get("minItems", 0)
    keys = schema.get("x-kubernetes-list-map-keys", [])
    return st.lists(
        accepted(schema["items"], max(1, most - 1)),
        min_size=low,
        max_size=max(low, min(most, schema.get("maxItems", most))),
        unique_by=(lambda item: tuple(item.get(key) for key in keys)) if keys else None,
    )


def _text(schema: Schema) -> st.SearchStrategy[str]:
    low, high = schema.get("minLength", 0), schema.get("maxLength", 10**6)
    text = TEXT
    if "pattern" in schema:
        text = st.from_regex(schema["pattern"].removesuffix("$").removeprefix("^"), fullmatch=True)
    return text.filter(lambda found: low <= len(found) <= high)


def _integer(schema: Schema) -> st.SearchStrategy[int]:
    return st.integers(schema.get("minimum", -(2**31)), schema.get("maximum", 2**31))
