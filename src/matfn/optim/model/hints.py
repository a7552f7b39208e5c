"""Hints: the mappings {pattern: value} that a user passes to `plan`. They are checked and looked up here.

A pattern is a glob on names, "role:" and a glob on roles, or an ``re.Pattern`` for the whole name.
"""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from ..matrices.layout import Layout
from .candidate import Candidate
from .walk import PlanError, aliases

__all__ = ["Override", "Pattern", "check_arguments", "first", "refuse_idle_patterns"]

ROLE = "role:"
Pattern = str | re.Pattern[str]
Override = str | Layout | Callable[[tuple[int, ...]], Layout]


def check_arguments(model: object, overrides: object, qkv: object, heads: object) -> None:
    """Refuse arguments of a wrong type before the model is read, so that the message names the argument.

    Raises:
        TypeError: If the model, a mapping, a pattern or a value has a wrong type.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"plan needs the model, an nn.Module; got a {type(model).__name__}.")
    for what, given, wanted in (
        ("overrides", overrides, "decision"),
        ("qkv", qkv, "blocks"),
        ("heads", heads, "number"),
    ):
        if given is not None and not isinstance(given, Mapping):
            raise TypeError(f"{what} must be a mapping {{pattern: {wanted}}}, got {given!r}.")
        for pattern, value in (given or {}).items():
            if not isinstance(pattern, str) and not (
                isinstance(pattern, re.Pattern) and isinstance(pattern.pattern, str)
            ):
                raise TypeError(f"{what}: a pattern must be a string or an re.Pattern, got {pattern!r}.")
            if what == "qkv" and not _is_blocks(value):
                raise TypeError(f"qkv[{pattern!r}] must be a number of blocks or their sizes (q, k, v), got {value!r}.")
            if what == "heads" and (not _is_blocks(value) or not isinstance(value, int) or value < 1):
                raise TypeError(f"heads[{pattern!r}] must be a number of heads, an integer >= 1; got {value!r}.")
            if what == "overrides" and not (isinstance(value, str | Layout) or callable(value)):
                raise TypeError(
                    f'overrides[{pattern!r}] must be "matrix", "adamw", "frozen", a Layout or a function, got {value!r}'
                )


def _is_blocks(value: object) -> bool:
    sizes = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    return bool(sizes) and all(isinstance(size, int) and not isinstance(size, bool) for size in sizes)


def refuse_idle_patterns(patterns: Sequence[Pattern], found: Mapping[str, Candidate], roles: Mapping[str, str]) -> None:
    """Raise a PlanError for a pattern that matches no parameter: a misspelt hint would silently do nothing."""
    for pattern in patterns:
        if any(_matches(pattern, c, roles[name]) for name, c in found.items()):
            continue
        text = pattern if isinstance(pattern, str) else pattern.pattern
        if text.startswith(ROLE) and isinstance(pattern, str):
            raise PlanError(f"pattern {text!r} matches no parameter. The roles here are {sorted(set(roles.values()))}.")
        names = [name for c in found.values() for name in aliases(c)]
        near = difflib.get_close_matches(text, names, n=3, cutoff=0.4) or names[:3]
        raise PlanError(f"pattern {text!r} matches no parameter. The model has {len(names)}, such as {near}.")


def first(decisions: Mapping[Pattern, Any] | None, c: Candidate, role: str) -> Any:
    """The value of the first pattern that matches the parameter's role or one of its names, or None."""
    return next((value for pattern, value in (decisions or {}).items() if _matches(pattern, c, role)), None)


def _matches(pattern: Pattern, c: Candidate, role: str) -> bool:
    if isinstance(pattern, str) and pattern.startswith(ROLE):
        return fnmatchcase(role, pattern.removeprefix(ROLE).strip())
    if isinstance(pattern, str):
        return any(fnmatchcase(name, pattern) for name in aliases(c))
    return any(pattern.fullmatch(name) is not None for name in aliases(c))
