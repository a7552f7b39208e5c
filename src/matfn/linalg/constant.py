"""Constant: functions that are evaluated once for each set of arguments, and by torch.compile while it traces."""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar

__all__ = ["constant"]

P = ParamSpec("P")
T = TypeVar("T")


def constant(function: Callable[P, T]) -> Callable[P, T]:
    """Cache a function of hashable arguments, and keep its inside (fractions, numpy, files) out of graphs.

    The mark is the one that torch.compiler.assume_constant_result sets; the decorator itself would import the whole
    compiler, 1.5 s, with the package.
    """
    cached = lru_cache(maxsize=256)(function)

    @wraps(function)
    def evaluated(*args: P.args, **kwargs: P.kwargs) -> T:
        return cached(*args, **kwargs)

    evaluated._dynamo_marked_constant = True  # pyright: ignore[reportAttributeAccessIssue]
    return evaluated
