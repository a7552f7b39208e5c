"""Rounding of half-precision weights: to nearest, stochastic, or compensated by a second buffer.

A bfloat16 number has 8 significant bits. A weight w that moves by less than |w| / 512 stays where it is if the result
is rounded to nearest, so at small learning rates most updates and all of the decay are lost. Both remedies start from
the moved weight in float32:

    "stochastic"   up or down at random, with the probabilities that make the result right on average
    "compensated"  to nearest; the rounding error is kept in a buffer of the weight's dtype and added before the next
                   move (Kahan)

The noise of a tensor depends only on a seed, its name, its row block, the number of its step, and for a shard on the
place of the shard in the parameter. So it is the same on every process that holds the same entries, and in a resumed
run.
"""

import zlib
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["COMPENSATION", "ROUNDINGS", "half", "narrowed_", "noise_key", "stochastic", "widened"]

ROUNDINGS = ("nearest", "stochastic", "compensated")
COMPENSATION = "compensation"
_DROPPED = {torch.bfloat16: 16, torch.float16: 13}  # bits of float32's significand that the dtype lacks
_TINY = 2.0**-14  # below this, float16 numbers have the fixed spacing 2^-24


def half(x: Tensor) -> bool:
    """Whether a tensor has a dtype that rounding concerns: bfloat16 or float16."""
    return x.dtype in _DROPPED


def noise_key(seed: int, name: str, piece: int, step: int, offset: Sequence[int] = ()) -> int:
    """The seed of the noise of one row block (`piece`) of the tensor `name` at one step.

    Args:
        seed: The option "seed".
        name: Of the parameter.
        piece: Index of the row block.
        step: The number of the step.
        offset: The index of a shard's first entry in the parameter. Zeros count as no offset.
    """
    place = "/" + ",".join(str(index) for index in offset) if any(offset) else ""
    return zlib.crc32(f"{seed}/{name}/{piece}/{step}{place}".encode())


def widened(weight: Tensor, compensation: Tensor | None = None) -> Tensor:
    """A float32 copy of a half-precision weight, plus its compensation."""
    wide = weight.to(torch.float32)
    return wide if compensation is None else wide.add_(compensation)


def narrowed_(weight: Tensor, wide: Tensor, rounding: str, key: int, compensation: Tensor | None = None) -> None:
    """Write a moved float32 copy back into the weight.

    Args:
        weight: bfloat16 or float16, overwritten.
        wide: float32, of the same shape.
        rounding: A word of `ROUNDINGS`.
        key: See `noise_key`; for "stochastic".
        compensation: The buffer of "compensated", of the weight's shape and dtype, overwritten.
    """
    if rounding == "stochastic":
        weight.copy_(stochastic(wide, weight.dtype, key))
        return
    weight.copy_(wide)
    if compensation is not None:
        rest = wide - weight
        compensation.copy_(torch.where(rest.isfinite(), rest, 0.0))  # a weight that overflowed has no rounding error


def stochastic(x: Tensor, dtype: torch.dtype, key: int) -> Tensor:
    """The float32 tensor x, rounded to `dtype` at random: up with probability (x - lower) / (upper - lower), else down.

    lower and upper are the neighbours of x in `dtype`, so the expected value is x. Numbers that `dtype` has stay as
    they are. NaN, infinity and numbers beyond the range are rounded to nearest.

    Raises:
        RuntimeError: In a compiled or captured step, which would use the noise of one step for all.
    """
    captured = x.is_cuda and torch.cuda.is_current_stream_capturing()
    if captured or torch.compiler.is_compiling():
        raise RuntimeError(
            'rounding="stochastic" takes new noise for each step from the host, which a compiled or captured step '
            'cannot do. Call step() outside, or use rounding="compensated".'
        )
    bits = _DROPPED[dtype]
    generator = torch.Generator(device=x.device).manual_seed(key)
    noise = torch.randint(0, 1 << bits, x.shape, dtype=torch.int32, device=x.device, generator=generator)
    # A float stores sign and magnitude. A carry out of the dropped bits therefore moves x by one step, away from zero.
    moved = (x.view(torch.int32) + noise).bitwise_and_(-(1 << bits)).view(torch.float32)
    if dtype is torch.float16:
        steps = (x * 2.0**24 + noise * 2.0**-bits).floor_()
        moved = torch.where(x.abs() < _TINY, steps * 2.0**-24, moved)
    return torch.where(x.abs() <= torch.finfo(dtype).max, moved, x).to(dtype)
