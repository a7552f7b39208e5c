"""Nuclear: PolarGrad's rule, the polar factor times a power of the nuclear norm."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..matrices import foreach
from ..matrices.buckets import Kind, Run, number
from ..options import check_number
from .ema import MOMENTUM, folded
from .polar import Polar
from .rule import Rule

__all__ = ["VARIANTS", "Nuclear"]

VARIANTS = ("momentum-first", "polar-first", "heavy-ball", "vanilla")
NUCLEAR = "nuclear_norm"
_MEMORY = 0.9  # the running average of nu is over about ten steps


class Nuclear(Rule):
    """nu^power U for the polar factor U of A and nu = <A, U>; see `PolarGrad`.

    Options: variant, momentum (for "polar-first"), power, growth, and the scale "rank", which divides by ||U||_F^2.

    Args:
        polar: The rule that computes U. It is held here because nu needs both A and U.
    """

    reads = ("variant", "momentum", "power", "growth")
    dials = ("momentum",)

    def __init__(self, polar: Polar) -> None:
        self.polar = polar
        self.refuses_nan = polar.refuses_nan

    def check(self, options: Mapping[str, Any], where: str, shapes: Iterable[tuple[int, ...]] = ()) -> None:
        """See `Rule`."""
        if options["variant"] not in VARIANTS:
            raise ValueError(f"{where}: variant must be one of {VARIANTS}, got {options['variant']!r}.")
        if not 0 <= check_number(options["power"], f"{where}: power") <= 1:
            raise ValueError(f"{where}: power must be in [0, 1], got {options['power']}: 0 is Muon, 1 is PolarGrad.")
        if options["growth"] is not None and not check_number(options["growth"], f"{where}: growth") > 1:
            raise ValueError(f"{where}: growth must be > 1, or None for no safeguard; got {options['growth']}.")

    def state(self, shape: tuple[int, ...], options: Mapping[str, Any]) -> dict[str, Kind]:
        """The state of the rule `polar`; the average of nu of each matrix, if there is `growth`.

        In "polar-first" also the momentum of polar factors.
        """
        found: dict[str, Kind] = self.polar.state(shape, options)
        if options["growth"] is not None:
            found[NUCLEAR] = "matrix"
        if options["variant"] == "polar-first":
            found[MOMENTUM] = "element"
        return found

    def ready(self, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> None:
        """See `Rule`."""
        self.polar.ready(shape, dtype, device)

    def update(self, stack: Tensor, runs: Sequence[Run]) -> Tensor:
        """nu^power U for each matrix A of the stack, divided by the rank if the scale is "rank"."""
        U = self.polar.factor(stack, runs=runs)
        nu = (stack * U).sum((-2, -1))
        square = None
        for run in runs:
            options, where = run.options, run.where
            size = nu[where] if options["growth"] is None else _guarded(nu[where], run, float(options["growth"]))
            if options["power"] != 1:  # a negative nu (rounding, a poor U) keeps its sign, which makes -D descend
                size = size.sign() * size.abs() ** float(options["power"])
            if options["scale"] == "rank":
                square = (U * U).sum((-2, -1)) if square is None else square
                size = torch.where(square[where] > 0, size / square[where], 0.0)
            if options["variant"] == "polar-first":
                folded(run.places(U), run.views(MOMENTUM), number(options["momentum"]), averaged=True)
            U[where] *= size[:, None, None]
        return U


def _guarded(nu: Tensor, run: Run, growth: float) -> Tensor:
    """The nu of a run, cut to `growth` times their averages, which are updated by the cut values."""
    averages = run.views(NUCLEAR)
    known = torch.cat(averages)
    # An average of zero or NaN holds no past value, so nothing is cut.
    cut = torch.where(known > 0, torch.minimum(nu, growth * known), nu)
    learned = torch.where(known > 0, torch.lerp(known, cut, 1 - _MEMORY), cut)
    foreach.copy_(averages, list(learned.split([slot.count for slot in run.slots])))
    return cut
