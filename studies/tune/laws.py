"""Laws: the singular values of the matrices that plans are judged on, before and after deflation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from matfn.kernels import EAGER
from matfn.run.preparation import deflated

__all__ = ["COUNT", "Laws"]

COUNT = 64  # singular values kept of each matrix, evenly by rank


@dataclass(frozen=True, eq=False)
class Laws:
    """The singular values of some matrices at the start of an iteration, computed on first use.

    What `deflated` leaves is measured on the matrices and not computed from their singular values: were the k largest
    found exactly, each would become sigma / (1 + sigma^2 / c^2)^(1/2), and rms(1 - sigma) of three steps would come out
    at .18 where it is .24 (256 singular values j^(-3/2), a sixteenth deflated); the sketch mixes them with others.
    With the values measured, foretold and true rms differ by .5 % in the mean over 28 momenta, three shares and both
    engines in bfloat16, by 2 % at most with `Direct` and 8 % with `Gram`.

    Attributes:
        matrices: Each (m, n), float32 or float64; zero ones are left out.
    """

    matrices: Sequence[Tensor]
    _known: dict[tuple[float, str], np.ndarray] = field(default_factory=dict, repr=False)

    def after(self, share: float, norm: str) -> np.ndarray:
        """The singular values that a schedule begins with, (matrices, `COUNT`).

        Evenly by rank, fewer of them several times: of the matrix divided by its Frobenius norm, deflated, and then,
        with "schatten4", divided by the Schatten-4 norm of what is left, of all singular values.

        Args:
            share: See `PolarExpress.deflation`; 0 leaves the values alone.
            norm: See `PolarExpress.norm`.
        """
        if (share, norm) not in self._known:
            laws = [_thinned(_begun(X, share), norm) for X in self.matrices if bool(X.any())]
            self._known[share, norm] = np.stack(laws)
        return self._known[share, norm]


def _begun(X: Tensor, share: float) -> np.ndarray:
    """Singular values of X, deflated, over their norm, largest first: from X X^T in float64, to 1e-8 of the largest."""
    X = deflated((X / X.norm())[None], share, X.dtype, EAGER)[0].double()
    X = X.mT if X.shape[0] > X.shape[1] else X
    values = torch.linalg.eigvalsh(X @ X.mT).clamp_min(0).sqrt().flip(0)
    return (values / values.norm()).cpu().numpy()


def _thinned(values: np.ndarray, norm: str) -> np.ndarray:
    picked = values[((np.arange(COUNT) + 0.5) * len(values) / COUNT).astype(int)]
    return picked / (np.linalg.norm(values, 4) if norm == "schatten4" else 1.0)
