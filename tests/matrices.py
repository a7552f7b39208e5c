"""Matrices of known singular values, eigenvalues and vectors, in float64."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from matfn.iteration.target import Target
from matfn.run.arguments import sketch_key
from matfn.run.execute import execute
from matfn.run.plan import resolve

# The compiler of torch 2.8 follows neither unions of protocols nor frozen dataclasses, the one of 2.11 not the latter.
compiles = pytest.mark.skipif(
    tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 13), reason="torch.compile needs torch 2.13"
)


def generator(seed: int) -> torch.Generator:
    """A generator of its own: tests neither read nor change the global one."""
    return torch.Generator().manual_seed(seed)


def gaussian(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Independent standard normal entries."""
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64).to(dtype)


def orthogonal(n: int, k: int | None = None, seed: int = 0) -> Tensor:
    """k orthonormal columns of length n (k = n by default)."""
    Q, R = torch.linalg.qr(gaussian(n, n if k is None else k, seed=seed))
    return Q * R.diagonal().sign()


def of_singular_values(sigma: Tensor, m: int, n: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """A = U diag(sigma) V^T, with U (m, r) and V (n, r): the triple (A, U, V)."""
    U, V = orthogonal(m, len(sigma), seed), orthogonal(n, len(sigma), seed + 1000)
    return (U * sigma) @ V.mT, U, V


def of_eigenvalues(values: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A = V diag(values) V^T, symmetric to the last bit: the pair (A, V)."""
    V = orthogonal(len(values), seed=seed)
    A = (V * values) @ V.mT
    return (A + A.mT) / 2, V


def spectrum(n: int, condition: float) -> Tensor:
    """n values from 1 to 1/condition, equally spaced in the logarithm."""
    return torch.logspace(0, -torch.log10(torch.tensor(condition)).item(), n, dtype=torch.float64)


def compute(target: Target, A: Tensor, method, engine=None, precision=None, generator=None, products=None) -> Tensor:
    """The function by a method, without the checks of values and the derivative that a verb adds."""
    options = {"engine": engine, "precision": precision, "products": products}
    differentiated = torch.is_grad_enabled() and A.requires_grad
    plan = resolve(target, method, tuple(A.shape[-2:]), A.dtype, A.device, differentiated=differentiated, **options)
    return execute(replace(plan, on_range=False), A, sketch_key(generator, target.verb))
