"""Part two of the speed benchmark: a step of Muon on the matrices of a model, the error of its update beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import matfn
from matfn.lab import peers
from matfn.lab.peers import LR, Named
from matfn.lab.speed_errors import deviation, direction
from matfn.lab.speed_rows import Contender, Report, Row, Watch, facts, measured
from matfn.lab.speed_timing import Pace
from matfn.optim import Muon
from matfn.optim.layout import linear

__all__ = ["BASELINE", "MODELS", "PRESETS", "gradient", "run"]

BASELINE = "torch.optim.Muon"


def _gpt(layers: int, width: int) -> dict[str, tuple[int, int, int]]:
    """Name, rows, columns and number of the matrices of a GPT-2; embeddings and head are no business of Muon."""
    sides = {"qkv": (3 * width, width), "proj": (width, width), "up": (4 * width, width), "down": (width, 4 * width)}
    return {name: (*shape, layers) for name, shape in sides.items()}


MODELS: dict[str, dict[str, tuple[int, int, int]]] = {
    "gpt2-small": _gpt(12, 768),
    "gpt2-medium, 6 of 24 layers": _gpt(6, 1024),  # all of them, times nine contenders, would take 20 GB
    "100 of 64 x 64": {"small": (64, 64, 100)},
    "2 layers of width 128": _gpt(2, 128),
}
PRESETS: dict[str, tuple[tuple[str, ...], Pace]] = {
    "quick": (("2 layers of width 128", "100 of 64 x 64"), Pace(rounds=5, repeats=1)),
    "full": (("gpt2-small", "gpt2-medium, 6 of 24 layers", "100 of 64 x 64"), Pace(rounds=7)),
}


@dataclass(frozen=True)
class Maker:
    """Builds an optimizer of named parameters, and says how its update reads."""

    build: Callable[[Named], Any]
    scale: Callable[[int, int], float]
    cut: int = 1  # into how many pieces qkv is cut
    choice: bool = False


def gradient(shape: tuple[int, int], seed: int) -> Tensor:
    """Random orthonormal factors around the singular values i^-0.75."""
    generator, short = torch.Generator().manual_seed(seed), min(shape)
    left, right = (torch.linalg.qr(torch.randn(side, short, generator=generator)).Q for side in shape)
    return (left * torch.arange(1, short + 1) ** -0.75) @ right.mT


def _ours(cut: int = 1, **options: Any) -> Maker:
    def build(named: Named) -> Any:
        layouts = [linear(w.shape).cut(cut if "qkv" in name else 1) for name, w in named]
        return Muon([{"params": list(named), "layout": layouts}], lr=LR, **options)

    return Maker(build, lambda m, n: max(1.0, m / n) ** 0.5, cut, not options and cut == 1)


def makers(compiled: bool) -> tuple[dict[str, Maker], dict[str, str]]:
    """Everyone, and who could not come; `compiled`: also those whose first step compiles."""
    found, absent = peers.installed(peers.STEP)
    absent |= {p.name: "compiles first: measured by the full preset" for p in found if p.compiles and not compiled}
    chosen = {p.name: Maker(make, p.scale) for p, make in found.items() if compiled or not p.compiles}
    express = matfn.PolarExpress
    return chosen | {
        "matfn tuned, bfloat16": _ours(method=matfn.Tuned("jordan"), precision=torch.bfloat16),
        "matfn": _ours(),
        "matfn, 4 steps, bfloat16": _ours(method=express(steps=4), precision=torch.bfloat16),
        "matfn, q k v apart": _ours(3),
        "matfn, float32": _ours(precision=torch.float32),
    }, absent


def run(
    models: Sequence[str],
    pace: Pace,
    watch: Watch = lambda text: None,
    *,
    momenta: Sequence[Tensor] = (),
    compiled: bool = True,
) -> Report:
    """Measure a step on each of the models.

    Args:
        models: Keys of `MODELS`.
        pace: How long.
        watch: Told what is being measured.
        momenta: Matrices of a training run (`matfn bench momenta`): the error of the first update is measured on them
            too, because real spectra are steeper than synthetic ones.
        compiled: Whether peers that compile at their first step take part.
    """
    everyone, absent = makers(compiled)
    rows: list[Row] = []
    for model in models:
        watch(model)
        rows += _measured(model, everyone, pace, momenta, watch)
    caption = (
        "One step on float32 weights; gradients with random singular vectors and singular values i^-0.75, the same for "
        "all. rms(1 - sigma) and the least direction <U, G> / ||G||_* are of the first update, of weights at zero; "
        "q, k and v apart are judged apart. Speeds relative to "
        f"{BASELINE} in pairs of one round. Not yet measured on a GPU."
    )
    figure = ("rms", "rms of 1 - sigma of the update")
    stand = facts(peers.versions(), pace)
    return Report("step", "One step of Muon", figure, BASELINE, caption, tuple(rows), absent, stand)


def _measured(model: str, everyone: dict[str, Maker], pace: Pace, momenta: Sequence[Tensor], watch: Watch) -> list[Row]:
    sides = MODELS[model]
    given = {name: gradient((m, n), seed) for seed, (name, (m, n, _)) in enumerate(sides.items())}
    weights = {who: _weights(sides) for who in everyone}
    contenders, steps, rows = [], {}, []
    for who, maker in everyone.items():
        watch(f"{model}: {who}")
        try:
            steps[who] = maker.build(weights[who])
            _give(weights[who], given)
            steps[who].step()  # warms up; its update is examined
            errors = _errors(weights[who], given, maker)
            if momenta:
                real = _captured(maker, momenta)
                errors |= {f"{name}, momenta": value for name, value in real.items()}
        except (ValueError, TypeError, RuntimeError) as error:
            rows.append(Row(model, who, note=f"refused: {' '.join(str(error).split())[:120]}"))
            continue
        contenders.append(Contender(who, steps[who].step, errors, choice=maker.choice))
    baseline = BASELINE if any(c.name == BASELINE for c in contenders) else contenders[0].name
    # Some optimizers overwrite gradients, some drop them: everyone gets fresh ones, outside the time.
    return [*measured(model, contenders, baseline, pace, lambda who: _give(weights[who], given)), *rows]


def _weights(sides: dict[str, tuple[int, int, int]]) -> list[tuple[str, nn.Parameter]]:
    return [
        (f"{name}.{i}", nn.Parameter(torch.zeros(m, n))) for name, (m, n, count) in sides.items() for i in range(count)
    ]


def _give(named: Named, given: dict[str, Tensor]) -> None:
    for name, weight in named:
        source = given[name.partition(".")[0]]
        if weight.grad is None:
            weight.grad = source.clone()
        else:
            weight.grad.copy_(source)


def _errors(named: Named, given: dict[str, Tensor], maker: Maker) -> dict[str, float]:
    """Of the first update of each kind of matrix: rms over all singular values, and the least direction."""
    squares, count, least = 0.0, 0, float("inf")
    for name, G in given.items():
        weight = next(w for other, w in named if other.startswith(f"{name}."))
        pieces = maker.cut if "qkv" in name else 1
        for g, w in zip(G.chunk(pieces), weight.detach().chunk(pieces), strict=True):
            U = -w / (LR * maker.scale(*w.shape))
            squares += min(w.shape) * deviation(U) ** 2
            count += min(w.shape)
            least = min(least, direction(g, U))
    return {"rms": (squares / count) ** 0.5, "direction": least}


def _captured(maker: Maker, momenta: Sequence[Tensor]) -> dict[str, float]:
    given = {f"m{i}": matrix for i, matrix in enumerate(momenta)}
    named = [(f"{name}.0", nn.Parameter(torch.zeros(matrix.shape))) for name, matrix in given.items()]
    _give(named, given)
    maker.build(named).step()
    return _errors(named, given, maker)
