"""Whether telemetry changes gradients or the step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from matfn import optim
from matfn.optim import Telemetry

__all__ = ["MAKERS", "untouched"]

Making = Callable[[list[nn.Parameter]], torch.optim.Optimizer]

MAKERS: dict[str, Making] = {
    "Muon": lambda params: optim.Muon(params, lr=0.1),
    "NorMuon": lambda params: optim.NorMuon(params, lr=0.1),
    "PolarGrad": lambda params: optim.PolarGrad(params, lr=0.01),
    "PolarGrad, polar-first": lambda params: optim.PolarGrad(params, lr=0.01, variant="polar-first"),
    "Shampoo": lambda params: optim.Shampoo(params, lr=0.01),
    "SOAP": lambda params: optim.SOAP(params, lr=0.01),
    "torch AdamW": lambda params: torch.optim.AdamW(params, lr=0.01),
}


def untouched(steps: int = 3) -> list[str]:
    """The optimizers whose gradients or weights change by a bit with telemetry; there should be none."""
    changed = []
    for name, make in MAKERS.items():
        source = torch.Generator().manual_seed(0)
        watched, plain = ([nn.Parameter(torch.ones(12, 8)), nn.Parameter(torch.ones(8, 30))] for _ in range(2))
        first, second = make(watched), make(plain)
        Telemetry(first, every=1, budget=1.0)
        for _ in range(steps):
            for p, q in zip(watched, plain, strict=True):
                p.grad = torch.randn(p.shape, generator=source)
                q.grad = p.grad.clone()
            true = [p.grad.clone() for p in watched if p.grad is not None]
            first.step()
            second.step()
            pairs = zip(watched, plain, true, strict=True)
            if not all(torch.equal(p, q) and p.grad is not None and torch.equal(p.grad, g) for p, q, g in pairs):
                changed.append(name)
                break
    return changed
