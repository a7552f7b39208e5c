"""The text of the tournament: about 190 MB of documentation, prose and dictionaries from Debian packages, as tokens.

    python -m studies.tournament.mixture --out mixture          # downloads 110 MB, needs apt-get and dpkg

writes one folder of token shards for each vocabulary, `bpe4k` and `bpe16k`, and `facts.json` with the packages, their
versions and the sha256 of the text. The shards are read by `data.source = "shards"`. No text is part of this project.
"""

import argparse
import gzip
import hashlib
import html
import json
import os
import platform
import re
import struct
import subprocess
import sysconfig
import zlib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from matfn.train.data import HEADER, MAGIC, VERSION

# Package -> (pattern of files, reader). Files that end in .gz are unpacked first.
PACKAGES = {
    "anarchism": ("*.html", "html"),
    "sword-comm-tdavid": ("*.czs", "sword"),
    "sword-text-web": ("*.bzs", "sword"),
    "dict-gcide": ("*.dz", "text"),
    "dict-wn": ("*.dz", "text"),
    "dict-foldoc": ("*.dz", "text"),
    "linux-doc-6.1": ("*.rst.gz", "text"),
    "python3.11-doc": ("*.rst.txt", "text"),
    "perl-doc": ("*.pod", "text"),
    "postgresql-doc-15": ("*.html", "html"),
    "git-doc": ("*.txt", "text"),
}
VOCABULARIES = {"bpe4k": 4096, "bpe16k": 16384}
LEAST, MOST = 400, 60_000  # characters of a document; longer texts are cut at blank lines
END = "<|endoftext|>"


class _Text(HTMLParser):
    """The text of a page, without scripts and styles; blocks begin on new lines."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.hidden += tag in ("script", "style", "head")
        if tag in ("p", "div", "li", "tr", "pre", "h1", "h2", "h3", "h4", "br"):
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self.hidden -= tag in ("script", "style", "head") and self.hidden > 0

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.parts.append(data)


def plain_html(raw: bytes) -> str:
    """The text of an HTML page."""
    parser = _Text()
    parser.feed(raw.decode("utf-8", "replace"))
    return "".join(parser.parts)


def sword(index: Path) -> str:
    """The text of a SWORD module: `index` has three little-endian u32 for each zlib block: offset, size, plain size."""
    blocks, raw = index.with_suffix(index.suffix[:-1] + "z").read_bytes(), index.read_bytes()
    found = (struct.unpack_from("<3I", raw, at) for at in range(0, len(raw) - 11, 12))
    text = b"\n".join(zlib.decompress(blocks[offset : offset + size]) for offset, size, _ in found)
    return html.unescape(re.sub(r"<[^>]+>", " ", text.decode("utf-8", "replace"))).replace("\0", "")


def cut(text: str) -> Iterator[str]:
    """A text as documents of at most about `MOST` characters, cut at blank lines, or at lines where none is blank."""
    piece: list[str] = []
    size = 0
    for paragraph in re.split(r"\n\s*\n", text):
        lines = [line.rstrip() for line in paragraph.splitlines() if line.strip()]
        long = sum(map(len, lines)) > MOST
        for part in lines if long else ["\n".join(lines)]:
            if size + len(part) > MOST and piece:
                yield ("\n" if long else "\n\n").join(piece)
                piece, size = [], 0
            if part:
                piece.append(part)
                size += len(part)
    if piece:
        yield "\n\n".join(piece)


def packages(folder: Path) -> Iterator[tuple[str, str, list[str]]]:
    """Download and unpack every package in `folder`; yield its name, version and documents."""
    folder.mkdir(parents=True, exist_ok=True)
    for package, (pattern, reader) in PACKAGES.items():
        if not list(folder.glob(f"{package}_*.deb")):
            subprocess.run(["apt-get", "download", package], cwd=folder, check=True, capture_output=True)
        [deb] = folder.glob(f"{package}_*.deb")
        root = folder / package
        subprocess.run(["dpkg", "-x", deb.name, root.name], cwd=folder, check=True)
        texts = [_read(path, reader) for path in sorted(root.rglob(pattern)) if path.is_file()]
        yield package, deb.name.split("_")[1], [document for text in texts for document in cut(text)]


def _read(path: Path, reader: str) -> str:
    if reader == "sword":
        return sword(path)
    raw = path.read_bytes()
    raw = gzip.decompress(raw) if path.suffix in (".gz", ".dz") else raw
    return {"html": plain_html, "text": lambda raw: raw.decode("utf-8", "replace")}[reader](raw)


def standard_library() -> list[str]:
    """The Python files of the interpreter's own library, tests included."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = [p for p in sorted(root.rglob("*.py")) if not {"site-packages", "dist-packages"} & set(p.parts)]
    texts = (path.read_bytes().decode("utf-8", "replace") for path in files if not path.name.startswith("_sysconfig"))
    return [document for text in texts for document in cut(text)]


def collected(folder: Path) -> tuple[list[str], dict[str, Any]]:
    """All documents once, in the order of their sha256, and the facts about them."""
    sources = [*packages(folder), ("cpython", platform.python_version(), standard_library())]
    seen: dict[str, str] = {}
    counts = {}
    for name, version, documents in sources:
        kept = [text for text in documents if len(text) >= LEAST]
        before = len(seen)
        for text in kept:
            seen.setdefault(hashlib.sha256(text.encode()).hexdigest(), text)
        characters = sum(map(len, kept))
        counts[name] = {"version": version, "documents": len(seen) - before, "characters": characters}
    digests = sorted(seen)
    facts = {"sources": counts, "documents": len(seen), "bytes": sum(len(t.encode()) for t in seen.values())}
    return [seen[key] for key in digests], {**facts, "sha256": hashlib.sha256("".join(digests).encode()).hexdigest()}


def write_shard(path: Path, tokens: np.ndarray) -> None:
    """Write (n,) uint16 tokens in the format of FineWeb's shards."""
    header = np.zeros(HEADER, dtype="<i4")
    header[:3] = MAGIC, VERSION, len(tokens)
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(header.tobytes() + tokens.astype("<u2").tobytes())
    os.replace(temporary, path)


def tokenized(documents: list[str], vocabulary: int, folder: Path) -> dict[str, Any]:
    """Train a byte-level BPE on every fourth document, and write all documents as one shard."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(documents[::4], trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    end, pieces = tokenizer.token_to_id(END), []
    for start in range(0, len(documents), 1000):
        for encoding in tokenizer.encode_batch(documents[start : start + 1000]):
            pieces.append(np.array([*encoding.ids, end], dtype=np.uint16))
    tokens = np.concatenate(pieces)
    write_shard(folder / "mixture.bin", tokens)
    digest = hashlib.sha256(tokens.tobytes()).hexdigest()
    return {"vocabulary": vocabulary, "end_of_text": end, "tokens": len(tokens), "sha256": digest}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("mixture"))
    out = parser.parse_args().out
    documents, facts = collected(out / "packages")
    facts["tokens"] = {name: tokenized(documents, size, out / name) for name, size in VOCABULARIES.items()}
    (out / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
