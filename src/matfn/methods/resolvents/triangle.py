"""Triangle: lower triangular matrices; large ones stay in blocks, so that products skip the zeros."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["Cut", "Factor", "Multiply", "from_left", "from_right", "joined", "on_the_right_transposed", "squared"]

_DENSE = 256  # rows up to which a triangle is dense: products of smaller blocks lose more than the zeros cost


class Multiply(Protocol):
    """Batched products in new tensors."""

    def mm(self, A: Tensor, B: Tensor) -> Tensor: ...  # noqa: D102


@dataclass(frozen=True, eq=False)
class Cut:
    """[[first, 0], [below, second]], blocks (b, rows, columns); the triangles are dense or `Cut`."""

    first: "Factor"
    below: Tensor
    second: "Factor"


Factor = Tensor | Cut


def joined(K: Factor) -> Factor:
    """Join the blocks of K to one tensor if K has at most `_DENSE` rows."""
    if isinstance(K, Tensor) or not isinstance(K.first, Tensor) or not isinstance(K.second, Tensor):
        return K
    k, h = K.below.shape[-2:]
    if k + h > _DENSE:
        return K
    whole = K.below.new_zeros(len(K.below), h + k, h + k)
    whole[:, :h, :h], whole[:, h:, :h], whole[:, h:, h:] = K.first, K.below, K.second
    return whole


def on_the_right_transposed(C: Tensor, K: Factor, products: Multiply) -> Tensor:
    """Compute C K^T for a contiguous C (b, m, n)."""
    if isinstance(K, Tensor):
        return products.mm(C, K.mT)
    h = K.below.shape[-1]
    left, right = C[..., :h].contiguous(), C[..., h:].contiguous()
    second = products.mm(left, K.below.mT).add_(on_the_right_transposed(right, K.second, products))
    return torch.cat([on_the_right_transposed(left, K.first, products), second], -1)


def from_right(C: Tensor, K: Factor, products: Multiply) -> Tensor:
    """Compute C K for a contiguous C (b, m, n)."""
    if isinstance(K, Tensor):
        return products.mm(C, K)
    h = K.below.shape[-1]
    left, right = C[..., :h].contiguous(), C[..., h:].contiguous()
    first = from_right(left, K.first, products).add_(products.mm(right, K.below))
    return torch.cat([first, from_right(right, K.second, products)], -1)


def from_left(K: Factor, V: Tensor, products: Multiply) -> Tensor:
    """Compute K V for V (b, n, m)."""
    if isinstance(K, Tensor):
        return products.mm(K, V)
    h = K.below.shape[-1]
    second = products.mm(K.below, V[:, :h]).add_(from_left(K.second, V[:, h:], products))
    return torch.cat([from_left(K.first, V[:, :h], products), second], -2)


def squared(K: Factor, weights: Tensor, out: Tensor, products: Multiply) -> None:
    """Add the weighted sum of K_j^T K_j to `out` (g, n, n), symmetric, upper blocks included; overwrites K.

    K (g r, n, n) has r factors for each of g matrices; `weights` (g r,) are positive.
    """
    _scale(K, weights.sqrt()[:, None, None])
    _add_squared(K, out, products)


def _scale(K: Factor, by: Tensor) -> None:
    if isinstance(K, Tensor):
        K.mul_(by)
        return
    K.below.mul_(by)
    _scale(K.first, by)
    _scale(K.second, by)


def _add_squared(K: Factor, out: Tensor, products: Multiply) -> None:
    """Add the sum of K_j^T K_j: compute the lower block triangle and mirror it."""
    g = len(out)
    if isinstance(K, Tensor):
        tall = _tall(K, g)
        out += products.mm(tall.mT, tall)
        return
    h, tall = K.below.shape[-1], _tall(K.below, g)
    out[:, :h, :h] += products.mm(tall.mT, tall)
    _add_squared(K.first, out[:, :h, :h], products)
    out[:, h:, :h] += _transposed_times(K.second, K.below, g, products)
    out[:, :h, h:] = out[:, h:, :h].mT
    _add_squared(K.second, out[:, h:, h:], products)


def _transposed_times(K: Factor, V: Tensor, g: int, products: Multiply) -> Tensor:
    if isinstance(K, Tensor):
        return products.mm(_tall(K, g).mT, _tall(V, g))
    h = K.below.shape[-1]
    upper, lower = V[:, :h], V[:, h:]
    first = _transposed_times(K.first, upper, g, products).add_(products.mm(_tall(K.below, g).mT, _tall(lower, g)))
    return torch.cat([first, _transposed_times(K.second, lower, g, products)], -2)


def _tall(K: Tensor, g: int) -> Tensor:
    """Reshape (g r, m, n) to (g, r m, n)."""
    return K.reshape(g, -1, K.shape[-1])
