"""Training: a GPT on the bytes of Python's standard library by four optimizers in turns, and their momentum matrices.

The primary number, named before any run: the validation loss of matfn's Muon by default minus the loss of
torch.optim.Muon, after equal steps, mean over the seeds with its standard error. Bytes need no tokenizer; the losses
compare with nothing but each other.
"""

import inspect
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import matfn
from benchmarks.gpu_parts.case import Bench, Case, Row, Skipped
from benchmarks.gpu_parts.events import Place, wait
from benchmarks.gpu_parts.looks import ritz
from matfn.optim import Muon, plan
from matfn.train.data import Batches, Corpus, load_corpus, validation_windows
from matfn.train.model import loss, make_model
from matfn.train.recipe import DataTable, ModelTable

ADAMW = {"lr": 2e-3, "weight_decay": 0.1, "betas": (0.9, 0.95)}
CAPTURED = {
    "jordan, 5": matfn.Tuned("jordan"),
    "polar-express, 5": matfn.PolarExpress(),
    "ritz-minimax, 4": matfn.RitzMinimax(steps=4),
    "ritz-minimax, 5": matfn.RitzMinimax(steps=5),
}


def _torch_muon(model: nn.Module) -> list[torch.optim.Optimizer]:
    entries = list(plan(model))
    matrices = [e.parameter for e in entries if e.rule == "matrix"]
    rest = [e.parameter for e in entries if e.rule == "adamw"]
    return [torch.optim.Muon(matrices, lr=0.02, weight_decay=0.01), torch.optim.AdamW(rest, **ADAMW)]


def _muon(**options: Any) -> Callable[[nn.Module], list[torch.optim.Optimizer]]:
    return lambda model: [Muon(plan(model), lr=0.02, weight_decay=0.01, rest=ADAMW, **options)]


def _seldom() -> Any:
    """RitzMinimax with a look at every tenth step, or at every step if this version cannot."""
    try:
        return ritz(10)
    except Skipped:
        return ritz(1)


ARMS: dict[str, Callable[[nn.Module], list[torch.optim.Optimizer]]] = {
    "torch.optim.Muon": _torch_muon,
    "matfn Muon": _muon(),
    "matfn Muon, ritz-minimax, 4 steps": lambda model: _muon(method=_seldom())(model),
    "AdamW": lambda model: [torch.optim.AdamW(model.parameters(), **ADAMW)],
}


def _arms(place: Place) -> list[str]:
    """With the arm that replays its steps where there are graphs; the first two make the primary number."""
    graphs = place.cuda and "graph" in inspect.signature(Muon).parameters
    if graphs:
        ARMS.setdefault("matfn Muon, graph=True", _muon(graph=True))
    return list(ARMS)


@dataclass
class Arm:
    """One model with its optimizers and the batches that all arms of a seed share the order of."""

    name: str
    seed: int
    model: nn.Module
    optimizers: list[torch.optim.Optimizer]
    batches: Batches
    seconds: float = 0.0

    def advance(self, rates: list[float], place: Place) -> None:
        """One step for each factor on the learning rate."""
        usual = [[group["lr"] for group in o.param_groups] for o in self.optimizers]
        wait(place)
        start = time.perf_counter()
        for factor in rates:
            inputs, targets = (x.to(place.device, non_blocking=True) for x in self.batches.draw())
            with torch.autocast(place.device.split(":")[0], torch.bfloat16):
                value = loss(self.model, inputs, targets)
            value.backward()
            for optimizer, lrs in zip(self.optimizers, usual, strict=True):
                for group, lr in zip(optimizer.param_groups, lrs, strict=True):
                    group["lr"] = lr * factor
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        wait(place)
        self.seconds += time.perf_counter() - start
        for optimizer, lrs in zip(self.optimizers, usual, strict=True):
            for group, lr in zip(optimizer.param_groups, lrs, strict=True):
                group["lr"] = lr

    @torch.no_grad()
    def validate(self, windows: tuple[Tensor, Tensor], place: Place) -> float:
        """Nats per byte on the same windows for everybody."""
        pieces = zip(*(x.split(place.pick(32, 4)) for x in windows), strict=True)
        with torch.autocast(place.device.split(":")[0], torch.bfloat16):
            found = [loss(self.model, *(x.to(place.device) for x in piece)).item() * len(piece[0]) for piece in pieces]
        return sum(found) / len(windows[0])


def cases(place: Place) -> list[Case]:
    """One case: all arms in turns."""
    return [Case("GPT on bytes", _training)]


def _training(bench: Bench) -> Iterator[Row]:
    """All arms of all seeds in turns of some steps each: as many steps as the seconds hold, the same for everybody.

    Warm-up for 5 % of the steps, the last 40 % linear to zero. A run that is cut shows the losses up to there.
    """
    place, names = bench.place, _arms(bench.place)
    data = DataTable(context=place.pick(512, 16))
    corpus = load_corpus(data)
    table = ModelTable(layers=place.pick(6, 1), width=place.pick(512, 16), heads=place.pick(8, 2), positions="rotary")
    batch, seeds, chunk = place.pick(64, 2), place.pick(2, 1), place.pick(20, 1)
    arms = [_arm(name, seed, table, corpus, data.context, batch, place) for seed in range(seeds) for name in names]
    trial = place.pick(5, 1)
    for warm in (True, False):  # compiling and tuning first, then the time of a step
        for arm in arms[: len(names)]:
            probe = arm if place.quick else _arm(arm.name, 99, table, corpus, data.context, batch, place)
            probe.seconds = 0.0
            probe.advance([0.0] * trial, place)
            arm.seconds = 0.0 if warm else probe.seconds / trial
    each = sum(arm.seconds for arm in arms[: len(names)])
    total = place.pick(max(40, min(2000, int(0.8 * bench.left / (each * seeds)))), 3)
    yield {"steps": total, "arms": names, "seeds": seeds, "batch": batch, "context": data.context,
           "model": f"{table.layers} x {table.width}", "text": corpus.facts, "trial_seconds_per_step":
           {arm.name: arm.seconds for arm in arms[: len(names)]}}  # fmt: skip
    for arm in arms:
        arm.seconds = 0.0
    windows = validation_windows(corpus, data.context, place.pick(256, 4))
    rates = [min(1.0, (k + 1) / (0.05 * total), (total - k) / (0.4 * total)) for k in range(total)]
    for start in range(0, total, chunk):
        for arm in arms:
            arm.advance(rates[start : start + chunk], place)
        done = min(start + chunk, total)
        if done == total or (start // chunk) % 10 == 9:
            yield {"after": done, "loss": [_line(arm, windows, done, place) for arm in arms]}
    yield _primary(arms, windows, place)
    yield from _captured(arms[1], place)


def _arm(name: str, seed: int, table: ModelTable, corpus: Corpus, context: int, batch: int, place: Place) -> Arm:
    model = make_model(table, corpus.vocabulary, context=context, seed=seed).to(place.device)
    return Arm(name, seed, model, ARMS[name](model), Batches(corpus.train, context, batch=batch, seed=seed))


def _line(arm: Arm, windows: tuple[Tensor, Tensor], done: int, place: Place) -> Row:
    speed = done * arm.batches.draw()[0].numel() / arm.seconds if not place.quick else None
    return {"arm": arm.name, "seed": arm.seed, "loss": arm.validate(windows, place), "tokens_per_second": speed}


def _primary(arms: list[Arm], windows: tuple[Tensor, Tensor], place: Place) -> Row:
    last = {(arm.name, arm.seed): arm.validate(windows, place) for arm in arms}
    theirs, ours = list(ARMS)[:2]
    gaps = [last[ours, seed] - last[theirs, seed] for seed in sorted({arm.seed for arm in arms})]
    error = statistics.stdev(gaps) / len(gaps) ** 0.5 if len(gaps) > 1 else None
    return {"primary": f"loss of {ours} minus {theirs}", "mean": statistics.mean(gaps), "standard_error": error,
            "seeds": len(gaps)}  # fmt: skip


@torch.no_grad()
def _captured(arm: Arm, place: Place) -> Iterator[Row]:
    """Momentum at the end of training: rms(1 - sigma) by method in bfloat16, mean over the matrices of three layers."""
    names = {id(e.parameter): e.name for e in plan(arm.model) if e.rule == "matrix"}
    state = {names[id(p)]: s for p, s in arm.optimizers[0].state.items() if id(p) in names}
    momenta = {name: s[key] for name, s in state.items() for key in s if s[key].ndim == 2}
    few = list(momenta.items())[:: max(1, len(momenta) // 12)]
    for method, value in CAPTURED.items():
        found = []
        for _, B in few:
            U = matfn.orthogonalize(B, method=value, precision=torch.bfloat16).double()
            U = U if U.shape[0] <= U.shape[1] else U.mT
            values = torch.linalg.eigvalsh(U @ U.mT).clamp(min=0).sqrt()
            found.append((1 - values).square().mean().sqrt().item())
        yield {"captured": method, "rms_mean": statistics.mean(found), "rms_worst": max(found), "matrices": len(few)}
