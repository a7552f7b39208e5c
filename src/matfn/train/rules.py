"""What a recipe may say of an optimizer: its kind, its options, AdamW for the rest, PolarGrad for embeddings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from matfn.train.errors import TrainError
from matfn.train.settings import setting

_POLAR = ("muon", "normuon", "polargrad")
_FACTORED = ("shampoo", "soap")
MATFN = (*_POLAR, *_FACTORED)
# Keys that only some kinds have; None, their default, is the default of the optimizer.
_BELONGS = {
    "method": (*_POLAR, "shampoo"),
    "precision": _POLAR,
    "variant": ("polargrad",),
    "power": ("polargrad",),
    "growth": ("polargrad",),
    "beta2": ("normuon", *_FACTORED),
    "scale": ("torch-muon", *_POLAR),
    "graft": ("shampoo",),
    "ridge": ("shampoo",),
    "root": ("shampoo",),
    "root_every": ("shampoo",),
    "start": ("shampoo",),
    "basis_every": ("soap",),
    "block": _FACTORED,
}
_VARIANTS = ("momentum-first", "polar-first", "heavy-ball", "vanilla")


@dataclass(frozen=True, kw_only=True)
class RestTable:
    """AdamW for what is not orthogonalized: embeddings, head, norms, biases (the last two without decay)."""

    lr: float = setting(4e-3, low=0.0, high=1e3)
    weight_decay: float = setting(0.1, low=0.0, high=1e3)
    beta1: float = setting(0.9, low=0.0, high=0.999999)
    beta2: float = setting(0.95, low=0.0, high=0.999999)
    eps: float = setting(1e-8, low=0.0, high=1.0)


@dataclass(frozen=True, kw_only=True)
class EmbeddingsTable:
    """PolarGrad for embeddings and head, beside whatever moves the hidden matrices; the paper's own use of it.

    The momentum is the paper's. There is no default rate, since none suits two losses.
    """

    lr: float = setting(low=0.0, high=1e6)
    weight_decay: float = setting(0.0, low=0.0, high=1e3)
    variant: str = setting("momentum-first", choices=_VARIANTS)
    momentum: float = setting(0.5, low=0.0, high=0.999999)
    scale: str = setting("unit", choices=("unit", "rank"))
    growth: float | None = setting(None, low=1.0, high=1e6)
    method: str | None = None


@dataclass(frozen=True, kw_only=True)
class OptimizerTable:
    """One optimizer. For "adamw", lr and weight_decay hold for all parameters and `rest` gives only betas and eps.

    `rates` is a grid, ascending: `matfn compare` tries each and goes on with the best in place of `lr`, the one that
    `matfn train` uses.

    `nesterov` is on for Muon and its kin and off for Shampoo and SOAP, unless it is given. The `method` of Shampoo may
    also be "minimax": the schedule that its ridge asks for.
    """

    kind: str = setting("muon", choices=("adamw", "torch-muon", *MATFN))
    name: str = ""
    lr: float = setting(0.03, low=0.0, high=1e6)
    rates: tuple[float, ...] = setting((), low=0.0, high=1e6)
    weight_decay: float = setting(0.01, low=0.0, high=1e3)
    momentum: float = setting(0.95, low=0.0, high=0.999999)
    nesterov: bool | None = None
    method: str | None = None
    scale: str | None = setting(None, choices=("jordan", "spectral", "moonlight", "unit", "rank"))
    precision: str | None = setting(None, choices=("float32", "bfloat16", "float16"))
    variant: str | None = setting(None, choices=_VARIANTS)
    power: float | None = setting(None, low=0.0, high=1.0)
    growth: float | None = setting(None, low=1.0, high=1e6)
    beta2: float | None = setting(None, low=0.0, high=0.999999)
    graft: str | None = setting(None, choices=("none", "sgd", "adam"))
    ridge: float | None = setting(None, low=0.0, high=1.0)
    root: int | None = setting(None, low=1, high=64)
    root_every: int | None = setting(None, low=1, high=10**9)
    start: int | None = setting(None, low=1, high=10**9)
    basis_every: int | None = setting(None, low=1, high=10**9)
    block: int | None = setting(None, low=1, high=10**6)
    rest: RestTable = field(default_factory=RestTable)
    embeddings: EmbeddingsTable | None = None

    def __post_init__(self) -> None:
        if list(self.rates) != sorted(set(self.rates)):
            raise TrainError(f"rates must rise and differ, got {list(self.rates)}")
        for key, kinds in _BELONGS.items():
            if getattr(self, key) is not None and self.kind not in kinds:
                owners = ", ".join(f'"{kind}"' for kind in kinds)
                raise TrainError(f"{key} belongs to kind = {owners}; {self.kind!r} has none: drop it")
        if self.nesterov is None:
            object.__setattr__(self, "nesterov", self.kind not in _FACTORED)
        if self.kind == "torch-muon":
            if self.scale not in (None, "jordan", "moonlight"):
                raise TrainError(f'scale = "{self.scale}" is not in torch.optim.Muon: choose "jordan" or "moonlight"')
            object.__setattr__(self, "scale", self.scale or "jordan")

    @property
    def label(self) -> str:
        """The name shown in tables and plots."""
        return self.name or self.kind

    def given(self, *keys: str) -> dict[str, Any]:
        """The values of those keys that were set; the optimizer has defaults for the others."""
        return {key: value for key in keys if (value := getattr(self, key)) is not None}
