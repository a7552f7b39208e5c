"""`studies.tournament.run` on a tiny model, and the readers of `studies.tournament.mixture` on small files."""

import gzip
import json
import math
import struct
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock

from matfn.train.data import load_corpus
from matfn.train.recipe import DataTable, ModelTable, TrainTable
from studies.tournament import mixture, run, sizes, timing
from studies.tournament.arms import ARMS, Arm, torch_muon
from studies.tournament.mixture import END, LEAST, MOST, cut, plain_html, sword, tokenized, write_shard

TINY = run.Stage(
    ModelTable(name="gpt", positions="learned", layers=1, width=16, heads=2),
    TrainTable(steps=6, batch=4, warmup=2, cooldown=0.4, eval_every=3, eval_windows=8),
    vocabulary="tiny", context=16, arms=("torch",), seeds=(0, 1), fixed=0.03,
)  # fmt: skip
SEARCHED = replace(TINY, arms=("one", "two"), fixed=None, seeds=(0, 1, 3))


@pytest.fixture
def text(tmp_path) -> Path:
    """A folder as `studies.tournament.mixture` leaves it: a shard of 64 documents of 64 tokens, and the facts."""
    folder = tmp_path / "text" / "tiny"
    folder.mkdir(parents=True)
    tokens = np.random.default_rng(0).integers(1, 32, size=(64, 64), dtype=np.uint16)
    tokens[:, -1] = 0
    write_shard(folder / "mixture.bin", tokens.reshape(-1))
    facts = {"tokens": {"tiny": {"vocabulary": 32, "end_of_text": 0}}}
    (tmp_path / "text" / "facts.json").write_text(json.dumps(facts))
    return tmp_path / "text"


@pytest.fixture
def corpus(text):
    table = DataTable(context=16, source="shards", path=str(text / "tiny"), end_of_text=0, vocabulary=32)
    return load_corpus(table)


@pytest.fixture
def stage(monkeypatch):
    monkeypatch.setitem(run.STAGES, "tiny", TINY)
    return TINY


def names(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*-seed*.json"))


def test_a_stage_runs_and_resumes(text, stage, tmp_path, monkeypatch):
    folder = tmp_path / "out" / "tiny"
    run.work("tiny", text, tmp_path / "out")
    assert names(folder) == ["torch@0.03-seed0", "torch@0.03-seed1"]
    row = json.loads((folder / "torch@0.03-seed0.json").read_text())
    assert [step for step, _ in row["val"]] == [3, 6]
    assert all(math.isfinite(loss) for _, loss in row["val"])
    assert (row["arm"], row["lr"], row["seed"]) == ("torch", 0.03, 0)
    assert 0 < row["optimizer_seconds"] < row["step_seconds"]

    kept = (folder / "torch@0.03-seed0.json").read_text()
    (folder / "torch@0.03-seed1.json").unlink()
    trained = []
    train = run.train
    monkeypatch.setattr(run, "train", lambda *given: trained.append(given[3]) or train(*given))
    run.work("tiny", text, tmp_path / "out")
    assert trained == [1]
    assert (folder / "torch@0.03-seed0.json").read_text() == kept


def test_a_run_is_the_same_twice_and_arms_of_a_seed_begin_alike(corpus):
    first, again = (run.train(TINY, ARMS["torch"], 0.03, 0, corpus) for _ in range(2))
    assert first["val"] == again["val"]
    other = run.train(TINY, ARMS["torch"], 0.03, 1, corpus)
    assert first["val"] != other["val"]
    # With a rate of zero and no decay nothing moves, so every arm shows the loss of the same weights and windows.
    still = Arm("still", lambda model, lr: [torch.optim.SGD(model.parameters(), lr=0.0)])
    frozen = Arm("frozen", lambda model, lr: [torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.0)])
    a, b = (run.train(TINY, arm, 0.03, 0, corpus) for arm in (still, frozen))
    assert a["val"] == b["val"]
    assert a["val"][0][1] == a["val"][1][1]


def test_a_run_in_another_workers_hands_is_left_alone(text, stage, tmp_path):
    folder = tmp_path / "out" / "tiny"
    folder.mkdir(parents=True)
    with FileLock(folder / "torch@0.03-seed0.lock"):
        run.work("tiny", text, tmp_path / "out")
    assert names(folder) == ["torch@0.03-seed1"]


def test_two_workers_share_a_folder(text, tmp_path, monkeypatch):
    """Threads stand for processes: a lock of a file excludes both alike."""
    monkeypatch.setitem(run.STAGES, "tiny", replace(TINY, seeds=tuple(range(6))))
    trained: list[int] = []
    together = threading.Barrier(2, timeout=60)
    train = run.train

    def counted(*given):
        trained.append(given[3])
        if len(trained) <= 2:
            together.wait()  # both have a run in hand at once
        return train(*given)

    monkeypatch.setattr(run, "train", counted)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: run.work("tiny", text, tmp_path / "out"), range(2)))
    assert sorted(trained) == list(range(6))
    assert names(tmp_path / "out" / "tiny") == [f"torch@0.03-seed{seed}" for seed in range(6)]
    assert not list((tmp_path / "out" / "tiny").glob("*.tmp"))


@pytest.fixture
def made_up(monkeypatch):
    """Two arms whose losses are functions of the rate, and the list of runs that were trained."""
    made = {
        "one": Arm("one", torch_muon, (0.01, 0.02, 0.04, 0.08, 0.16)),
        "two": Arm("two", torch_muon, (0.01, 0.02, 0.04, 0.08, 0.16)),
    }
    best = {"one": 0.04, "two": 0.4}
    floor = {"one": 1.0, "two": 1.0}
    trained = []

    def train(_, arm, lr, seed, corpus):
        trained.append((arm.name, lr, seed))
        loss = floor[arm.name] + abs(math.log2(lr / best[arm.name]))
        row = {"arm": arm.name, "lr": lr, "seed": seed, "val": [(6, loss)], "train": []}
        return {**row, "step_seconds": 0.1, "optimizer_seconds": 0.01}

    monkeypatch.setattr(run, "ARMS", made)
    monkeypatch.setattr(run, "train", train)
    monkeypatch.setitem(run.STAGES, "tiny", SEARCHED)
    return trained, best, floor


def test_a_grid_widens_at_an_edge_until_the_best_lies_inside(text, tmp_path, made_up):
    trained, _, _ = made_up
    run.work("tiny", text, tmp_path / "out")
    rates = {arm: sorted(lr for name, lr, seed in trained if name == arm and seed == 1000) for arm in ("one", "two")}
    assert rates["one"] == [0.01, 0.02, 0.04, 0.08, 0.16]
    # log2 is nearest at .32 (.4 / .32 = 1.25, .64 / .4 = 1.6), so .64 ends the search.
    assert rates["two"] == [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64]
    assert {lr for name, lr, seed in trained if name == "two" and seed != 1000} == {0.32}
    assert len(trained) == len(set(trained))
    first = [seed for _, _, seed in trained].index(0)
    assert trained[:first].count(("one", 0.04, 1000)) == 1


@pytest.mark.usefixtures("made_up")
def test_a_grid_widens_downwards_and_past_rates_that_diverge(tmp_path):
    arm = run.ARMS["one"]
    for lr, loss in zip(arm.rates, [2.0, 3.0, 4.0, None, None], strict=True):
        row = {"lr": lr, "val": [[6, loss]]}
        (tmp_path / f"one@{lr:g}-seed1000.json").write_text(json.dumps(row))
    assert run.rates_of(arm, tmp_path)[0.16] == math.inf
    assert run.wider(arm, tmp_path) == 0.005
    assert run.best_rate(arm, tmp_path) is None
    (tmp_path / "one@0.005-seed1000.json").write_text(json.dumps({"lr": 0.005, "val": [[6, 2.5]]}))
    assert run.wider(arm, tmp_path) is None
    assert run.best_rate(arm, tmp_path) == 0.01


def test_an_arm_far_from_the_best_runs_the_first_seeds_only(text, tmp_path, made_up):
    trained, best, floor = made_up
    best["two"], floor["two"] = 0.04, 1.0 + 2 * run.FAR
    run.work("tiny", text, tmp_path / "out")
    assert [seed for name, _, seed in trained if name == "one" and seed != 1000] == [0, 1, 3]
    assert [seed for name, _, seed in trained if name == "two" and seed != 1000] == [0, 1]


def test_an_arm_that_diverges_ends_its_run_with_null(corpus):
    wild = Arm("wild", lambda model, lr: [torch.optim.SGD(model.parameters(), lr=1e6)], warmup=False)
    row = run.train(TINY, wild, 1e6, 0, corpus)
    step, loss = row["val"][-1]
    assert loss is None
    assert step <= TINY.train.steps
    assert json.loads(json.dumps(row))["val"][-1][1] is None


def test_every_stage_names_known_arms_and_grids_of_five():
    for stage in run.STAGES.values():
        assert set(stage.arms) <= set(ARMS)
        for name in stage.arms:
            rates = ARMS[name].rates
            assert len(rates) == 5
            assert all(b / a == pytest.approx(2) for a, b in pairwise(rates))


# Measurements beside the runs.


def test_the_paired_timing_times_every_arm(monkeypatch):
    monkeypatch.setitem(mixture.VOCABULARIES, "tiny", 32)
    arms = ("torch", "exact", "adamw")
    seconds = timing.timed(replace(TINY, arms=arms), rounds=2)
    assert tuple(seconds) == arms
    assert all(0 < value < 60 for value in seconds.values())


def test_sizes_are_mean_singular_values(corpus):
    stacks = sizes.momenta(replace(TINY, arms=("default",)), corpus, 0.03, [2, 4])
    assert {stack.shape[-2:].numel() for stack in stacks} >= {16 * 16, 16 * 64}
    assert all(stack.any() for stack in stacks)
    draw = torch.Generator().manual_seed(0)
    U, V = (torch.linalg.qr(torch.randn(2, 16, 16, generator=draw, dtype=torch.float64))[0] for _ in range(2))
    zeros, full = torch.cat([torch.ones(14), torch.zeros(2)]).double(), torch.linspace(0.2, 1, 16).double()
    stacks = [((U * values) @ V).float() for values in (zeros, full)]
    # Exact factors leave zeros; five steps of Polar Express lift values in [.2, 1] to 1 within rounding to bfloat16.
    found = sizes.measured(stacks[:1])
    assert found["exact"]["least"] == pytest.approx(14 / 16, abs=1e-5)
    assert found["exact-times-.87"]["mean"] == pytest.approx(0.87 * 14 / 16, abs=1e-5)
    found = sizes.measured(stacks[1:])
    assert found["polar-express"]["mean"] == pytest.approx(1, abs=0.02)
    assert abs(found["prism-3"]["mean"] - 1) > 0.03  # three steps without a fit overshoot


# The text.


def test_html_without_scripts_styles_and_head():
    page = b"<html><head><title>no</title></head><body><script>no</script><p>one &amp; two</p><style>no</style><p>three"
    assert plain_html(page).split() == ["one", "&", "two", "three"]


def test_sword_blocks_become_text(tmp_path):
    parts = [b"<verse osisID='a'>first &amp; more</verse>", b"second\0"]
    blocks, index = b"", b""
    for part in parts:
        packed = zlib.compress(part)
        index += struct.pack("<3I", len(blocks), len(packed), len(part))
        blocks += packed
    (tmp_path / "ot.bzs").write_bytes(index)
    (tmp_path / "ot.bzz").write_bytes(blocks)
    assert sword(tmp_path / "ot.bzs").split() == ["first", "&", "more", "second"]


def test_a_reader_unpacks_and_reads(tmp_path):
    (tmp_path / "a.rst.gz").write_bytes(gzip.compress("größer".encode()))
    (tmp_path / "b.dz").write_bytes(gzip.compress(b"word"))
    (tmp_path / "c.html").write_bytes(b"<p>text</p>")
    (tmp_path / "d.txt").write_bytes(b"bad \xff byte")
    found = [mixture._read(tmp_path / name, kind) for name, kind in READS]
    assert [text.strip() for text in found] == ["größer", "word", "text", "bad \ufffd byte"]


READS = (("a.rst.gz", "text"), ("b.dz", "text"), ("c.html", "html"), ("d.txt", "text"))


def test_long_texts_are_cut_at_blank_lines_and_nothing_is_lost():
    paragraphs = [f"paragraph {n} " + "x" * 1000 for n in range(200)]
    pieces = list(cut("\n\n".join(paragraphs)))
    assert len(pieces) > 1
    assert all(len(piece) <= MOST + 2 * 200 for piece in pieces)
    assert "\n\n".join(pieces).split("\n\n") == paragraphs
    assert list(cut("short\n\n\n text  ")) == ["short\n\n text"]
    assert list(cut("")) == []


def test_a_paragraph_without_blank_lines_is_cut_at_lines():
    lines = [f"{n:06d} " + "y" * 93 for n in range(2000)]
    pieces = list(cut("\n".join(lines)))
    assert len(pieces) > 2
    assert [line for piece in pieces for line in piece.split("\n") if line] == lines


def test_documents_are_kept_once_and_short_ones_dropped(tmp_path, monkeypatch):
    long = ["a" * LEAST, "b" * LEAST, "a" * LEAST, "short"]
    monkeypatch.setattr(mixture, "packages", lambda folder: [("pack", "1.0", long)])
    monkeypatch.setattr(mixture, "standard_library", lambda: ["b" * LEAST, "c" * LEAST])
    documents, facts = mixture.collected(tmp_path)
    assert sorted(documents) == ["a" * LEAST, "b" * LEAST, "c" * LEAST]
    assert facts["sources"]["pack"]["documents"] == 2
    assert facts["sources"]["cpython"]["documents"] == 1
    assert (facts["documents"], facts["bytes"]) == (3, 3 * LEAST)
    assert mixture.collected(tmp_path)[1]["sha256"] == facts["sha256"]


def test_tokens_are_written_as_a_shard_that_the_trainer_reads(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    documents = [f"document {n}: " + "alpha beta gamma delta " * 20 for n in range(80)]
    facts = tokenized(documents, 300, tmp_path / "bpe")
    own = tokenizers.Tokenizer.from_file(str(tmp_path / "bpe" / "tokenizer.json"))
    raw = np.frombuffer((tmp_path / "bpe" / "mixture.bin").read_bytes(), dtype="<i4", count=3)
    assert list(raw) == [mixture.MAGIC, mixture.VERSION, facts["tokens"]]
    tokens = np.fromfile(tmp_path / "bpe" / "mixture.bin", dtype="<u2", offset=4 * mixture.HEADER)
    ends = np.flatnonzero(tokens == facts["end_of_text"])
    assert own.id_to_token(facts["end_of_text"]) == END
    assert len(ends) == 80
    assert [own.decode(list(part)) for part in np.split(tokens, ends + 1)[:80]] == documents
    table = {"source": "shards", "path": str(tmp_path / "bpe"), "end_of_text": facts["end_of_text"]}
    corpus = load_corpus(DataTable(context=16, vocabulary=facts["vocabulary"], **table))
    assert corpus.vocabulary == facts["vocabulary"]
