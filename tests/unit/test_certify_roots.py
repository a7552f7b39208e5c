"""Certify of sign, roots and inverse: the definitions, the sketch, and what each figure can see."""

import math

import pytest
import torch

import matfn
from matfn.iteration.target import TARGETS
from matrices import gaussian, generator, of_eigenvalues, orthogonal, spectrum

EPS = torch.finfo(torch.float64).eps
SQUARE = [(t.name, 3 if t.name in ("root", "inv_root") else None) for t in TARGETS if t.name != "polar"]
every_square_function = pytest.mark.parametrize(("of", "p"), SQUARE, ids=[of for of, _ in SQUARE])


def solved(of, p, condition=50.0, n=12, seed=0):
    """(A, f(A), V): a symmetric problem, the function from its eigenvalues."""
    values = spectrum(n, condition)
    values = values * torch.tensor([1.0, -1.0]).repeat(n // 2) if of == "sign" else values
    A, V = of_eigenvalues(values, seed=seed)
    return A, (V * scalar(of, p, values)) @ V.mT, V


def scalar(of, p, x):
    """The function at numbers."""
    powers = {"sqrt": 0.5, "inv_sqrt": -0.5, "inv": -1.0}
    return x.sign() if of == "sign" else x ** (powers[of] if of in powers else (1 if of == "root" else -1) / p)


def norms(A):
    """||A||_F of each matrix, to divide by."""
    return torch.linalg.matrix_norm(A, keepdim=True)


def perturbed(B, size, seed=5):
    """B plus a matrix of norm size ||B||_F."""
    E = gaussian(*B.shape, seed=seed)
    return B + size * norms(B) / norms(E) * E


@every_square_function
def test_of_the_very_function(of, p):
    A, B, _ = solved(of, p)
    for exact in (False, True):
        c = matfn.certify(A, B, of=of, p=p, exact=exact)
        assert c.residual < 100 * EPS * 50
        assert of != "sign" or c.orthogonality < 100 * EPS
        assert of in ("sign", "inv") or abs(c.direction - 1) < 1e-9
        assert math.isnan(c.orthogonality) == (of != "sign")
        assert math.isnan(c.direction) == (of in ("sign", "inv"))


def test_measured_figures_are_their_definitions():
    n = 12
    A, V = of_eigenvalues(spectrum(n, 50.0))
    B = perturbed(V @ V.mT, 0.3)
    eye, power, norm = torch.eye(n, dtype=B.dtype), torch.linalg.matrix_power, torch.linalg.matrix_norm
    wanted = {
        ("sqrt", None): norm(B @ B - A) / norm(A),
        ("root", 3): norm(power(B, 3) - A) / norm(A),
        ("inv_sqrt", None): norm(B @ B @ A - eye) / n**0.5,
        ("inv_root", 4): norm(power(B, 4) @ A - eye) / n**0.5,
        ("inv", None): norm(B @ A - eye) / n**0.5,
        ("sign", None): norm(B @ (A @ B + B @ A) / 2 - A) / norm(A),
    }
    for (of, p), residual in wanted.items():
        torch.testing.assert_close(matfn.certify(A, B, of=of, p=p, exact=True).residual, residual)
    involution = matfn.certify(A, B, of="sign", exact=True).orthogonality
    torch.testing.assert_close(involution, norm(B @ B - eye) / n**0.5)


@every_square_function
@pytest.mark.parametrize("size", [1e-8, 1e-2])
def test_the_sketch_estimates_the_measurement(of, p, size):
    """Norms from 16 random signs: a relative standard deviation of at most sqrt(2/16)/2 of the norm; ten seeds."""
    A, B, _ = solved(of, p, n=40)
    B = perturbed(B, size)
    exact = matfn.certify(A, B, of=of, p=p, exact=True).residual
    for seed in range(10):
        ratio = matfn.certify(A, B, of=of, p=p, generator=generator(seed)).residual / exact
        assert 1 / 1.8 < ratio < 1.8


@pytest.mark.parametrize(("of", "p"), [("sqrt", None), ("inv_sqrt", None), ("inv_root", 4), ("root", 4)])
def test_direction_tells_the_principal_root_from_another(of, p):
    """-B, and B with one eigenvalue's sign turned, solve the equation of an even root just as well."""
    A, B, V = solved(of, p, condition=4.0)
    one = torch.ones(12, dtype=B.dtype)
    one[3] = -1
    turned = B @ (V * one) @ V.mT
    share = torch.linalg.eigvalsh(turned).clamp(max=0).sum() / torch.linalg.eigvalsh(B).sum()
    for exact in (True, False):
        other = matfn.certify(A, turned, of=of, p=p, exact=exact)
        assert other.residual < 1e-13
        assert abs(other.direction - (1 + 2 * share)) < (1e-12 if exact else 0.07)
        assert other.direction < 0.98
        assert matfn.certify(A, -B, of=of, p=p, exact=exact).direction < -0.9


def test_sign_residual_tells_involutions_apart():
    """The identity is an involution, and the sign of no indefinite matrix."""
    A, S, _ = solved("sign", None)
    eye = torch.eye(12, dtype=A.dtype)
    c = matfn.certify(A, perturbed(S, 1e-9), of="sign")
    assert c.orthogonality < 1e-7
    assert matfn.certify(A, eye, of="sign", exact=True).orthogonality == 0
    rotated = orthogonal(12, seed=7) @ S @ orthogonal(12, seed=7).mT
    assert matfn.certify(A, rotated, of="sign").residual > 0.1


def test_sign_of_a_matrix_that_is_not_symmetric():
    W = gaussian(10, 10, seed=3) + 4 * torch.eye(10, dtype=torch.float64)
    signs = torch.tensor([1.0, -1.0]).repeat(5).double()
    A = W @ torch.diag(signs * spectrum(10, 8.0)) @ torch.linalg.inv(W)
    c = matfn.certify(A, matfn.signm(A), of="sign", exact=True)
    assert max(c.orthogonality, c.residual) < 1e-12


@every_square_function
def test_batches_are_their_members(of, p):
    As, Bs, _ = zip(*(solved(of, p, condition=c) for c in (2.0, 1e3, 1e5)), strict=True)
    A = torch.stack(As).reshape(3, 1, 12, 12)
    B = perturbed(torch.stack(Bs), 1e-6).reshape(3, 1, 12, 12)
    for exact in (False, True):
        c = matfn.certify(A, B, of=of, p=p, exact=exact)
        assert c.residual.shape == (3, 1)
        for i in range(3):
            one = matfn.certify(A[i], B[i], of=of, p=p, exact=exact)
            torch.testing.assert_close(c.residual[i], one.residual, rtol=1e-6, atol=1e-14)


@every_square_function
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scale_changes_nothing(of, p, scale):
    A, B, _ = solved(of, p)
    B = perturbed(B, 1e-3)
    h = next(t for t in TARGETS if t.name == of).homogeneity / (p or 1)
    plain, scaled = (matfn.certify(A * s, B * s**h, of=of, p=p) for s in (1.0, scale))
    torch.testing.assert_close(plain.residual, scaled.residual, rtol=1e-9, atol=0)
    torch.testing.assert_close(plain.direction, scaled.direction, rtol=1e-9, atol=0, equal_nan=True)


def test_low_precision_is_certified_in_float64():
    A, B, _ = solved("inv_root", 4)
    c = matfn.certify(A.float(), B.float(), of="inv_root", p=4)
    assert c.residual.dtype == torch.float64
    assert 1e-9 < c.residual < 50 * 1.2e-7


def test_the_residual_of_an_inverse_root_is_p_times_its_error():
    A, B, V = solved("inv_root", 4)
    d = 1e-6 * gaussian(12, seed=2)
    c = matfn.certify(A, (B @ V * (1 + d)) @ V.mT, of="inv_root", p=4, exact=True)
    torch.testing.assert_close(c.residual, 4 * d.norm() / 12**0.5, rtol=1e-4, atol=0)


def test_a_zero_matrix_is_its_own_root():
    Z = torch.zeros(4, 4)
    assert matfn.certify(Z, Z, of="sqrt").residual == 0
    assert matfn.certify(Z, Z, of="root", p=3, exact=True).residual == 0


def test_the_text_leaves_out_what_there_is_not():
    A, B, _ = solved("inv", None)
    assert str(matfn.certify(A, B, of="inv")).startswith("residual ")
    A, B, _ = solved("sqrt", None)
    assert "orthogonality" not in str(matfn.certify(A, B, of="sqrt"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(of="cosm"), "of must be one of polar, sign, .* got 'cosm'"),
        (dict(of="inv_root"), r"pass p=\.\.\."),
        (dict(of="inv_root", p=0), "positive integer"),
        (dict(of="sqrt", p=2), "has no exponent to choose, got p=2"),
        (dict(p=3), "polar has no exponent"),
    ],
)
def test_refusals(arguments, message):
    A = torch.eye(3)
    with pytest.raises(ValueError, match=message):
        matfn.certify(A, A, **arguments)


def test_square_functions_need_square_matrices():
    with pytest.raises(ValueError, match="certify takes square matrices"):
        matfn.certify(torch.ones(2, 3), torch.ones(2, 3), of="sqrt")


@pytest.mark.parametrize("exact", [False, True])
@every_square_function
def test_the_residual_alone_is_the_same_residual(of, p, exact):
    A, B, _ = solved(of, p)
    if of == "sign":
        with pytest.raises(ValueError, match="only must be"):
            matfn.certify(A, B, of=of, p=p, only="residual")
        return
    alone = matfn.certify(A, B, of=of, p=p, exact=exact, only="residual")
    assert torch.equal(alone.residual, matfn.certify(A, B, of=of, p=p, exact=exact).residual)
    assert math.isnan(alone.direction)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("p", [1, 2, 3, 4, 6])
def test_the_balanced_residual_is_its_definition(p, exact):
    A, B, _ = solved("inv_root", p)
    B = perturbed(B, 0.01)
    B = (B + B.mT) / 2
    power, eye = torch.linalg.matrix_power, torch.eye(12, dtype=A.dtype)
    wanted = torch.linalg.matrix_norm(power(B, p // 2) @ A @ power(B, p - p // 2) - eye) / 12**0.5
    found = matfn.certify(A, B, of="inv_root", p=p, exact=exact, only="balanced").residual
    assert torch.allclose(found, wanted, rtol=1e-9 if exact else 0.5, atol=0)  # 16 columns: 0.35 at most
    if p == 2:
        assert torch.equal(found, matfn.certify(A, B, of="inv_sqrt", exact=exact, only="balanced").residual)


def test_the_balanced_residual_sees_the_error_of_a_root_in_float32_where_the_other_sees_the_condition():
    X = gaussian(24, 16)
    A = X @ X.mT
    A = A / torch.linalg.matrix_norm(A) + 1e-6 * torch.eye(24, dtype=A.dtype)
    exact = matfn.inv_rootm(A, 4)
    B = matfn.inv_rootm(A.float(), 4, method=matfn.PolarExpress(steps=8, lower=0.03, cushion=0.0)).double()
    error = (torch.linalg.matrix_norm(B - exact) / torch.linalg.matrix_norm(exact)).item()
    balanced, plain = (
        matfn.certify(A, B, of="inv_root", p=4, only=o, exact=True).residual for o in ("balanced", "residual")
    )
    assert error < 0.02
    assert balanced < 4 * 5 * error  # p times the error, and some for what does not commute
    assert plain > 10 * balanced


@pytest.mark.parametrize("of", ["sqrt", "inv", "polar", "sign"])
def test_only_an_inverse_root_has_a_balanced_residual(of):
    A = torch.eye(3, dtype=torch.float64)
    with pytest.raises(ValueError, match='only must be "residual"'):
        matfn.certify(A, A, of=of, only="balanced")


@pytest.mark.parametrize("only", ["direction", "residuals", True])
def test_a_figure_that_cannot_be_had_alone_is_refused(only):
    A, B, _ = solved("sqrt", None)
    with pytest.raises(ValueError, match='only must be "residual"'):
        matfn.certify(A, B, of="sqrt", only=only)
