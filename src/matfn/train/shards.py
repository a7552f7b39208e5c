"""FineWeb-format token shards: 256 int32 (magic, version, count, zeros), then `count` uint16 tokens, little-endian."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from matfn.train.checkpoint import whole
from matfn.train.errors import TrainError

MAGIC, VERSION, HEADER = 20240520, 1, 256


def write_shard(path: Path, tokens: np.ndarray) -> None:
    """Write one shard, whole or not at all.

    Args:
        path: The file to write; its folder must exist.
        tokens: `(count,)` integers in [0, 65535].

    Raises:
        TrainError: A token does not fit into 16 bits, or `tokens` is not one-dimensional.
    """
    if tokens.ndim != 1 or (tokens.size and (tokens.min() < 0 or tokens.max() > 0xFFFF)):
        raise TrainError(f"a shard holds a row of tokens in [0, 65535]; got shape {tokens.shape}")
    header = np.zeros(HEADER, dtype="<i4")
    header[:3] = MAGIC, VERSION, tokens.size
    with whole(path) as partial, partial.open("wb") as file:
        file.write(header.tobytes())
        file.write(tokens.astype("<u2").tobytes())


def read_shard(path: Path) -> np.ndarray:
    """The `(count,)` uint16 tokens of one shard.

    Raises:
        TrainError: No shard, another version, or a file cut short.
    """
    raw = path.read_bytes()
    header = np.frombuffer(raw[: 4 * HEADER], dtype="<i4") if len(raw) >= 4 * HEADER else np.zeros(3, dtype="<i4")
    if header[0] != MAGIC:
        raise TrainError(f"{path} is no token shard: it starts with {header[0]}, wanted the magic number {MAGIC}")
    if header[1] != VERSION:
        raise TrainError(f"{path} has shard version {header[1]}, only {VERSION} is understood")
    count, held = int(header[2]), (len(raw) - 4 * HEADER) // 2
    if held != count:
        raise TrainError(f"{path} promises {count} tokens and holds {held}: it was cut short; fetch it again")
    return np.frombuffer(raw, dtype="<u2", offset=4 * HEADER).astype(np.uint16, copy=False)


def documents(tokens: np.ndarray, end_of_text: int) -> list[np.ndarray]:
    """Cut a stream at every `end_of_text`; the marker itself and empty documents are left out."""
    pieces = np.split(tokens, np.flatnonzero(tokens == end_of_text))
    pieces = [piece[1:] if piece.size and piece[0] == end_of_text else piece for piece in pieces]
    return [piece for piece in pieces if piece.size]
