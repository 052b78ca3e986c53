"""Frozen dataclasses from JSON that may be damaged, or written by another program or version."""

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from reprlib import Repr
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_SCALARS: dict[Any, tuple[Any, str]] = {
    bool: (bool, "true or false"),
    int: (int, "a whole number"),
    float: ((int, float), "a number"),
    str: (str, "text"),
}
_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = 200


def shown(value: Any) -> str:
    """Return a value as messages show it; a stranger's may be of any length."""
    return _SHORT.repr(value)


_hints = cache(get_type_hints)


def from_json(kind: Any, value: Any, *, name: str = "it") -> Any:
    """Return a JSON value as an instance of ``kind``, or refuse it.

    Args:
        kind: a dataclass; bool, int, float or str; a ``Literal``; ``tuple[X, ...]`` or ``tuple[X, Y]``;
            ``Mapping[str, X]``; ``X | None``; or a union of dataclasses that their field ``name`` tells
            apart.
        value: what ``json.loads`` returned; dataclasses are objects with a key for each field.
        name: of the value, for the error.

    Raises:
        ValueError: says which key is missing, unknown or wrong, what it must be and what it is.
    """
    if kind in _SCALARS:
        return _scalar(kind, value, name)
    origin, parts = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        return _dataclass_from(kind, value, name)
    if origin in (Union, UnionType, Literal):
        return _one_of(kind, value, name)
    if origin is tuple:
        return _tuple_from(parts, value, name)
    if (origin or kind) is Mapping:
        part = parts[1] if parts else Any
        return {key: from_json(part, item, name=key) for key, item in _object(value, name).items()}
    assert kind is Any, kind
    return value


def _scalar(kind: Any, value: Any, name: str) -> Any:
    python_kind, words = _SCALARS[kind]
    # To Python True is a whole number; in a file it is a mistake.
    if not isinstance(value, python_kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{name} must be {words}, got {shown(value)}")
    if kind is float and not _is_finite(value):
        raise ValueError(f"{name} must be finite, got {shown(value)}")
    if kind is int and not -(2**63) <= value < 2**64:
        raise ValueError(f"{name} must be a number of at most 64 bits, got {shown(value)}")
    if isinstance(value, str) and not _is_text(value):
        raise ValueError(f"{name} must be Unicode text, got half of a surrogate pair in {shown(value)}")
    return value


def _tuple_from(parts: tuple[Any, ...], value: Any, name: str) -> Any:
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{name} must be a list, got {shown(value)}")
    kinds = (parts[0],) * len(value) if parts[1:] == (...,) else parts
    if len(kinds) != len(value):
        raise ValueError(f"{name} must be a list of {len(kinds)}, got {shown(value)}")
    return tuple(
        from_json(kind, part, name=f"each of {name}") for kind, part in zip(kinds, value, strict=True)
    )


def _dataclass_from(kind: Any, value: Any, name: str) -> Any:
    hints = _hints(kind)
    for key in _object(value, name):
        if key not in hints:
            near = get_close_matches(str(key), hints, n=1)
            advice = f"did you mean {near[0]}?" if near else f"its keys are {', '.join(hints)}"
            raise ValueError(f"{name} has an unknown key {shown(key)}; {advice}")
    for item in fields(kind):
        if item.name not in value and item.default is MISSING and item.default_factory is MISSING:
            raise ValueError(f"{name} has no {item.name!r}")
    return kind(**{key: from_json(hints[key], part, name=key) for key, part in value.items()})


def _one_of(kind: Any, value: Any, name: str) -> Any:
    parts = (kind,) if get_origin(kind) is Literal else get_args(kind)
    if value is None and NoneType in parts:
        return None
    parts = [part for part in parts if part is not NoneType]
    if all(get_origin(part) is Literal for part in parts):
        choices = [choice for part in parts for choice in get_args(part)]
        if value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {shown(value)}")
        return value
    if len(parts) == 1:
        return from_json(parts[0], value, name=name)

    tags = {get_args(_hints(part)["name"])[0]: part for part in parts}
    tag = _object(value, name).get("name")
    if tag not in list(tags):
        raise ValueError(f"{name} must have the name {' or '.join(map(repr, tags))}, got {shown(tag)}")
    return _dataclass_from(tags[tag], value, name)


def _object(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} must be an object, got {shown(value)}")
    return value


def _is_text(value: str) -> bool:
    try:
        value.encode("utf-8", "surrogateescape")  # bytes of a file name that are not UTF-8 are carried so
    except UnicodeEncodeError:
        return False
    return True


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # JSON has whole numbers of any length
        return False
