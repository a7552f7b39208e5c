"""The text of a run: tokens of the mixture, the same tokens in a packed file (needs no network), or plain bytes."""

from __future__ import annotations

import hashlib
import json
import lzma
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from matfn.pages import files
from matfn.train.data import Corpus, load_corpus
from matfn.train.recipe import DataTable

__all__ = ["BYTES", "TRAIN", "VAL", "corpus", "pack"]

BYTES = "stdlib"  # the name of the text that is always there: the bytes of Python's standard library
VOCABULARY = "bpe16k"  # folder of the mixture
TRAIN, VAL = 44_000_000, 1_000_000  # tokens kept; packed they take 0.81 bytes each, 35 MiB in all
# Tokens are two bytes, little-endian: lp and pb tell LZMA so. It saves 1 % against the usual setting.
_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 6, "lc": 2, "lp": 1, "pb": 1, "dict_size": 1 << 26}]
_KIND = "tokens packed by benchmarks.gpu_train"


def corpus(source: str, context: int) -> Corpus:
    """The text that `--text` names: a packed file, a folder that studies.tournament.mixture wrote, or "stdlib".

    Raises:
        SystemExit: There is no such text, or the file is damaged; the message says what to do.
    """
    if source == BYTES:
        return load_corpus(DataTable(context=context))
    path = Path(source)
    if path.is_dir():
        return _kept(_mixture(path), TRAIN)
    if not path.is_file():
        raise SystemExit(
            f"--text {source}: there is no such file or folder. `python -m studies.tournament.mixture --out mixture` "
            f"writes a folder, --pack makes one file of it, and --text {BYTES} takes the bytes of Python's library."
        )
    return _unpacked(path)


def pack(folder: str, path: Path, train: int = TRAIN) -> dict[str, Any]:
    """Write the first `train` tokens of the mixture's training half and `VAL` of validation as one compressed file.

    Returns:
        The facts of the text, with the size of the file.

    Raises:
        SystemExit: The folder holds no mixture.
    """
    kept = _kept(_mixture(Path(folder)), train)
    head = {"kind": _KIND, "vocabulary": kept.vocabulary, "train": kept.train.size, "val": kept.val.size}
    with files.whole(path) as raw, lzma.open(raw, "wb", format=lzma.FORMAT_XZ, filters=_FILTERS) as file:
        file.write(json.dumps({**head, "facts": kept.facts, "order": kept.order}).encode() + b"\n")
        for half in (kept.train, kept.val):
            file.write(half.astype("<u2").tobytes())
    return {**kept.facts, "bytes_of_the_file": path.stat().st_size}


def _mixture(folder: Path) -> Corpus:
    """The mixture, split by document.

    Raises:
        SystemExit: The folder lacks the tokens or facts.json.
    """
    try:
        facts = json.loads((folder / "facts.json").read_text())["tokens"][VOCABULARY]
    except (OSError, ValueError, KeyError) as error:
        raise SystemExit(
            f"--text {folder}: the folder has no facts.json with {VOCABULARY} ({type(error).__name__}). "
            "Give a folder that `python -m studies.tournament.mixture --out FOLDER` wrote."
        ) from None
    own = {"end_of_text": facts["end_of_text"], "vocabulary": facts["vocabulary"]}
    return load_corpus(DataTable(source="shards", path=str(folder / VOCABULARY), **own))


def _kept(whole: Corpus, train: int) -> Corpus:
    """The first tokens of both halves; documents are in the order of their hashes, so this is a random sample."""
    halves = whole.train[:train], whole.val[:VAL]
    kept = {"train_tokens_kept": halves[0].size, "val_tokens_kept": halves[1].size, "sha256_kept": _digest(*halves)}
    return replace(whole, train=halves[0], val=halves[1], facts={**whole.facts, **kept})


def _unpacked(path: Path) -> Corpus:
    wanted = f"make it anew with `python -m benchmarks.gpu_train --text mixture --pack {path.name}`"
    try:
        with lzma.open(path) as file:
            head = json.loads(file.readline(1 << 20))
            if head["kind"] != _KIND:
                raise ValueError(f"its kind is {head['kind']!r}")
            tokens = np.frombuffer(file.read(), dtype="<u2").astype(np.uint16)  # a copy, which can be written
        train, val = tokens[: head["train"]], tokens[head["train"] :]
        if val.size != head["val"] or _digest(train, val) != head["facts"]["sha256_kept"]:
            raise ValueError("its tokens are not those that were packed")
    except (OSError, EOFError, lzma.LZMAError, ValueError, KeyError, TypeError) as error:
        raise SystemExit(f"--text {path} is no packed text, or it is damaged ({error}): {wanted}") from None
    return Corpus(train, val, head["vocabulary"], "token", head["facts"], head["order"])


def _digest(*halves: np.ndarray) -> str:
    found = hashlib.sha256()
    for half in halves:
        found.update(half.tobytes())
    return found.hexdigest()
