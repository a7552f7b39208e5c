"""Text as tokens: three sources, a train/validation split by document, and batches that can be resumed."""

from __future__ import annotations

import glob
import hashlib
import platform
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from matfn.train import TrainError
from matfn.train.files import read
from matfn.train.recipe import DataTable
from matfn.train.settings import brief, readable

SEPARATOR = 0  # between documents; no text holds a NUL byte, so the vocabulary stays 256
_SKIPPED = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


@dataclass(frozen=True)
class Corpus:
    """The tokens of both halves, and the facts that identify the text.

    Attributes:
        train: `(n,)` uint8 or uint16 tokens, with a separator after each document.
        val: The same for validation; no document is in both halves.
        vocabulary: Number of different tokens.
        unit: "byte" or "token".
        facts: Source, counts, sha256, split, Python version: recorded with every result. The sha256 does not depend on
            the order of the documents.
        order: sha256 of the documents in their order. The batches depend on this order.
    """

    train: np.ndarray
    val: np.ndarray
    vocabulary: int
    unit: str
    facts: dict[str, Any]
    order: str


def load_corpus(table: DataTable) -> Corpus:
    """Read, de-duplicate and split the text that a recipe names.

    Raises:
        TrainError: There is no text, a shard is damaged, or a half is shorter than one window.
    """
    if table.source == "shards":
        found, source = _shard_documents(table)
        separator, vocabulary, unit = table.end_of_text, table.vocabulary, "token"
    else:
        files, source = _stdlib_files() if table.source == "stdlib" else _text_files(table)
        found = [np.frombuffer(read(file), dtype=np.uint8) for file in files]
        separator, vocabulary, unit = SEPARATOR, 256, "byte"
    kept, digests = _unique(found)
    if not kept:
        raise TrainError(f"{source} holds no text; point data.path at something that does")
    train, val, rule = split(kept, digests, table.val_fraction)
    facts = {
        "source": source,
        "documents": len(kept),
        "duplicates_dropped": len([piece for piece in found if piece.size]) - len(kept),
        "train_documents": len(train),
        "val_documents": len(val),
        f"{unit}s": int(sum(piece.size for piece in kept)),
        "split": rule,
        "sha256": hashlib.sha256("".join(sorted(digests)).encode()).hexdigest(),
        "python": platform.python_version(),
    }
    halves = [
        np.concatenate([np.append(piece, piece.dtype.type(separator)) for piece in half]) for half in (train, val)
    ]
    for name, half in zip(("training", "validation"), halves, strict=True):
        if half.size <= table.context:
            raise TrainError(
                f"the {name} half of {source} has {half.size} {unit}s, too few for data.context = {table.context}"
            )
        if (top := int(half.max())) >= vocabulary:
            kind = "data.end_of_text is" if top == separator else f"{source} holds token"
            raise TrainError(f"{kind} {top}, data.vocabulary is {vocabulary}: raise it above {top}")
    order = hashlib.sha256("".join(digests).encode()).hexdigest()
    return Corpus(halves[0], halves[1], vocabulary, unit, facts, order)


def split(pieces: list[np.ndarray], digests: list[str], fraction: float) -> tuple[list, list, str]:
    """Divide documents by their hashes, so that no document changes sides when others are added or renamed.

    A document is for validation if its hash, as a number in [0, 1), is below `fraction`. If that leaves a half empty,
    the document of the smallest hash is for validation. A single document is cut in two.

    Returns:
        Training documents, validation documents, and the rule in words.
    """
    if len(pieces) == 1:
        cut = pieces[0].size - max(1, round(fraction * pieces[0].size))
        return [pieces[0][:cut]], [pieces[0][cut:]], f"one document only: its last {fraction:.3g} is for validation"
    rank = [int(digest[:16], 16) / 2**64 for digest in digests]
    chosen = [value < fraction for value in rank]
    rule = f"by document, sha256 below {fraction:.3g}"
    if not any(chosen) or all(chosen):
        chosen = [value == min(rank) for value in rank]
        rule = "by document, the smallest sha256"
    train = [piece for piece, for_val in zip(pieces, chosen, strict=True) if not for_val]
    val = [piece for piece, for_val in zip(pieces, chosen, strict=True) if for_val]
    return train, val, rule


def _unique(found: Iterable[np.ndarray]) -> tuple[list[np.ndarray], list[str]]:
    seen: dict[str, np.ndarray] = {}
    for piece in found:
        if piece.size:
            seen.setdefault(hashlib.sha256(piece.tobytes()).hexdigest(), piece)
    return list(seen.values()), list(seen)


def _stdlib_files() -> tuple[list[Path], str]:
    root = Path(sysconfig.get_paths()["stdlib"])
    files = [
        path
        for path in sorted(root.rglob("*.py"))
        if not any(part in _SKIPPED or part.startswith("config-") for part in path.relative_to(root).parts[:-1])
        and not path.name.startswith("_sysconfigdata")  # the build of this interpreter: other on every machine
    ]
    return files, f"CPython {platform.python_version()}'s standard library"


def _text_files(table: DataTable) -> tuple[list[Path], str]:
    root = _root(table)
    if root.is_file():
        return [root], readable(root.name)
    if not root.is_dir():
        raise TrainError(f"data.path = {brief(table.path)} is neither a file nor a folder")
    files = [path for path in sorted(root.rglob("*")) if path.is_file() and path.suffix in table.extensions]
    if not files:
        endings = ", ".join(table.extensions)
        raise TrainError(f"{brief(table.path)} holds no file ending in {brief(endings)}; set data.extensions")
    return files, f"{readable(root.resolve().name)}/ ({', '.join(table.extensions)})"


def _root(table: DataTable) -> Path:
    """The path of the text, with the user's home for `~`."""
    try:
        root = Path(table.path).expanduser()
        root.exists()
    except (OSError, RuntimeError) as error:  # a name that is too long, or `~name` of an unknown user
        reason = error.strerror if isinstance(error, OSError) else error
        raise TrainError(f"data.path = {brief(table.path)}: {reason}; give a file or a folder") from None
    return root


def _shard_documents(table: DataTable) -> tuple[list[np.ndarray], str]:
    root = _root(table)
    files = sorted(root.glob("*.bin")) if root.is_dir() else [Path(name) for name in sorted(glob.glob(str(root)))]
    if not files:
        raise TrainError(f"data.path = {brief(table.path)} matches no shard: give a folder of *.bin, a file or a glob")
    streams = [read_shard(path) for path in files]
    source = f"{len(files)} shard(s), {readable(files[0].name)} to {readable(files[-1].name)}"
    if table.split == "shard":
        return streams, source
    return [piece for stream in streams for piece in documents(stream, table.end_of_text)], source


class Batches:
    """Random windows of the training half; a checkpoint needs the generator's state only."""

    def __init__(
        self, tokens: np.ndarray, context: int, *, batch: int, seed: int, part: tuple[int, int] = (0, 1)
    ) -> None:
        """Args: tokens `(n,)`, the length of a window, windows in a batch, the seed of their order, and the part.

        Part (i, n) has the windows i, i + n, i + 2n, ... of each batch. The generator is the same for each part.
        """
        self._tokens, self._context, self._batch, self._part = torch.from_numpy(tokens), context, batch, part
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self) -> tuple[Tensor, Tensor]:
        """Inputs, and targets one token ahead: `(batch / n, context)` int64."""
        high = self._tokens.numel() - self._context
        starts = torch.randint(0, high, (self._batch,), generator=self.generator)
        number, parts = self._part
        return windows(self._tokens, starts[number::parts], self._context)


def windows(tokens: Tensor, starts: Tensor, context: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets `(b, context)` int64 of the windows at `starts` `(b,)`."""
    rows = tokens[starts[:, None] + torch.arange(context + 1)].long()
    return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


def validation_windows(corpus: Corpus, context: int, count: int) -> tuple[Tensor, Tensor]:
    """The windows of every evaluation, evenly spaced; they overlap only if the half is too short."""
    tokens = torch.from_numpy(corpus.val)
    last = tokens.numel() - context - 1
    return windows(tokens, torch.linspace(0, last, min(count, last + 1), dtype=torch.float64).long(), context)


MAGIC, VERSION, HEADER = 20240520, 1, 256


def read_shard(path: Path) -> np.ndarray:
    """The `(count,)` uint16 tokens of one shard.

    Raises:
        TrainError: The file is no shard, has another version, or was cut short.
    """
    raw = read(path)
    header = np.frombuffer(raw[: 4 * HEADER], dtype="<i4") if len(raw) >= 4 * HEADER else np.zeros(3, dtype="<i4")
    if header[0] != MAGIC:
        raise TrainError(f"{path} is no token shard: it starts with {header[0]}, wanted the magic number {MAGIC}")
    if header[1] != VERSION:
        raise TrainError(f"{path} has shard version {header[1]}, only {VERSION} is understood")
    count, held = int(header[2]), (len(raw) - 4 * HEADER) / 2
    if held != count:
        fault = "it was cut short" if held < count else "something was added"
        raise TrainError(f"{path} promises {count} tokens and holds {held:.12g}: {fault}; fetch it again")
    return np.frombuffer(raw, dtype="<u2", offset=4 * HEADER).astype(np.uint16, copy=False)


def documents(tokens: np.ndarray, end_of_text: int) -> list[np.ndarray]:
    """Cut a stream at every `end_of_text`, without these markers and without empty documents."""
    pieces = np.split(tokens, np.flatnonzero(tokens == end_of_text))
    pieces = [piece[1:] if piece.size and piece[0] == end_of_text else piece for piece in pieces]
    return [piece for piece in pieces if piece.size]
