"""The arms of the tournament: how each moves the matrices of a GPT. AdamW moves the rest in all of them, alike."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from matfn import Exact, PolarExpress, Prism, RitzMinimax, Tuned
from matfn.optim import AdaMuon, MatrixOptimizer, Muon, NorMuon, Plan, PolarGrad, plan
from matfn.optim.matrices.buckets import Run
from matfn.optim.matrices.layout import linear
from matfn.optim.rules import Ema, Polar, Rule
from matfn.train.optimizers import Optimizers
from matfn.train.recipe import TrainTable

REST: dict[str, Any] = {"lr": 4e-3, "weight_decay": 0.1}
DECAY = 0.01
FOUR_STEPS = PolarExpress((5, 5, 5, 3), lower=1e-2, cushion=0.06, norm="schatten4", deflation=1 / 16)
THREE_WARM = Prism(steps=3, warm=3)  # as published for a GPT: nothing is fitted
HALFWAY: dict[str, Any] = {
    "power": 0.5,
    "momentum": 0.95,
    "scale": "jordan",
}  # between Muon (power 0) and PolarGrad (power 1)
HALFWAY_RATES = (0.02, 0.04, 0.08, 0.16, 0.32)
ADAMW_RATES = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)
MUON_RATES = (0.0075, 0.015, 0.03, 0.06, 0.12)


class Shrunk(Rule):
    """The direction times a number."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def update(self, stack: Tensor, runs: Sequence[Run]) -> Tensor:
        """See `Rule`."""
        return stack.mul_(self.factor)


class MeanOne(Rule):
    """The direction divided by the mean of its singular values."""

    def update(self, stack: Tensor, runs: Sequence[Run]) -> Tensor:
        """See `Rule`."""
        mean = torch.linalg.svdvals(stack).mean(-1)[:, None, None]
        return stack.div_(torch.where(mean == 0, 1.0, mean))


class Shaped(Rule):
    """U (S / s_1)^power V^T for a matrix U S V^T: power 0 is Muon's direction, power 1 the matrix itself."""

    def __init__(self, power: float) -> None:
        self.power = power

    def update(self, stack: Tensor, runs: Sequence[Run]) -> Tensor:
        """See `Rule`."""
        U, S, Vh = torch.linalg.svd(stack, full_matrices=False)
        top = S[:, :1]
        S = torch.where(top > 0, (S / top) ** self.power, 0.0)
        return (U * S[:, None]) @ Vh


class HalfMomentum(Ema):
    """Momentum that is rounded to bfloat16 after each step."""

    def update(self, gradients: list[Tensor], into: list[Tensor], run: Run) -> None:
        """See `Elementwise`."""
        super().update(gradients, into, run)
        for buffer in run.views("momentum_buffer"):
            buffer.copy_(buffer.bfloat16())


class Chain(MatrixOptimizer):
    """Muon with other rules."""

    def __init__(self, params: Any, lr: float, chain: tuple[Any, ...]) -> None:
        options = {"lr": lr, "momentum": 0.95, "nesterov": True, "weight_decay": DECAY, "cautious": False}
        super().__init__(params, {**options, "scale": "jordan"}, chain, rest=REST)


@dataclass(frozen=True)
class Arm:
    """One arm.

    Attributes:
        name: A short name.
        make: (model, learning rate) -> the optimizers.
        rates: The grid of learning rates.
        warmup: Whether the rates rise from zero over the first steps.
    """

    name: str
    make: Callable[[nn.Module, float], list[torch.optim.Optimizer]]
    rates: tuple[float, ...] = MUON_RATES
    warmup: bool = True


def adamw(model: nn.Module, lr: float) -> list[torch.optim.Optimizer]:
    """AdamW of torch for everything; vectors do not decay."""
    return [torch.optim.AdamW(_groups(list(model.parameters())), lr=lr, weight_decay=REST["weight_decay"])]


def torch_muon(model: nn.Module, lr: float) -> list[torch.optim.Optimizer]:
    """torch.optim.Muon for the matrices, torch's AdamW for the rest."""
    entries = list(plan(model))
    matrices = [entry.parameter for entry in entries if entry.rule == "matrix"]
    others = [entry.parameter for entry in entries if entry.rule == "adamw"]
    muon = torch.optim.Muon(matrices, lr=lr, weight_decay=DECAY, momentum=0.95, nesterov=True, adjust_lr_fn="original")
    return [muon, torch.optim.AdamW(_groups(others), **REST)]


def _groups(parameters: Sequence[Tensor]) -> list[dict[str, Any]]:
    vectors = [parameter for parameter in parameters if parameter.ndim < 2]
    matrices = [parameter for parameter in parameters if parameter.ndim >= 2]
    return [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]


def muon(model: nn.Module, lr: float, *, kind: Any = Muon, **options: Any) -> list[torch.optim.Optimizer]:
    """Muon or one of its kin, with options."""
    return [kind(plan(model), lr, weight_decay=DECAY, rest=REST, **options)]


def chain(model: nn.Module, lr: float, *, rules: Callable[[], tuple[Any, ...]]) -> list[torch.optim.Optimizer]:
    """Muon with other rules."""
    return [Chain(plan(model), lr, rules())]


def heads(model: nn.Module, lr: float) -> list[torch.optim.Optimizer]:
    """Muon with each head of q, k and v as a matrix of its own."""
    count = model.blocks[0].q.in_features // model.blocks[0].head_width  # pyright: ignore
    decided = plan(model)
    layouts = {}
    for entry in decided:
        if entry.name.split(".")[-2] in ("q", "k", "v"):
            shape = tuple(entry.parameter.shape)
            layouts[entry.parameter] = linear(shape).cut(count)
    groups = []
    for entry in decided:
        own: dict[str, Any] = {"params": [(entry.name, entry.parameter)]}
        if entry.rule == "adamw":
            own |= {"rule": "adamw"} | ({"weight_decay": 0.0} if entry.parameter.ndim < 2 else {})
        elif entry.parameter in layouts:
            own["layout"] = [layouts[entry.parameter]]
        groups.append(own)
    return [Muon(groups, lr, weight_decay=DECAY, rest=REST)]


def tables(model: nn.Module, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the hidden matrices, PolarGrad for embedding and head, AdamW for the rest."""
    entries = list(plan(model))
    names = [e.name for e in entries if e.role in ("embedding", "head", "tied head") and "positions" not in e.name]
    own = {e.name: e.parameter for e in entries}
    hidden = Plan(tuple(e for e in entries if e.name not in names))
    # 5 is the best of 1, 5, 25 and 120 on another text (recipes/compare_30min.toml).
    polargrad = PolarGrad([(n, own[n]) for n in names], 5.0, momentum=0.9, scale="rank", method=PolarExpress(steps=8))
    return [Muon(hidden, lr, weight_decay=DECAY, rest=REST), polargrad]


def after_exact(*rules: Rule) -> tuple[Any, ...]:
    """Momentum, exact factor, further rules."""
    return (Ema(), Polar(Exact()), *rules)


ARMS = {
    arm.name: arm
    for arm in (
        Arm("adamw", adamw, ADAMW_RATES),
        Arm("adamw-cold", adamw, ADAMW_RATES, warmup=False),
        Arm("torch", torch_muon),
        Arm("torch-cold", torch_muon, warmup=False),
        Arm("jordan", partial(muon, method=Tuned("jordan"))),
        Arm("you", partial(muon, method=Tuned("you"))),
        Arm("exact", partial(muon, method=Exact())),
        Arm("polar-express", partial(muon, method=PolarExpress())),
        Arm("polar-express-3", partial(muon, method=PolarExpress(steps=3))),
        Arm("prism-3", partial(muon, method=THREE_WARM)),
        Arm("default", muon),
        Arm("four-steps", partial(muon, method=FOUR_STEPS)),
        Arm("ritz", partial(muon, method=RitzMinimax(steps=4))),
        Arm("prism", partial(muon, method=Prism())),
        Arm("jordan-mean-one", partial(chain, rules=lambda: (Ema(), Polar(Tuned("jordan")), MeanOne()))),
        Arm("default-mean-one", partial(chain, rules=lambda: (Ema(), Polar(), MeanOne()))),
        Arm("exact-times-.87", partial(chain, rules=lambda: after_exact(Shrunk(0.87)))),
        Arm("normuon", partial(muon, kind=NorMuon)),
        Arm("adamuon", partial(muon, kind=AdaMuon), (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3)),
        Arm("sigma^.1", partial(chain, rules=lambda: (Ema(), Shaped(0.1)))),
        Arm("sigma^.3", partial(chain, rules=lambda: (Ema(), Shaped(0.3)))),
        Arm("nu^.5", partial(muon, kind=PolarGrad, method=PolarExpress(steps=8), **HALFWAY), HALFWAY_RATES),
        Arm("heads", heads),
        Arm("tables", tables),
        Arm("cautious", partial(muon, cautious=True)),
        Arm("bf16-momentum", partial(chain, rules=lambda: (HalfMomentum(), Polar()))),
    )
}  # fmt: skip


def make(arm: Arm, model: nn.Module, lr: float, train: TrainTable) -> Optimizers:
    """The optimizers of an arm under the schedule of a run."""
    return Optimizers(arm.make(model, lr), train if arm.warmup else replace(train, warmup=0))
