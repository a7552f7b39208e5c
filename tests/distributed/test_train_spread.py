"""A run of `matfn train` on several processes: the curve of one process, one writer, and checkpoints for any number."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import distributed

from matfn.train import TrainError, parallel, processes
from matfn.train import recipe as recipes
from matfn.train.data import load_corpus
from matfn.train.loop import Trainer
from matfn.train.metrics import read_metrics
from matfn.train.progress import everywhere, interrupt
from small_recipe import Silent

STEPS = 12
# Each step may add its own rounding of the loss, a mean in float32, and of the weights: 2 units of 1.2e-7, relative.
ROUNDING = STEPS * 2 * torch.finfo(torch.float32).eps
KINDS = {
    "ddp": (2, {"kind": "ddp"}),
    "fsdp": (2, {"kind": "fsdp"}),
    "tp": (2, {"kind": "tp"}),
    "fsdp and tp": (4, {"kind": "fsdp", "tp": 2}),
}
ARMS = {
    "adamw": {"kind": "adamw", "lr": 0.01},
    "muon": {"kind": "muon", "lr": 0.02, "method": "polar-express:steps=3", "precision": "float32"},
}


@pytest.fixture
def text(tmp_path):
    """A file of text."""
    words = ["alpha", "beta", "gamma", "delta"]
    path = tmp_path / "text.txt"
    path.write_text(" ".join(words[i * i % 7 % 4] + words[i % 3] for i in range(2000)))
    return path


def table(text, arm, **train):
    """The table of a tiny run; its evaluations have 8 windows and 3, which two processes cannot divide."""
    train = {"steps": STEPS, "batch": 8, "warmup": 2, "eval_every": 4, "eval_windows": 11, "device": "cpu", **train}
    data = {"source": "text", "path": str(text), "context": 16, "val_fraction": 0.2}
    model = {"layers": 1, "width": 16, "heads": 2}
    return {"title": "tiny", "model": model, "data": data, "train": train, "optimizer": ARMS[arm]}


def trained(table, kind, folder, until=STEPS):
    """Train from the checkpoint in the folder to a step, and save; returns the losses that this process knows."""
    recipe = recipes.from_table({**table, "parallel": kind})
    trainer = Trainer(recipe, recipe.optimizer, load_corpus(recipe.data), seed=0, directory=Path(folder))
    trainer.advance(until, Silent())
    trainer.save()
    trainer.metrics.close()
    return losses(trainer.history)


def losses(lines):
    return [(line["step"], line.get("loss", line.get("val_loss"))) for line in lines]


def assert_same(found, wanted):
    assert [step for step, _ in found] == [step for step, _ in wanted]
    assert [loss for _, loss in found] == pytest.approx([loss for _, loss in wanted], rel=ROUNDING)


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("name", KINDS)
def test_the_curve_is_that_of_one_process(world, text, tmp_path, arm, name):
    number, kind = KINDS[name]
    wanted = trained(table(text, arm), {}, tmp_path / "one")
    curves = world(number).run(trained, table(text, arm), kind, str(tmp_path / "many"))
    assert_same(curves[0], wanted)
    assert all(curve == curves[0] for curve in curves), "a loss that differs would let the processes part"
    assert losses(read_metrics(tmp_path / "many" / "metrics.jsonl")) == curves[0]


@pytest.mark.parametrize("name", KINDS)
def test_clipping_takes_the_norm_of_the_whole_model(world, text, tmp_path, name):
    number, kind = KINDS[name]
    clipped = table(text, "adamw", clip=0.3, accumulate=2)
    wanted = trained(clipped, {}, tmp_path / "one")
    assert wanted[-1][1] != pytest.approx(trained(table(text, "adamw", accumulate=2), {}, tmp_path / "free")[-1][1])
    assert_same(world(number).run(trained, clipped, kind, str(tmp_path / "many"))[0], wanted)


@pytest.mark.parametrize("arm", ["adamw", "muon"])
def test_a_run_goes_on_with_another_number_of_processes(world, text, tmp_path, arm):
    """On 2, 1, 4 and 2 processes in turn."""
    wanted, folder = trained(table(text, arm), {}, tmp_path / "one"), tmp_path / "many"
    world(2).run(trained, table(text, arm), KINDS["fsdp"][1], str(folder), 3)
    trained(table(text, arm), {}, folder, 5)
    world(4).run(trained, table(text, arm), KINDS["fsdp and tp"][1], str(folder), 9)
    world(2).run(trained, table(text, arm), KINDS["ddp"][1], str(folder))
    assert_same(losses(read_metrics(folder / "metrics.jsonl")), wanted)


def form(value):
    """Shapes and dtypes in place of tensors, and types in place of values."""
    if isinstance(value, dict):
        return {key: form(item) for key, item in value.items()}
    if isinstance(value, list):
        return [form(item) for item in value]
    return (type(value), value.shape, value.dtype) if isinstance(value, torch.Tensor) else type(value)


@pytest.mark.parametrize("name", KINDS)
def test_a_checkpoint_has_the_form_of_one_process(world, text, tmp_path, name):
    number, kind = KINDS[name]
    trained(table(text, "muon"), {}, tmp_path / "one", 2)
    world(number).run(trained, table(text, "muon"), kind, str(tmp_path / "many"), 2)
    one, many = (torch.load(tmp_path / f / "checkpoint.pt", weights_only=True) for f in ("one", "many"))
    assert form(one["model"]) == form(many["model"])
    assert form(one["optimizers"]) == form(many["optimizers"])
    assert torch.equal(one["batches"], many["batches"])
    assert [torch.equal(a, b) for a, b in zip(one["rng"], many["rng"], strict=True)] == [True]
    assert sorted(path.name for path in (tmp_path / "many").iterdir()) == ["checkpoint.pt", "metrics.jsonl"]


def heard(rank):
    """Whether this process is told to stop, before and after a signal to one process; and the number of the signal."""
    with interrupt() as signalled:
        stop = everywhere(signalled)
        before = stop()
        if distributed.get_rank() == rank:
            os.kill(os.getpid(), signal.SIGTERM)
        return before, stop(), signalled.number


def test_a_signal_to_one_process_stops_all(world):
    assert world(2).run(heard, 1) == [(False, True, signal.SIGTERM)] * 2


def fails_in_first():
    return processes.from_first(lambda: json.loads("{"))


def test_an_error_of_the_first_process_is_raised_in_all(world):
    outcomes = world(2).outcomes(fails_in_first)
    assert [type(outcome) for outcome in outcomes] == [json.JSONDecodeError] * 2


def trained_on_own_text(table, text):
    """Train on a text that is longer on the second process."""
    if distributed.get_rank():
        text = text.with_name("longer.txt")
        text.write_text("epsilon " * 500)
    trained({**table, "data": {**table["data"], "path": str(text)}}, KINDS["ddp"][1], text.parent / "many", 1)


def test_another_text_is_refused(world, text):
    outcomes = world(2).outcomes(trained_on_own_text, table(text, "adamw"), text, timeout=10.0)
    assert "process 1 reads another text than process 0" in str(outcomes[1])


def shares(count):
    """The windows that this process draws, and the windows of the whole batch."""
    recipe = recipes.from_table({"parallel": {"kind": "ddp"}, "train": {"batch": count}})
    return parallel.data_part(recipe)


def test_each_process_has_a_share_of_the_batch(world):
    assert world(4).run(shares, 8) == [(0, 4), (1, 4), (2, 4), (3, 4)]


def refusal(table):
    """The error of a recipe."""
    with pytest.raises(TrainError) as error:
        parallel.check(recipes.from_table(table))
    return str(error.value)


BAD = {
    "no kind": ({}, "2 processes would each train the whole run"),
    "an odd batch": ({"parallel": {"kind": "ddp"}, "train": {"batch": 5}}, "train.batch = 5 cannot be divided by 2"),
    "odd heads": ({"parallel": {"kind": "tp"}, "model": {"heads": 1}}, "model.heads = 1 cannot be divided by 2"),
    "a model without a plan": (
        {"parallel": {"kind": "tp"}, "model": {"name": "gpt2", "tied": True}},
        'takes model.name = "gpt", not "gpt2"',
    ),
    "too wide groups": ({"parallel": {"kind": "fsdp", "tp": 4}}, "parallel.tp = 4 does not divide the 2 processes"),
    "telemetry": ({"parallel": {"kind": "ddp"}, "telemetry": {"every": 3}}, "set telemetry.every = 0"),
}


@pytest.mark.parametrize(("bad", "words"), BAD.values(), ids=BAD.keys())
def test_what_cannot_be_served_is_refused(world, bad, words):
    assert all(words in told for told in world(2).run(refusal, bad))


@pytest.mark.parametrize(("tp", "number"), [(1, 2), (2, 2), (3, 3)])
def test_without_torchrun_the_error_has_the_line_to_type(tp, number):
    with pytest.raises(TrainError, match=f"torchrun --standalone --nproc-per-node {number} -m matfn_main"):
        parallel.check(recipes.from_table({"parallel": {"kind": "fsdp", "tp": tp}}))


def test_tp_belongs_to_fsdp():
    with pytest.raises(TrainError, match=r'parallel.tp = 2 belongs to kind = "fsdp"'):
        recipes.from_table({"parallel": {"kind": "ddp", "tp": 2}})


def test_recipes_of_one_curve_differ_in_parallel_only():
    one = recipes.from_table({})
    assert one.same_curve(recipes.from_table({"parallel": {"kind": "ddp"}}))
    assert not one.same_curve(replace(one, title="another"))
    moved = recipes.moved(one, ["parallel.kind=fsdp"])
    assert moved.parallel.kind == "fsdp"
    assert moved.same_curve(one)
    with pytest.raises(TrainError, match="takes keys of"):
        recipes.moved(one, ["train.steps=3"])
