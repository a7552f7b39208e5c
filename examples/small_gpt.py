"""The model and the data of the examples: a small GPT that learns to count in steps."""

import torch
from torch import Tensor, nn
from torch.nn import functional

VOCABULARY, LENGTH, BATCH = 64, 32, 16


class Block(nn.Module):
    """Attention and MLP. The sizes are read from the weights, so that tensor parallel may cut them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.head = width // heads
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.q, self.k, self.v, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, length, width) to the same shape."""
        h = self.norm1(x)
        q, k, v = (f(h).unflatten(-1, (-1, self.head)).transpose(1, 2) for f in (self.q, self.k, self.v))
        h = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(h.transpose(1, 2).flatten(2))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class SmallGPT(nn.Module):
    """Two blocks of width 64. The same seed gives the same weights on every process."""

    def __init__(self, width: int = 64, heads: int = 4, layers: int = 2, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed, self.positions = nn.Embedding(VOCABULARY, width), nn.Embedding(LENGTH, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm, self.head = nn.RMSNorm(width), nn.Linear(width, VOCABULARY, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (batch, length) to logits (batch, length, vocabulary)."""
        x = self.embed(tokens) + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def batch(step: int, part: int = 0, parts: int = 1) -> Tensor:
    """One part of the batch of a step: rows that count upwards in steps of 1 to 5, modulo the vocabulary."""
    generator = torch.Generator().manual_seed(step)
    first = torch.randint(VOCABULARY, (BATCH, 1), generator=generator)
    stride = torch.randint(1, 6, (BATCH, 1), generator=generator)
    return ((first + stride * torch.arange(LENGTH + 1)) % VOCABULARY)[part::parts]


def loss_of(model: nn.Module, tokens: Tensor) -> Tensor:
    """The cross entropy of each next token."""
    return functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
