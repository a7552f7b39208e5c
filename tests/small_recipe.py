"""A corpus of a few small documents and recipes that train in a second."""

import random
from pathlib import Path

import pytest
import torch

from matfn.train import recipe as recipes


@pytest.fixture(autouse=True)
def _one_thread():
    """Tests run beside each other: more threads than cores would only wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Forty documents of words, every fourth a copy of the first."""
    root = tmp_path / "text"
    root.mkdir()
    for number in range(40):
        draw = random.Random(0 if number % 4 == 0 else number)
        words = [draw.choice(("alpha", "beta", "gamma", "delta")) for _ in range(60)]
        (root / f"{number:02d}.txt").write_text(" ".join(words))
    return root


@pytest.fixture
def table(folder: Path) -> dict:
    """A tiny recipe with all three kinds of optimizer, as a TOML table."""
    return {
        "title": "tiny",
        "model": {"layers": 1, "width": 16, "heads": 2},
        "data": {"source": "text", "path": str(folder), "context": 16, "val_fraction": 0.2},
        "train": {"steps": 12, "batch": 4, "warmup": 2, "eval_every": 4, "eval_windows": 8, "device": "cpu"},
        "arms": [
            {"name": "AdamW", "kind": "adamw", "lr": 0.01},
            {"name": "torch Muon", "kind": "torch-muon", "lr": 0.02},
            {"name": "matfn Muon", "kind": "muon", "lr": 0.02, "method": "polar-express:steps=3"},
        ],
    }


@pytest.fixture
def recipe(table: dict) -> recipes.Recipe:
    """The tiny recipe, checked."""
    return recipes.from_table(table)


class Silent:
    """A watcher that remembers what it was told."""

    def __init__(self) -> None:
        self.lines: list[dict] = []

    def stepped(self, trainer, line) -> None:
        self.lines.append(line)

    def evaluated(self, trainer, line) -> None:
        self.lines.append(line)


@pytest.fixture
def watcher() -> Silent:
    """A watcher that prints nothing."""
    return Silent()
