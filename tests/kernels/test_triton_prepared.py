"""The preparation of a step by Triton's kernels against torch's own functions, in triton's interpreter or on a GPU."""
# ruff: noqa: E402 -- triton may be missing, and is asked for first

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytest.importorskip("triton", reason="triton is not installed: it comes with torch for CUDA, or pip install triton")

from matfn.iteration.target import ORTHOGONALIZE
from matfn.kernels import EAGER, triton_scale, triton_small
from matfn.linalg.norms import prescale
from matfn.run import preparation
from matfn.run.plan import DEFLATED, LIFTED
from matrices import gaussian, orthogonal

F16 = torch.float16
U16 = torch.finfo(F16).eps / 2


def falling(shape, power):
    n = min(shape)
    s = torch.arange(1, n + 1, dtype=torch.float64) ** -power
    left, right = (orthogonal(side, seed=j)[:, :n] for j, side in enumerate(shape))
    return ((left * s) @ right.mT).float()


def both(monkeypatch, A, method):
    """The first iterate over its factor, and M, by torch and by the kernels."""
    found = []
    for kernels in (None, (triton_scale, triton_small)):
        monkeypatch.setattr(preparation, "_kernels", lambda A, dtype, k, kernels=kernels: kernels)
        X, first, divisor = preparation.prepared(
            ORTHOGONALIZE, A.clone(), method.schedule(2).preparation, F16, EAGER, EAGER, F16, prescale
        )
        M, factor = first
        found.append((X.double() * factor.double(), M.double(), divisor))
    return found


@pytest.mark.parametrize("shape", [(32, 48), (48, 32), (40, 40)], ids=str)
@pytest.mark.parametrize("method", [DEFLATED, LIFTED], ids=["deflated", "lifted"])
@pytest.mark.parametrize("power", [0.0, 0.75, 1.5])
def test_kernels_prepare_what_torch_prepares(monkeypatch, shape, method, power):
    """Of norm 1 both; each rounds X, Y, P, R and the result by u, M once more. 8 u is the sum of all roundings.

    k x k results differ by eps / LEAST^2 in float32, 1.6 u.
    """
    A = torch.stack([falling(shape, power), gaussian(*shape, seed=3).float() * 1e20]).to(DEVICE)
    (X, M, divisor), (Y, N, other) = both(monkeypatch, A, method)
    assert torch.linalg.matrix_norm(X - Y).max() <= 10 * U16 * torch.linalg.matrix_norm(X).max()
    assert torch.linalg.matrix_norm(M - N).max() <= 20 * U16
    assert torch.allclose(divisor.peak * divisor.norm, other.peak * other.norm, rtol=1e-5, atol=0)


def test_zero_and_nan_stay_in_their_matrices(monkeypatch):
    A = torch.stack([falling((32, 48), 1.0), falling((32, 48), 1.0), torch.zeros(32, 48)]).to(DEVICE)
    A[1, 3, 4] = torch.nan
    for X, M, _ in both(monkeypatch, A, DEFLATED):
        assert torch.isfinite(X[[0, 2]]).all()
        assert torch.isnan(M[1]).any()
        assert (X[2] == 0).all()
