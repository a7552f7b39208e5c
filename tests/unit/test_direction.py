"""Results that satisfy their equation and are not the function: turned, flipped, moved; and no false alarm."""

import math
import warnings

import pytest
import torch

import matfn
from loops import looped
from matfn import (
    QDWH,
    ConvergenceWarning,
    DBNewton,
    NewtonSchulz,
    PolarExpress,
    Polynomial,
    Prism,
    RitzMinimax,
    Schedule,
    SpectrumError,
    ZoloPD,
)
from matrices import gaussian, of_eigenvalues, of_singular_values, orthogonal, spectrum

STABLE = [
    QDWH(),
    ZoloPD(),
    NewtonSchulz(steps=80),
    PolarExpress(steps=40, lower=1e-8),
    PolarExpress(degree=9, steps=40, lower=1e-15),
    Prism(steps=60),
    RitzMinimax(tol=1e-6),
    RitzMinimax(degree=9, tol=1e-6),
]
every_stable = pytest.mark.parametrize("method", STABLE, ids=repr)
# s -> -s and s -> s^3 - 2 s for small s: the equation holds, the sign is wrong.
FLIP = Schedule((Polynomial((-1.875, 1.25, -0.375)), *NewtonSchulz(steps=60).schedule().rows), 2, 1e-3, "flips all")


def matrix(kind, n, condition, dtype, seed=0):
    """A with a log-uniform spectrum, of both signs for a sign."""
    values = spectrum(n, condition)
    if kind == "signm":
        return of_eigenvalues(values * (-1.0) ** torch.arange(n), seed=seed)[0].to(dtype)
    return of_singular_values(values, n + 5, n, seed=seed)[0].to(dtype)


def value(kind, A, method=None):
    return matfn.polar(A, method=method).U if kind == "polar" else matfn.signm(A, method=method)


@pytest.mark.parametrize("kind", ["polar", "signm"])
@pytest.mark.parametrize(("dtype", "condition"), [(torch.float64, 1e8), (torch.float64, 1e10), (torch.float32, 1e5)])
def test_an_orthogonal_result_that_is_turned_is_warned_of(kind, dtype, condition):
    """DB Newton inverts M, whose condition number is the square; the results are orthogonal to rounding."""
    A = matrix(kind, 17, condition, dtype)
    with pytest.warns(
        ConvergenceWarning, match=r"\|\|(U\^T A - A\^T U|S A - A S)\|\|.* but about .* from the"
    ) as caught:
        U = value(kind, A, DBNewton(steps=14))
    assert caught[0].filename == __file__
    assert torch.linalg.matrix_norm((U @ U if kind == "signm" else U.mT @ U) - torch.eye(17)) < 1e-5
    error = ((U.double() - value(kind, A.double())).norm() / 17**0.5).item()
    assert error > 10 * math.sqrt(torch.finfo(dtype).eps)
    said = float(str(caught[0].message).split("but about ")[1].split()[0])
    assert said == pytest.approx(error, rel=0.05)


def test_the_error_in_the_message_is_for_both_sides():
    A = matrix("polar", 17, 1e8, torch.float64)
    for side in ("right", "left"):
        for X in (A, A.mT):
            with pytest.warns(ConvergenceWarning, match="from the polar factor"):
                matfn.polar(X, side, method=DBNewton())


@every_stable
@pytest.mark.parametrize("kind", ["polar", "signm"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_no_false_alarm(kind, method, dtype):
    """Stable steps: the error is within eps times the condition number, whatever it is."""
    for n in (3, 17):
        for decades in range(0, 7 if dtype == torch.float32 else 11, 2):
            A = matrix(kind, n, 10.0**decades, dtype, seed=decades)
            with warnings.catch_warnings():
                warnings.simplefilter("error", ConvergenceWarning)
                U = value(kind, A, method)
            error = (U.double() - value(kind, A.double())).norm() / n**0.5
            assert error <= 8 * torch.finfo(dtype).eps * 10.0**decades + 2e-4


@looped("shape", [(40, 40), (60, 40), (40, 60)])
def test_low_rank_and_zero_rows_are_no_alarm(shape):
    A = of_singular_values(spectrum(7, 100.0), *shape, seed=3)[0]
    A[2] = 0
    for dtype in (torch.float32, torch.float64):
        for method in (QDWH(), NewtonSchulz(steps=80), RitzMinimax(tol=1e-5)):
            for factor in ("range", "complete"):
                with warnings.catch_warnings():
                    warnings.simplefilter("error", ConvergenceWarning)
                    matfn.polar(A.to(dtype), method=method, factor=factor)
                    matfn.polar(torch.zeros(shape, dtype=dtype), method=method)


def test_flipped_vectors_are_counted():
    A = of_singular_values(torch.ones(6, dtype=torch.float64), 9, 6)[0]
    with pytest.warns(ConvergenceWarning, match="6 of its vectors with the wrong sign"):
        U = matfn.polar(A, method=FLIP).U
    assert (U + matfn.polar(A).U).norm() < 1e-12
    B = of_eigenvalues(torch.tensor([1.0, -1, 1, 1]).double())[0]
    with pytest.warns(ConvergenceWarning, match="4 of its vectors with the wrong sign"):
        matfn.signm(B, method=FLIP)


@pytest.mark.parametrize("verb", [matfn.sqrtm, matfn.inv_sqrtm])
def test_another_root_is_no_root(verb):
    """R R = A holds for -R, too."""
    with pytest.warns(ConvergenceWarning, match="has positive ones: it is another root"):
        verb(2 * torch.eye(5, dtype=torch.float64), method=FLIP)


def test_the_matrix_of_a_batch_is_named():
    A = torch.stack([matrix("polar", 17, c, torch.float64) for c in (1.0, 1e9, 10.0)])
    with pytest.warns(ConvergenceWarning, match="matrix 1 of 3, .*U.T A"):
        matfn.polar(A, method=DBNewton())


def test_the_sign_of_a_nonsymmetric_matrix():
    """DB Newton turns it; real spectra with a well-conditioned basis are no alarm for stable steps."""
    V = orthogonal(17, seed=2) * torch.linspace(1, 3, 17).double() @ orthogonal(17, seed=3)
    for condition, method in ((1e2, NewtonSchulz(steps=60)), (1e8, NewtonSchulz(steps=60)), (1e6, QDWH())):
        A = V @ torch.diag(spectrum(17, condition) * (-1.0) ** torch.arange(17)) @ torch.linalg.inv(V)
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            assert (matfn.signm(A, method=method) - matfn.signm(A)).norm() < 1e-5
    A = V @ torch.diag(spectrum(17, 1e8) * (-1.0) ** torch.arange(17)) @ torch.linalg.inv(V)
    with pytest.warns(ConvergenceWarning, match="S A - A S.*from the sign"):
        matfn.signm(A, method=DBNewton(steps=14))


def test_complex_eigenvalues_that_steps_move_to_the_wrong_sign():
    """S S = I and S A = A S hold; S A shows it. All results that are returned are right."""
    wrong = refused = 0
    for seed in range(150):
        A = gaussian(6, 6, seed=seed)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", ConvergenceWarning)
                S = matfn.signm(A, method=NewtonSchulz(steps=40))
        except SpectrumError as error:
            refused += "complex" in str(error)
        except ConvergenceWarning:
            pass
        else:
            wrong += bool((S - matfn.signm(A)).norm() > 1e-6)
    assert wrong == 0
    assert refused > 0


@every_stable
def test_a_singular_symmetric_matrix_has_no_sign(method):
    A = torch.diag(torch.tensor([1.0, -0.5, 0.3, 1e-17]).double())
    batch = torch.stack([torch.eye(4, dtype=A.dtype), A])
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)  # of steps that leave the value where it was
        with pytest.raises((SpectrumError, ConvergenceWarning)):
            matfn.signm(batch, method=method)


def test_an_exactly_symmetric_matrix_is_symmetric_to_ritz_minimax():
    """Later iterates differ from their transposes by eps times the condition number."""
    for dtype, condition in ((torch.float32, 1e6), (torch.float64, 1e13)):
        A = matrix("signm", 17, condition, dtype)
        S = matfn.signm(A, method=RitzMinimax(tol=1e-6))
        error = (S.double() - matfn.signm(A.double()).double()).norm() / 17**0.5
        assert error <= torch.finfo(dtype).eps * condition


def test_the_first_root_is_judged_as_the_inverse():
    """p = 1: the steps multiply from the left, and so does the check; the residual of A B has the condition squared."""
    for condition in (1e3, 1e5, 1e6):
        A = of_eigenvalues(spectrum(17, condition))[0].float()
        for method in (NewtonSchulz(steps=60), Prism(steps=50), DBNewton(), RitzMinimax(tol=1e-5)):
            with warnings.catch_warnings():
                warnings.simplefilter("error", ConvergenceWarning)
                B = matfn.inv_rootm(A, 1, method=method)
            want = torch.linalg.inv(A.double())
            assert (B - want).norm() <= 2 * torch.finfo(torch.float32).eps * condition * want.norm()
