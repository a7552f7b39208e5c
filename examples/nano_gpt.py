"""A GPT and its training in one file, in the style of nanoGPT: bytes of a text, accumulation, autocast, cosine rate.

Start it by:

    python examples/nano_gpt.py README.md
"""

import math
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, scaled_dot_product_attention

from matfn.optim import Muon, plan

WIDTH, HEADS, LAYERS, LENGTH, BATCH, ACCUMULATE = 64, 4, 2, 64, 8, 2


class Block(nn.Module):
    """Causal attention and an MLP; q, k and v are one projection, of which the plan makes three matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.c_attn, self.c_proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.c_fc, self.mlp_proj = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, length, width) to the same shape."""
        qkv = self.c_attn(self.ln_1(x)).split(WIDTH, -1)
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in qkv)
        y = scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(y.transpose(1, 2).flatten(2))
        return x + self.mlp_proj(gelu(self.c_fc(self.ln_2(x))))


class GPT(nn.Module):
    """Bytes in, logits of the next byte out."""

    def __init__(self) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(256, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.ln_f, self.lm_head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 256, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, length) to (batch, length, 256)."""
        x = self.wte(tokens) + self.wpe.weight[: tokens.shape[1]]
        return self.lm_head(self.ln_f(self.blocks(x)))


def main(path: str, steps: int = 100) -> list[float]:
    """Train on the bytes of a file, print and return the losses."""
    torch.manual_seed(0)
    data = torch.frombuffer(bytearray(Path(path).read_bytes()), dtype=torch.uint8).long()
    model = GPT()
    optimizer = Muon(plan(model), lr=0.02, weight_decay=0.1, rest=dict(lr=3e-3, weight_decay=0.1))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 0.5 * (1 + math.cos(math.pi * k / steps)))
    losses = []
    for step in range(steps):
        for _ in range(ACCUMULATE):
            rows = torch.stack([data[i : i + LENGTH + 1] for i in torch.randint(len(data) - LENGTH, (BATCH,))])
            with torch.autocast("cpu", torch.bfloat16):
                loss = cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
            (loss / ACCUMULATE).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append(loss.item())
        print(f"step {step}  loss {losses[-1]:.4f}")
    return losses


if __name__ == "__main__":
    main(*sys.argv[1:2])
