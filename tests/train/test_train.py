"""The loop: the schedule, resuming to the identical curve, divergence, and files that are whole or absent."""

import math
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from matfn.train import TrainError, checkpoint
from matfn.train import recipe as recipes
from matfn.train.data import load_corpus
from matfn.train.loop import CHECKPOINT, METRICS, Diverged, Trainer, pick_device
from matfn.train.metrics import read_metrics
from matfn.train.model import GPT, make_model
from matfn.train.optimizers import wsd
from matfn.train.progress import interrupt
from matfn.train.recipe import ModelTable, TrainTable
from matfn.train.settings import override

ARMS = ("AdamW", "torch Muon", "matfn Muon")


def _trainer(recipe, directory, arm="AdamW", seed=0):
    return Trainer(recipe, recipe.arm(arm), load_corpus(recipe.data), seed=seed, directory=directory)


def _curve(directory):
    keep = ("step", "loss", "lr", "val_loss")
    return [{k: line[k] for k in keep if k in line} for line in read_metrics(directory / METRICS)]


@pytest.mark.parametrize("arm", ARMS)
def test_resumed_run_is_bit_identical(recipe, tmp_path, watcher, arm):
    """12 steps, against 6, a checkpoint, 2 steps that are lost in a crash, and 6 more in a fresh process's stead."""
    whole = _trainer(recipe, tmp_path / "whole", arm)
    whole.advance(12, watcher)
    first = _trainer(recipe, tmp_path / "parts", arm)
    first.advance(6, watcher)
    first.save()
    first.advance(8, watcher)
    torch.manual_seed(12345)
    second = _trainer(recipe, tmp_path / "parts", arm)
    assert second.step == 6
    assert _curve(tmp_path / "parts")[-1]["step"] == 6
    second.advance(12, watcher)
    assert _curve(tmp_path / "parts") == _curve(tmp_path / "whole")
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
    assert len(_curve(tmp_path / "whole")) == 12 + 3


def test_resume_with_clipping_accumulation_and_autocast(table, tmp_path, watcher):
    for assignment in ("train.clip=0.5", "train.accumulate=2", "train.autocast=bfloat16", "model.positions=rotary"):
        table = override(table, assignment)
    recipe = recipes.from_table(table)
    _trainer(recipe, tmp_path / "whole", "matfn Muon").advance(8, watcher)
    first = _trainer(recipe, tmp_path / "parts", "matfn Muon")
    first.advance(5, watcher)
    first.save()
    _trainer(recipe, tmp_path / "parts", "matfn Muon").advance(8, watcher)
    assert _curve(tmp_path / "parts") == _curve(tmp_path / "whole")


def test_runs_do_not_disturb_each_other(recipe, tmp_path, watcher):
    """Taking turns gives the curves of running alone, and the caller's random state is left as it was."""
    before = torch.get_rng_state()
    alone = _trainer(recipe, tmp_path / "alone")
    alone.advance(12, watcher)
    a, b = _trainer(recipe, tmp_path / "a"), _trainer(recipe, tmp_path / "b", "matfn Muon", seed=1)
    for step in range(1, 13):
        a.advance(step, watcher)
        b.advance(step, watcher)
    assert _curve(tmp_path / "a") == _curve(tmp_path / "alone")
    assert torch.equal(torch.get_rng_state(), before)


def test_arms_start_from_the_same_weights_and_batches(recipe, tmp_path, watcher):
    firsts = []
    for arm in ARMS:
        trainer = _trainer(recipe, tmp_path / arm, arm)
        trainer.advance(1, watcher)
        firsts.append(trainer.history[0]["loss"])
    assert firsts[0] == firsts[1] == firsts[2]
    assert _trainer(recipe, tmp_path / "other", seed=1).model.embed.weight[0, 0] != trainer.model.embed.weight[0, 0]


@pytest.mark.parametrize("arm", ARMS)
def test_every_optimizer_learns(table, tmp_path, watcher, arm):
    """A hundred steps on four words must beat guessing letters by their frequency."""
    for assignment in ("train.steps=100", "train.eval_every=100", 'arms."torch Muon".rest.lr=0.02'):
        table = override(table, assignment)
    recipe = recipes.from_table(override(table, 'arms."matfn Muon".rest.lr=0.02'))
    trainer = _trainer(recipe, tmp_path, arm)
    trainer.advance(100, watcher)
    share = np.bincount(trainer.corpus.train) / trainer.corpus.train.size
    by_frequency = -sum(q * math.log(q) for q in share if q)
    assert trainer.history[-1]["val_loss"] < 0.9 * by_frequency


def test_accumulation_is_the_mean_of_its_batches(table, tmp_path, watcher):
    """Two batches of 4 are drawn where one of 8 would be: the reported loss is their mean, to float32 rounding."""
    double = recipes.from_table(override(override(table, "train.batch=2"), "train.accumulate=2"))
    trainer = _trainer(double, tmp_path / "double")
    state = trainer.batches.generator.get_state()
    trainer.advance(1, watcher)
    fresh = _trainer(double, tmp_path / "fresh")
    fresh.batches.generator.set_state(state)
    with torch.no_grad():
        losses = [float(fresh._loss(*fresh.batches.draw())) for _ in range(2)]
    assert trainer.history[0]["loss"] == pytest.approx(sum(losses) / 2, rel=4 * 2**-24)


def test_wsd_schedule():
    train = TrainTable(steps=100, warmup=10, cooldown=0.4)
    factors = [wsd(step, train) for step in range(100)]
    assert factors[0] == 0.1
    assert factors[9:61] == [1.0] * 52
    assert factors[61] == 39 / 40
    assert factors[99] == pytest.approx(1 / 40)
    assert wsd(100, train) == 0.0
    assert [wsd(s, TrainTable(steps=5, warmup=0, cooldown=0.0)) for s in range(5)] == [1.0] * 5


@pytest.mark.parametrize("arm", ARMS)
def test_the_schedule_reaches_every_group(recipe, tmp_path, watcher, arm):
    trainer = _trainer(recipe, tmp_path, arm)
    full = [group["initial_lr"] for member in trainer.optimizers.members for group in member.param_groups]
    trainer.advance(1, watcher)
    now = [group["lr"] for member in trainer.optimizers.members for group in member.param_groups]
    assert trainer.history[0]["lr"] == full[0] / 2
    assert now == full


@pytest.mark.parametrize("arm", ARMS)
def test_every_parameter_is_in_exactly_one_group(recipe, tmp_path, arm):
    trainer = _trainer(recipe, tmp_path, arm)
    held = [id(p) for member in trainer.optimizers.members for group in member.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in trainer.model.parameters())


def test_divergence_names_arm_and_step_and_does_not_step(recipe, tmp_path, watcher):
    trainer = _trainer(recipe, tmp_path)
    trainer.advance(2, watcher)
    with torch.no_grad():
        trainer.model.head.weight.fill_(math.inf)
    others = [p.clone() for name, p in trainer.model.named_parameters() if name != "head.weight"]
    with pytest.raises(Diverged, match=r"AdamW, seed 0: the loss is nan at step 3\. Lower its lr"):
        trainer.advance(12, watcher)
    assert trainer.step == 2
    assert _curve(tmp_path)[-1]["step"] == 3
    assert "diverged" in read_metrics(tmp_path / METRICS)[-1]
    after = [p for name, p in trainer.model.named_parameters() if name != "head.weight"]
    assert all(torch.equal(a, b) for a, b in zip(others, after, strict=True))


def test_a_checkpoint_of_another_run_is_refused(recipe, table, tmp_path, watcher):
    trainer = _trainer(recipe, tmp_path)
    trainer.advance(2, watcher)
    trainer.save()
    with pytest.raises(TrainError, match="another seed"):
        _trainer(recipe, tmp_path, seed=1)
    with pytest.raises(TrainError, match="another optimizer"):
        _trainer(recipe, tmp_path, "matfn Muon")
    with pytest.raises(TrainError, match="another recipe"):
        _trainer(recipes.from_table(override(table, "train.clip=1")), tmp_path)
    corpus = load_corpus(recipe.data)
    changed = replace(corpus, facts={**corpus.facts, "sha256": "0"})
    with pytest.raises(TrainError, match="another data"):
        Trainer(recipe, recipe.arm("AdamW"), changed, seed=0, directory=tmp_path)


def test_a_kill_before_the_move_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / CHECKPOINT
    checkpoint.save(path, {"step": 1})

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    for name in ("os.replace", "os.fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(f"matfn.train.files.{name}", killed)
            with pytest.raises(KeyboardInterrupt):
                checkpoint.save(path, {"step": 2})
        assert checkpoint.load(path) == {"step": 1}
    checkpoint.save(path, {"step": 3})
    assert checkpoint.load(path) == {"step": 3}
    assert [entry.name for entry in tmp_path.iterdir()] == [CHECKPOINT]


def test_unreadable_checkpoints_are_refused(tmp_path):
    with pytest.raises(TrainError, match="no checkpoint at"):
        checkpoint.load(tmp_path / CHECKPOINT)
    (tmp_path / CHECKPOINT).write_bytes(b"half of something")
    with pytest.raises(TrainError, match="is damaged"):
        checkpoint.load(tmp_path / CHECKPOINT)


def test_first_interrupt_asks_second_stops():
    before = signal.getsignal(signal.SIGINT)
    with interrupt() as ctrl_c:
        assert not ctrl_c.is_set()
        signal.raise_signal(signal.SIGINT)
        assert ctrl_c.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_the_model_sees_no_future(positions):
    model = make_model(ModelTable(layers=2, width=16, heads=2, positions=positions), 50, context=12, seed=0)
    tokens = torch.randint(0, 50, (3, 12), generator=torch.Generator().manual_seed(0))
    changed = tokens.clone()
    changed[:, 7:] = (changed[:, 7:] + 1) % 50
    before, after = model(tokens), model(changed)
    assert before.shape == (3, 12, 50)
    assert torch.equal(before[:, :7], after[:, :7])
    assert not torch.equal(before[:, 7:], after[:, 7:])
    assert not torch.equal(before[:, 1], model(tokens.roll(1, 1))[:, 2])


def test_model_weights_depend_on_the_seed_alone_and_start_small():
    table = ModelTable(layers=2, width=64, heads=4)
    torch.manual_seed(1)
    a = make_model(table, 256, context=8, seed=5)
    torch.manual_seed(2)
    b = make_model(table, 256, context=8, seed=5)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    logits = a(torch.arange(8)[None])
    # Head rows are N(0, .02^2) and the normed stream has norm sqrt(64): logits have deviation .16.
    assert 0.08 < float(logits.detach().std()) < 0.32


def test_tied_head_is_one_tensor():
    model = make_model(ModelTable(layers=1, width=16, heads=2, tied=True), 50, context=8, seed=0)
    assert isinstance(model, GPT)
    assert model.head.weight is model.embed.weight
    assert sum(p.numel() for p in model.parameters()) == 50 * 16 + 8 * 16 + 12 * 16 * 16 + 3 * 16


def test_gpt2_from_transformers_trains(table, tmp_path, watcher):
    pytest.importorskip("transformers")
    table = override(override(table, "model.name=gpt2"), "model.tied=true")
    before = torch.get_rng_state()
    trainer = _trainer(recipes.from_table(table), tmp_path, "matfn Muon")
    trainer.advance(4, watcher)
    assert torch.equal(torch.get_rng_state(), before)
    assert trainer.history[-1]["val_loss"] < math.log(256)


@pytest.mark.skipif(torch.cuda.is_available(), reason="tells what happens without CUDA")
def test_missing_cuda_is_said():
    assert pick_device("auto").type == "cpu"
    with pytest.raises(TrainError, match="no CUDA device"):
        pick_device("cuda")
