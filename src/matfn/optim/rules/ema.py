"""Ema: the momentum of the gradients, an exponential moving average on the parameter's own entries."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..matrices import foreach
from ..matrices.buckets import Kind, Run
from .rule import Elementwise

__all__ = ["MOMENTUM", "Ema", "VariantEma", "average", "folded"]

MOMENTUM = "momentum_buffer"


class Ema(Elementwise):
    """B <- mu B + (1 - mu) G, and from it mu B + (1 - mu) G where the group says nesterov, B where not.

    Momentum is float32 (float64 for float64 weights): half precision would lose small gradients. Options: momentum and
    nesterov.
    """

    def state(self, shape: tuple[int, ...], options: Mapping[str, Any]) -> dict[str, Kind]:
        """The momentum, one number for each entry."""
        return {MOMENTUM: "element"}

    def update(self, gradients: list[Tensor], into: list[Tensor], run: Run) -> None:
        """See `Elementwise`."""
        average(into, gradients, run.views(MOMENTUM), float(run.options["momentum"]), run.options["nesterov"])


class VariantEma(Ema):
    """Momentum as PolarGrad's option `variant` wants it: of gradients, summed or averaged, or none before the factor."""

    def state(self, shape: tuple[int, ...], options: Mapping[str, Any]) -> dict[str, Kind]:
        """The momentum, which "vanilla" has none of; "polar-first" keeps that of polar factors in it."""
        return {} if options["variant"] == "vanilla" else {MOMENTUM: "element"}

    def update(self, gradients: list[Tensor], into: list[Tensor], run: Run) -> None:
        """See `Elementwise`."""
        momentum = float(run.options["momentum"])
        if run.options["variant"] == "momentum-first":
            average(into, gradients, run.views(MOMENTUM), momentum, ahead=False)
            return
        foreach.copy_(into, gradients)
        if run.options["variant"] == "heavy-ball":
            folded(into, run.views(MOMENTUM), momentum, 1.0)


def average(into: list[Tensor], gradients: list[Tensor], buffers: list[Tensor], momentum: float, ahead: bool) -> None:
    """B <- mu B + (1 - mu) G, and mu B + (1 - mu) G if `ahead`, else B, into other memory.

    Six passes where all have one dtype, because the gradient is read twice; a narrower gradient is copied. Large
    matrices on a CPU go one after another, so that what is read again is still in the cache.

    Args:
        into: written to.
        gradients: G, read only.
        buffers: B, changed in place.
        momentum: mu.
        ahead: whether Nesterov's step is added.
    """
    if any(G.dtype is not B.dtype for G, B in zip(gradients, buffers, strict=True)):
        foreach.copy_(into, gradients)
        gradients = into
    for targets, fresh, held in foreach.in_cache(into, gradients, buffers):
        foreach.lerp_(held, fresh, 1 - momentum)
        if ahead:
            foreach.lerp_into(targets, fresh, held, momentum)
        else:
            foreach.copy_(targets, held)


def folded(fresh: list[Tensor], buffers: list[Tensor], momentum: float, share: float) -> None:
    """B <- mu B + share F, and F <- B; both lists are changed in place.

    Args:
        fresh: F, what is new: gradients or directions.
        buffers: B.
        momentum: mu.
        share: 1 - mu for an average, 1 for the heavy ball.
    """
    if share == 1 - momentum:
        foreach.lerp_(buffers, fresh, share)
    else:
        foreach.mul_(buffers, momentum)
        foreach.add_(buffers, fresh, share)
    foreach.copy_(fresh, buffers)
