"""`python -m studies.rounding`: bfloat16 weights under the three roundings, beside float32 weights.

It prints the mean weight after 500 steps of decay alone, and the loss of a small byte model that is trained with a
learning rate which falls to zero, where most updates are below half a unit in the last place. It takes a few minutes on
one thread.
"""

import json
from pathlib import Path

import torch
from torch import nn

from matfn.optim import Muon, plan

__all__ = ["decayed", "trained"]

ARMS = ((torch.float32, "nearest"), *((torch.bfloat16, r) for r in ("nearest", "stochastic", "compensated")))
_CONTEXT = 8


def decayed(dtype: torch.dtype, rounding: str) -> tuple[float, float]:
    """The mean weight of a matrix (Muon) and a vector (AdamW), from 1, after 500 steps of decay by 0.02 x 0.01."""
    a, b = nn.Parameter(torch.ones(32, 32, dtype=dtype)), nn.Parameter(torch.ones(1024, dtype=dtype))
    groups = [{"params": [a]}, {"params": [b], "rule": "adamw"}]
    optimizer = Muon(
        groups, lr=0.02, weight_decay=0.01, rounding=rounding, rest={"lr": 0.02, "weight_decay": 0.01, "eps": 1e-6}
    )
    for _ in range(500):
        a.grad, b.grad = torch.zeros_like(a), torch.zeros_like(b)
        optimizer.step()
    return a.double().mean().item(), b.double().mean().item()


def trained(dtype: torch.dtype, rounding: str, lr: float, seed: int, steps: int = 600) -> float:
    """Nats per byte, over 16 fixed batches, of a model of 8 bytes of context after training on the source of `json`."""
    text = b"".join(path.read_bytes() for path in sorted(Path(json.__file__).parent.glob("*.py")))
    data = torch.tensor(list(text), dtype=torch.long)
    torch.manual_seed(seed)
    parts = [nn.Embedding(256, 32), nn.Flatten(), nn.Linear(32 * _CONTEXT, 128), nn.GELU(), nn.Linear(128, 128)]
    net = nn.Sequential(*parts, nn.GELU(), nn.Linear(128, 256)).to(dtype)
    optimizer = Muon(plan(net), lr=lr, rounding=rounding, rest={"lr": 0.1 * lr, "weight_decay": 0.0})
    fade = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 1 - k / steps)

    def loss(generator: torch.Generator) -> torch.Tensor:
        starts = torch.randint(0, len(data) - _CONTEXT, (128,), generator=generator)
        x = data[starts[:, None] + torch.arange(_CONTEXT)]
        return nn.functional.cross_entropy(net(x).float(), data[starts + _CONTEXT])

    batches = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(batches).backward()
        optimizer.step()
        fade.step()
    with torch.no_grad():
        held = torch.Generator().manual_seed(12345)
        return sum(loss(held).item() for _ in range(16)) / 16


def main() -> None:
    """Print the table, a line for each arm."""
    rates, seeds = (0.02, 0.002), range(3)
    for dtype, rounding in ARMS:
        a, b = decayed(dtype, rounding)
        means = [sum(trained(dtype, rounding, lr, seed) for seed in seeds) / len(seeds) for lr in rates]
        shown = ", ".join(f"lr {lr}: {mean:.3f}" for lr, mean in zip(rates, means, strict=True))
        print(f"{str(dtype).removeprefix('torch.')} {rounding}: decay {a:.4f} and {b:.4f}; loss at {shown}", flush=True)


if __name__ == "__main__":
    main()
