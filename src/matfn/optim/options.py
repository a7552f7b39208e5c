"""Options of parameter groups: which names there are, near misses of them, and the type and range of each value."""

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

from torch import Tensor

from .matrices.layout import Layout

__all__ = ["FOREIGN", "check_number", "check_options", "check_scale", "check_values"]

# Keys that others write into groups: torch's schedulers and averaging, layer-wise decay, loggers.
FOREIGN = frozenset({"initial_lr", "max_lr", "min_lr", "base_lr", "swa_lr", "lr_scale", "lr_mult", "name"}) | frozenset(
    {"base_momentum", "max_momentum"}
)
_MEANT = {
    "learning_rate": "lr",
    "lrate": "lr",
    "decay": "weight_decay",
    "l2": "weight_decay",
    "epsilon": "eps",
    "mu": "momentum",
    "method": "method",
    "precision": "precision",
    "rest": "rest",
}
_FLAGS = ("nesterov", "cautious", "amsgrad", "maximize", "capturable", "differentiable")
_MAYBE_FLAGS = ("foreach", "fused")


def check_options(group: Mapping[str, Any], own: Iterable[str], other: Iterable[str], where: str) -> None:
    """Refuse options of the other rule and what looks like a misspelt option; other keys are kept, as torch keeps them.

    A key looks misspelt if, but for case, hyphens and underscores, it has four fifths of its letters in common with an
    option (difflib's ratio), is an option's letters in another order, its initials ("wd"), or a usual other word for it
    ("learning_rate"). The keys in `FOREIGN` never do.

    Args:
        group: the options given.
        own: names of the options of the group's rule.
        other: names of the options of the other rule.
        where: what the options belong to, for the message.

    Raises:
        ValueError: naming the key and what it may have meant.
    """
    own = set(own) | {"params", "rule", "layout", "param_names"}
    for key in set(group) - own - FOREIGN:
        if key in set(other):
            raise ValueError(f"{where} has option {key!r}, which its rule does not know; it knows {sorted(own)}.")
        meant = _meant(key, own) or _meant(key, set(other))
        if meant in ("method", "precision", "rest"):
            raise ValueError(f"{where} has {key!r}, which is an argument of the optimizer and the same for all groups.")
        if meant:
            raise ValueError(f"{where} has an unknown option {key!r}; did you mean {meant!r}?")


def _meant(key: object, options: set[str]) -> str | None:
    """The option that a key is a near miss of; None if it is of none."""
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


def check_values(group: Mapping[str, Any], where: str, scales: Iterable[str]) -> None:
    """Refuse option values of another type or out of range.

    Args:
        group: the options of a group, or some of them.
        where: what they belong to, for the message.
        scales: the scales that a group may name.

    Raises:
        TypeError: naming the option, its value and the type wanted.
        ValueError: naming the option, its value and its range.
    """
    for key in ("lr", "weight_decay", "eps", "ridge"):
        if key in group and not check_number(group[key], f"{where}: {key}") >= 0:
            raise ValueError(f"{where}: {key} must be >= 0, got {group[key]}.")
    for key in (*_FLAGS, *_MAYBE_FLAGS):
        value = group.get(key)
        if key in group and not isinstance(value, bool) and (value is not None or key not in _MAYBE_FLAGS):
            raise TypeError(f"{where}: {key} must be True or False, got {value!r}.")
    if "betas" in group:
        _check_betas(group["betas"], f"{where}: betas")
    for key in ("momentum", "beta2"):
        if key in group and not 0 <= check_number(group[key], f"{where}: {key}") < 1:
            raise ValueError(f"{where}: {key} must be in [0, 1), got {group[key]}.")
    if "scale" in group and (not isinstance(group["scale"], str) or group["scale"] not in set(scales)):
        raise ValueError(
            f"{where}: scale must be one of {sorted(scales)}, got {group['scale']!r}. "
            "A function (m, n) -> float goes to the optimizer's own scale=, not into a group."
        )


def check_scale(scale: Any, layouts: Iterable[Layout]) -> None:
    """Refuse a scale that does not give a finite number for the matrices it will be asked about.

    Args:
        scale: a function of (m, n).
        layouts: of the parameters.

    Raises:
        TypeError: it is no function, not one of two arguments, or returns no number.
        ValueError: it returns infinity or NaN.
    """
    wanted = "scale must be the name of a scale or a function (m, n) -> float"
    if not callable(scale):
        raise TypeError(f"{wanted}; got {scale!r}.")
    for m, n in sorted({(m, n) for layout in layouts for b, m, n in layout.matrices if b * m * n}):
        try:
            factor = scale(m, n)
        except TypeError as error:
            raise TypeError(f"{wanted}; called with ({m}, {n}) it raised: {error}") from error
        if not isinstance(factor, Real) or isinstance(factor, bool):
            raise TypeError(f"{wanted}; for a {m} x {n} matrix it gave {factor!r}.")
        if not math.isfinite(factor):
            raise ValueError(f"scale must be finite; for a {m} x {n} matrix it gave {factor}.")


def check_number(value: Any, what: str) -> float:
    """A real number or a tensor of one element, as a float; no string, no bool."""
    one = isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex()
    if isinstance(value, bool) or not (one or isinstance(value, Real)):
        raise TypeError(f"{what} must be a number, got {value!r} of type {type(value).__name__}.")
    return float(value)


def _check_betas(betas: Any, what: str) -> None:
    if not isinstance(betas, Sequence) or isinstance(betas, str) or len(betas) != 2:
        raise TypeError(f"{what} must be a pair such as (0.9, 0.999), got {betas!r}.")
    if not all(0 <= check_number(beta, what) < 1 for beta in betas):
        raise ValueError(f"{what} must be in [0, 1), got {betas}.")
