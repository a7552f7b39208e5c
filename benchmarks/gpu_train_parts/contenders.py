"""The arms: arms of the tournament that may be quicker or reach a lower loss on a GPU, and three that need a GPU."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import torch
from torch import nn

from matfn import PolarExpress
from studies.tournament.arms import ARMS as TOURNAMENT
from studies.tournament.arms import DECAY, Arm, muon, torch_muon

__all__ = ["ARMS", "COMPARED", "GRAPH", "KEPT", "OURS", "PEER", "THEIRS", "TIMED"]

THEIRS = "torch"  # what every other arm is compared with
OURS = "default"
GRAPH, PEER = "default, graph=True", "gram-newton-schulz"
KEPT = ("adamw", THEIRS, OURS)  # no rule drops these


def gram_newton_schulz(model: nn.Module, lr: float) -> list[torch.optim.Optimizer]:
    """gram-newton-schulz's Muon with its kernels and the same scale for the matrices, torch's AdamW for the rest."""
    from gram_newton_schulz import Muon as Theirs  # pyright: ignore[reportMissingImports]

    matrices, rest = torch_muon(model, lr)
    weights = matrices.param_groups[0]["params"]
    options = {"weight_decay": DECAY, "momentum": 0.95, "nesterov": True, "adjust_lr": _jordan}
    return [Theirs([{"params": weights}], lr=lr, ns_use_kernels=weights[0].is_cuda, **options), rest]


def _jordan(lr: float, shape: tuple[int, ...]) -> float:
    return lr * math.sqrt(max(1.0, shape[0] / shape[1]))


OWN = (
    # Eight steps lift every singular value above a thousandth of the largest: exact factors, at the price of products.
    Arm("eight-steps", partial(muon, method=PolarExpress(steps=8))),
    Arm(PEER, gram_newton_schulz),
    Arm(GRAPH, partial(muon, graph=True)),
)
COMPARED = (*KEPT, "polar-express", "eight-steps", "normuon", "tables", "exact")
TIMED = (
    GRAPH,
    PEER,
)  # the losses of "default" and "polar-express" by other launches and kernels: only their time counts
ARMS: Mapping[str, Arm] = {
    **{name: TOURNAMENT[name] for name in COMPARED if name in TOURNAMENT},
    **{arm.name: arm for arm in OWN},
}
