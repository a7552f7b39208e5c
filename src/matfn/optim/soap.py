"""SOAP: Adam in the eigenbasis of Shampoo's factors, a basis that turns slowly by one QR step at a time."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from .optimizer import MatrixOptimizer
from .rules.blocks import Cutting
from .rules.eigenbasis import Eigenbasis
from .rules.ema import Ema

__all__ = ["SOAP"]


class SOAP(MatrixOptimizer):
    r"""SOAP for the matrices, torch's AdamW for the rest, in one torch optimizer.

    For a block G of the gradient of a matrix with sides j = 1, ..., k (2, or more for a convolution), with momentum mu,
    EMA factor beta2 and decay wd, and the basis Q_j of side j (the identity for a side without one)::

        Q_j <- eigenvectors of A_j, at the second step
               QR factor of A_j Q_j, columns sorted by q^T A_j q, at every `basis_every`-th step after it; V likewise
        B   <- mu B + (1 - mu) G                                     float32 (float64 for float64 weights)
        G'  = G multiplied by Q_j^T along each side, B' = B likewise
        V   <- beta2 V + (1 - beta2) G'^2
        D   = (B' / c') / (sqrt(V / c) + eps), multiplied by Q_j along each side
        W   <- (1 - lr wd) W - lr D
        A_j <- beta2 A_j + (1 - beta2) G_j G_j^T

    with bias corrections c and c'. As in the paper, a step uses the bases of earlier gradients: in the basis of its own
    gradient Adam would divide rounding errors by themselves. So the first step has no basis. It is Adam's own in the
    coordinates of the weights, and both B and V begin anew at the second step: only the factors keep the first
    gradient. (The reference implementation does not move at the first step. From the second step on it is the same.)
    So early steps are bounded as Adam's, for every size of the first gradient.

    As in Adam, entries of gradients must be within 1e-18 and 1e18 in float32: NaN and infinity reach the weights, and
    an infinite square stops its entry, here of G'. Neither enters the factors.

    Args not listed, and errors, are as in `Muon`.

    Args:
        lr: Learning rate, >= 0. 3e-3 is the paper's.
        momentum: In [0, 1); the paper's beta1.
        beta2: Of the factors and of V, in [0, 1).
        eps: As in AdamW.
        basis_every: Steps from one QR step to the next.
        cutting: Block size, merging of small dimensions, and the longest side that has a basis. None is
            ``Cutting(block=None, merge=1024, largest=10000)``: whole matrices, and one side only for a vocabulary.

    References:
        Vyas et al., "SOAP: Improving and stabilizing Shampoo using Adam", arXiv:2409.11321.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 3e-3,
        *,
        momentum: float = 0.95,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        cautious: bool = False,
        beta2: float = 0.95,
        eps: float = 1e-8,
        basis_every: int = 10,
        cutting: Cutting | None = None,
        rounding: str = "nearest",
        seed: int = 0,
        rules: Mapping[str, Callable[[Any], MatrixOptimizer]] | None = None,
        rest: Mapping[str, Any] | None = None,
    ) -> None:
        options = {"lr": lr, "momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay}
        options |= {"cautious": cautious, "scale": "unit", "beta2": beta2, "eps": eps, "basis_every": basis_every}
        options |= {"rounding": rounding, "seed": seed}
        rule = Eigenbasis(Cutting(block=None, largest=10000) if cutting is None else cutting)
        # V does not contain the first gradient, so the momentum must not contain it either.
        super().__init__(params, options, (Ema(anew=2), rule), rules=rules, rest=rest)
