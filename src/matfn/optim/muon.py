"""Muon: momentum, orthogonalized. The update of a matrix is the polar factor of its momentum.

Steepest descent under the spectral norm: of all updates with singular values at most 1, the polar factor U of the
momentum is the one most aligned with it. The rest of the model follows torch's AdamW (rest.py).
"""

from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor

from ..engines import Engine
from ..iteration.protocols import Method
from ..kernels import Products
from .optimizer import MatrixOptimizer
from .rules.ema import Ema
from .rules.polar import Polar
from .scale import Scale
from .switch import adopted, as_torch

__all__ = ["Muon"]


class Muon(MatrixOptimizer):
    r"""Muon for the matrices, torch's AdamW for the rest, in one torch optimizer.

    For the gradient G of a matrix W of m outputs and n inputs, with momentum mu and decay wd::

        B <- mu B + (1 - mu) G                      float32 (float64 for float64 weights), never in .grad
        N  = mu B + (1 - mu) G  if nesterov else B
        U  = polar factor of N, by `method`
        W <- (1 - lr wd) W - lr scale(m, n) U

    There is no epsilon: the update is the same for gradients of norm 1e-30 and 1e30, and zero for a zero gradient. NaN
    and infinite gradients reach the weights, because a check would cost a synchronisation. Use a GradScaler, or test
    the loss. `Exact` refuses them: then the step raises ValueError with the parameter's name before anything changes.

    `from_torch` continues from torch.optim.Muon or a Muon of Keller Jordan, `to_torch` converts back, and
    `load_state_dict` takes their checkpoints.

    Args:
        params: ``plan(model)``, or an iterable of 2-D tensors, of (name, tensor) pairs, or of dict groups. A group may
            set any option below that is not an object, ``"rule": "adamw"``, or ``"layout"`` (`matfn.optim.layout`) for
            tensors that are not 2-D. The flags ``use_muon`` and ``algorithm`` of other Muons become the rule; for
            their other words (ns_steps, adjust_lr_fn, ...) the error names the argument to use here.
        lr: Learning rate, >= 0, for the exact polar factor times the scale. 0.02 suits hidden matrices under the
            "jordan" scale. Under "moonlight" use the learning rate tuned for AdamW.
        momentum: In [0, 1). 0.95 is the usual choice.
        nesterov: Whether the gradient is mixed into the momentum a second time.
        weight_decay: Decoupled, >= 0. 0.01 to 0.1 is usual in long runs.
        cautious: Whether decay is limited to entries on which update and weight agree in sign, so both shrink them.
        scale: "jordan" sqrt(max(1, m/n)), "spectral" sqrt(m/n), "moonlight" 0.2 sqrt(max(m, n)), or a function of
            (m, n). If a parameter is cut, m and n are the sizes of one block.
        method: How the polar factor is computed, a value of `matfn.METHODS`. None is three to five minimax steps, by
            size and device: the error of torch's Muon on momenta of training runs, in half the products.
            ``matfn.explain((m, n), "muon")`` shows them. `PolarExpress()` has less error, and `Tuned("jordan")` is the
            classical choice.
        precision: Dtype of the iteration. None is float16 on an NVIDIA GPU from sm_80 on, bfloat16 on a CPU that has
            arithmetic for it, else float32.
            Rounding in bfloat16 is 1 % of the update's norm, and five steps leave 10 %. None is float32 for methods
            that are more than products, such as `QDWH`, and float64 for float64 weights.
        engine: How the polynomials are applied, `Direct()` or `Gram(...)`. None is a choice by counted products.
        products: The matrix products, such as `matfn.kernels.EAGER`. None is a choice by machine, dtype and size.
        rounding: How half-precision weights are rounded after a move, of the matrices and of the rest. "nearest" loses
            updates below half a unit in the last place, and in bfloat16 that is most of them at small learning rates.
            "stochastic" rounds up or down at random, right on average. "compensated" keeps the rounding error in a
            second buffer of the weights' dtype (docs/optimizers.md has the memory). Other weights move as before.
        seed: Seed of the noise of "stochastic", a whole number. The noise depends only on it, the parameter's name and
            the number of its step. So it is the same on every process, and a resumed run has the same bits.
        rules: {name: function from parameters to an optimizer} for further groups. For example
            ``{"polargrad": functools.partial(PolarGrad, lr=1.0)}`` serves groups with ``"rule": "polargrad"``, and its
            options are their defaults.
        rest: Options of torch.optim.AdamW for the rest, such as ``dict(lr=3e-3, weight_decay=0.1)``. None takes AdamW's
            own defaults (lr 1e-3, weight_decay 1e-2). Under a plan, norms, biases and other vectors do not decay.
        graph: Whether each step is one CUDA graph, captured once and replayed (docs/optimizers.md). It needs all
            parameters on one CUDA device. lr, weight_decay, momentum and beta2 may follow schedules. A change of
            another option, or of the set of parameters with a gradient, costs two steps without a graph. Hooks,
            sharded parameters, ``rounding="stochastic"``, methods that read values (`Exact`, or a tol) and rules that
            count steps (Shampoo, SOAP) are refused.

    A group keeps unknown keys, as in torch (a scheduler's "initial_lr", a logger's "name"). Keys that look like a
    misspelt option ("wd", "lrr", "learning_rate") are refused.

    torch's OneCycleLR and CyclicLR cycle `momentum` of the matrices and beta1 of AdamW, both between their
    ``base_momentum`` and ``max_momentum``. Pass ``cycle_momentum=False`` to them to keep yours.

    Raises:
        ValueError: If an option is out of range, misspelt or unused (such as `precision` under `Exact()`), or a matrix
            parameter is no matrix.
        TypeError: If `params` is a module, one tensor or a set, `method` is no method object, or an option has a wrong
            type.

    References:
        Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024.
        Amsel et al., "The Polar Express", arXiv:2505.16932.
        Chen et al., "Cautious weight decay", arXiv:2510.12402 (`cautious`).
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 0.02,
        *,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        cautious: bool = False,
        scale: str | Scale = "jordan",
        method: Method | None = None,
        precision: torch.dtype | None = None,
        engine: Engine | None = None,
        products: Products | None = None,
        rounding: str = "nearest",
        seed: int = 0,
        rules: Mapping[str, Callable[[Any], MatrixOptimizer]] | None = None,
        rest: Mapping[str, Any] | None = None,
        graph: bool = False,
    ) -> None:
        options = {"lr": lr, "momentum": momentum, "nesterov": nesterov}
        options |= {"weight_decay": weight_decay, "cautious": cautious, "scale": scale}
        options |= {"rounding": rounding, "seed": seed}
        polar = Polar(method, precision, engine, products, owner=type(self).__name__)
        super().__init__(params, options, (Ema(), polar), rules=rules, rest=rest, graph=graph)

    @classmethod
    def from_torch(
        cls, optimizer: torch.optim.Optimizer, adamw: torch.optim.AdamW | None = None, **options: Any
    ) -> Self:
        """Continue from torch.optim.Muon or a Muon of Keller Jordan: same parameters, momentum, options and steps.

        ns_steps and ns_coefficients become the method, in bfloat16 as there; adjust_lr_fn becomes the scale ("original"
        is "jordan", "match_rms_adamw" is "moonlight"); groups with ``use_muon=False`` get the rule "adamw". A warning
        says what has no counterpart: an eps above 1e-7, and Jordan's scale of convolutions.

        Schedulers hold the old optimizer, so make new ones. The other optimizer does not change; do not use it again.

        Args:
            optimizer: The Muon.
            adamw: torch's AdamW that moves the other parameters, to be taken over too.
            options: Arguments of this class that replace those taken over, in every group, such as
                ``method=PolarExpress()``, ``lr=0.01`` for the matrices, ``rest=dict(lr=1e-3)`` for the others.

        Raises:
            TypeError: If an optimizer is of another kind.
            ValueError: If groups have different steps, or Muon refuses a parameter.
        """
        name = f"{cls.__name__}.from_torch"
        groups, taken, state = adopted(optimizer, adamw, options, name)
        found = cls(groups, **{**taken, **options})
        found.load_state_dict(state)
        return found

    def to_torch(self) -> tuple[torch.optim.Optimizer, torch.optim.AdamW | None]:
        """The same in torch's own words: torch.optim.Muon for the matrices, AdamW for the rest or None without a rest.

        Momentum is rounded to the dtype of the weights, as torch keeps it. Options are those of the groups. Steps that
        repeat one quintic polynomial become ns_coefficients and ns_steps; for any other method a warning says that
        torch goes on with its own.

        Raises:
            ValueError: If a matrix is cut or has other axes than (out, in), or a group has a rule, a scale or an option
                that torch lacks.
            RuntimeError: If this torch has no Muon (before 2.9).
        """
        return as_torch(self, f"{type(self).__name__}.to_torch")
