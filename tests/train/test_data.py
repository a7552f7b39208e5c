"""Text: a deterministic split with no document in both halves, shards that round trip, windows that stay inside."""

import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch

from matfn.train import TrainError
from matfn.train.data import (
    SEPARATOR,
    Batches,
    _stdlib_files,
    documents,
    load_corpus,
    read_shard,
    split,
    validation_windows,
)
from matfn.train.recipe import DataTable


def write_shard(path: Path, tokens: np.ndarray) -> None:
    """The format of FineWeb's shards: 256 words of 4 bytes (magic number, version, count), then tokens of 2 bytes."""
    header = np.zeros(256, dtype="<i4")
    header[:3] = 20240520, 1, tokens.size
    path.write_bytes(header.tobytes() + tokens.astype("<u2").tobytes())


def _documents(tokens: np.ndarray) -> list[bytes]:
    return [piece.tobytes() for piece in documents(tokens, SEPARATOR)]


def _text(folder, **more) -> DataTable:
    return DataTable(**{"source": "text", "path": str(folder), "context": 16, "val_fraction": 0.2, **more})


def test_split_is_by_document_without_duplicates(folder):
    corpus = load_corpus(_text(folder))
    train, val = _documents(corpus.train), _documents(corpus.val)
    assert not set(train) & set(val)
    assert len(set(train)) == len(train)
    assert len(set(val)) == len(val)
    assert sorted(train + val) == sorted({path.read_bytes() for path in folder.iterdir()})
    assert corpus.facts["documents"] == 31
    assert corpus.facts["duplicates_dropped"] == 9
    assert corpus.facts["bytes"] == sum(map(len, train + val))


def test_split_depends_on_content_alone(folder, tmp_path):
    """Renaming (hence reordering) files moves no document; adding one moves no other."""
    before = load_corpus(_text(folder))
    other = tmp_path / "renamed"
    other.mkdir()
    for path in folder.iterdir():
        (other / f"{99 - int(path.stem)}.txt").write_bytes(path.read_bytes())
    renamed = load_corpus(_text(other))
    assert set(_documents(renamed.val)) == set(_documents(before.val))
    assert renamed.facts["sha256"] == before.facts["sha256"]
    (other / "new.txt").write_text("something new " * 20)
    added = load_corpus(_text(other))
    assert set(_documents(before.val)) <= set(_documents(added.val))
    assert set(_documents(before.train)) <= set(_documents(added.train))
    assert added.facts["sha256"] != before.facts["sha256"]


def test_split_never_leaves_a_half_empty():
    pieces = [np.array([i], dtype=np.uint8) for i in range(3)]
    digests = ["f" * 64, "1" * 64, "8" * 64]
    train, val, rule = split(pieces, digests, 1e-30)
    assert [int(piece[0]) for piece in val] == [1]
    assert len(train) == 2
    assert "smallest" in rule


def test_a_single_document_is_cut_and_says_so(tmp_path):
    (tmp_path / "one.txt").write_bytes(bytes(range(65, 91)) * 40)
    corpus = load_corpus(_text(tmp_path / "one.txt"))
    assert "one document only" in corpus.facts["split"]
    assert corpus.train.size + corpus.val.size == 26 * 40 + 2
    assert corpus.val.size == round(0.2 * 26 * 40) + 1


def test_stdlib_is_text_without_tests_or_packages():
    corpus = load_corpus(DataTable())
    assert corpus.vocabulary == 256
    assert corpus.unit == "byte"
    assert 5e6 < corpus.facts["bytes"] < 4e7
    assert 0.01 < corpus.val.size / (corpus.val.size + corpus.train.size) < 0.12
    assert "CPython" in corpus.facts["source"]
    root = Path(sysconfig.get_paths()["stdlib"])
    assert (root / "argparse.py").read_bytes() in _documents(corpus.train) + _documents(corpus.val)
    names = {path.relative_to(root).as_posix() for path in _stdlib_files()[0]}
    assert {"argparse.py", "json/decoder.py"} <= names
    assert not [name for name in names if {"test", "tests", "site-packages"} & set(name.split("/")[:-1])]


@pytest.mark.parametrize(
    ("path", "message"), [("nowhere", "neither a file nor a folder"), (".", "holds no file ending")]
)
def test_nothing_found_is_an_error(tmp_path, path, message):
    with pytest.raises(TrainError, match=message):
        load_corpus(_text(tmp_path / path))


def test_too_little_text_is_an_error(tmp_path):
    (tmp_path / "a.txt").write_text("short")
    with pytest.raises(TrainError, match="too few for data"):
        load_corpus(_text(tmp_path))


def test_shards_are_read(tmp_path):
    tokens = np.array([0, 1, 50256, 65535], dtype=np.uint16)
    write_shard(tmp_path / "a.bin", tokens)
    assert np.array_equal(read_shard(tmp_path / "a.bin"), tokens)


def test_damaged_shards_are_refused(tmp_path):
    write_shard(tmp_path / "a.bin", np.arange(10))
    whole = (tmp_path / "a.bin").read_bytes()
    for damaged, message in (
        (whole[:-2], "promises 10 tokens and holds 9"),
        (whole[:100], "no token shard"),
        (b"\0" * 2000, "no token shard"),
        (whole[:4] + (2).to_bytes(4, "little") + whole[8:], "version 2"),
    ):
        (tmp_path / "b.bin").write_bytes(damaged)
        with pytest.raises(TrainError, match=message):
            read_shard(tmp_path / "b.bin")


def _shards(tmp_path, marker=50256):
    """Two shards of documents that start with the marker, as FineWeb's do; one document is in both."""
    draw = np.random.default_rng(0)
    texts = [draw.integers(0, 500, size=draw.integers(20, 60)) for _ in range(30)]
    for name, members in (("a", texts[:16]), ("b", texts[15:])):
        write_shard(tmp_path / f"{name}.bin", np.concatenate([np.r_[marker, text] for text in members]))
    return texts


def test_shards_split_by_document(tmp_path):
    texts = _shards(tmp_path)
    table = DataTable(source="shards", path=str(tmp_path), context=16, val_fraction=0.3)
    corpus = load_corpus(table)
    train, val = documents(corpus.train, 50256), documents(corpus.val, 50256)
    assert corpus.facts["documents"] == 30
    assert corpus.facts["duplicates_dropped"] == 1
    assert sorted(p.tolist() for p in train + val) == sorted(t.tolist() for t in texts)
    assert not {p.tobytes() for p in train} & {p.tobytes() for p in val}
    assert corpus.unit == "token"


def test_shards_split_by_shard_and_glob(tmp_path):
    _shards(tmp_path)
    table = DataTable(source="shards", path=str(tmp_path / "*.bin"), context=16, split="shard")
    corpus = load_corpus(table)
    assert (corpus.facts["train_documents"], corpus.facts["val_documents"]) == (1, 1)
    with pytest.raises(TrainError, match="matches no shard"):
        load_corpus(DataTable(source="shards", path=str(tmp_path / "*.npy"), context=16))
    with pytest.raises(TrainError, match="vocabulary is 100"):
        load_corpus(DataTable(source="shards", path=str(tmp_path), context=16, vocabulary=100))


def test_batches_are_windows_and_resume_in_place():
    tokens = np.arange(100, dtype=np.uint16)
    batches = Batches(tokens, 8, batch=64, seed=3)
    state = batches.generator.get_state()
    inputs, targets = batches.draw()
    assert inputs.shape == targets.shape == (64, 8)
    assert torch.equal(targets, inputs + 1)
    assert targets.max() < 100
    again = Batches(tokens, 8, batch=64, seed=99)
    again.generator.set_state(state)
    assert torch.equal(again.draw()[0], inputs)


def test_every_window_can_be_drawn():
    """Eleven tokens hold exactly three windows of eight and their targets: starts 0, 1, 2."""
    inputs, targets = Batches(np.arange(11, dtype=np.uint8), 8, batch=200, seed=0).draw()
    assert set(inputs[:, 0].tolist()) == {0, 1, 2}
    assert targets.max() == 10


def test_validation_windows_are_fixed_and_spread(folder):
    corpus = load_corpus(_text(folder))
    inputs, targets = validation_windows(corpus, 16, 5)
    assert torch.equal(inputs, validation_windows(corpus, 16, 5)[0])
    assert inputs[0].tolist() == corpus.val[:16].tolist()
    assert targets[-1].tolist() == corpus.val[-16:].tolist()
    assert len(validation_windows(corpus, 16, 10**6)[0]) == corpus.val.size - 16
