"""Whole steps of Muon on the matrices of models: eager, as a CUDA graph, compiled; beside other packages' Muon."""

from __future__ import annotations

import inspect
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.autograd import DeviceType  # pyright: ignore[reportPrivateImportUsage]

import matfn
from benchmarks.gpu_parts.case import Bench, Case, Row, Skipped
from benchmarks.gpu_parts.events import Place, Times, Work, captured, in_turns, wait
from benchmarks.gpu_parts.variants import FOUR, LR
from matfn.optim import Muon

__all__ = ["BASE", "CONTENDERS", "MODELS", "cases"]

Weights = list[nn.Parameter]


@dataclass(frozen=True)
class Model:
    """Shapes of one layer, and the number of layers."""

    layers: int
    shapes: tuple[tuple[int, int], ...]

    @property
    def parameters(self) -> int:
        """Entries of all matrices."""
        return self.layers * sum(m * n for m, n in self.shapes)

    def stacks(self) -> list[tuple[int, int, int]]:
        """(b, m, n): the matrices of each shape together."""
        return [(self.layers * count, *shape) for shape, count in Counter(self.shapes).items()]


MODELS = {
    "GPT-2 small": Model(12, (*[(768, 768)] * 4, (3072, 768), (768, 3072))),
    "Qwen3-1.7B": Model(
        28, (*[(2048, 2048)] * 2, *[(1024, 2048)] * 2, *[(6144, 2048)] * 2, (2048, 6144))
    ),  # q and o, k and v, gate and up, down
}
QUICK = {"tiny": Model(1, (*[(32, 32)] * 4, (64, 32), (32, 64)))}


def _rate(weights: Weights) -> Tensor:
    """The rate as a tensor: a captured graph would fix a number."""
    return torch.tensor(LR, device=weights[0].device)


def _with_graph(weights: Weights) -> torch.optim.Optimizer:
    if "graph" not in inspect.signature(Muon).parameters:
        raise Skipped("Muon has no option graph")
    if weights[0].device.type != "cuda":
        raise Skipped("CUDA graphs need a GPU")
    options: dict[str, Any] = {"graph": True}
    return Muon(weights, lr=LR, **options)


def _gram_newton_schulz(weights: Weights) -> torch.optim.Optimizer:
    from gram_newton_schulz import Muon as Theirs  # pyright: ignore[reportMissingImports]

    groups = [{"params": weights}]
    return Theirs(groups, lr=LR, weight_decay=0.0, adjust_lr=None, ns_use_kernels=weights[0].is_cuda)


def _pytorch_optimizer(weights: Weights) -> torch.optim.Optimizer:
    from pytorch_optimizer import Muon as Theirs  # pyright: ignore[reportMissingImports]

    return Theirs([{"params": weights, "use_muon": True}], lr=LR)


def _torch(weights: Weights) -> torch.optim.Optimizer:
    return torch.optim.Muon(weights, lr=LR, weight_decay=0.0)


def _plain(optimizer: torch.optim.Optimizer, place: Place) -> Work:
    return optimizer.step


def _whole_compiled(optimizer: torch.optim.Optimizer, place: Place) -> Work:
    """The step as torch.compile makes it, with as many graphs as it wants."""
    if not place.cuda:
        raise Skipped("compiled on a GPU alone: it takes long on a CPU")
    torch.compiler.reset()
    return torch.compile(optimizer.step)


def _iteration_compiled(optimizer: torch.optim.Optimizer, place: Place) -> Work:
    """Torch's step with its orthogonalization compiled shape by shape; all else as it is."""
    if not place.cuda:
        raise Skipped("compiled on a GPU alone: it takes long on a CPU")
    torch.compiler.reset()
    module: Any = import_module("torch.optim._muon")
    compiled = torch.compile(module._zeropower_via_newtonschulz, dynamic=False)

    def step() -> None:
        with mock.patch.object(module, "_zeropower_via_newtonschulz", compiled):
            optimizer.step()

    return step


@dataclass(frozen=True)
class Contender:
    """One optimizer and the way its step is called.

    Attributes:
        build: From weights with gradients.
        way: The work of one step.
        by_hand: Whether the step is also captured as a CUDA graph by hand.
    """

    build: Callable[[Weights], torch.optim.Optimizer]
    way: Callable[[torch.optim.Optimizer, Place], Work] = _plain
    by_hand: bool = True


GN, COMPILED, OURS = "gram-newton-schulz's Muon", "torch.optim.Muon, compiled iteration", "matfn Muon"
CONTENDERS: Mapping[str, Contender] = {
    GN: Contender(_gram_newton_schulz),
    COMPILED: Contender(_torch, _iteration_compiled),
    OURS: Contender(lambda w: Muon(w, lr=_rate(w))),
    "matfn Muon, graph=True": Contender(_with_graph, by_hand=False),
    "matfn Muon, default + cubic": Contender(lambda w: Muon(w, lr=_rate(w), method=FOUR)),
    "matfn Muon, polar-express": Contender(lambda w: Muon(w, lr=_rate(w), method=matfn.PolarExpress())),
    "pytorch_optimizer's Muon": Contender(_pytorch_optimizer),
    "matfn Muon, torch.compile": Contender(lambda w: Muon(w, lr=_rate(w)), _whole_compiled, by_hand=False),
    "torch.optim.Muon, torch.compile": Contender(_torch, _whole_compiled, by_hand=False),
}
BASE = (GN, COMPILED)  # in pairs with the first that runs


def cases(place: Place) -> list[Case]:
    """What a captured step must follow; then models, the contenders one by one in pairs with the base."""
    models = place.pick(MODELS, QUICK)
    found = [Case(f"{model}, {name}", partial(_pair, model, name)) for model in models for name in CONTENDERS]
    slow = [case for case in found if "torch.compile" in case.name]  # of whole models it takes longest, so last
    return [case for case in found if case not in slow] + [Case("captured steps", _followed)] + slow


def weights_of(model: Model, device: str) -> Weights:
    """Weights with gradients, random both."""
    generator = torch.Generator(device=device).manual_seed(0)
    found = []
    for shape in model.shapes * model.layers:
        weight = nn.Parameter(torch.randn(shape, generator=generator, device=device) / 50)
        weight.grad = torch.randn(shape, generator=generator, device=device)
        found.append(weight)
    return found


def _pair(model: str, name: str, bench: Bench) -> Iterator[Row]:
    """One contender beside the base, sample by sample; both step the same weights, each with its own momentum."""
    weights = weights_of({**MODELS, **QUICK}[model], bench.place.device)
    works: dict[str, Work] = {}
    facts: Row = {"model": model, "name": name, "parameters": sum(w.numel() for w in weights)}
    direct = "graph_seconds" if "graph=True" in name else "seconds"  # of a step that is called as it stands
    try:
        works[direct], contender = _prepared(name, weights, bench), CONTENDERS[name]
    except Skipped as why:
        yield facts | {"skipped": str(why)}
        return
    if contender.by_hand:
        try:
            works["graph_seconds"] = bench.graph(name, works[direct])
        except Skipped as why:
            facts["graph_note"] = str(why)
    try:
        facts |= bench.attempt(f"{name}, launches", partial(_extra, works[direct], bench.place))
    except Skipped as why:
        facts["launches_note"] = str(why)
    base, reference = _base(name, weights, bench)
    times: dict[str, Times] = in_turns({**works, **({"base": reference} if reference else {})}, bench.place)
    for kind in works:
        facts |= times[kind].row(kind)
    if reference:
        best = min(works, key=lambda kind: times[kind].median)
        facts |= {"relative_to": base, "base_seconds": times["base"].median, **times[best].ratio(times["base"])}
    yield facts


def _prepared(name: str, weights: Weights, bench: Bench) -> Work:
    """The work of one step after four: they compile and tune, find their state, and capture what captures itself.

    Warnings are raised as reasons: an optimizer that goes on without its graph is not what the row is called.
    """

    def build() -> Work:
        contender = CONTENDERS[name]
        try:
            work = contender.way(contender.build(weights), bench.place)
        except ModuleNotFoundError as error:
            raise Skipped(f"not installed ({error})") from error
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(4):
                work()
            wait(bench.place)
        said = [str(one.message) for one in caught if "graph" in str(one.message)]
        if "graph=True" in name and said:
            raise Skipped(" ".join(said[0].split())[:240])
        return work

    return bench.attempt(name, build)


def _base(name: str, weights: Weights, bench: Bench) -> tuple[str, Work | None]:
    """The first base that runs, as a graph if it can be captured; none beside itself."""
    for base in BASE:
        if base == name:
            return "", None
        try:
            work = _prepared(base, weights, bench)
        except Skipped:
            continue
        try:
            return base, bench.graph(base, work)
        except Skipped:
            return base, work
    return "", None


def _extra(step: Work, place: Place) -> Row:
    """Kernels launched by one step, and the memory it takes beyond weights, gradients and state."""
    if not place.cuda:
        return {}
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    extra = torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        step()
        torch.cuda.synchronize()
    kernels = [event for event in profile.events() or () if event.device_type == DeviceType.CUDA]
    return {"extra_bytes": extra, "launches": len(kernels)}


def _followed(bench: Bench) -> Iterator[Row]:
    """A captured step follows gradients and a learning rate that change, like an eager one."""
    for name in (OURS, "matfn Muon, graph=True"):
        try:
            row = bench.attempt(f"followed, {name}", partial(_apart, name, bench.place), fragile=True)
        except Skipped as why:
            row = {"skipped": str(why)}
        yield {"name": name, **row}


def _apart(name: str, place: Place) -> Row:
    """How far six graph steps are from six eager ones, relative to how far these moved."""
    if not place.cuda:
        raise Skipped("CUDA graphs need a GPU")
    both = [[nn.Parameter(torch.randn(256, 512, device=place.device)) for _ in range(2)] for _ in range(2)]
    for eager, graph in zip(*both, strict=True):
        graph.data.copy_(eager.data)
        eager.grad, graph.grad = torch.zeros_like(eager), torch.zeros_like(eager)
    one, two = CONTENDERS[OURS].build(both[0]), CONTENDERS[name].build(both[1])
    replay = captured(two.step) if name == OURS else two.step  # gradients are still zero: nothing has moved
    start = [weight.detach().clone() for weight in both[0]]
    for k in range(6):
        for eager, graph in zip(*both, strict=True):
            assert eager.grad is not None
            assert graph.grad is not None
            if name == OURS or k < 4:
                graph.grad.copy_(eager.grad.normal_())
            else:  # in other memory, which a graph by hand cannot follow
                graph.grad = eager.grad.normal_().clone()
        for optimizer in (one, two):
            _set_rate(optimizer.param_groups[0], LR / (k + 1))
        one.step()
        replay()
    moved = sum(float((w.detach() - s).square().sum()) for w, s in zip(both[0], start, strict=True))
    apart = sum(float((w - g).detach().square().sum()) for w, g in zip(*both, strict=True))
    error = (apart / moved) ** 0.5
    return {"graph_error": error, "passed": error <= 0.01}


def _set_rate(group: dict[str, Any], rate: float) -> None:
    """As a scheduler does: in place for a tensor."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate
