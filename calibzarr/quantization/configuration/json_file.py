"""A configuration's file in JSON types, its schema, and what does not fit in one line."""

import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from calibzarr.errors import StoreError

_GREATEST = 256 * 2**20  # bytes of a file
_LONGEST = 60  # characters of a value that is told
_TYPES = {"object": "an object", "integer": "a whole number", "number": "a number"}
_TYPES |= {"string": "a string", "array": "a list", "boolean": "true or false"}


def load(file: Path) -> Any:
    """What a file of JSON holds.

    Raises:
        StoreError: if it holds none, or a name twice, or what is no finite number.
        OSError: if it cannot be read.
    """
    if file.is_dir():
        raise IsADirectoryError(f"{file} is a directory; name the configuration's file in it")
    if not file.exists():
        raise FileNotFoundError(f"there is no file {file}")
    if not file.is_file() or file.stat().st_size > _GREATEST:
        raise StoreError(
            f"{file} is no configuration: it must be a regular file of at most "
            f"{_GREATEST >> 20} MiB"
        )
    try:
        return json.loads(
            file.read_bytes().decode(), object_pairs_hook=_once, parse_constant=_no_number
        )
    except UnicodeDecodeError as error:
        raise StoreError(f"{file} is no configuration: byte {error.start} is not UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{file} is no configuration in JSON: {error}") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names are different: of equal ones a reader takes any."""
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} stands twice in one object")
    return content


def _no_number(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON; every number must be finite")


@cache
def schema() -> dict[str, Any]:
    """The JSON Schema of version 2, which says in words how each quantizer is rebuilt."""
    source = (
        resources.files("calibzarr.quantization.configuration") / "quantization_config.schema.json"
    )
    return dict(json.loads(source.read_text(encoding="utf-8")))


def check(content: Any, version: int) -> None:
    """Check JSON types against the schema of a version.

    Raises:
        StoreError: if they do not fit; names the first field, its value, and what is allowed.
    """
    from jsonschema import Draft202012Validator

    if not isinstance(content, Mapping):
        raise StoreError(f"it is no configuration: {_told(content)}, and must be an object")
    said = schema()["$defs"]["version_1"] if version == 1 else schema()
    error = next(Draft202012Validator(said).iter_errors(content), None)
    if error is not None:
        raise StoreError(_in_words(error))
    for path, number in _numbers(content, ()):
        if not math.isfinite(number):
            raise StoreError(f"{_field(path)} is {number} and must be a finite number")


def _numbers(content: Any, path: tuple[Any, ...]) -> Any:
    """Every float with its path."""
    if isinstance(content, float):
        yield path, content
    elif isinstance(content, Mapping):
        for name, value in content.items():
            yield from _numbers(value, (*path, name))
    elif isinstance(content, list | tuple):
        for index, value in enumerate(content):
            yield from _numbers(value, (*path, index))


def _in_words(error: Any) -> str:
    field, rule, said = _field(tuple(error.absolute_path)), error.validator, error.schema
    if rule == "required":
        lacking = next(name for name in error.validator_value if name not in error.instance)
        return f"{field} has no {lacking}"
    if rule == "additionalProperties":
        known = said.get("properties", {})
        extra = next(name for name in error.instance if name not in known)
        return f"{field} has a {_told(extra)}, and only these are known: {', '.join(known)}"
    return f"{field} is {_told(error.instance)} and must be {_allowed(rule, said)}"


def _allowed(rule: str, said: Mapping[str, Any]) -> str:
    if rule in ("minimum", "maximum") and "maximum" in said:
        return f"from {said['minimum']} to {said['maximum']}"
    if rule == "type":
        types: Sequence[str] = [said["type"]] if isinstance(said["type"], str) else said["type"]
        return " or ".join(_TYPES.get(name, name) for name in types)
    words = {
        "enum": "one of " + ", ".join(json.dumps(value) for value in said.get("enum", ())),
        "const": json.dumps(said.get("const")),
        "minimum": f"{said.get('minimum')} or more",
        "exclusiveMinimum": f"above {said.get('exclusiveMinimum')}",
    }
    return words.get(rule, f"of {said.get('minItems')} items")


def _field(path: tuple[Any, ...]) -> str:
    """A field in words; that of a layer with the layer's name, which has dots itself."""
    layer, rest = "", path
    if path[:1] == ("layer_configs",) and len(path) > 1:
        layer, rest = f"layer {path[1]}", path[2:]
    inner = ".".join(map(str, rest))
    return " of ".join(part for part in (inner, layer) if part) or "the configuration"


def _told(value: Any) -> str:
    text = json.dumps(value, default=repr)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
