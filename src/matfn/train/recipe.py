"""Recipes: one frozen dataclass for each TOML table, with types, ranges and defaults."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from matfn.train import TrainError
from matfn.train.files import read, replace_text
from matfn.train.settings import brief, build, override, plain, setting, to_toml

_POLAR = ("muon", "normuon", "adamuon", "polargrad")
_FACTORED = ("shampoo", "soap")
LARGEST = 2**20  # bytes of a recipe; the shipped ones have 3 kB
_ORDER, _CHECKSUM = "# sha256 of the documents in order: ", "# sha256 of the lines above: "
MATFN = (*_POLAR, *_FACTORED)
# Keys of some kinds only. Their default, None, means the default of the optimizer.
_BELONGS = {
    "method": (*_POLAR, "shampoo"),
    "precision": _POLAR,
    "variant": ("polargrad",),
    "power": ("polargrad",),
    "growth": ("polargrad",),
    "beta2": ("normuon", "adamuon", *_FACTORED),
    "scale": ("torch-muon", *_POLAR),
    "graft": ("shampoo",),
    "ridge": ("shampoo",),
    "root": ("shampoo",),
    "root_every": ("shampoo",),
    "start": ("shampoo",),
    "basis_every": ("soap",),
    "block": _FACTORED,
}


@dataclass(frozen=True, kw_only=True)
class RestTable:
    """AdamW for the other parameters: embeddings, head, and norms and biases, which are not decayed."""

    lr: float = setting(4e-3, low=0.0, high=1e3)
    weight_decay: float = setting(0.1, low=0.0, high=1e3)
    beta1: float = setting(0.9, low=0.0, high=0.999999)
    beta2: float = setting(0.95, low=0.0, high=0.999999)
    eps: float = setting(1e-8, low=0.0, high=1.0)


@dataclass(frozen=True, kw_only=True)
class EmbeddingsTable:
    """PolarGrad for embeddings and head beside any optimizer of the hidden matrices, as in its paper.

    The default momentum is the paper's. There is no default learning rate, since no rate suits two losses.
    """

    lr: float = setting(low=0.0, high=1e6)
    weight_decay: float = setting(0.0, low=0.0, high=1e3)
    momentum: float = setting(0.5, low=0.0, high=0.999999)
    scale: str = setting("unit", choices=("unit", "rank"))
    method: str | None = None


@dataclass(frozen=True, kw_only=True)
class OptimizerTable:
    """One optimizer. For "adamw", lr and weight_decay hold for all parameters and `rest` gives only betas and eps.

    `matfn train` uses `lr`. `matfn compare` tries each of the ascending `rates` and takes the best in place of `lr`.
    `nesterov` defaults to false for AdaMuon, Shampoo and SOAP, else to true. Shampoo also takes method = "minimax", the
    schedule made for its ridge.
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
    variant: str | None = setting(None, choices=("momentum-first", "polar-first", "heavy-ball", "vanilla"))
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
        if self.nesterov is None:  # object.__setattr__: the dataclass is frozen
            object.__setattr__(self, "nesterov", self.kind not in ("adamuon", *_FACTORED))
        if self.kind == "torch-muon":
            if self.scale not in (None, "jordan", "moonlight"):
                raise TrainError(f'scale = "{self.scale}" is not in torch.optim.Muon: choose "jordan" or "moonlight"')
            object.__setattr__(self, "scale", self.scale or "jordan")

    @property
    def label(self) -> str:
        """The name shown in tables and plots."""
        return self.name or self.kind

    @property
    def own(self) -> dict[str, Any]:
        """The keys of some kinds only that the recipe sets, with their values."""
        return {key: value for key in _BELONGS if (value := getattr(self, key)) is not None}


@dataclass(frozen=True, kw_only=True)
class ModelTable:
    """The network: the GPT of `matfn.train.model`, or transformers' GPT-2."""

    name: str = setting("gpt", choices=("gpt", "gpt2"))
    layers: int = setting(4, low=1, high=1000)
    width: int = setting(128, low=8, high=65536)
    heads: int = setting(4, low=1, high=1024)
    positions: str = setting("learned", choices=("learned", "rotary"))
    tied: bool = False

    def __post_init__(self) -> None:
        if self.width % self.heads or (self.positions == "rotary" and (self.width // self.heads) % 2):
            even = " and, for rotary positions, leave an even width per head" if self.positions == "rotary" else ""
            raise TrainError(f"heads must divide model.width{even}; got {self.heads} and {self.width}")
        if self.name == "gpt2" and (self.positions != "learned" or not self.tied):
            raise TrainError('name = "gpt2" has learned positions and a tied head: set both so, or take name = "gpt"')


@dataclass(frozen=True, kw_only=True)
class DataTable:
    """The text and its split. "text" needs `path`, "shards" needs `path` as a folder or a glob."""

    source: str = setting("stdlib", choices=("stdlib", "text", "shards"))
    path: str = ""
    extensions: tuple[str, ...] = (".txt", ".md", ".py")
    context: int = setting(128, low=1, high=1 << 20)
    val_fraction: float = setting(0.05, low=1e-6, high=0.9)
    split: str = setting("document", choices=("document", "shard"))
    end_of_text: int = setting(50256, low=0, high=65535)
    vocabulary: int = setting(50304, low=1, high=65536)

    def __post_init__(self) -> None:
        if self.source in ("text", "shards") and not self.path:
            raise TrainError(f'source = "{self.source}" needs data.path: a file, a folder or, for shards, a glob')
        if self.split == "shard" and self.source != "shards":
            raise TrainError(f'split = "shard" needs data.source = "shards", got {self.source!r}')


@dataclass(frozen=True, kw_only=True)
class TrainTable:
    """The loop: length, batch, schedule (`warmup` steps, constant, linear to 0 in the `cooldown` share), evaluation.

    A checkpoint is written every `checkpoint_minutes`, and every `checkpoint_every` steps; 0 switches either off.
    """

    steps: int = setting(300, low=1, high=10**9)
    batch: int = setting(16, low=1, high=10**6)
    accumulate: int = setting(1, low=1, high=10**6)
    warmup: int = setting(30, low=0, high=10**9)
    cooldown: float = setting(0.4, low=0.0, high=1.0)
    clip: float = setting(0.0, low=0.0)
    autocast: str = setting("off", choices=("off", "bfloat16"))
    compile: bool = False
    device: str = setting("auto", choices=("auto", "cpu", "cuda"))
    threads: int = setting(0, low=0, high=1024)
    seed: int = setting(0, low=0, high=2**31)
    eval_every: int = setting(50, low=1, high=10**9)
    eval_windows: int = setting(256, low=1, high=10**7)
    checkpoint_every: int = setting(0, low=0, high=10**9)
    checkpoint_minutes: float = setting(5.0, low=0.0, high=1e6)

    def __post_init__(self) -> None:
        if self.warmup + round(self.cooldown * self.steps) > self.steps:
            raise TrainError(
                f"warmup ({self.warmup}) and train.cooldown ({self.cooldown:g} of {self.steps} steps) do not fit "
                "into train.steps: shorten one or train longer"
            )


@dataclass(frozen=True, kw_only=True)
class TelemetryTable:
    """`matfn.optim.Telemetry` during a run, every `every` steps; 0 is off. `only` holds glob patterns of names."""

    every: int = setting(0, low=0, high=10**9)
    exact: bool = False
    budget: float = setting(0.05, low=1e-6, high=1.0)
    only: tuple[str, ...] = ("*",)
    tensorboard: bool = False

    def __post_init__(self) -> None:
        if not self.only:
            wanted = 'leave it out for all parameters, or list patterns such as "*.qkv*"'
            raise TrainError(f"only must name something: {wanted}")


@dataclass(frozen=True, kw_only=True)
class GridTable:
    """The trials of the arms' `rates`: steps of each (0: train.steps) and their seed.

    The seed differs from the compared seeds, so that the choice of a rate does not flatter them.
    """

    steps: int = setting(0, low=0, high=10**9)
    seed: int = setting(1000, low=0, high=2**31)


@dataclass(frozen=True, kw_only=True)
class CompareTable:
    """The seeds, and whether the arms take turns (so that a busy machine slows all of them) or run one by one."""

    seeds: tuple[int, ...] = setting((0,), low=0, high=2**31)
    order: str = setting("interleaved", choices=("interleaved", "sequential"))
    grid: GridTable = field(default_factory=GridTable)

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise TrainError(f"seeds must be distinct and not empty, got {list(self.seeds)}")


@dataclass(frozen=True, kw_only=True)
class ParallelTable:
    """How the processes of torchrun share a run; the numbers are those of one process, up to rounding.

    "ddp" divides the batch, "fsdp" the batch and the parameters, "tp" the matrices of each block. With "fsdp", groups
    of `tp` processes divide the matrices of each block too.
    """

    kind: str = setting("none", choices=("none", "ddp", "fsdp", "tp"))
    tp: int = setting(1, low=1, high=1024)

    def __post_init__(self) -> None:
        if self.tp > 1 and self.kind != "fsdp":
            raise TrainError(f'tp = {self.tp} belongs to kind = "fsdp"; kind = "tp" takes all processes: drop tp')


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole experiment: `[optimizer]` is what `matfn train` uses, `[[arms]]` what `matfn compare` compares."""

    title: str = "untitled"
    model: ModelTable = field(default_factory=ModelTable)
    data: DataTable = field(default_factory=DataTable)
    train: TrainTable = field(default_factory=TrainTable)
    optimizer: OptimizerTable | None = None
    arms: tuple[OptimizerTable, ...] = ()
    compare: CompareTable = field(default_factory=CompareTable)
    telemetry: TelemetryTable = field(default_factory=TelemetryTable)
    parallel: ParallelTable = field(default_factory=ParallelTable)

    def __post_init__(self) -> None:
        labels = [arm.label for arm in self.arms]
        if len(set(labels)) < len(labels):
            raise TrainError(f"two arms share a name, give each its own: {', '.join(labels)}")

    def arm(self, name: str | None) -> OptimizerTable:
        """The arm of that name; without a name `[optimizer]`, or the only arm.

        Raises:
            TrainError: There is no such arm, or there are several and no name.
        """
        candidates = {arm.label: arm for arm in self.arms}
        if name is not None:
            if name not in candidates:
                raise TrainError(f"no arm {brief(name)} in this recipe; it has: {', '.join(candidates) or 'none'}")
            return candidates[name]
        if self.optimizer is not None:
            return self.optimizer
        if len(self.arms) == 1:
            return self.arms[0]
        if not self.arms:
            return OptimizerTable()
        raise TrainError(f"which optimizer? pass --arm with one of: {', '.join(map(repr, candidates))}")

    def same_curve(self, other: Recipe) -> bool:
        """Whether two recipes train the same curve: they may differ in `[parallel]` only."""
        return replace(self, parallel=other.parallel) == other

    @property
    def tokens_per_step(self) -> int:
        """Tokens between two optimizer steps."""
        return self.train.batch * self.train.accumulate * self.data.context

    def place(self, table: OptimizerTable) -> str:
        """The place of an optimizer in the recipe, for messages: "optimizer" or "arms.2"."""
        return f"arms.{self.arms.index(table)}" if table in self.arms else "optimizer"


def load(path: Path | None, overrides: Sequence[str] = ()) -> Recipe:
    """Read a TOML recipe, apply `key=value` overrides in order, and check it. Without a path: the defaults.

    Raises:
        TrainError: The file is missing or no TOML, or a key, type or value is wrong.
    """
    table: dict[str, Any] = {} if path is None else _table(_content(path), path)
    for assignment in overrides:
        table = override(table, assignment)
    return from_table(table)


def check_used(recipe: Recipe, overrides: Sequence[str], arm: str | None = None) -> None:
    """Refuse an override of `[optimizer]` if the arms train instead: one of them by name, or all of a comparison.

    Raises:
        TrainError: The override would have no effect.
    """
    lost = next((assignment for assignment in overrides if assignment.strip().startswith("optimizer.")), None)
    if lost is None or not recipe.arms:
        return
    place = "arms.N" if arm is None else recipe.place(recipe.arm(arm))
    instead = f"{place}.{lost.strip().removeprefix('optimizer.')}"
    raise TrainError(f"--set {brief(lost)} has no effect: the arms train, not [optimizer]; write {brief(instead)}")


def moved(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """The recipe of a run that goes on with another `[parallel]`.

    Raises:
        TrainError: An override is of another table, which would break the curve.
    """
    table: dict[str, Any] = plain(recipe)
    for assignment in overrides:
        if not assignment.strip().startswith("parallel."):
            raise TrainError(f"with --resume, --set takes keys of [parallel] only, got {brief(assignment)}")
        table = override(table, assignment)
    return from_table(table)


def _content(path: Path) -> str:
    try:
        return read(path, most=LARGEST).decode("utf-8-sig")
    except OSError as error:
        raise TrainError(f"cannot read the recipe {brief(str(path))}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise TrainError(f"{path} is no valid TOML: {error}") from None


def _table(content: str, path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(content)
    except RecursionError:
        raise TrainError(f"{path} is no recipe: its lists or tables are nested too deep") from None
    except ValueError as error:  # no TOML, or a whole number of more than 4300 digits
        raise TrainError(f"{path} is no valid TOML: {error}") from None


def from_table(table: dict[str, Any]) -> Recipe:
    """A checked recipe from plain tables."""
    return build(Recipe, table)


def text(recipe: Recipe) -> str:
    """The recipe with every default filled in, as TOML."""
    return to_toml(plain(recipe))


def record(path: Path, recipe: Recipe, order: str) -> None:
    """Write the recipe of a run into its folder, with the `order` of its corpus and a checksum, for `recorded`.

    Raises:
        TrainError: The file cannot be written.
    """
    body = f"{text(recipe)}{_ORDER}{order}\n"
    replace_text(path, f"{body}{_CHECKSUM}{hashlib.sha256(body.encode()).hexdigest()}\n")


def recorded(path: Path) -> tuple[Recipe, str | None]:
    """Read what `record` wrote: the recipe and the order of the corpus, None from a run of an earlier version.

    Raises:
        TrainError: The file is missing or damaged, or was changed after the run began.
    """
    content = _content(path)
    body, mark, checksum = content.rpartition(_CHECKSUM)
    if mark and hashlib.sha256(body.encode()).hexdigest() != checksum.strip():
        raise TrainError(
            f"{path} was damaged or changed after the run began, so its curve would break: restore a copy, or start a "
            "run with the changed recipe in a new folder"
        )
    orders = [line.removeprefix(_ORDER) for line in content.split("\n") if line.startswith(_ORDER)]
    return from_table(_table(content, path)), orders[-1] if orders else None
