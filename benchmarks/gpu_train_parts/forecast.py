"""Predicted times of all runs, from counted operations and the rates that an H200 has shown. Nothing here is measured.

Assumptions:

- Model: 6 operations a token for each weight of a product, the head's included, and 6 t d a layer for causal attention
  over t tokens of width d. An eager 6 x 512 GPT on bytes trained 1.27 million tokens a second with AdamW (H200,
  2026-11-26): 157 TFLOP/s, `EAGER` of the matmul rate. What a compiled model reaches was not measured; `COMPILED` is a
  guess, for 12 x 768 from the 300 000 to 400 000 tokens a second that are usual for GPT-2 small on a Hopper card.
- Optimizer: products and passes by benchmarks/gpu_parts/predictions.py, or `HOST` for each launch if that is longer.
  `HOST` is from the same run: torch's Muon took 8.7 ms a step longer than AdamW and launches about 40 kernels a matrix.
  matfn's Muon, eager, took 3.7 ms longer, most of it the host's: `OURS_HOST` is the least time of its eager step.
- AdamW passes over `ADAMW` bytes a parameter. `exact` takes 4.5 ms a matrix of 512, between what 256 and 1024 took.
- A process takes `FIRST` seconds before its first run, with compiled kernels on disk `AGAIN`; a run `DRAWN` seconds for
  each parameter to draw its first weights. These are guesses.
"""

from __future__ import annotations

import math
from dataclasses import asdict

import matfn
from benchmarks.gpu_parts import predictions
from benchmarks.gpu_parts.case import Row
from benchmarks.gpu_parts.predictions import H200
from benchmarks.gpu_parts.steps import Model
from benchmarks.gpu_train_parts import rules
from benchmarks.gpu_train_parts.contenders import ARMS, GRAPH, OURS, TIMED
from benchmarks.gpu_train_parts.rules import Run, Scale, Settings
from matfn.run.plan import THINLY

__all__ = ["flops", "optimizer_seconds", "printed", "seconds", "step_seconds"]

VOCABULARY = 16384
EAGER, COMPILED = 0.20, {512: 0.30, 768: 0.38}  # shares of the matmul rate
HOST = 8.7e-3 / (36 * 40)  # seconds a launch
OURS_HOST = 3.7e-3
ADAMW = 60
FIRST, AGAIN, DRAWN = 55.0, 18.0, 1.5e-8
EXACT = 4.5e-3 / 512**2
LAUNCHES = {"normuon": 63, "tables": 103}  # a stack; others 40


def hidden(scale: Scale) -> Model:
    """The matrices of the blocks."""
    w = scale.model.width
    return Model(scale.model.layers, (*[(w, w)] * 4, (4 * w, w), (w, 4 * w)))


def parameters(scale: Scale) -> int:
    """Weights of blocks, embedding and head."""
    return hidden(scale).parameters + 2 * VOCABULARY * scale.model.width


def flops(scale: Scale) -> float:
    """Operations a token, forward and backward."""
    width, layers = scale.model.width, scale.model.layers
    return 6.0 * (hidden(scale).parameters + VOCABULARY * width) + 6.0 * layers * scale.context * width


def model_seconds(scale: Scale, share: float) -> float:
    """Seconds of forward and backward pass of one step, at a share of the matmul rate."""
    return flops(scale) * scale.batch * scale.context / (share * H200.matmul)


def compiled_share(scale: Scale) -> float:
    """The share that a compiled model is guessed to reach: of the nearest width."""
    return COMPILED[min(COMPILED, key=lambda width: abs(width - scale.model.width))]


def _passes(parameters: float) -> float:
    return ADAMW * parameters / (predictions.STREAMED * H200.bandwidth)


def optimizer_seconds(arm: str, scale: Scale) -> float:
    """Seconds of one step of an arm's optimizers."""
    if arm == "adamw":
        return _passes(parameters(scale))
    model, rest = hidden(scale), _passes(2 * VOCABULARY * scale.model.width)
    matrices, stacks = model.layers * len(model.shapes), len(model.stacks())
    host = LAUNCHES.get(arm, 40) * stacks * HOST
    if arm == "torch":
        return rest + max(predictions.compiled_step(model), 40 * matrices * HOST)
    if arm == "exact":
        return rest + EXACT * scale.model.width**2 * matrices
    if arm == "gram-newton-schulz":
        return rest + max(predictions.their_step(model), host)
    method = {"polar-express": matfn.PolarExpress(), "eight-steps": matfn.PolarExpress(steps=8)}.get(arm, THINLY)
    counted = predictions.step(model, method)
    if arm == "tables":
        tables = (2, VOCABULARY, scale.model.width)
        counted += predictions.orthogonalization(tables, matfn.PolarExpress(steps=8), matfn.Gram((2, 4)))
        rest = 0.0
    return rest + counted if arm == GRAPH else max(rest + max(counted, host), OURS_HOST)


def step_seconds(arm: str, scale: Scale, share: float) -> float:
    """Seconds of one training step."""
    return model_seconds(scale, share) + optimizer_seconds(arm, scale)


def seconds(run: Run, settings: Settings, share: float) -> float:
    """Seconds of one run with its evaluations and first weights."""
    scale = settings.large if run.stage.startswith("large") else settings.small
    looks = 8 if run.stage in ("seeds", "large") else 1
    forward = flops(scale) / 3 * scale.windows * scale.context / (EAGER * H200.matmul)
    drawn = DRAWN * parameters(scale)
    return run.steps * step_seconds(run.arm, scale, share) + looks * forward + drawn


def rehearsed(settings: Settings) -> list[tuple[str, Run]]:
    """The runs that the rules give if the third rate of every arm is best and all arms come near: part and run."""
    rows: list[Row] = []
    found = []
    for part in ("speed", "grid", "seeds", "large"):
        while (run := rules.to_do(part, settings, rows)) is not None:
            distance = abs(math.log2(run.lr / ARMS[run.arm].rates[2]))
            took = step_seconds(run.arm, settings.small, EAGER)
            rows.append({**asdict(run), "loss": 0.01 * distance, "step_seconds": took})
            found.append((part, run))
    return found


def printed(settings: Settings) -> str:
    """The plan as text: models, arms, parts, and what they take by prediction."""
    lines = [f"Primary number: {rules.PRIMARY}.", ""]
    for name, scale in (("small", settings.small), ("large", settings.large)):
        tokens = scale.batch * scale.context
        lines.append(
            f"{name}: {scale.model.layers} layers x {scale.model.width}, context {scale.context}, "
            f"{scale.steps} steps of {tokens} tokens, {parameters(scale) / 1e6:.0f} M weights, "
            f"{flops(scale) / 1e6:.0f} MFLOP a token"
        )
    lines += [
        "",
        "Predicted for an H200, not yet measured on a GPU: ms of the optimizer, tokens a second (model compiled)",
    ]
    for arm in (*settings.arms, *(TIMED if OURS in settings.arms else ())):
        cells = []
        for scale in (settings.small, settings.large):
            step = step_seconds(arm, scale, compiled_share(scale))
            cells.append(f"{1e3 * optimizer_seconds(arm, scale):7.1f} {scale.batch * scale.context / step:9.2e}")
        lines.append(f"  {arm:22} {'   '.join(cells)}")
    lines += ["", "part     runs  steps  s eager  s compiled"]
    runs = rehearsed(settings)
    total = [0.0, 0.0]
    for part in ("speed", "grid", "seeds", "large"):
        own = [run for name, run in runs if name == part]
        begin = FIRST if part in ("speed", "large") else AGAIN
        scale = settings.large if part == "large" else settings.small
        took = [begin + sum(seconds(run, settings, share) for run in own) for share in (EAGER, compiled_share(scale))]
        total = [a + b for a, b in zip(total, took, strict=True)]
        lines.append(f"{part:8} {len(own):4} {sum(run.steps for run in own):6} {took[0]:8.0f} {took[1]:8.0f}")
    lines.append(f"all      {len(runs):4} {sum(run.steps for _, run in runs):6} {total[0]:8.0f} {total[1]:8.0f}")
    lines.append("if the best rate of every arm is its third; each further rate costs one run")
    return "\n".join(lines)
