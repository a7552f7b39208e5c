"""Residual: R = I - M through products and norms."""

import pytest
import torch

from matfn.iteration.residual import Residual
from matrices import gaussian, of_eigenvalues, spectrum


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_norm_and_products(dtype):
    M = torch.stack([of_eigenvalues(spectrum(6, c))[0] for c in (1.0, 10.0, 1e4)]).to(dtype)
    R = torch.eye(6, dtype=torch.float64) - M.double()
    residual = Residual(M, 2)
    assert residual.p == 2
    eps = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    norm = residual.norm()
    assert norm.shape == (3,)
    assert norm.dtype == torch.promote_types(dtype, torch.float32)
    assert (norm.double() - torch.linalg.matrix_norm(R)).abs().max() <= 20 * eps
    for W in (gaussian(6, 2, seed=1), gaussian(3, 6, 2, seed=2)):
        got = residual.times(W.to(dtype))
        assert got.shape == (3, 6, 2)
        assert (got.double() - R @ W.to(dtype).double()).abs().max() <= 20 * eps * W.abs().max()


def test_the_matrix_is_not_changed():
    M = gaussian(2, 4, 4)
    before = M.clone()
    residual = Residual(M, 3)
    residual.norm()
    residual.times(gaussian(4, 2))
    assert torch.equal(M, before)
    assert torch.equal(residual.M, before)
