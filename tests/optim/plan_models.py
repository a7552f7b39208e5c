"""Small models for the tests of plan: one kind of layer, layout or place each."""

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint


class Named(nn.Module):
    """A module with the given children (and raw parameters), by name."""

    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


class Chain(Named):
    """The children one after the other, with tanh between."""

    def forward(self, x):
        children = list(self.children())
        for child in children[:-1]:
            x = torch.tanh(child(x))
        return children[-1](x)


class Attention(nn.Module):
    """q, k, v from one projection of width 16 with 4 heads of 4; `how` says how they are taken from it."""

    def __init__(self, how, width=48):
        super().__init__()
        self.how, self.qkv, self.proj = how, nn.Linear(16, width), nn.Linear(16, 16)

    def forward(self, x):
        q, k, v = getattr(self, self.how)(self.qkv(x), *x.shape[:2])
        out = functional.scaled_dot_product_attention(*(part.transpose(1, 2) for part in (q, k, v)))
        return self.proj(out.transpose(1, 2).reshape(x.shape))

    def thirds(self, y, b, t):
        return [part.view(b, t, 4, 4) for part in y.chunk(3, -1)]

    def slices(self, y, b, t):
        return [part.reshape(b, t, 4, 4) for part in (y[..., :16], y[..., 16:32], y[..., 32:])]

    def unbound(self, y, b, t):
        return y.view(b, t, 3, 4, 4).permute(2, 0, 1, 3, 4).unbind(0)

    def by_head(self, y, b, t):
        return y.view(b, t, 4, -1).chunk(3, -1)

    def in_head(self, y, b, t):
        y = y.view(b, t, 4, 3, 4)
        return y[..., 0, :], y[..., 1, :], y[..., 2, :]

    def merged(self, y, b, t):
        """Heads are merged with the batch before q, k and v part."""
        y = y.view(b, t, 3, 4, 4).permute(2, 0, 3, 1, 4).reshape(3, b * 4, t, 4)
        return [part.view(b, 4, t, 4).transpose(1, 2) for part in y.unbind(0)]

    def multi_query(self, y, b, t):
        q, k, v = y.split((16, 4, 4), -1)
        return q.view(b, t, 4, 4), *(part.view(b, t, 1, 4).expand(b, t, 4, 4) for part in (k, v))

    def multi_query_indexed(self, y, b, t):
        y = y.view(b, t, 6, 4)
        return y[..., :-2, :], y[..., [-2], :].expand(b, t, 4, 4), y[..., [-1], :].expand(b, t, 4, 4)

    def rotary(self, y, b, t):
        """The first half of each head is turned and joined again: q, k and v stay three blocks."""
        q, k, v = y.view(b, t, 3, 4, 4).unbind(2)
        turned = [torch.cat([-part[..., :2].flip(-1), part[..., 2:]], -1) for part in (q, k)]
        return *turned, v


class Block(nn.Module):
    """An embedding, one attention in a residual stream, a head called `out`."""

    def __init__(self, attention):
        super().__init__()
        self.e, self.attn, self.n = nn.Embedding(30, 16), attention, nn.LayerNorm(16)
        self.out = nn.Linear(16, 30, bias=False)

    def forward(self, ids):
        x = self.e(ids)
        return self.out(self.n(x + self.attn(self.n(x))))


class Gated(nn.Module):
    """gate and up in one projection, in halves or in turn."""

    def __init__(self, how):
        super().__init__()
        self.how, self.inner, self.down, self.head = how, nn.Linear(8, 32), nn.Linear(16, 8), nn.Linear(8, 3)

    def forward(self, x):
        y = self.inner(x)
        if self.how == "glu":
            inner = functional.glu(y, -1)
        else:
            gate, up = y.chunk(2, -1) if self.how == "halves" else (y[..., ::2], y[..., 1::2])
            inner = functional.silu(gate) * up
        return self.head(torch.tanh(x + self.down(inner)))


class Rotated(nn.Module):
    """A projection whose output is split and joined again: one matrix."""

    def __init__(self):
        super().__init__()
        self.q, self.head = nn.Linear(8, 12), nn.Linear(12, 3)

    def forward(self, x):
        a, b = self.q(x).split((4, 8), -1)
        return self.head(torch.tanh(torch.cat([a * 2, b], -1)))


class Turned(nn.Module):
    """The halves of each head of q turn into each other and are joined: one matrix, as in rotary embeddings."""

    def __init__(self):
        super().__init__()
        self.q, self.head = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x):
        a, b = self.q(x).view(-1, 2, 8).chunk(2, -1)
        return self.head(torch.tanh(torch.cat([a * 0.6 - b * 0.8, b * 0.6 + a * 0.8], -1).flatten(1)))


class Written(nn.Module):
    """Two parts of a projection are written into one tensor: one matrix."""

    def __init__(self):
        super().__init__()
        self.q, self.head = nn.Linear(8, 12), nn.Linear(12, 3)

    def forward(self, x):
        a, b = self.q(x).split((4, 8), -1)
        y = x.new_zeros(len(x), 12)
        y[:, :4] = a * 2
        y[:, 4:] = b
        return self.head(torch.tanh(y))


class Parallel(nn.Module):
    """gate and up beside another branch in one concatenation: two matrices all the same."""

    def __init__(self):
        super().__init__()
        self.q, self.side, self.head = nn.Linear(8, 12), nn.Linear(8, 6), nn.Linear(12, 3)

    def forward(self, x):
        gate, up = self.q(x).chunk(2, -1)
        return self.head(torch.tanh(torch.cat([torch.relu(gate) * up, self.side(x)], -1)))


class Experts(nn.Module):
    """Four experts 8 -> 12 -> 8 in two parameters, (number, out, in) or (number, in, out)."""

    def __init__(self, order):
        super().__init__()
        sizes = {"out_in": ((4, 12, 8), (4, 8, 12)), "in_out": ((4, 8, 12), (4, 12, 8))}[order]
        self.order, (up, down) = order, (nn.Parameter(torch.randn(size) / 4) for size in sizes)
        self.up, self.down = up, down

    def forward(self, x):
        turn = (lambda w: w.transpose(1, 2)) if self.order == "out_in" else (lambda w: w)
        return torch.bmm(torch.tanh(torch.bmm(x.expand(4, *x.shape), turn(self.up))), turn(self.down)).sum(0)


class Raw(nn.Module):
    """Parameters that no class and no name explains."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(8, 4, 6) / 4)
        self.u = nn.Parameter(torch.randn(24, 8) / 4)
        self.mix = nn.Parameter(torch.randn(8, 8) / 4)
        self.field = nn.Parameter(torch.zeros(5, 8))
        self.v = nn.Parameter(torch.randn(5, 8) / 4)

    def forward(self, x):
        x = torch.tanh(torch.einsum("bd,dhk->bhk", x, self.w).reshape(len(x), 24))
        x = torch.tanh(x @ self.u) * torch.exp(self.field).sum(0)
        return functional.linear(torch.tanh(self.mix @ x.mT).mT, self.v)


class LowRank(nn.Module):
    """A weight with a low rank correction B A, added before it is used."""

    def __init__(self):
        super().__init__()
        self.w, self.head = nn.Linear(8, 8), nn.Linear(8, 3)
        self.A, self.B = nn.Parameter(torch.randn(2, 8)), nn.Parameter(torch.randn(8, 2))

    def forward(self, x):
        return self.head(torch.tanh(functional.linear(x, self.w.weight + self.B @ self.A, self.w.bias)))


class Queries(nn.Module):
    """Learned vectors ask: a parameter that is data."""

    def __init__(self):
        super().__init__()
        self.q, self.att = nn.Parameter(torch.randn(4, 8)), nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.att(self.q.expand(1, -1, -1), x[None], x[None])[0])


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        self.reentrant = reentrant

    def forward(self, x):
        inner = checkpoint(lambda y: torch.tanh(self.b(y)), torch.tanh(self.a(x)), use_reentrant=self.reentrant)
        return self.c(inner)


class Residual(nn.Module):
    """A base model: its output is a stream to which each block adds, with no head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(8, 16)
        self.layers = nn.ModuleList([Named(up=nn.Linear(16, 32), down=nn.Linear(32, 16)) for _ in range(3)])

    def forward(self, x):
        x = self.stem(x)
        for layer in self.layers:
            x = x + layer.down(torch.relu(layer.up(x)))
        return x


class Refined(nn.Module):
    """Each box is the last one corrected, and a later layer reads it: an output, but not by the graph alone."""

    def __init__(self):
        super().__init__()
        self.body, self.bbox_embed = nn.Linear(8, 8), nn.Linear(8, 4)
        self.quality, self.class_embed = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x):
        h = torch.tanh(self.body(x))
        box = self.bbox_embed(h)
        return {"boxes": box, "logits": self.class_embed(torch.tanh(h + self.quality(box)))}


class TwoHeads(nn.Module):
    """A policy: two outputs from one body."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh())
        self.pi, self.v = nn.Linear(32, 4), nn.Linear(32, 3)

    def forward(self, x):
        x = self.body(x)
        return {"policy": self.pi(x), "rest": (self.v(x), x)}


class Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.mid = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm, self.last, self.time = nn.GroupNorm(2, 8), nn.Conv2d(8, 3, 1), nn.Linear(6, 8)

    def forward(self, x, t):
        h = functional.silu(self.first(x) + self.time(t)[:, :, None, None])
        return x + self.last(functional.silu(self.norm(self.mid(h) + h)))


class Forecaster(nn.Module):
    """An LSTM that returns its last state beside the prediction."""

    def __init__(self):
        super().__init__()
        self.e, self.r, self.dec = nn.Embedding(30, 8), nn.LSTM(8, 12, 2), nn.Linear(12, 30)

    def forward(self, ids):
        y, state = self.r(self.e(ids))
        return self.dec(y), state


class Tied(nn.Module):
    """The table serves as the head through a function: no second module holds it."""

    def __init__(self):
        super().__init__()
        self.e, self.mid = nn.Embedding(30, 8), nn.Linear(8, 8)

    def forward(self, ids):
        return functional.linear(torch.tanh(self.mid(self.e(ids))), self.e.weight)


class WithLoss(nn.Module):
    """Needs labels; with them the loss has a penalty that a router's scores enter directly."""

    def __init__(self):
        super().__init__()
        self.a, self.router, self.out = nn.Linear(8, 16), nn.Linear(16, 4), nn.Linear(16, 3)

    def forward(self, x, labels):
        h = torch.tanh(self.a(x))
        scores = self.router(h).softmax(-1)
        logits = self.out(torch.tanh(h * scores.amax(-1, keepdim=True)))
        loss = functional.cross_entropy(logits, labels) + 0.1 * scores.mean(0).square().sum()
        return {"loss": loss, "hidden": h, "logits": logits}
