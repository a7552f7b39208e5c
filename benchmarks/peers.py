"""Peers: other packages for the same results, one small function each. No other file imports these packages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["POLAR", "ROOTS", "STEP", "Peer", "installed", "versions"]

LR = 0.02  # of every optimizer of the benchmark
Named = Sequence[tuple[str, nn.Parameter]]


@dataclass(frozen=True)
class Peer:
    """One function of another package.

    Attributes:
        name: As shown.
        package: The distribution it comes with.
        module: What is imported.
        build: Gets the module and gives the function: of a stack (b, m, n) for `POLAR`, of named parameters for `STEP`
            (an optimizer), of a stack of positive definite matrices and p for `ROOTS`.
        scale: `STEP`: by what the direction of a matrix (m, n) is multiplied besides lr.
        compiles: Whether its first call compiles, which takes longer than a quick run.
    """

    name: str
    package: str
    module: str
    build: Callable[[Any], Callable[..., Any]]
    scale: Callable[[int, int], float] = lambda m, n: max(1.0, m / n) ** 0.5
    compiles: bool = False


def installed(peers: Sequence[Peer]) -> tuple[dict[Peer, Callable[..., Any]], dict[str, str]]:
    """The peers that can be had, built, and why the others cannot: none is left out without a word."""
    found, absent = {}, {}
    for peer in peers:
        try:
            found[peer] = peer.build(import_module(peer.module))
        except (ImportError, AttributeError, TypeError) as error:  # another version has other names
            absent[peer.name] = _reason(peer, error)
    return found, absent


def _reason(peer: Peer, error: Exception) -> str:
    try:
        stands = f"version {version(peer.package)} does not fit"
    except PackageNotFoundError:
        stands = "not installed"
    return f"{peer.package}: {stands} ({' '.join(str(error).split())})"


def versions() -> dict[str, str]:
    """The version of each peer's package, or "not installed"."""
    found = {}
    for package in dict.fromkeys(peer.package for peer in (*POLAR, *STEP, *ROOTS)):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def one_by_one(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A loop over the matrices of a stack, for functions of a single matrix."""
    return lambda X: torch.stack([function(x) for x in X])


def _torch_muon(module: Any) -> Callable[[Tensor], Tensor]:
    a, b, c = module.DEFAULT_A, module.DEFAULT_B, module.DEFAULT_C
    # A copy: of a bfloat16 matrix it would normalize the argument in place.
    return one_by_one(lambda x: module._zeropower_via_newtonschulz(x.clone(), (a, b, c), 5, module.EPS).to(x.dtype))


def _gram(module: Any) -> Callable[[Tensor], Tensor]:
    return module.GramNewtonSchulz(ns_use_kernels=False, gram_newton_schulz_reset_iterations=[2], compile_kwargs=None)


def _pytorch_optimizer(**options: Any) -> Callable[[Any], Callable[[Tensor], Tensor]]:
    def build(module: Any) -> Callable[[Tensor], Tensor]:
        function = module.zero_power_via_newton_schulz_5
        return lambda X: function(X.clone(), **options).to(X.dtype)

    return build


def _heavyball(module: Any) -> Callable[[Tensor], Tensor]:
    module.compile_mode = None  # it would recompile for every shape
    return one_by_one(lambda x: module.inplace_orthogonal_(x.float(), scale_mode="none").to(x.dtype))


def _svd(module: Any) -> Callable[[Tensor], Tensor]:
    def polar(X: Tensor) -> Tensor:
        U, _, Vh = module.svd(X.float(), full_matrices=False)
        return (U @ Vh).to(X.dtype)

    return polar


def _scipy_polar(module: Any) -> Callable[[Tensor], Tensor]:
    return one_by_one(lambda x: torch.from_numpy(module.polar(x.float().numpy())[0]).to(x.dtype))


POLAR = (
    Peer("torch.optim.Muon", "torch", "torch.optim._muon", _torch_muon),
    Peer("gram-newton-schulz", "gram-newton-schulz", "gram_newton_schulz", _gram),
    Peer("pytorch_optimizer", "pytorch_optimizer", "pytorch_optimizer.optimizer.utils.matrix", _pytorch_optimizer()),
    Peer(
        "pytorch_optimizer, polar_express",
        "pytorch_optimizer",
        "pytorch_optimizer.optimizer.utils.matrix",
        _pytorch_optimizer(weights="polar_express"),
    ),
    Peer("heavyball, eager", "heavyball", "heavyball.utils", _heavyball),
    Peer(
        "muon-optimizer",
        "muon-optimizer",
        "muon",
        lambda module: lambda X: module.zeropower_via_newtonschulz5(X, 5).to(X.dtype),
    ),
    Peer("torch.linalg.svd", "torch", "torch.linalg", _svd),
    Peer("scipy.linalg.polar", "scipy", "scipy.linalg", _scipy_polar),
)


def _weights(named: Named) -> list[nn.Parameter]:
    return [weight for _, weight in named]


def _gram_muon(module: Any) -> Callable[[Named], Any]:
    def build(named: Named) -> Any:
        return module.Muon(
            [{"params": _weights(named)}],
            lr=LR,
            weight_decay=0.0,
            adjust_lr=None,
            ns_use_kernels=False,
            gram_newton_schulz_restart_iterations=[2],
        )

    return build


def _pytorch_optimizer_muon(**options: Any) -> Callable[[Any], Callable[[Named], Any]]:
    return lambda module: lambda named: module.Muon([{"params": _weights(named), "use_muon": True}], lr=LR, **options)


STEP = (
    Peer(
        "torch.optim.Muon",
        "torch",
        "torch.optim",
        lambda module: lambda named: module.Muon(_weights(named), lr=LR, weight_decay=0.0),
    ),
    Peer(
        "gram-newton-schulz",
        "gram-newton-schulz",
        "gram_newton_schulz",
        _gram_muon,
        scale=lambda m, n: 1.0,
        compiles=True,
    ),
    Peer("pytorch_optimizer", "pytorch_optimizer", "pytorch_optimizer", _pytorch_optimizer_muon()),
    Peer(
        "pytorch_optimizer, polar_express",
        "pytorch_optimizer",
        "pytorch_optimizer",
        _pytorch_optimizer_muon(ns_coeffs="polar_express"),
    ),
    Peer(
        "heavyball",
        "heavyball",
        "heavyball",
        lambda module: lambda named: module.Muon(_weights(named), lr=LR, betas=(0.95, 0.99)),
        compiles=True,
    ),
    Peer(
        "muon-optimizer",
        "muon-optimizer",
        "muon",
        lambda module: lambda named: module.SingleDeviceMuon(_weights(named), lr=LR),
    ),
)


def _eigh(module: Any) -> Callable[[Tensor, int], Tensor]:
    def root(A: Tensor, p: int) -> Tensor:
        values, vectors = module.eigh(A)
        least = values[..., -1:] * torch.finfo(A.dtype).eps  # below, rounding has made it
        return (vectors * torch.maximum(values, least).pow(-1 / p).unsqueeze(-2)) @ vectors.mT

    return root


def _each(function: Callable[[Tensor, int], Tensor]) -> Callable[[Tensor, int], Tensor]:
    return lambda A, p: torch.stack([function(a, p) for a in A])


def _newton_db(module: Any) -> Callable[[Tensor, int], Tensor]:
    def root(A: Tensor, p: int) -> Tensor:
        # Square roots alone: a fourth root is the inverse square root of the square root.
        if p not in (2, 4):
            raise ValueError(f"it has square roots alone, got p = {p}")
        scale = torch.ones_like(A[:, :1, :1])
        A = module.compute_power_newton_db(A, scale, inverse=False) if p == 4 else A
        return module.compute_power_newton_db(A, scale, inverse=True)

    return root


def _scipy_root(module: Any) -> Callable[[Tensor, int], Tensor]:
    power = module.fractional_matrix_power
    return _each(lambda a, p: torch.from_numpy(power(a.double().numpy(), -1 / p).real.copy()).to(a.dtype))


_MATRIX = "pytorch_optimizer.optimizer.utils.matrix"
ROOTS = (
    Peer("torch.linalg.eigh, one by one", "torch", "torch.linalg", lambda module: _each(_eigh(module))),
    Peer("torch.linalg.eigh, batched", "torch", "torch.linalg", _eigh),
    Peer(
        "pytorch_optimizer, Schur-Newton",
        "pytorch_optimizer",
        _MATRIX,
        lambda module: _each(lambda a, p: module.compute_power_schur_newton(a, p, ridge_epsilon=0.0)),
    ),
    Peer(
        "pytorch_optimizer, SVD",
        "pytorch_optimizer",
        _MATRIX,
        lambda module: lambda A, p: module.compute_power_svd(A, p),
    ),
    Peer("pytorch_optimizer, Newton-DB", "pytorch_optimizer", _MATRIX, _newton_db),
    Peer("scipy.linalg, float64", "scipy", "scipy.linalg", _scipy_root),
)
