"""Flip single bits in the files of runs and caches: each flip must be refused in one line, or change no number.

    python tests/bit_flips.py --flips 100

The files are checkpoints, logs, recorded recipes and records of finished runs, token shards between a run and its
resumption, and entries of the coefficient cache. A flip is refused if the command ends with status 2 and one line.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from typer.testing import CliRunner

from kills import ended, equal, table
from matfn import cli
from matfn.methods.polar_express import _schedule
from matfn.minimax import cached_rows
from matfn.train import Stopped, compare, single
from matfn.train import recipe as recipes
from matfn.train.data import load_corpus
from matfn.train.loop import Trainer
from matfn.train.settings import to_toml


class Stop:
    """A watcher that stops after some lines."""

    def __init__(self, limit: int) -> None:
        self.left = limit

    def stepped(self, trainer, line) -> None:
        self.left -= 1

    evaluated = stepped


def command(*words: object):
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def flipped(path: Path) -> None:
    """Flip one random bit of a file."""
    raw = bytearray(path.read_bytes())
    raw[random.randrange(len(raw))] ^= 1 << random.randrange(8)
    path.write_bytes(raw)


def shards(root: Path) -> Path:
    """Two token shards of documents."""
    root.mkdir()
    draw = np.random.default_rng(0)
    for name in "ab":
        tokens = np.concatenate([np.r_[500, draw.integers(0, 500, size=50)] for _ in range(20)]).astype("<u2")
        header = np.zeros(256, dtype="<i4")
        header[:3] = 20240520, 1, tokens.size
        (root / f"{name}.bin").write_bytes(header.tobytes() + tokens.tobytes())
    return root


def prepared(root: Path) -> dict:
    """Unfinished runs of both commands, and how they end when nothing is flipped."""
    settings = table(root / "text")
    settings["data"] = {"source": "shards", "path": str(shards(root / "text")), "context": 16, "val_fraction": 0.2}
    settings["data"] |= {"end_of_text": 500, "vocabulary": 512}
    (root / "recipe.toml").write_text(to_toml(settings))
    recipe = recipes.load(root / "recipe.toml")
    watcher = Stop(60)
    with contextlib.suppress(Stopped):
        compare.run(recipe, root / "compare", watcher, stop=lambda: watcher.left < 0)
    done = {}
    trainer_words = ("train", root / "recipe.toml", "--arm", "a", "--out", root / "train")
    assert command(*trainer_words).exit_code == 0
    done["train"] = ended("train", root / "train")
    _rewind(root / "train")
    shutil.copytree(root / "compare", root / "compare-done")
    assert command("compare", "--resume", root / "compare-done").exit_code == 0
    done["compare"] = ended("compare", root / "compare-done")
    return done


def _rewind(folder: Path) -> None:
    """Make a run of `train` unfinished: train it again, to step 6."""
    own = single.recorded(folder)
    for name in ("checkpoint.pt", "metrics.jsonl"):
        (folder / name).unlink()
    trainer = Trainer(own, own.optimizer, load_corpus(own.data), seed=0, directory=folder)
    trainer.advance(6, Stop(0))
    trainer.save()
    trainer.metrics.close()


def flip_run(root: Path, command_name: str, place: Path, done: dict) -> str:
    """Flip a bit of a file of an unfinished run (or of its text), and go on with the run."""
    work = root / "work"
    shutil.copytree(root / command_name, work)
    target = work / place if (work / place).exists() else root / place
    good = target.read_bytes()
    flipped(target)
    result = command(command_name, "--resume", work)
    target.exists() and target.write_bytes(good)
    verdict = judged(result, lambda: equal(ended(command_name, work), done[command_name]))
    shutil.rmtree(work)
    return verdict


def flip_cache(folder: Path) -> str:
    """Flip a bit of a cache entry and ask for the schedule again."""
    words = ("coeffs", "polar-express:steps=4,lower=1e-3", "--json")
    cached_rows.cache_clear()
    _schedule.cache_clear()
    right = json.loads(command(*words).stdout)
    [file] = folder.iterdir()
    flipped(file)
    cached_rows.cache_clear(), _schedule.cache_clear()
    result = command(*words)
    return judged(result, lambda: json.loads(result.stdout) == right)


def judged(result, same) -> str:
    """The verdict on one flip; ends the program if it is wrong."""
    if result.exit_code == 0 and same():
        return "without effect"
    if result.exit_code == 2 and result.stderr.startswith("error:") and len(result.stderr.strip().splitlines()) == 1:
        return "refused"
    raise SystemExit(f"status {result.exit_code}: {result.output}\n{result.exception!r}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--flips", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    random.seed(asked.seed)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        cache = root / "cache"
        os.environ["MATFN_CACHE_DIR"] = str(root / "warm")
        done = prepared(root)
        files = {command: sorted(p for p in (root / command).rglob("*") if p.is_file()) for command in done}
        places = {"shard": [(c, Path("text") / f"{shard}.bin") for c in done for shard in "ab"]}
        for name in ("checkpoint.pt", "metrics.jsonl", "recipe.toml", "finished.json"):
            places[name] = [(c, p.relative_to(root / c)) for c in files for p in files[c] if p.name == name]
        found = Counter()
        for number in range(asked.flips):
            if number % 6 == 5:
                os.environ["MATFN_CACHE_DIR"] = str(cache)
                found["cache entry", flip_cache(cache)] += 1
                shutil.rmtree(cache)
                os.environ["MATFN_CACHE_DIR"] = str(root / "warm")
                continue
            kind = list(places)[number % 6]
            found[kind, flip_run(root, *random.choice(places[kind]), done)] += 1
    for (kind, verdict), count in sorted(found.items()):
        print(f"{kind:16} {verdict:16} {count}")
    print(f"{sum(found.values())} flips: none changed a number")


if __name__ == "__main__":
    main()
