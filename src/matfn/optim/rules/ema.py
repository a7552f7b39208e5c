"""Ema: the momentum of the gradients, an exponential moving average on the parameter's own entries."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..matrices import foreach
from ..matrices.buckets import Kind, Run, number
from ..matrices.dials import Dial
from .rule import Elementwise

__all__ = ["MOMENTUM", "Ema", "VariantEma", "average", "folded"]

MOMENTUM = "momentum_buffer"


class Ema(Elementwise):
    """B <- mu B + (1 - mu) G. The result is mu B + (1 - mu) G with nesterov, else B.

    Momentum is float32 (float64 for float64 weights), because half precision would lose small gradients. Options:
    momentum and nesterov.

    Args:
        anew: The number of a step before which the momentum is set to zero. None never does; else another rule of the
            chain must count the steps.
    """

    reads = ("momentum", "nesterov")
    dials = ("momentum",)

    def __init__(self, anew: int | None = None) -> None:
        self.anew = anew

    def state(self, shape: tuple[int, ...], options: Mapping[str, Any]) -> dict[str, Kind]:
        """The momentum, one number for each entry."""
        return {MOMENTUM: "element"}

    def update(self, gradients: list[Tensor], into: list[Tensor], run: Run) -> None:
        """See `Elementwise`."""
        buffers = run.views(MOMENTUM)
        if self.anew is not None and run.step == self.anew:
            foreach.zero_(buffers)
        average(into, gradients, buffers, number(run.options["momentum"]), run.options["nesterov"])


class VariantEma(Ema):
    """Momentum by PolarGrad's option `variant`: averaged gradients, summed gradients, or the gradient itself."""

    reads = ("variant", "momentum")

    def state(self, shape: tuple[int, ...], options: Mapping[str, Any]) -> dict[str, Kind]:
        """The momentum of gradients. "vanilla" has none, and "polar-first" keeps one of polar factors in `Nuclear`."""
        return {MOMENTUM: "element"} if options["variant"] in ("momentum-first", "heavy-ball") else {}

    def update(self, gradients: list[Tensor], into: list[Tensor], run: Run) -> None:
        """See `Elementwise`."""
        momentum = number(run.options["momentum"])
        if run.options["variant"] == "momentum-first":
            average(into, gradients, run.views(MOMENTUM), momentum, ahead=False)
            return
        foreach.copy_(into, gradients)
        if run.options["variant"] == "heavy-ball":
            folded(into, run.views(MOMENTUM), momentum, averaged=False)


def average(
    into: list[Tensor], gradients: list[Tensor], buffers: list[Tensor], momentum: float | Dial, ahead: bool
) -> None:
    """B <- mu B + (1 - mu) G in `buffers`. Then mu B + (1 - mu) G if `ahead`, else B, is written `into` other memory.

    Large matrices on a CPU are processed one at a time, so that the second pass finds them in the cache.
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


def folded(fresh: list[Tensor], buffers: list[Tensor], momentum: float | Dial, averaged: bool) -> None:
    """B <- mu B + share F, then F <- B, for `buffers` B and `fresh` gradients or directions F, both in place.

    The share is 1 - mu if the result is `averaged`, and 1 for the heavy ball.
    """
    if averaged:
        foreach.lerp_(buffers, fresh, 1 - momentum)
    else:
        foreach.mul_(buffers, momentum)
        foreach.add_(buffers, fresh, 1.0)
    foreach.copy_(fresh, buffers)
