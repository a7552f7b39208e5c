"""Derivatives in closed form against high-precision differences, autograd through the iterations, and themselves."""

from functools import partial

import mpmath
import pytest
import torch

import matfn
from loops import looped
from matfn.iteration.target import INV, INV_ROOT, INV_SQRT, POLAR, ROOT, SIGN, SQRT
from matrices import compute, gaussian, of_eigenvalues, of_singular_values, orthogonal, spectrum

EPS = torch.finfo(torch.float64).eps

VERB = {
    "sqrtm": matfn.sqrtm,
    "inv_sqrtm": matfn.inv_sqrtm,
    "inv_rootm 1": partial(matfn.inv_rootm, p=1),
    "inv_rootm 3": partial(matfn.inv_rootm, p=3),
    "inv_rootm 4": partial(matfn.inv_rootm, p=4),
    "rootm 1": partial(matfn.rootm, p=1),
    "rootm 5": partial(matfn.rootm, p=5),
}
POWER = {"sqrtm": (1, 2), "inv_sqrtm": (-1, 2), "rootm 1": (1, 1), "rootm 5": (1, 5)} | {
    f"inv_rootm {p}": (-1, p) for p in (1, 3, 4)
}
every_root = pytest.mark.parametrize("name", VERB)
every_side = pytest.mark.parametrize("side", ["right", "left"])
every_shape = pytest.mark.parametrize("shape", [(4, 4), (5, 3), (3, 5), (2, 4, 3), (1, 3), (1, 1)], ids=str)


def relative(x, y):
    return (torch.linalg.matrix_norm(x.double() - y) / torch.linalg.matrix_norm(y)).max().item()


def gradient(f, A, G):
    """The gradient of <f(A), G>, in the dtype of A."""
    A = A.clone().requires_grad_()
    return torch.autograd.grad(f(A), A, G.to(A.dtype))[0]


def spd(*batch, n=4, seed=0):
    B = gaussian(*batch, n, n, seed=seed)
    return B @ B.mT + torch.eye(n, dtype=B.dtype)


# --- first and second derivatives by finite differences ---


@every_shape
@every_side
def test_polar_first_and_second(side, shape):
    A = gaussian(*shape, seed=1).requires_grad_()
    f = partial(matfn.polar, side=side)
    assert torch.autograd.gradcheck(f, A)
    assert torch.autograd.gradgradcheck(f, A)


@every_root
def test_roots_first_and_second(name):
    A = spd(2).requires_grad_()

    def f(A):
        return VERB[name](A / 2 + A.mT / 2, ridge=0.1)

    assert torch.autograd.gradcheck(f, A)
    assert torch.autograd.gradgradcheck(f, A)


@pytest.mark.parametrize("f", [matfn.signm, matfn.inv, partial(matfn.inv, ridge=0.3)])
def test_sign_and_inverse_first_and_second(f):
    A = gaussian(2, 4, 4, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(f, A)
    assert torch.autograd.gradgradcheck(f, A)


def test_sign_of_a_defective_matrix():
    """Two Jordan blocks: no eigendecomposition exists, and none is used."""
    J = torch.tensor([[2.0, 1, 0, 0], [0, 2, 0, 0], [0, 0, -1, 1], [0, 0, 0, -1]], dtype=torch.float64)
    P = gaussian(4, 4, seed=6)
    A = (P @ J @ torch.linalg.inv(P)).requires_grad_()
    assert torch.autograd.gradcheck(matfn.signm, A)
    assert torch.autograd.gradgradcheck(matfn.signm, A)


@pytest.mark.parametrize("f", [matfn.sqrtm, matfn.inv_sqrtm, lambda A: matfn.polar(A).U, lambda A: matfn.polar(A).H])
def test_repeated_eigenvalues_are_no_trouble(f):
    """Where torch's derivative of an eigendecomposition divides by zero."""
    A = torch.eye(4, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda A: f(A / 2 + A.mT / 2), A)


def test_third_derivative():
    """Of the square root of one number, and of its polar factor H = |a|."""
    a = torch.tensor([[2.0]], dtype=torch.float64, requires_grad=True)
    y, values = matfn.sqrtm(a), []
    for _ in range(4):
        (y,) = torch.autograd.grad(y.sum(), a, create_graph=True)
        values.append(y.item())
    want = [0.5 * 2**-0.5, -0.25 * 2**-1.5, 0.375 * 2**-2.5, -0.9375 * 2**-3.5]
    torch.testing.assert_close(values, want, rtol=1e-13, atol=0)


# --- against differences in 60 digits ---


def mp(A):
    return mpmath.matrix(A.tolist())


def mp_polar(A):
    W, S, V = mpmath.svd_r(A)
    return W * V, V.T * mpmath.diag(S) * V


def mp_left(A):
    return mp_polar(A.T)[1]


def mp_power(h, A):
    a, V = mpmath.eigsy(A)
    return V * mpmath.diag([x ** (mpmath.mpf(h[0]) / h[1]) for x in a]) * V.T


def mp_sign(A):
    X, before = A, A * 0
    while mpmath.mnorm(X - before, 1) > mpmath.mpf(10) ** -50:  # the errors of the next step are their squares
        X, before = (X + X**-1) / 2, X
    return X


def mp_gradient(f, A, G, *, symmetric=False):
    """d <f(A), G> / dA by central differences of step 1e-25 in 60 digits, relative to the smallest singular value."""
    out = torch.empty_like(A, dtype=torch.float64)
    with mpmath.workdps(60):
        A, G, h = mp(A), mp(G), mpmath.mpf(10) ** -25
        for i in range(A.rows):
            for j in range(A.cols):
                E = mpmath.zeros(A.rows, A.cols)
                E[i, j] += h / 2 if symmetric else h
                if symmetric:
                    E[j, i] += h / 2
                D = (f(A + E) - f(A - E)) / (2 * h)
                out[i, j] = float(sum(G[k, m] * D[k, m] for k in range(G.rows) for m in range(G.cols)))
    return out


def bound(dtype, condition):
    """The argument decides the gradient to eps times its condition number; a float32 one is exact in float64."""
    return 20 * EPS * condition + (0 if dtype == torch.float64 else torch.finfo(dtype).eps)


every_precision = looped("dtype", [torch.float32, torch.float64])
every_condition = looped("condition", [1e2, 1e6])


@every_condition
@every_precision
@every_root
def test_roots_of_ill_conditioned_matrices(name, dtype, condition):
    """The best public code is 53 % off for the inverse square root at condition 100."""
    A = of_eigenvalues(spectrum(4, condition), seed=2)[0].to(dtype)
    G = gaussian(4, 4, seed=3).to(dtype)
    want = mp_gradient(partial(mp_power, POWER[name]), A.double(), G.double(), symmetric=True)
    got = gradient(VERB[name], A, G)
    assert got.dtype == dtype
    assert torch.equal(got, got.mT)
    assert relative(got, want) <= bound(dtype, condition)


@every_condition
@every_precision
@pytest.mark.parametrize("m", [3, 4, 5])
def test_polar_of_ill_conditioned_matrices(m, dtype, condition):
    A = of_singular_values(spectrum(min(m, 4), condition), m, 4, seed=4)[0].to(dtype)
    exact = A.double()
    tall = exact if m >= 4 else exact.mT
    G = gaussian(*A.shape, seed=5).to(dtype)
    want = mp_gradient(lambda A: mp_polar(A)[0], tall, G.double() if m >= 4 else G.double().mT)
    assert relative(gradient(lambda A: matfn.polar(A).U, A, G), want if m >= 4 else want.mT) <= bound(dtype, condition)
    side = "right" if m >= 4 else "left"
    G = gaussian(min(m, 4), min(m, 4), seed=6).to(dtype)
    want = mp_gradient(lambda A: mp_polar(A)[1], tall, G.double())
    got = gradient(lambda A: matfn.polar(A, side).H, A, G)
    assert relative(got, want if m >= 4 else want.mT) <= bound(dtype, condition)


@every_condition
@pytest.mark.parametrize("P", [orthogonal(4, seed=7), gaussian(4, 4, seed=8)], ids=["symmetric", "non-symmetric"])
def test_sign_of_ill_conditioned_matrices(P, condition):
    values = spectrum(4, condition) * torch.tensor([1, -1, 1, -1])
    A, G = P * values @ torch.linalg.inv(P), gaussian(4, 4, seed=9)
    condition = torch.linalg.cond(A).item() * torch.linalg.cond(P).item()
    assert relative(gradient(matfn.signm, A, G), mp_gradient(mp_sign, A, G)) <= bound(torch.float64, condition)


@every_condition
@every_precision
def test_inverse_of_ill_conditioned_matrices(dtype, condition):
    A = of_singular_values(spectrum(4, condition), 4, 4, seed=10)[0].to(dtype)
    G = gaussian(4, 4, seed=11).to(dtype)
    want = mp_gradient(lambda A: A**-1, A.double(), G.double())
    assert relative(gradient(matfn.inv, A, G), want) <= bound(dtype, condition)


# --- against autograd through many Newton-Schulz steps ---


@pytest.mark.parametrize(
    "target", [POLAR, SIGN, SQRT, INV_SQRT, INV_ROOT.with_exponent(4), ROOT.with_exponent(3), INV], ids=str
)
def test_autograd_through_the_iteration_agrees(target):
    """The two ways have nothing in common but the function."""
    values = spectrum(5, 10.0)
    A = of_eigenvalues(values * (torch.tensor([1, -1, 1, 1, -1]) if target == SIGN else 1), seed=12)[0]
    A = of_singular_values(values, 5, 5, seed=13)[0] if target in (POLAR, INV) else A
    method, G = matfn.NewtonSchulz(steps=40), gaussian(5, 5, seed=14)
    verbs = {"polar": lambda A: matfn.polar(A).U, "sign": matfn.signm, "inv": matfn.inv, "sqrt": matfn.sqrtm}
    verbs |= {"inv_sqrt": matfn.inv_sqrtm, "inv_root": VERB["inv_rootm 4"], "root": partial(matfn.rootm, p=3)}
    want = gradient(lambda A: compute(target, A, method), A, G)
    if target.name in ("sqrt", "inv_sqrt", "inv_root", "root"):
        want = (want + want.mT) / 2
    # The steps amplify rounding by the condition number of M, 100 at most, and there are 40 of them.
    assert relative(gradient(verbs[target.name], A, G), want) <= 40 * 100 * EPS


# --- batches ---

BATCHED = {
    "polar U": lambda A: matfn.polar(A).U,
    "polar H": lambda A: matfn.polar(A).H,
    "polar H left": lambda A: matfn.polar(A, "left").H,
    "signm": matfn.signm,
    "inv": matfn.inv,
} | VERB


def indefinite(A):
    """Non-symmetric, of real eigenvalues with both signs, for A symmetric positive definite: for the matrix sign."""
    return A * torch.tensor([1, -1, 1, -1]).to(A.dtype)


def argument(name, A):
    """The sign of a definite matrix is constant."""
    return indefinite(A) if name == "signm" else A


def batch_of_64():
    """Symmetric, conditions from 1 to 1e6 and norms from 1e-10 to 1e10, in no order."""
    scales = torch.logspace(-10, 10, 64, dtype=torch.float64)[torch.randperm(64, generator=torch.Generator())]
    conditions = torch.logspace(0.1, 6, 64, dtype=torch.float64).tolist()
    return torch.stack(
        [of_eigenvalues(c * spectrum(4, k), seed=i)[0] for i, (c, k) in enumerate(zip(scales, conditions, strict=True))]
    ), torch.tensor(conditions)


@pytest.mark.parametrize("name", BATCHED)
def test_each_member_of_a_batch_has_its_own_gradient(name):
    """A popular package divides by one norm over the batch: 1.6e-2 off alone becomes 0.25 among 64."""
    A, conditions = batch_of_64()
    A = argument(name, A)
    G = gaussian(*A.shape, seed=15)
    together = gradient(BATCHED[name], A, G)
    for a, g, got, condition in zip(A, G, together, conditions.tolist(), strict=True):
        assert relative(got, gradient(BATCHED[name], a, g)) <= 20 * EPS * condition


def test_leading_dimensions():
    A, G = spd(2, 3, seed=16), gaussian(2, 3, 4, 4, seed=17)
    for f in BATCHED.values():
        flat = gradient(f, A.flatten(0, 1), G.flatten(0, 1))
        torch.testing.assert_close(gradient(f, A, G).flatten(0, 1), flat, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", BATCHED)
@looped("scale", [1e-15, 1e15])
def test_scale(name, scale):
    """f(cA) = c^h f(A) makes the gradient c^(h-1) times that of A; nothing over- or underflows on the way."""
    A, G = argument(name, spd(seed=18).float()), gaussian(4, 4, seed=19).float()
    want, c = gradient(BATCHED[name], A.double(), G), torch.tensor(scale)
    h = (
        {"polar H": 1, "polar H left": 1, "inv": -1}.get(name, 0)
        if name not in POWER
        else POWER[name][0] / POWER[name][1]
    )
    want = want * c.double() ** (h - 1)
    A = A * c
    assert relative(gradient(BATCHED[name], A, G), want) <= 1e-5  # A was rounded once more, and its condition is < 30


# --- rank deficiency ---


@every_side
@pytest.mark.parametrize("shape", [(5, 5), (6, 4), (4, 6)])
def test_rank_deficient_polar_has_the_derivative_on_the_range(shape, side):
    """Along matrices A(t) = L(t) R(t)^T of the same rank 2, by finite differences."""
    m, n = shape
    L, R = gaussian(m, 2, seed=20), gaussian(n, 2, seed=21)
    f = partial(matfn.polar, side=side)
    assert torch.autograd.gradcheck(
        lambda L, R: f(L @ R.mT), (L.requires_grad_(), R.requires_grad_()), atol=1e-6, rtol=1e-5
    )


def test_the_zero_matrix_has_gradient_zero():
    A = torch.zeros(2, 3, 4, dtype=torch.float64)
    for side in ("right", "left"):
        assert not gradient(lambda A: matfn.polar(A, side).U, A, torch.ones_like(A)).any()  # noqa: B023


def test_second_derivatives_of_deficient_matrices_are_refused():
    A = torch.diag(torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64)).requires_grad_()
    (g,) = torch.autograd.grad(matfn.polar(A).U.square().sum() + matfn.polar(A).H.sum(), A, create_graph=True)
    with pytest.raises(matfn.SpectrumError, match="full rank"):
        torch.autograd.grad(g.sum(), A)


def test_roots_have_no_derivative_at_singular_matrices():
    A = torch.diag(torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64)).requires_grad_()
    R = matfn.sqrtm(A)
    with pytest.raises(matfn.SpectrumError, match=r"smallest eigenvalue .* ridge="):
        R.sum().backward()
    matfn.sqrtm(A, ridge=0.1).sum().backward()
    assert torch.isfinite(A.grad).all()


# --- what autograd and torch.func see ---


def test_one_node_and_one_saved_tensor():
    """A thousand steps keep no more than the argument, and overwriting the result harms nothing."""
    A, saved = spd(seed=22).requires_grad_(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        R = matfn.sqrtm(A, method=matfn.NewtonSchulz(steps=1000))
        U, H = matfn.polar(A, method=matfn.NewtonSchulz(steps=1000))
    assert len(saved) == 2
    assert all(s.data_ptr() == A.data_ptr() for s in saved)
    for result in (R, U, H):
        result.mul_(2)
    (R.sum() + U.sum() + H.sum()).backward()
    assert A.grad is not None


def test_no_graph_without_grad_mode():
    A = spd(seed=23).requires_grad_()
    with torch.no_grad():
        assert not any(matfn.polar(A)[i].requires_grad for i in (0, 1))
        assert not any(f(A).requires_grad for f in BATCHED.values())
    assert not matfn.sqrtm(A.detach()).requires_grad


@looped("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", BATCHED)
def test_half_precision_is_the_rounding_of_the_gradient(name, dtype):
    A = spd(seed=24).to(dtype)
    A = argument(name, (A + A.mT) / 2)
    G = gaussian(4, 4, seed=25).to(dtype)
    got = gradient(BATCHED[name], A, G)
    assert got.dtype == dtype
    assert relative(got, gradient(BATCHED[name], A.double(), G)) <= torch.finfo(dtype).eps


@pytest.mark.parametrize("name", BATCHED)
def test_torch_func(name):
    """grad, vmap and their compositions; the checks of values see the batch."""
    A, f = argument(name, spd(3, seed=26)), BATCHED[name]
    torch.testing.assert_close(torch.func.vmap(f, in_dims=2, out_dims=1)(A.movedim(0, 2)).movedim(1, 0), f(A))

    def loss(A):
        return f(A).square().sum() + f(A)[0, 1]

    want = torch.stack([torch.autograd.functional.jacobian(loss, a) for a in A])
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(loss))(A), want)
    hessian = torch.stack([torch.autograd.functional.hessian(loss, a) for a in A])
    torch.testing.assert_close(torch.func.vmap(torch.func.jacrev(torch.func.grad(loss)))(A), hessian)


def test_empty():
    for shape in ((0, 3, 3), (2, 0, 0)):
        A = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
        for f in (matfn.sqrtm, matfn.signm, matfn.inv, lambda A: matfn.polar(A).U):
            assert gradient(f, A.detach(), torch.zeros_like(A)).shape == A.shape


def test_orthogonalize_is_differentiated_step_by_step():
    """By autograd through the steps taken, and not as the polar factor it approximates."""
    A, G = gaussian(4, 6, seed=27), gaussian(4, 6, seed=28)
    quick = gradient(lambda A: matfn.orthogonalize(A), A, G)
    limit = gradient(lambda A: matfn.orthogonalize(A, method=matfn.NewtonSchulz(steps=40)), A, G)
    exact = gradient(lambda A: matfn.polar(A).U, A, G)
    assert relative(limit, exact) <= 1e-11
    assert relative(quick, exact) > 1e-3
    assert torch.equal(gradient(lambda A: matfn.orthogonalize(A, method=matfn.Exact()), A, G), exact)
    eye = torch.eye(3, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda A: matfn.orthogonalize(A, method=matfn.Exact()), eye)
