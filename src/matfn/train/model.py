"""A compact GPT (pre-norm, separate q, k, v, plain GELU MLP), and transformers' GPT-2 with random weights."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from matfn.train import TrainError
from matfn.train.recipe import ModelTable


class GPT(nn.Module):
    """Token ids `(b, t)` to logits `(b, t, vocabulary)` of the next token, t up to `context`.

    q, k and v are separate matrices, so that every optimizer orthogonalizes the same ones.
    """

    def __init__(self, table: ModelTable, vocabulary: int, context: int) -> None:
        """Args: sizes and options, the number of different tokens, the longest window."""
        super().__init__()
        self.embed = nn.Embedding(vocabulary, table.width)
        self.positions = nn.Embedding(context, table.width) if table.positions == "learned" else None
        self.blocks = nn.ModuleList(Block(table, context) for _ in range(table.layers))
        self.norm = nn.RMSNorm(table.width)
        self.head = nn.Linear(table.width, vocabulary, bias=False)
        if table.tied:
            self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Ids to logits."""
        x = self.embed(tokens)
        if self.positions is not None:
            x = x + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Draw the weights as GPT-2 does: N(0, 0.02^2), gains 1.

        Matrices that write to the residual stream are divided by sqrt(2 layers), so that its variance does not grow.
        """
        for name, parameter in self.named_parameters():
            if parameter.ndim >= 2:
                depth = math.sqrt(2 * len(self.blocks)) if name.endswith(("out.weight", "down.weight")) else 1.0
                parameter.normal_(0.0, 0.02 / depth, generator=generator)


class Block(nn.Module):
    """Causal self-attention, then an MLP four times as wide; each follows a norm and adds to the stream."""

    def __init__(self, table: ModelTable, context: int) -> None:
        """Args: sizes and options, the longest window."""
        super().__init__()
        width, self.head_width = table.width, table.width // table.heads
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.q, self.k, self.v, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)
        self.rotary = Rotary(self.head_width, context) if table.positions == "rotary" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """`(b, t, width)` to the same shape."""
        h = self.norm1(x)
        shape = (-1, self.head_width)  # the number of heads is open: tensor parallelism divides them
        q, k, v = (linear(h).unflatten(-1, shape).transpose(1, 2) for linear in (self.q, self.k, self.v))
        h = F.scaled_dot_product_attention(self.rotary(q), self.rotary(k), v, is_causal=True)
        x = x + self.out(h.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Rotary(nn.Module):
    """Rotary positions: turn pairs of coordinates of `(b, heads, t, d)` by angles that grow with t.

    References:
        Su et al., RoFormer: Enhanced Transformer with Rotary Position Embedding, arXiv 2104.09864.
    """

    def __init__(self, dimension: int, context: int) -> None:
        """Args: width per head (even), the longest window."""
        super().__init__()
        rates = 10000.0 ** (-torch.arange(0, dimension, 2) / dimension)
        angles = torch.outer(torch.arange(context), rates)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """The same shape and dtype, turned."""
        cos, sin = self.get_buffer("cos")[: x.shape[-2]], self.get_buffer("sin")[: x.shape[-2]]
        a, b = x.float().chunk(2, dim=-1)
        return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1).to(x.dtype)


class GPT2(nn.Module):
    """GPT2LMHeadModel of transformers, from ids to logits, without dropout."""

    def __init__(self, table: ModelTable, vocabulary: int, context: int) -> None:
        """Args: as for GPT. Raises TrainError if transformers is not installed."""
        super().__init__()
        try:
            from transformers import GPT2Config, GPT2LMHeadModel  # the import takes seconds
        except ImportError:
            raise TrainError('model.name = "gpt2" needs transformers: pip install "matfn[train]"') from None
        sizes = {"n_positions": context, "n_layer": table.layers, "n_embd": table.width, "n_head": table.heads}
        dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
        self.gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, **sizes, **dropout))

    def forward(self, tokens: Tensor) -> Tensor:
        """Ids to logits."""
        return self.gpt2(tokens, use_cache=False).logits


NETWORKS = {"gpt": GPT, "gpt2": GPT2}


def make_model(table: ModelTable, vocabulary: int, *, context: int, seed: int) -> nn.Module:
    """The model that a recipe names, on the CPU in float32. Its weights depend on `seed` alone."""
    with torch.random.fork_rng(devices=[]):  # layers draw from the global generator
        torch.manual_seed(seed)
        model = NETWORKS[table.name](table, vocabulary, context)
    if isinstance(model, GPT):
        model.reset(torch.Generator().manual_seed(seed))
    return model


def skeleton(table: ModelTable, vocabulary: int, *, context: int) -> nn.Module:
    """The same model without storage: names and shapes."""
    with torch.device("meta"):
        return NETWORKS[table.name](table, vocabulary, context)


def loss(model: Callable[[Tensor], Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats per token, in float32; inputs and targets are `(b, t)` ids."""
    return F.cross_entropy(model(inputs).float().flatten(0, 1), targets.flatten())
