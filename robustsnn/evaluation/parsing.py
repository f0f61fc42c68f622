"""Configuration files: YAML to checked plain data, and one readable line about whatever is wrong with one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from robustsnn.errors import RobustSNNError, UnknownNameError

Kind = TypeVar("Kind", bound=BaseModel)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Keys and values of a YAML file.

    Raises:
        RobustSNNError: no such file, not YAML, or something else than keys and values.
    """
    try:
        text = Path(path).read_text()
    except OSError as error:
        raise RobustSNNError(f"cannot read the configuration {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise RobustSNNError(f"{path} is not a text file; a configuration is YAML") from None
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise RobustSNNError(f"{path} is not valid YAML{where}: {problem}") from None
    if not isinstance(content, dict):
        raise RobustSNNError(
            f"{path} must hold keys and values (data, models, attacks, ...), got {type(content).__name__}"
        )
    return content


def parse(kind: type[Kind], content: dict[str, Any], source: str) -> Kind:
    """A checked configuration of a kind from plain data.

    Args:
        kind: a pydantic model that allows no other keys.
        content: its keys and values.
        source: what to call ``content`` in an error.

    Raises:
        RobustSNNError: a misspelt key (the nearest is suggested) or a value that makes no sense.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise RobustSNNError(f"{source}: {_readable(kind, error)}") from None


def listed(names: Sequence[str]) -> str:
    """Names as in a sentence: ``a, b or c``."""
    return " or ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``base`` with the entries of ``changes`` in place of its own; dictionaries inside are merged in the same way."""
    both = dict(base)
    for key, value in changes.items():
        old = both.get(key)
        both[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return both


def _readable(kind: type[BaseModel], error: ValidationError) -> str:
    """One line about the most telling error: a key that does not exist, which may be why another one is missing."""
    first = min(error.errors(), key=lambda entry: entry["type"] != "extra_forbidden")
    place = [str(part) for part in first["loc"]]
    if first["type"] == "extra_forbidden":
        return f"at {_dotted(place[:-1])}: {UnknownNameError('key', place[-1], _fields_at(kind, place[:-1]))}"
    message = first["msg"].removeprefix("Value error, ")
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"at {_dotted(place)}: {message}{more}"


def _dotted(place: list[str]) -> str:
    """A place as in the file, where the names of the specs do not appear."""
    return ".".join(part for part in place if not part.endswith("Spec")) or "the top level"


def _fields_at(kind: type[BaseModel], place: list[str]) -> list[str]:
    """Names of the fields of the model class that a path of an error leads to."""
    kinds: list[Any] = [kind]
    for part in place:
        following: list[Any] = []
        for found in kinds:
            if part.isdigit() or found.__name__ == part:
                following.append(found)
            elif part in found.model_fields:
                following += _models_in(found.model_fields[part].annotation)
        kinds = following or kinds
    return sorted({name for found in kinds for name in found.model_fields})


def _models_in(annotation: Any) -> list[Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [kind for argument in getattr(annotation, "__args__", ()) for kind in _models_in(argument)]
