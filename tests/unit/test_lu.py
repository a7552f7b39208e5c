"""Inverses of batches, on as many threads as there are: each matrix's is its own."""

import pytest
import torch

import matfn
from matfn.linalg.lu import inv_ex
from matrices import gaussian


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("shape", [(3, 3), (1, 70, 70), (3, 63, 63), (1, 2, 220, 220)], ids=str)
def test_they_are_inverses(shape, dtype, threads):
    """Residual: (about n) u times the condition number, as LU with pivots has it."""
    n = shape[-1]
    A = (gaussian(*shape, seed=1) + 4 * n**0.5 * torch.eye(n, dtype=torch.float64)).to(dtype)
    inverse, info = inv_ex(A)
    assert (inverse.shape, info.shape) == (A.shape, A.shape[:-2])
    assert not info.any()
    eps = torch.finfo(dtype).eps
    torch.set_num_threads(1)  # what follows is the check: threads that wait for one another cost seconds there
    condition = torch.linalg.cond(A).max().item()
    assert (A @ inverse - torch.eye(n, dtype=dtype)).abs().max() <= n * eps * condition


def test_singular_matrices_are_named():
    A = torch.eye(70, dtype=torch.float64).repeat(3, 1, 1)
    A[1, 4, 4] = 0
    assert inv_ex(A)[1].tolist() == [0, 5, 0]


def test_every_function_that_inverts_is_right_on_threads(threads):
    """Batches of 220: those of which torch's own batched LU makes garbage on two threads."""
    n = 220
    A = (gaussian(2, n, n, seed=2) / (3 * n**0.5)).double() + torch.eye(n, dtype=torch.float64)
    S = A @ A.mT
    identity = torch.eye(n, dtype=torch.float64)
    assert (matfn.inv(A) @ A - identity).abs().max() <= 1e-11
    signs = matfn.signm(A)
    assert (signs - identity).abs().max() <= 1e-10
    for method in (matfn.DBNewton(), matfn.QDWH()):
        root = matfn.inv_sqrtm(S, method=method)
        assert (root @ S @ root - identity).abs().max() <= 1e-8
    X = A.clone().requires_grad_()
    matfn.inv(X).sum().backward()
    assert X.grad is not None
    ones = torch.ones(2, n, n, dtype=torch.float64)
    B = torch.stack([torch.linalg.inv(a) for a in A])
    assert torch.allclose(X.grad, -(B.mT @ ones @ B.mT), rtol=1e-9, atol=1e-9)
