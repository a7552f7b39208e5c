"""Checks of the options of parameter groups: misspelt names, and the type and range of each value."""

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from .matrices.layout import Layout
from .matrices.rounding import ROUNDINGS

__all__ = [
    "FOREIGN",
    "check_count",
    "check_defaults",
    "check_number",
    "check_options",
    "check_scale",
    "check_values",
    "meant",
]

# Keys that other tools write into groups: schedulers and weight averaging of torch, layer-wise decay, loggers.
FOREIGN = frozenset({"initial_lr", "max_lr", "min_lr", "base_lr", "swa_lr", "lr_scale", "lr_mult", "name"}) | frozenset(
    {"base_momentum", "max_momentum"}
)
_ARGUMENTS = ("method", "precision", "rest")
_MEANT = dict(learning_rate="lr", lrate="lr", decay="weight_decay", l2="weight_decay", epsilon="eps", mu="momentum")
_FLAGS = ("nesterov", "cautious", "amsgrad", "maximize", "capturable", "differentiable")
_MAYBE_FLAGS = ("foreach", "fused")


def check_options(
    group: Mapping[str, Any], own: Iterable[str], other: Iterable[str], where: str, arguments: Iterable[str] = ()
) -> None:
    """Raise ValueError for misspelt options, options of `other` rules, and `arguments` of the optimizer.

    Other keys are kept, as in torch.

    A key counts as misspelt if it resembles an option, without regard to case, hyphens and underscores: it has 80 % of
    the letters in common (difflib's ratio), the same letters in another order, the initials ("wd"), or is another usual
    word ("learning_rate"). Keys in `FOREIGN` are never misspelt.
    """
    own = set(own) | {"params", "rule", "layout", "param_names"}
    for key in set(group) - own - FOREIGN:
        if key in set(other):
            raise ValueError(f"{where} has option {key!r}, which its rule does not know. It knows {sorted(own)}.")
        if str(key).lower() in _ARGUMENTS:
            raise ValueError(f"{where} has {key!r}, which is an argument of the optimizer, the same for all groups.")
        close = meant(key, own) or meant(key, set(other))
        if close:
            raise ValueError(f"{where} has an unknown option {key!r}; did you mean {close!r}?")
        if key in set(arguments):
            raise ValueError(f"{where} has {key!r}, which is an argument of the optimizer, the same for all groups.")


def meant(key: object, options: set[str]) -> str | None:
    """The option that a key resembles, or None."""
    word = str(key).lower().replace("-", "_")
    if word in _MEANT:
        return _MEANT[word]
    short = {option: option.replace("_", "") for option in sorted(options)}
    bare = word.replace("_", "")
    for option, letters in short.items():
        initials = "".join(part[0] for part in option.split("_"))
        if sorted(bare) == sorted(letters) or (len(initials) > 1 and bare == initials):
            return option
    close = difflib.get_close_matches(bare, short.values(), n=1, cutoff=0.8)
    return next((option for option, letters in short.items() if close and letters == close[0]), None)


def check_defaults(defaults: Any, chain: Any, where: str) -> dict[str, Any]:
    """A copy of the default options of an optimizer, after a check that they hold every option that its rules read.

    Raises:
        TypeError: If `defaults` is no mapping, or `chain` no tuple of rules.
        ValueError: If options are missing. The message names them and the rules that read them.
    """
    if not isinstance(defaults, Mapping):
        raise TypeError(f"{where}: defaults must be a mapping of options such as dict(lr=0.02), got {defaults!r}.")
    if not isinstance(chain, tuple) or not all(callable(getattr(rule, "update", None)) for rule in chain) or not chain:
        raise TypeError(f"{where}: chain must be a tuple of an elementwise rule and matrix rules, got {chain!r}.")
    readers = dict.fromkeys(("lr", "weight_decay", "cautious", "scale"), "MatrixOptimizer")
    readers |= {key: type(rule).__name__ for rule in chain for key in getattr(rule, "reads", ())}
    missing = [f"{key!r} (read by {reader})" for key, reader in readers.items() if key not in defaults]
    if missing:
        raise ValueError(f"{where}: the default options lack {', '.join(missing)}. They are {sorted(defaults)}.")
    return dict(defaults)


def check_values(group: Mapping[str, Any], where: str, scales: Iterable[str]) -> None:
    """Refuse option values of a wrong type (TypeError) or out of range (ValueError).

    The message names `where`, the owner of the options, then option, value and wanted type or range. `scales` are the
    names that the option "scale" may have.
    """
    for key in ("lr", "weight_decay", "eps", "ridge"):
        value = check_number(group[key], f"{where}: {key}") if key in group else 0.0
        if not 0 <= value < math.inf:
            raise ValueError(f"{where}: {key} must be {'finite' if value == math.inf else '>= 0'}, got {group[key]}.")
    for key in (*_FLAGS, *_MAYBE_FLAGS):
        value = group.get(key)
        if key in group and not isinstance(value, bool) and (value is not None or key not in _MAYBE_FLAGS):
            raise TypeError(f"{where}: {key} must be True or False, got {value!r}.")
    if "betas" in group:
        _check_betas(group["betas"], f"{where}: betas")
    for key in ("momentum", "beta2"):
        if key in group and not 0 <= check_number(group[key], f"{where}: {key}") < 1:
            raise ValueError(f"{where}: {key} must be in [0, 1), got {group[key]}.")
    if group.get("rounding", "nearest") not in ROUNDINGS:
        raise ValueError(f"{where}: rounding must be one of {ROUNDINGS}, got {group['rounding']!r}.")
    seed = group.get("seed", 0)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"{where}: seed must be a whole number, got {seed!r}.")
    if "scale" in group and (not isinstance(group["scale"], str) or group["scale"] not in set(scales)):
        raise ValueError(
            f"{where}: scale must be one of {sorted(scales)}, got {group['scale']!r}. "
            "Pass a function (m, n) -> float as scale= to the optimizer, not in a group."
        )


def check_scale(scale: Any, layouts: Iterable[Layout], where: str) -> None:
    """Refuse a scale that does not return a finite number for the shape of each matrix."""
    wanted = f"{where}: scale must be the name of a scale or a function (m, n) -> float"
    if not callable(scale):
        raise TypeError(f"{wanted}; got {scale!r}.")
    for m, n in sorted({(m, n) for layout in layouts for b, m, n in layout.matrices if b * m * n}):
        try:
            factor = scale(m, n)
        except TypeError as error:
            raise TypeError(f"{wanted}; called with ({m}, {n}) it raised: {error}") from error
        if not isinstance(factor, Real) or isinstance(factor, bool):
            raise TypeError(f"{wanted}; for a {m} x {n} matrix it returned {factor!r}.")
        if not math.isfinite(factor):
            raise ValueError(f"{where}: scale must be finite; for a {m} x {n} matrix it returned {factor}.")


def check_number(value: Any, what: str) -> float:
    """A real number, or a tensor of one element, as a float. Other types raise TypeError, bools too."""
    if isinstance(value, Tensor):
        kind = f"a tensor of shape {tuple(value.shape)} in {value.dtype} on {value.device}"
        if value.numel() != 1 or value.is_meta or value.is_complex() or value.dtype is torch.bool:
            raise TypeError(f"{what} must be a number or a real tensor of one element, got {kind}.")
    elif isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{what} must be a number, got {value!r} of type {type(value).__name__}.")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{what} must fit a double, got a number of {len(str(value))} digits.") from None


def check_count(value: Any, what: str) -> None:
    """Refuse a value that is no integer (TypeError) or below 1 (ValueError)."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{what} must be a whole number, got {value!r}.")
    if value < 1:
        raise ValueError(f"{what} must be at least 1, got {value}.")


def _check_betas(betas: Any, what: str) -> None:
    if not isinstance(betas, Sequence) or isinstance(betas, str) or len(betas) != 2:
        raise TypeError(f"{what} must be a pair such as (0.9, 0.999), got {betas!r}.")
    if not all(0 <= check_number(beta, what) < 1 for beta in betas):
        raise ValueError(f"{what} must be in [0, 1), got {betas}.")
