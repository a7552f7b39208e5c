"""Constant: evaluate a function once for each set of arguments, and during tracing under torch.compile."""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar

__all__ = ["constant"]

P = ParamSpec("P")
T = TypeVar("T")


def constant(function: Callable[P, T]) -> Callable[P, T]:
    """Cache a function of hashable arguments, and keep its body (fractions, numpy, files) out of compiled graphs.

    Sets the mark of torch.compiler.assume_constant_result directly, because torch's decorator imports the whole
    compiler (1.5 s).
    """
    cached = lru_cache(maxsize=256)(function)

    @wraps(function)
    def evaluated(*args: P.args, **kwargs: P.kwargs) -> T:
        return cached(*args, **kwargs)

    evaluated._dynamo_marked_constant = True  # pyright: ignore[reportAttributeAccessIssue]
    return evaluated
