"""Muon in float32 as torch.optim.Muon would have it: something to compare a float32 step with, which no package has."""

from __future__ import annotations

from importlib import import_module

import torch
from torch import Tensor, nn

from benchmarks.peers import LR, Named

__all__ = ["Float32Muon", "float32_muon"]


class Float32Muon(torch.optim.Optimizer):
    """What torch.optim.Muon does, matrix by matrix, with its five steps in float32 in place of bfloat16.

    Args:
        params: float32 matrices.
        triple: Coefficients of every step.
        eps: The norm is at least that.
    """

    def __init__(self, params: list[nn.Parameter], triple: tuple[float, float, float], eps: float) -> None:
        super().__init__(params, {})
        self.triple, self.eps = triple, eps

    @torch.no_grad()
    def step(self, closure: object = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step with momentum 0.95, Nesterov's, the scale sqrt(max(1, m / n)) and no decay."""
        for weight in (weight for group in self.param_groups for weight in group["params"]):
            if not self.state[weight]:
                self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
            held = self.state[weight]["momentum_buffer"]
            held.lerp_(weight.grad, 1 - 0.95)
            update = self._factor(weight.grad.lerp(held, 0.95))
            weight.add_(update, alpha=-LR * max(1.0, weight.shape[0] / weight.shape[1]) ** 0.5)

    def _factor(self, X: Tensor) -> Tensor:
        a, b, c = self.triple
        tall = X.shape[0] > X.shape[1]
        X = X.T if tall else X
        X = X / X.norm().clamp(min=self.eps)
        for _ in range(5):
            M = X @ X.T
            X = torch.addmm(X, torch.addmm(M, M, M, beta=b, alpha=c), X, beta=a)
        return X.T if tall else X


def float32_muon(named: Named) -> Float32Muon:
    """The coefficients are those of the torch that is installed."""
    module = import_module("torch.optim._muon")
    return Float32Muon(
        [weight for _, weight in named], (module.DEFAULT_A, module.DEFAULT_B, module.DEFAULT_C), module.EPS
    )
