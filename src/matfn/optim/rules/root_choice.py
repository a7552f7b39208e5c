"""Root choice: how Shampoo computes a root when it is told no method, by size, dtype, device and ridge, and why."""

from dataclasses import dataclass

import torch

from ...iteration.protocols import Method
from ...methods import Exact
from ...methods.resolvents.resolvents import resolvents

__all__ = ["RootChoice", "lower_bound", "root_choice"]

# Rows from which the sum of resolvents, with the check that it needs and `Exact` does not, is quicker by enough to pay
# for its error (AMD EPYC with AVX512, one thread of a busy machine, ridge 1e-6, p = 2 and 4): 1.1 to 1.3 times at 64
# rows, 1.6 at 96, 2.4 at 256, about 3 at 1024.
_ROWS = 96
# Below a few eps a ridge is lost in the rounding of a float32 factor, and Cholesky's factorization breaks down.
_RIDGE = 4 * torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class RootChoice:
    """A method, and the reason for it.

    Attributes:
        method: For the inverse root.
        reason: One clause, for people.
    """

    method: Method
    reason: str


def root_choice(n: int, p: int, ridge: float, dtype: torch.dtype, device: torch.device) -> RootChoice:
    """The method for inverse p-th roots of n x n factors with a relative ridge.

    Args:
        n: Rows.
        p: Of A^(-1/p).
        ridge: Relative to the Frobenius norm, at least 0.
        dtype: Of the factors.
        device: Where they lie.
    """
    if device.type != "cpu":
        return RootChoice(Exact(), f"nothing else has been measured on {device.type}")
    if dtype != torch.float32:
        return RootChoice(Exact(), f"who keeps factors in {dtype} wants them exact")
    if ridge < _RIDGE:
        return RootChoice(
            Exact(), f"a ridge of {ridge:g} is below {_RIDGE:.1g}, so float32 does not bound the spectrum"
        )
    if n < _ROWS:
        return RootChoice(Exact(), f"{n} rows are below the {_ROWS} from which a sum of resolvents is quicker")
    method = resolvents(p, lower_bound(p, ridge, n))
    terms = len(method.terms().shifts)
    return RootChoice(method, f"{terms} resolvents are quicker from {_ROWS} rows on, and within {method.error:g}")


def lower_bound(p: int, ridge: float, n: int) -> float:
    """The bound of s = m^(1/p) that a ridge gives, for matrices divided by their Frobenius norm."""
    return (ridge / (1 + ridge * n**0.5)) ** (1 / p)
