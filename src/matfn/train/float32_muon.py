"""torch.optim.Muon with its iteration in float32, for CPUs that emulate bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["Float32Muon"]


class Float32Muon(torch.optim.Muon):
    """torch.optim.Muon, matrix by matrix, with its Newton-Schulz steps in float32 in place of bfloat16.

    Arguments, groups and state are torch's, so each loads the other's checkpoint. Momentum B, weight decay wd and
    weights W of a matrix (m, n) with gradient G move as in torch::

        B <- mu B + (1 - mu) G
        N  = mu B + (1 - mu) G  if nesterov else B
        W <- (1 - lr wd) W - lr scale(m, n) NewtonSchulz(N)

    References:
        Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024; torch/optim/_muon.py.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step of every weight that has a gradient; returns the loss of the closure, if there is one."""
        with torch.enable_grad():
            loss = closure() if closure is not None else None
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._move(weight, weight.grad, group)
        return loss

    def _move(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state, lr, momentum = self.state[weight], float(group["lr"]), group["momentum"]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        held = state["momentum_buffer"]
        held.lerp_(gradient, 1 - momentum)
        mixed = gradient.lerp(held, momentum) if group["nesterov"] else held
        weight.mul_(1 - lr * group["weight_decay"])
        m, n = weight.shape
        scale = 0.2 * max(m, n) ** 0.5 if group["adjust_lr_fn"] == "match_rms_adamw" else max(1.0, m / n) ** 0.5
        weight.add_(_factor(mixed, group), alpha=-lr * scale)


def _factor(X: Tensor, group: dict[str, Any]) -> Tensor:
    """The steps of torch's Muon on X (m, n), in float32."""
    a, b, c = group["ns_coefficients"]
    tall = X.shape[0] > X.shape[1]
    X = X.float().T if tall else X.float()
    X = X / X.norm().clamp(min=group["eps"])
    for _ in range(group["ns_steps"]):
        M = X @ X.T
        X = torch.addmm(X, torch.addmm(M, M, M, beta=b, alpha=c), X, beta=a)
    return X.T if tall else X
