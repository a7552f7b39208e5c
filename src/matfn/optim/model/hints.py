"""Hints: the mappings {name pattern: value} that a user passes to `plan`. They are checked and looked up here."""

import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from ..matrices.layout import Layout
from .recognise import Candidate
from .walk import PlanError, aliases

__all__ = ["Override", "Pattern", "check_arguments", "first", "refuse_idle_patterns"]

Pattern = str | re.Pattern[str]
Override = str | Layout | Callable[[tuple[int, ...]], Layout]


def check_arguments(model: object, overrides: object, qkv: object, heads: object) -> None:
    """Refuse arguments of a wrong type before the model is read, so that the message names the argument."""
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
            if not isinstance(pattern, str | re.Pattern):
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


def refuse_idle_patterns(patterns: Sequence[Pattern], found: Mapping[str, Candidate]) -> None:
    """Raise for a pattern that matches no parameter: a misspelt pattern would silently change the plan."""
    names = [name for c in found.values() for name in aliases(c)]
    for pattern in patterns:
        if not any(_matches(pattern, name) for name in names):
            text = pattern if isinstance(pattern, str) else pattern.pattern
            raise PlanError(f"pattern {text!r} matches no parameter. The model has {len(names)}, such as {names[:3]}.")


def first(decisions: Mapping[Pattern, Any] | None, c: Candidate) -> Any:
    """The value of the first pattern that matches one of the parameter's names, or None."""
    names = aliases(c)
    return next((v for p, v in (decisions or {}).items() if any(_matches(p, name) for name in names)), None)


def _matches(pattern: Pattern, name: str) -> bool:
    return fnmatchcase(name, pattern) if isinstance(pattern, str) else pattern.fullmatch(name) is not None
