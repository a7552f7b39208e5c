"""A small model with awkward shapes, its data, and the ways to spread it over ranks, for the tests of this folder."""

import zlib

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

VOCABULARY = 11
KINDS = ("ddp", "fsdp", "tp", "hsdp", "fsdp_tp")


class Block(nn.Module):
    """Attention over 4 heads and an MLP. `fused` has one matrix for q, k and v, else there are three.

    No gradient is zero or singular but for rounding, which an optimizer would turn into whole steps: so k has no bias,
    and no LayerNorm takes the mean from what a matrix reads.
    """

    def __init__(self, width: int, fused: bool):
        super().__init__()
        self.size, self.norm1, self.norm2 = width // 4, nn.RMSNorm(width), nn.RMSNorm(width)
        if fused:
            self.qkv = nn.Linear(width, 3 * width, bias=False)
        else:
            self.q, self.k, self.v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(x)
        parts = self.qkv(h).chunk(3, -1) if hasattr(self, "qkv") else (self.q(h), self.k(h), self.v(h))
        q, k, v = (part.unflatten(-1, (-1, self.size)).transpose(1, 2) for part in parts)
        h = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(h.transpose(1, 2).flatten(2))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class Odd(nn.Module):
    """A convolution, and matrices that no number of ranks divides: 7 x 5, 3 x 7, 2 x 3 and 1 x 2."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv1d(width, 5, 3, padding=1)
        self.odd, self.narrow, self.small = nn.Linear(5, 7), nn.Linear(7, 3, bias=False), nn.Linear(3, 2, bias=False)
        self.row = nn.Linear(2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Factors for x: one for each quarter of the width, so that the gradients have full rank."""
        h = torch.tanh(self.conv(x.transpose(1, 2))).transpose(1, 2)
        two = self.small(torch.tanh(self.narrow(torch.tanh(self.odd(h)))))
        factors = torch.cat([two, self.row(torch.tanh(two)), h[..., :1]], -1)
        return 1 + factors.repeat_interleave(x.shape[-1] // 4, -1)


class Tiny(nn.Module):
    """A GPT with tables, blocks, experts of which a call uses some, the layers of `Odd`, norms, biases and a head."""

    def __init__(self, width=16, layers=2, experts=0, *, fused=True, seed=0, dtype=torch.float32):
        super().__init__()
        torch.manual_seed(seed)
        self.embed, self.positions = nn.Embedding(VOCABULARY, width), nn.Embedding(8, width)
        self.blocks = nn.ModuleList(Block(width, fused) for _ in range(layers))
        self.experts = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(experts))
        self.extra = Odd(width)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, VOCABULARY, bias=False)
        self.to(dtype)

    def forward(self, tokens: Tensor, used: tuple[int, ...] = ()) -> Tensor:
        x = self.embed(tokens) + self.positions(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        for number in used:
            x = x + torch.tanh(self.experts[number](x))
        return self.head(self.norm(x) * self.extra(x))


def batch(seed: int, part: int = 0, parts: int = 1, rows: int = 8) -> Tensor:
    """Tokens (rows / parts, 8): one part of the batch with this seed. The mean of the parts' losses is the batch's."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, VOCABULARY, (rows, 8), generator=generator)[part::parts]


def loss_of(model: nn.Module, tokens: Tensor, used: tuple[int, ...] = ()) -> Tensor:
    return functional.cross_entropy(model(tokens, used).flatten(0, 1), ((3 * tokens + 1) % VOCABULARY).flatten())


def spread(model: nn.Module, kind: str) -> tuple[nn.Module, DeviceMesh | None, tuple[int, int]]:
    """The model spread over all ranks in one of the `KINDS`; its mesh; which part of the batch this rank reads.

    "tp" and "fsdp_tp" need a model with `fused=False`. "hsdp" and "fsdp_tp" need an even number of ranks.
    """
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    if kind == "ddp":
        return DistributedDataParallel(model, find_unused_parameters=True), None, (rank, ranks)
    if kind in ("fsdp", "tp"):
        mesh = init_device_mesh("cpu", (ranks,), mesh_dim_names=("dp" if kind == "fsdp" else "tp",))
    else:
        names = ("replicate", "shard") if kind == "hsdp" else ("dp", "tp")
        mesh = init_device_mesh("cpu", (2, ranks // 2), mesh_dim_names=names)
    if "tp" in kind:
        layers = dict.fromkeys(("q", "k", "v", "up"), ColwiseParallel()) | dict.fromkeys(
            ("out", "down"), RowwiseParallel()
        )
        for block in model.blocks:
            parallelize_module(block, mesh["tp"], layers)
    if kind == "tp":
        return model, mesh, (0, 1)
    for block in model.blocks:
        fully_shard(block, mesh=mesh["dp"] if kind == "fsdp_tp" else mesh)
    fully_shard(model, mesh=mesh["dp"] if kind == "fsdp_tp" else mesh)
    return model, mesh, (mesh.get_local_rank("dp"), mesh["dp"].size()) if kind == "fsdp_tp" else (rank, ranks)


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, reads: tuple[int, int] = (0, 1), first: int = 0
):
    """Steps on the batches first, first + 1, ...; the losses of this rank's part of each."""
    losses = []
    for seed in range(first, first + steps):
        optimizer.zero_grad()
        loss = loss_of(model, batch(seed, *reads))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def full(tensor: Tensor) -> Tensor:
    """The whole tensor, on every rank: a collective call if it is a DTensor."""
    tensor = tensor.detach()
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).clone()


def weights(model: nn.Module) -> dict[str, Tensor]:
    """All parameters whole, by their names without DDP's prefix."""
    return {name.removeprefix("module."): full(p) for name, p in model.named_parameters()}


def farthest(weights: dict[str, Tensor], others: dict[str, Tensor]) -> float:
    """The largest relative distance (Frobenius norm) of parameters of the same name."""
    assert weights.keys() == others.keys()
    return max(((weights[name] - w).norm() / w.norm().clamp(min=1e-30)).item() for name, w in others.items())


def give_gradients(model: nn.Module, seed: int, without: tuple[str, ...] = ()) -> None:
    """Gradients that depend on the seed, the parameter's name and its shape alone: the same bits in every kind.

    So two runs differ by the arithmetic of the optimizer alone. Parameters whose name has a part in `without` get None.
    """
    for name, parameter in model.named_parameters():
        name = name.removeprefix("module.")
        if any(part in name for part in without):
            parameter.grad = None
            continue
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
        gradient = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter.dtype)
        if isinstance(parameter, DTensor):
            gradient = distribute_tensor(gradient, parameter.device_mesh, parameter.placements, src_data_rank=None)
        parameter.grad = gradient


def step_on_given_gradients(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, first: int = 0) -> None:
    """Steps on the gradients of the seeds first, first + 1, ..."""
    for seed in range(first, first + steps):
        give_gradients(model, seed)
        optimizer.step()
