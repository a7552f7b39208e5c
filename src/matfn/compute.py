"""Compute: a target of each matrix of a batch, by any kind of method: flatten, evaluate or iterate, scale back."""

import torch
from torch import Generator, Tensor

from .checks import check_matrix, check_method, check_precision
from .engines import Engine, choose, prescale
from .kernels import EAGER
from .method import Evaluation, Iteration, Method, Scheduled
from .target import Target

__all__ = ["compute"]


def compute(
    target: Target,
    A: Tensor,
    method: Method,
    engine: Engine | None = None,
    precision: torch.dtype | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """The function of each matrix: flatten the batch, evaluate or iterate."""
    check_matrix(A, target)
    check_precision(precision)
    method = check_method(method, target)
    if A.numel() == 0:
        return A.clone()
    m, n = A.shape[-2:]
    flat = A.reshape(-1, m, n)
    if isinstance(method, Evaluation):
        if engine is not None or precision is not None:
            raise ValueError(
                f"{method!r} evaluates {target.name} outright and has no use for {engine=}, {precision=}: leave them "
                "out, or choose a method that iterates"
            )
        result = method.evaluate(target, flat.to(torch.promote_types(A.dtype, torch.float32)))
    else:
        result = _iterate(target, flat, method, engine, precision or A.dtype, _key(generator))
    return result.to(A.dtype).reshape(A.shape).contiguous()


def _iterate(
    target: Target,
    A: Tensor,
    method: Scheduled | Iteration,
    engine: Engine | None,
    precision: torch.dtype,
    key: int | Tensor,
) -> Tensor:
    """Scale to norm 1, run the engine in `precision`, scale back."""
    iteration = method.schedule(target.p) if isinstance(method, Scheduled) else method
    engine = choose(target) if engine is None else engine
    if target.name not in engine.targets:
        raise ValueError(f"{engine!r} computes {', '.join(sorted(engine.targets))}, not {target.name}")
    scaled, scale = prescale(A)
    result = engine.run(target, scaled.to(precision), iteration, EAGER, key)
    return scale.undo(result.to(scaled.dtype), target.homogeneity)


def _key(generator: Generator | None) -> int | Tensor:
    """The key of all sketches of one call: one number, drawn where the generator lives and never read."""
    return 0 if generator is None else torch.randint(2**32, (), generator=generator, device=generator.device)
