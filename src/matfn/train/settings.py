"""TOML tables to validated dataclasses and back: unknown keys, wrong types and ranges are errors."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import tomllib
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from matfn.train import TrainError

T = TypeVar("T")
MISSING = dataclasses.MISSING


def setting(default: Any = MISSING, *, low: float = -math.inf, high: float = math.inf, choices: tuple = ()) -> Any:
    """A dataclass field with its range [low, high] or its choices; without a default the key is required."""
    return dataclasses.field(default=default, metadata={"low": low, "high": high, "choices": choices})


def build(cls: type[T], table: Mapping[str, Any], where: str = "") -> T:
    """Make the dataclass `cls` from a table that `tomllib` read; `where` is its dotted path, for messages.

    The fields are numbers, strings, booleans, dataclasses, tuples of these, or `| None`.

    Raises:
        TrainError: A key is unknown or missing, or a value has the wrong type or range.
    """
    if not isinstance(table, Mapping):
        raise TrainError(f"[{where}] must be a table, got {brief(table)}")
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in table:
        if key not in fields:
            near = difflib.get_close_matches(key, sorted(fields), n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(sorted(fields))}"
            raise TrainError(f"unknown key {brief(_join(where, key))}; {hint}")
    kinds, values = typing.get_type_hints(cls), {}
    for name, field in fields.items():
        if name in table:
            values[name] = _convert(table[name], kinds[name], field, where=_join(where, name))
        elif field.default is MISSING and field.default_factory is MISSING:
            raise TrainError(f"the recipe lacks {_join(where, name)!r}; add it, or pass --set {_join(where, name)}=...")
    try:
        return cls(**values)
    except TrainError as error:  # a check in __post_init__ starts its message with a key and does not know the table
        raise TrainError(_join(where, str(error))) from None


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _convert(value: Any, kind: Any, field: dataclasses.Field, *, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _convert(value, next(a for a in arguments if a is not type(None)), field, where=where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise TrainError(f"{where} must be a list, got {brief(value)}")
        return tuple(_convert(item, arguments[0], field, where=f"{where}.{index}") for index, item in enumerate(value))
    if dataclasses.is_dataclass(kind):
        return build(typing.cast("type", kind), value, where)
    return _scalar(value, kind, field, where=where)


def _scalar(value: Any, kind: type, field: dataclasses.Field, *, where: str) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            value = float(value)
        except OverflowError:
            raise TrainError(f"{where} must be {_KINDS[kind]} below 1.8e308, got {brief(value)}") from None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise TrainError(f"{where} must be {_KINDS[kind]}, got {brief(value)}")
    limits = field.metadata
    if limits.get("choices") and value not in limits["choices"]:
        raise TrainError(f"{where} must be one of {', '.join(map(repr, limits['choices']))}, got {brief(value)}")
    if kind in (int, float) and limits and not limits["low"] <= value <= limits["high"]:
        raise TrainError(f"{where} must lie in [{limits['low']:g}, {limits['high']:g}], got {brief(value)}")
    if isinstance(value, str) and readable(value) != value:
        raise TrainError(f"{where} must be a string of Unicode, got {brief(value)}")
    return value


_KINDS = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}


def brief(value: Any, most: int = 100) -> str:
    """A value for a message: its `repr`, cut to `most` characters."""
    try:
        text = repr(value)
    except ValueError:  # Python does not print whole numbers of more than 4300 digits
        return f"a whole number of {value.bit_length()} bits" if isinstance(value, int) else "very long numbers"
    except RecursionError:
        return "tables nested very deep"
    return text if len(text) <= most else f"{text[: most - 20]}... ({len(text)} characters)"


def readable(text: str) -> str:
    """A text that can be printed and stored: bytes of a file name that are no UTF-8 become question marks."""
    return text.encode("utf-8", "replace").decode()


def override(table: dict[str, Any], assignment: str) -> dict[str, Any]:
    """A copy of `table` with one `key.path=value` applied; the key and the value are TOML, one of each.

    A number or a `name` addresses a member of a list of tables: `arms.0.lr=0.01`, `arms."torch Muon".lr=0.01`.
    A value that is no TOML value, such as `cpu`, is a string.

    Raises:
        TrainError: `assignment` is not `key=value`, or a member of its path does not exist.
    """
    path, value = _assigned(assignment)
    patch: Any = _toml_value(value)
    for key in reversed(path):
        patch = {key: patch}
    return _merge(table, patch, "")


DEEPEST = 10  # parts of a key; recipes have 4


def _assigned(assignment: str) -> tuple[list[str], str]:
    """The parts of the key, and the value. A quoted part may hold an equals sign, so every "=" is tried in turn."""
    for place in (index for index, sign in enumerate(assignment) if sign == "="):
        key = assignment[:place]
        try:
            found = {} if set(key) & set("\r\n") else tomllib.loads(f"{key} = 0")
        except (ValueError, RecursionError):
            continue
        path = []
        while isinstance(found, dict) and len(found) == 1 and len(path) < DEEPEST:
            [(part, found)] = found.items()
            path.append(part)
        if path and found == 0:
            return path, assignment[place + 1 :].strip()
    raise TrainError(
        f"--set wants key=value, such as optimizer.lr=0.02, with a key as in a recipe; got {brief(assignment)}"
    )


def _toml_value(text: str) -> Any:
    """The TOML value that a text spells, or the text itself if it is no single value, such as a value and more keys."""
    try:
        found = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):  # ValueError: no TOML, or a number of more than 4300 digits
        return text
    return found["value"] if len(found) == 1 else text


def _merge(base: Any, patch: Any, where: str) -> Any:
    if not isinstance(patch, dict):
        return patch
    if isinstance(base, list):
        merged = list(base)
        for key, value in patch.items():
            index = _index(base, key, where)
            merged[index] = _merge(base[index], value, _join(where, key))
        return merged
    base = base if isinstance(base, dict) else {}
    return {**base, **{key: _merge(base.get(key), value, _join(where, key)) for key, value in patch.items()}}


def _index(members: list, key: str, where: str) -> int:
    names = [member.get("name", "") if isinstance(member, dict) else "" for member in members]
    if key in names:
        return names.index(key)
    if key.isdecimal() and len(key) < 10 and int(key) < len(members):
        return int(key)
    known = ", ".join(f"{i} ({brief(n)})" for i, n in enumerate(names))
    raise TrainError(f"{where} has no member {brief(key)}; it has {known or 'none'}")


def plain(value: Any) -> Any:
    """Dataclasses to plain tables and lists, without the keys of value None (TOML has no null)."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
        return {name: plain(item) for name, item in items if item is not None}
    return [plain(item) for item in value] if isinstance(value, tuple | list) else value


def to_toml(table: Mapping[str, Any], where: str = "") -> str:
    """Write a table as TOML that `tomllib` reads back."""
    lines = [f"{key} = {_literal(value)}" for key, value in table.items() if not _is_section(value)]
    for key, value in table.items():
        if isinstance(value, Mapping):
            lines += ["", f"[{_join(where, key)}]", to_toml(value, _join(where, key)).rstrip()]
        elif _is_section(value):
            for member in value:
                lines += ["", f"[[{_join(where, key)}]]", to_toml(member, _join(where, key)).rstrip()]
    return "\n".join(lines).strip("\n") + "\n"


def _is_section(value: Any) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list) and bool(value) and isinstance(value[0], Mapping))


def _literal(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    if isinstance(value, float):
        return repr(value)  # Python spells inf and nan as TOML does
    # Strings, whole numbers and booleans are the same in JSON and TOML, except for one control character.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
