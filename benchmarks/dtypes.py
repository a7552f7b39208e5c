"""Names of dtypes on the command line: torch's own and the short ones, in one table for every command."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from matfn.train import TrainError

__all__ = ["SHORT", "full_name", "full_names"]

SHORT = {
    "f16": "float16",
    "fp16": "float16",
    "bf16": "bfloat16",
    "f32": "float32",
    "fp32": "float32",
    "f64": "float64",
    "fp64": "float64",
}


def full_name(name: str, option: str, known: Collection[str]) -> str:
    """Torch's name of a dtype.

    Args:
        name: As it was typed: torch's name or a short one, in either case.
        option: That it was given to, such as "--dtype".
        known: Torch's names of what the command takes.

    Raises:
        TrainError: It is none of them.
    """
    full = SHORT.get(name.lower(), name.lower())
    if full not in known:
        short = [alias for alias, of in SHORT.items() if of in known]
        raise TrainError(f"{option}: {name!r} is none of {', '.join(known)} (or {', '.join(short)})")
    return full


def full_names(names: Sequence[str], option: str, known: Collection[str]) -> tuple[str, ...]:
    """`full_name` of each, once each, in the order they were given."""
    return tuple(dict.fromkeys(full_name(name, option, known) for name in names))
