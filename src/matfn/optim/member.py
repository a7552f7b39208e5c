"""Member: a matrix parameter that processes share, or a part of it with an owner of its own, and its whole there."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .matrices.exchange_plan import Matrix
from .matrices.layout import Layout
from .matrices.shards import is_dtensor

if TYPE_CHECKING:
    from .optimizer import MatrixOptimizer

__all__ = ["Member", "Whole"]


@dataclass(frozen=True, eq=False)
class Member:
    """A matrix parameter whose matrices travel, or a part of one (see `matrices.parts`)."""

    group: int
    name: str
    param: Tensor
    layout: Layout  # of the whole parameter
    lender: "MatrixOptimizer"
    matrix: Matrix
    wire: torch.dtype  # of inputs and directions in messages
    cut: bool  # whether ranks hold parts of the parameter

    @property
    def resident(self) -> bool:
        """Whether state of the matrix rules stays with the owner. Under DDP every process keeps all of it."""
        return is_dtensor(self.param)

    @property
    def part_layout(self) -> Layout:
        """How the owner reads the part: fewer matrices of the same shape."""
        return self.layout if self.matrix.length is None else self.layout.resized(self.matrix.shape[0])


@dataclass(eq=False)
class Whole:
    """A whole parameter, or part of one, at its owner, as far as buckets and rules need a tensor."""

    member: Member
    device: torch.device
    input: Tensor  # of the matrix rules
    grad: Tensor  # the whole gradient; the input if no rule reads gradients
    result: Tensor  # the direction, in the dtype of messages

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the parameter or part."""
        return self.member.matrix.shape

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self.member.param.dtype
