"""Direction: tests whether the result of an iteration is the wanted one of the many solutions of its equation.

U^T U = I holds for every orthogonal matrix, S S = I for every involution, and R^2 = A for roots with eigenvalues of
either sign. The wanted solution is the one for which a second matrix is symmetric positive semidefinite:

| target                    | positive semidefinite            |
|---------------------------|----------------------------------|
| polar                     | H = U^T A                        |
| sign                      | H = S A, if A is symmetric       |
| roots with even p         | the result itself                |

For the sign of a nonsymmetric A, S A = A S, and S A has its eigenvalues in the right half-plane.
"""

import math

import torch
from torch import Tensor

from ..errors import SpectrumError
from ..iteration.protocols import Method, Scheduled
from ..iteration.schedule import Schedule
from ..iteration.target import SIGN, Target
from ..methods import Exact

__all__ = ["misdirected"]

# In eps: converged steps left ||H - H^T||_F / (2 ||A||_F) of at most 1 (n = 17) to 8 (n = 200) for QDWH, 36 for the
# quintics of Polar Express, 120 for fitted steps of degree 9. High degrees add their own amplification of rounding.
_ROUNDING, _GROWTH, _LIFT = 32.0, 4.0, 2.0


@torch.no_grad()
def misdirected(target: Target, X: Tensor, U: Tensor, method: Method, rounded: float) -> tuple[int, str] | None:
    """Return the index of the worst matrix and what is wrong with it; None if every direction is right.

    The test costs one product and one Cholesky factorization (for the sign of a nonsymmetric matrix its eigenvalues),
    and reads one flag. If the test fails, the error of the result is computed. An error of at most sqrt(eps), half of
    the digits, or of `rounded`, the eps of the dtype to which U will be rounded, is accepted, as in `check_converged`.
    X (b, m, n) is the argument, of norm 1 or zero; U the result.

    Raises:
        SpectrumError: For the sign of a symmetric matrix that is singular to working precision, or of a matrix with
            complex eigenvalues that the steps moved.
    """
    if target.homogeneity != 0:
        return _positive(U, target) if target.p % 2 == 0 else None
    X, U = (X, U) if X.shape[-2] <= X.shape[-1] else (X.mT, U.mT)
    if target.name == "sign" and not bool((X.mT == X).all()):
        return _of_nonsymmetric(X, U, _limit(method, X), rounded)
    H = U @ X.mT
    limit = _limit(method, X)
    skew = torch.linalg.matrix_norm(H - H.mT) / 2
    eye = torch.eye(H.shape[-1], dtype=H.dtype, device=H.device)
    part = (H + H.mT) / 2
    wrong = (skew > limit) | (torch.linalg.cholesky_ex(part + limit * eye)[1] != 0)
    if target.name == "sign":
        _check_nonsingular(X, part, eye)
    if not bool(wrong.any()):
        return None
    error, flipped = _error(X, U)
    error = torch.where(wrong, error, 0.0)
    worst = int(error.argmax())
    if error[worst] <= max(math.sqrt(torch.finfo(X.dtype).eps), rounded):
        return None
    sign = target.name == "sign"
    equation = "||S A - A S||" if sign else "||U^T A - A^T U||"
    signs = f", {int(flipped[worst])} of its vectors with the wrong sign" if flipped[worst] else ""
    return worst, (
        f"a residual {equation}_F / ||A||_F of about {2 * skew[worst].item():.2g}, where rounding explains "
        f"{2 * limit:.2g}: the result is {'an involution' if sign else 'orthogonal'}, but about "
        f"{error[worst].item():.2g} from the {'sign' if sign else 'polar factor'}{signs}"
    )


def _limit(method: Method, X: Tensor) -> float:
    """The part of H that rounding may make nonsymmetric or negative, for ||A||_F = 1."""
    schedule = method.schedule(2) if isinstance(method, Scheduled) else None
    if isinstance(schedule, Schedule):
        lifted = schedule.rounding
    else:  # of minimax steps of this degree, see `Schedule.rounding`
        degree = getattr(method, "degree", None) or 1
        lifted = 1.7 * 5.4 ** (((max(degree) if isinstance(degree, tuple) else degree) - 1) / 2)
    return torch.finfo(X.dtype).eps * (_ROUNDING + _GROWTH * X.shape[-2] ** 0.5 + _LIFT * lifted)


def _error(X: Tensor, U: Tensor) -> tuple[Tensor, Tensor]:
    """Return ||U - V||_F / sqrt(r) on the range of X (b, n, m), of rank r, and the number of flipped singular vectors.

    V is the polar factor of X; for a symmetric matrix it is the sign. Both results are (b,).
    """
    X, U = X.double(), U.double()
    W, sigma, Vh = torch.linalg.svd(X, full_matrices=False)
    live = sigma > max(X.shape[-2:]) * torch.finfo(U.dtype).eps * sigma[:, :1]
    D = (W.mT @ U @ Vh.mT) * live.unsqueeze(-2)
    flipped = (live & (D.diagonal(dim1=-2, dim2=-1) < 0)).sum(-1)
    error = torch.linalg.matrix_norm(D - torch.diag_embed(live.to(D.dtype)))
    return error / live.sum(-1).clamp(min=1).sqrt(), flipped


def _check_nonsingular(X: Tensor, part: Tensor, eye: Tensor) -> None:
    """Refuse, as `Exact` does, symmetric X with an eigenvalue of at most eps times the largest; `part` is |X|."""
    eps = torch.finfo(X.dtype).eps
    if not bool((torch.linalg.cholesky_ex(part - 4 * part.shape[-1] * eps * eye)[1] != 0).any()):
        return
    size = torch.linalg.eigvalsh(X.double()).abs()
    ratio = size.amin(-1) / torch.where(size.amax(-1) == 0, 1.0, size.amax(-1))
    worst = int(ratio.argmin())
    if ratio[worst] <= eps:
        matrix = f"matrix {worst} of {len(ratio)}" if len(ratio) > 1 else "the matrix"
        raise SpectrumError(
            f"signm needs nonzero eigenvalues, but {matrix} is singular to working precision: its smallest "
            f"eigenvalue is {ratio[worst].item():.3g} of the largest"
        )


def _positive(U: Tensor, target: Target) -> tuple[int, str] | None:
    """Find the root R with the most negative eigenvalue; None if all are above -sqrt(eps) ||R||_F."""
    norm = torch.linalg.matrix_norm(U, keepdim=True)
    part = (U + U.mT) / 2 / torch.where(norm == 0, 1.0, norm)
    tolerance = math.sqrt(torch.finfo(U.dtype).eps)
    eye = torch.eye(U.shape[-1], dtype=U.dtype, device=U.device)
    info = torch.linalg.cholesky_ex(part + tolerance * eye)[1]
    if not bool((info != 0).any()):
        return None
    least = torch.linalg.eigvalsh(part)[:, 0]
    worst = int(least.argmin())
    what = f"an eigenvalue of {least[worst].item():.2g} ||R||_F, where {target} has positive ones: it is another root"
    return (worst, what) if least[worst] < -tolerance else None


def _of_nonsymmetric(X: Tensor, S: Tensor, limit: float, rounded: float) -> tuple[int, str] | None:
    """Test that S A has its eigenvalues in the right half-plane, and that S A = A S; results as in `misdirected`."""
    N = S @ X
    size = torch.linalg.vector_norm(S, dim=(-2, -1)).square() / S.shape[-1]
    values = torch.linalg.eigvals(N.cpu().double()).real
    left = values.amin(-1) < -math.sqrt(torch.finfo(X.dtype).eps) * values.abs().amax(-1)
    if bool(left.any()):
        worst = int(left.nonzero()[0])
        matrix = f" of matrix {worst} of {len(left)}" if len(left) > 1 else ""
        raise SpectrumError(
            f"signm: the steps moved complex eigenvalues{matrix} to the wrong sign: S A has the eigenvalue "
            f"{values[worst].min().item():.2g} in the left half-plane. An iteration needs real eigenvalues off zero; "
            "method=Exact() takes every spectrum off the imaginary axis"
        )
    commutator = torch.linalg.matrix_norm(N - X @ S)
    wrong = commutator > 2 * limit * size
    if not bool(wrong.any()):
        return None
    error = torch.linalg.matrix_norm(S - Exact().evaluate(SIGN, X)) / torch.linalg.matrix_norm(S)
    error = torch.where(wrong, error, 0.0)
    worst = int((error / size).argmax())
    if error[worst] <= max(math.sqrt(torch.finfo(X.dtype).eps), rounded) * size[worst]:
        return None
    return worst, (
        f"a residual ||S A - A S||_F / ||A||_F of about {commutator[worst].item():.2g}, where rounding explains "
        f"{2 * limit * size[worst].item():.2g}: the result is an involution, but {error[worst].item():.2g} from the "
        "sign"
    )
