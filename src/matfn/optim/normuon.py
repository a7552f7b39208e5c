"""NorMuon: Muon whose output rows are brought to one size, measured over many steps, at the norm the update had."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..engines import Engine
from ..iteration.protocols import Method
from ..kernels import Products
from .matrices import foreach
from .matrices.buckets import Bucket, Slot, working_dtype
from .options import check_number
from .oracle import PolarOptimizer
from .rest import StateLike
from .scale import Scale

__all__ = ["NorMuon"]

ROWS = "row_moment"


class NorMuon(PolarOptimizer):
    r"""NorMuon for the matrices, torch's AdamW for the rest, in one torch optimizer.

    A polar factor has singular values of one size, but the rows of a tall one do not have: some neurons move much more
    than others. With the momentum N and its polar factor U as in `Muon`, and v of one entry per output row::

        v  <- beta2 v + (1 - beta2) mean over the row of U * U
        V  = U / (sqrt(v) + eps), row by row
        W <- (1 - lr wd) W - lr scale(m, n) V ||U||_F / ||V||_F

    The norm is that of Muon's update, so learning rates carry over. There is no bias correction: a factor common to all
    rows drops out with the norm. State beside the momentum: v, one number per row.

    Args:
        params: as in `Muon`.
        lr: as in `Muon`.
        momentum: in [0, 1).
        beta2: in [0, 1), of v. 0.95 is the authors' choice; 0 makes all rows equal in every step.
        nesterov: as in `Muon`.
        eps: >= 0, added to sqrt(v), which is about 1 / sqrt(n): it keeps rows of nothing but rounding small.
        weight_decay: as in `Muon`.
        cautious: as in `Muon`.
        scale: as in `Muon`. "moonlight" is the authors' 0.2 sqrt(m n) / ||V||_F, for an exact U.
        method: as in `Muon`.
        precision: as in `Muon`.
        engine: as in `Muon`.
        products: as in `Muon`.
        rest: as in `Muon`.

    Raises:
        ValueError: as `Muon`.
        TypeError: as `Muon`.

    References:
        Li et al., "NorMuon: making Muon more efficient and scalable", arXiv:2510.05491.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 0.02,
        *,
        momentum: float = 0.95,
        beta2: float = 0.95,
        nesterov: bool = True,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        cautious: bool = False,
        scale: str | Scale = "jordan",
        method: Method | None = None,
        precision: torch.dtype | None = None,
        engine: Engine | None = None,
        products: Products | None = None,
        rest: Mapping[str, Any] | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "beta2": beta2,
            "nesterov": nesterov,
            "eps": eps,
            "weight_decay": weight_decay,
            "cautious": cautious,
            "scale": scale,
        }
        super().__init__(
            params, defaults, method=method, precision=precision, engine=engine, products=products, rest=rest
        )

    def direction(self, bucket: Bucket, stack: Tensor) -> Tensor:
        """The polar factor ``(b, m, n)``, its rows evened out, at its norm."""
        U = self.factor(stack)
        squares = (U * U).mean(-1)
        v = torch.empty_like(squares)
        moments = [self._rows(slot) for slot in bucket.slots]
        places = [v[s.start : s.start + s.count].view_as(rows) for s, rows in zip(bucket.slots, moments, strict=True)]
        foreach.copy_(places, moments)
        factor = torch.empty_like(squares)
        for index, slots in bucket.by_group().items():
            group, run = self.param_groups[index], bucket.run(slots)
            v[run].lerp_(squares[run], 1 - float(group["beta2"]))
            # Rows that were always zero stay so, for eps = 0 too.
            factor[run] = torch.where(v[run] > 0, 1 / (v[run].sqrt() + float(group["eps"])), 0.0)
        foreach.copy_(moments, places)
        evened = (squares * factor**2).sum(-1, keepdim=True)
        factor *= torch.where(evened > 0, squares.sum(-1, keepdim=True) / evened, 0.0).sqrt()
        return U.mul_(factor.unsqueeze(-1))

    def state_like(self, param: Tensor, group: Mapping[str, Any]) -> StateLike:
        """Beside the momentum v: one number for each row of each matrix."""
        like = super().state_like(param, group)
        if group["rule"] == "matrix":
            layout = self.layouts[param]
            rows = tuple(layout.split[axis] for axis in (*layout.batch, layout.rows))
            like[ROWS] = (rows, working_dtype(param))
        return like

    def check_group(self, group: Mapping[str, Any], where: str) -> None:
        """As the base, and beta2.

        Raises:
            ValueError: naming the option, its value and its range.
            TypeError: naming the option, its value and the type wanted.
        """
        super().check_group(group, where)
        if group["rule"] == "matrix" and not 0 <= check_number(group["beta2"], f"{where}: beta2") < 1:
            raise ValueError(f"{where}: beta2 must be in [0, 1), got {group['beta2']}.")

    def _rows(self, slot: Slot) -> Tensor:
        """The view of v that belongs to the slot's matrices, (batch..., m)."""
        return self.state_of(slot, ROWS).split(slot.layout.cuts, dim=-1)[slot.piece]
