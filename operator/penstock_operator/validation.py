"""Checks manifests before anything acts on them, and says what to change, by path.

The same three gates as in a cluster: YAML, the types, the CEL rules that the CRDs carry. The API
server evaluates the rules from 1.25 on; here the very same text is evaluated for `penstock up` and
for older clusters.
"""

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import cel
import yaml
from pydantic import BaseModel, ValidationError
from pydantic.alias_generators import to_camel

from penstock_contract.api import ApiModel, EnginePool, InferenceDeployment, Tenant
from penstock_contract.api.patterns import IN_WORDS
from penstock_contract.api.stored import as_stored
from penstock_contract.labels import API_VERSION

Manifest = InferenceDeployment | EnginePool | Tenant

KINDS: Mapping[str, type[Manifest]] = {
    "InferenceDeployment": InferenceDeployment,
    "EnginePool": EnginePool,
    "Tenant": Tenant,
}

MAX_BYTES = 1 << 20
"""Larger manifests are refused, as etcd would."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where, and what to do about it."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class InvalidManifest(Exception):
    """A manifest that cannot be used; lists every problem that was found."""

    def __init__(self, source: str, problems: list[Problem]) -> None:
        lines = "\n".join(f"  {problem}" for problem in problems)
        super().__init__(f"{source} is not valid:\n{lines}")
        self.source = source
        self.problems = problems


@dataclass(frozen=True)
class Loaded:
    """What a YAML text holds."""

    objects: list[Manifest]
    others: list[str]
    """Kind and name of what belongs to other API groups, a claim or a Namespace: not checked."""


def load_manifests(text: str, source: str) -> Loaded:
    """Return the objects in a YAML text of one or several documents.

    Args:
        text: the YAML.
        source: its name, for messages.

    Raises:
        InvalidManifest: anything is wrong with any of the documents.
    """
    if len(text) > MAX_BYTES:
        raise InvalidManifest(source, [Problem("", f"larger than {MAX_BYTES} bytes")])
    try:
        documents = [d for d in yaml.load_all(text, _Loader) if d is not None]
    except yaml.YAMLError as error:
        raise InvalidManifest(source, [Problem("", f"not YAML: {_one_line(error)}")]) from error
    except RecursionError as error:
        raise InvalidManifest(source, [Problem("", "nested too deeply")]) from error
    if not documents:
        raise InvalidManifest(source, [Problem("", "holds no object")])
    others = [_name(document) for document in documents if _of_another_group(document)]
    found: list[Manifest] = []
    problems: list[Problem] = []
    for number, document in enumerate(documents, 1):
        if _of_another_group(document):
            continue
        prefix = f"document {number}: " if len(documents) > 1 else ""
        try:
            found.append(parse(document))
        except InvalidManifest as error:
            problems += [Problem(prefix + p.path, p.message) for p in error.problems]
    if problems:
        raise InvalidManifest(source, problems)
    return Loaded(found, others)


def _of_another_group(document: Any) -> bool:
    """Whether an API server would hand a document to somebody else. A slip in ours is not that."""
    if not isinstance(document, dict):
        return False
    version, kind = document.get("apiVersion"), document.get("kind")
    if not isinstance(version, str) or not isinstance(kind, str) or kind in KINDS:
        return False
    return version.partition("/")[0] != API_VERSION.partition("/")[0]


def _name(document: dict[str, Any]) -> str:
    metadata = document.get("metadata")
    name = metadata.get("name", "") if isinstance(metadata, dict) else ""
    return f"{document['kind']} {name}".rstrip()


def parse(document: Any, source: str = "the object", *, stored: bool = False) -> Manifest:
    """Return one object from its JSON form, checked by types and rules.

    Args:
        document: the JSON form.
        source: its name, for messages.
        stored: it comes from an API server, which may know more fields than this version.

    Raises:
        InvalidManifest: it is not a valid object of a known kind.
    """
    if not isinstance(document, dict):
        raise InvalidManifest(source, [Problem("", "not an object with apiVersion and kind")])
    kind = document.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        what = "missing" if kind is None else f"{kind!r} is unknown"
        raise InvalidManifest(source, [Problem("kind", f"{what}; known: {', '.join(KINDS)}")])
    if document.get("apiVersion") != API_VERSION:
        raise InvalidManifest(source, [Problem("apiVersion", f"must be {API_VERSION}")])
    model = KINDS[kind]

    def strict(body: Any) -> Manifest:
        """As strict as an API server: nothing is coerced, no field has its name in Python."""
        text = json.dumps(body, default=str)
        return model.model_validate_json(text, strict=True, by_alias=True, by_name=False)

    try:
        found = as_stored(strict, document) if stored else strict(document)
    except ValidationError as error:
        problems = [_problem(e, model) for e in error.errors()]
        # A union reports every choice that failed; the first says enough.
        first = {problem.path: problem for problem in reversed(problems)}
        raise InvalidManifest(source, list(reversed(first.values()))) from error
    problems = list(broken_rules(found.spec, "spec"))
    if problems:
        raise InvalidManifest(source, problems)
    return found


def broken_rules(value: Any, path: str) -> Iterator[Problem]:
    """Yield the CEL rules that a value or anything inside it breaks.

    Rules about changes (`oldSelf`) need two objects and are left to the API server.
    """
    if isinstance(value, ApiModel):
        extra = type(value).model_config.get("json_schema_extra")
        rules = extra.get("x-kubernetes-validations", []) if isinstance(extra, dict) else []
        for rule in rules if isinstance(rules, list) else []:
            if not isinstance(rule, dict) or "oldSelf" in str(rule["rule"]):
                continue
            if cel.evaluate(str(rule["rule"]), {"self": value.to_json()}) is not True:
                yield Problem(path, str(rule["message"]))
        for name, field in type(value).model_fields.items():
            yield from broken_rules(getattr(value, name), f"{path}.{field.alias or to_camel(name)}")
    elif isinstance(value, list | dict):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from broken_rules(item, f"{path}[{key}]")


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, but a key that is given twice is an error, not a silent choice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping; ConstructorError on a repeated key."""
        seen: set[str] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key must be a plain value", key_node.start_mark
                )
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key_node.value!r} is given twice", key_node.start_mark
                )
            seen.add(str(key_node.value))
        return super().construct_mapping(node, deep)


def _one_line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark else problem


def _problem(error: Any, model: type[BaseModel]) -> Problem:
    location = [part for part in error["loc"] if part not in ("function-after", "str", "int")]
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    if error["type"] == "extra_forbidden":
        return Problem(path, f"unknown field{_suggestion(location, model, error['input'])}")
    if error["type"] == "missing":
        return Problem(path, "is required")
    if error["type"] == "value_error":  # ours, which say themselves what was given
        return Problem(path, str(error["ctx"]["error"]))
    if error["type"] == "string_type" and isinstance(error["input"], int | float):
        return Problem(path, _quoted(location, model, error["input"]))
    if error["type"] == "int_type" and str(error["input"]).isdigit():
        return Problem(path, f"must be a number: write it without quotes, {error['input']}")
    if error["input"] is None:
        return Problem(path, "is empty: give it a value, or take it out")
    if error["type"] == "model_type":
        fields = ", ".join(_known(location, model))
        return Problem(path, f"must be an object with {fields}, not {error['input']!r:.80}")
    if error["type"] == "list_type":
        return Problem(path, f"must be a list, each entry after a dash, not {error['input']!r:.80}")
    if error["type"] == "dict_type":
        return Problem(path, f"must be fields, name: value, not {error['input']!r:.80}")
    if error["type"] == "too_short":
        return Problem(
            path, f"must have {error['ctx']['min_length']} or more, not {error['input']!r}"
        )
    words = IN_WORDS.get(error.get("ctx", {}).get("pattern", ""))
    if words is not None:
        hint = "; spec.model.name may have others" if path == "metadata.name" else ""
        return Problem(path, f"must be {words}, not {error['input']!r:.80}{hint}")
    return Problem(path, f"{error['msg'][0].lower()}{error['msg'][1:]}, not {error['input']!r:.80}")


def _quoted(location: list[Any], model: type[BaseModel], value: float) -> str:
    """Return how a number, or true or false, is to be written where a string belongs."""
    text = json.dumps(value)
    found = _at(location, model)
    choices = (found, *found.get("anyOf", []))
    pattern = next((one["pattern"] for one in choices if "pattern" in one), "")
    if pattern in IN_WORDS and not re.match(pattern, text):
        return f"must be {IN_WORDS[pattern]}, not {text}"
    return f'must be a string: write it in quotes, "{text}"'


def _suggestion(location: list[Any], model: type[BaseModel], value: Any) -> str:
    """Return where an unknown field belongs, else what close to it is known, else all that is."""
    *inside, name = location
    schema = model.model_json_schema()
    definitions = schema.get("$defs", {})
    spec = _step(schema, "spec", definitions)
    places = [
        place
        for place, found in _places(spec, definitions, ("spec",))
        if place[-1] == name and isinstance(value, dict) == ("properties" in found)
    ]
    if places:
        nearest = min(places, key=lambda place: len(place))
        return f"; did you mean {'.'.join(nearest)}?"
    known = _known(inside, model)
    close = difflib.get_close_matches(str(name), known, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; known here: {', '.join(known)}" if known else ""


def _known(location: list[Any], model: type[BaseModel]) -> list[str]:
    """Return the fields of the object at a location."""
    return list(_at(location, model).get("properties", {}))


def _at(location: list[Any], model: type[BaseModel]) -> dict[str, Any]:
    """Return the schema of what is at a location."""
    schema = model.model_json_schema()
    definitions = schema.get("$defs", {})
    for part in location:
        schema = _step(schema, part, definitions)
    return schema


def _places(
    schema: dict[str, Any], definitions: dict[str, Any], path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Yield all fields below one, with their schemas; a list's entries have [] in their paths."""
    for name in schema.get("properties", {}):
        value = _step(schema, name, definitions)
        yield (*path, name), value
        entry = _step(value, 0, definitions)
        deeper = (*path, f"{name}[]") if entry else (*path, name)
        yield from _places(entry or value, definitions, deeper)


def _step(schema: dict[str, Any], part: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a field or item."""
    found: Any = schema.get("items", {})
    if isinstance(part, str):
        found = schema.get("properties", {}).get(part, {})
    for choice in (found, *found.get("anyOf", [])):
        if "$ref" in choice:
            resolved: dict[str, Any] = definitions[choice["$ref"].rsplit("/", 1)[1]]
            return resolved
    return dict(found)
