"""The examples for training frameworks run on small models, and do what a loop written out does; a resumed run too."""

import contextlib
import importlib
import io
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from matfn.optim import Muon, plan

ROOT = Path(__file__).parents[2]
STEPS = 6
SAME = dict(rel=1e-5, abs=0)  # runs differ by the order of sums alone, in float32


@pytest.fixture
def example(monkeypatch):
    """A function from the name of an example to its module."""
    monkeypatch.syspath_prepend(ROOT / "examples")
    return importlib.import_module


@pytest.fixture(autouse=True)
def quiet():
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def by_hand(model, losses_of, schedule, steps=STEPS, clip=1.0, **options):
    """The losses of a loop in plain torch. `losses_of` gives the parts of the loss of a step, one after the other."""
    optimizer = Muon(plan(model), lr=0.02, **{"rest": dict(lr=3e-3), **options})
    scheduler, found = schedule(optimizer), []
    for step in range(steps):
        parts = []
        for loss in losses_of(model, step):
            loss.backward()
            parts.append(loss.item())
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        found.append(parts)
    return found


def linear(optimizer):
    return torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=STEPS)


def test_trainer_of_transformers(example, tmp_path):
    """The three ways give one run, and its second half again from a checkpoint."""
    pytest.importorskip("accelerate", reason="the Trainer needs accelerate, of the extra integrations")
    main = pytest.importorskip("transformers") and example("transformers_trainer").main
    whole = main("optimizers", STEPS, str(tmp_path))
    assert len(whole) == STEPS
    assert min(whole[3:]) < whole[0] - 0.05
    resumed = main("optimizers", STEPS, str(tmp_path), resume=str(tmp_path / f"checkpoint-{STEPS // 2}"))
    assert resumed == pytest.approx(whole, **SAME)
    assert main("class", STEPS) == pytest.approx(whole, **SAME)
    if int(sys.modules["transformers"].__version__.split(".")[0]) >= 5:  # older ones take classes alone
        assert main("factory", STEPS) == pytest.approx(whole, **SAME)


def test_accelerate(example, tmp_path):
    pytest.importorskip("accelerate", reason="needs accelerate, of the extra integrations")
    data, llama = example("tiny_llama").Counting(), example("tiny_llama").tiny_llama

    def losses_of(model, step):
        for part in (2 * step, 2 * step + 1):
            rows = torch.stack([data[index]["input_ids"] for index in range(8 * part, 8 * part + 8)])
            yield model(input_ids=rows, labels=rows).loss / 2

    expected = [2 * parts[-1] for parts in by_hand(llama(), losses_of, linear)]
    main = example("accelerate_loop").main
    assert main(STEPS, str(tmp_path)) == pytest.approx(expected, **SAME)
    assert main(STEPS, str(tmp_path), resume=True) == pytest.approx(expected[STEPS // 2 :], **SAME)


@pytest.mark.parametrize("kind", ["Automatic", "Manual"])
@pytest.mark.filterwarnings("ignore")
def test_lightning(example, kind, tmp_path):
    pytest.importorskip("pytorch_lightning", reason="needs pytorch-lightning, of the extra integrations")
    small, module = example("small_gpt"), example("lightning_modules")
    expected = by_hand(small.SmallGPT(), lambda model, step: [small.loss_of(model, small.batch(step))], linear)
    expected = [loss for (loss,) in expected]
    assert module.main(getattr(module, kind), STEPS)[0] == pytest.approx(expected, **SAME)
    first, trainer = module.main(getattr(module, kind), STEPS, until=STEPS // 2)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    second, _ = module.main(getattr(module, kind), STEPS, resume=str(tmp_path / "half.ckpt"))
    assert first + second == pytest.approx(expected, **SAME)


def test_factors_of_lora(example):
    """Both factors of hidden layers are matrices, those of head and embedding are not, and the base stays."""
    pytest.importorskip("peft", reason="needs peft, of the extra integrations")
    model, decided, losses = example("peft_lora").main(STEPS)
    rules = {entry.name: entry.rule for entry in decided}
    factors = {name: rule for name, rule in rules.items() if "lora_" in name}
    outside = [name for name in factors if "lm_head" in name or "embed_tokens" in name]
    assert {factors[name] for name in outside} == {"adamw"}
    assert {rule for name, rule in factors.items() if name not in outside} == {"matrix"}
    assert {rule for name, rule in rules.items() if name not in factors} == {"frozen"}
    assert not decided.looks
    assert losses[-1] < losses[0] - 0.01
    start = example("tiny_llama").tiny_llama().state_dict()
    base = model.unload().state_dict()
    assert all(torch.equal(w, base[name]) for name, w in start.items())


def test_torchtitans_style(example, tmp_path):
    small, main = example("small_gpt"), example("torchtitan_style").main

    def schedule(optimizer):
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: min((k + 1) / 4, 1 - k / STEPS))

    expected = by_hand(small.SmallGPT(), lambda model, step: [small.loss_of(model, small.batch(step))], schedule)
    expected = [loss for (loss,) in expected]
    assert main(STEPS, tmp_path) == pytest.approx(expected, **SAME)
    assert main(STEPS, tmp_path, resume=True) == pytest.approx(expected[STEPS // 2 :], **SAME)


def test_torchtunes_style(example, tmp_path):
    small, module = example("small_gpt"), example("torchtune_style")

    def losses_of(model, step):
        return (small.loss_of(model, small.batch(step, part, 2)) / 2 for part in range(2))

    decay = dict(weight_decay=0.1, rest=dict(lr=3e-3, weight_decay=0.1))
    found = by_hand(
        small.SmallGPT(), losses_of, lambda opt: torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=20), **decay
    )
    recipe = module.Recipe(module.CONFIG)
    first = recipe.train(STEPS // 2)
    recipe.save(tmp_path / "recipe.pt")
    second = module.Recipe(module.CONFIG, tmp_path / "recipe.pt").train(STEPS)
    assert first + second == pytest.approx([sum(parts) for parts in found], **SAME)


def test_nano_gpt(example):
    losses = example("nano_gpt").main(str(ROOT / "README.md"), 15)
    assert losses[-1] < losses[0] - 1
    lines = (ROOT / "examples" / "nano_gpt.py").read_text().splitlines()
    assert sum(bool(line.strip()) for line in lines) == 60
    fused = [entry.layout for entry in plan(sys.modules["nano_gpt"].GPT()) if "c_attn.weight" in entry.name]
    assert [layout.matrices for layout in fused if layout] == [((1, 64, 64),) * 3] * 2


@pytest.mark.parametrize("groups", ["matrices", "all"])
def test_flattened_groups_are_refused(groups):
    """Wrappers such as DeepSpeed's ZeRO put one flat vector in place of the parameters of each group."""
    net = nn.Sequential(nn.Embedding(11, 8), nn.Linear(8, 12), nn.Linear(12, 8), nn.Linear(8, 11))
    optimizer = Muon(plan(net), lr=0.1)
    for group in optimizer.param_groups[: 1 if groups == "matrices" else None]:
        flat = nn.Parameter(torch.cat([p.detach().flatten() for p in group["params"]]))
        flat.grad = torch.ones_like(flat)
        group["params"] = [flat]
    before = [p.clone() for group in optimizer.param_groups for p in group["params"]]
    with pytest.raises(RuntimeError, match=r"Muon: group 0 has 1 parameters, but 2 names: its list was changed"):
        optimizer.step()
    assert all(map(torch.equal, before, (p for group in optimizer.param_groups for p in group["params"])))
    assert not optimizer.state


def test_parameters_as_a_generator_are_refused_if_they_hold_vectors():
    net = nn.Sequential(nn.Linear(8, 12), nn.Linear(12, 8))
    with pytest.raises(ValueError, match=r"is not a matrix\. Pass plan\(model\)"):
        Muon(net.parameters(), lr=0.1)
    assert len(Muon((p for p in net.parameters() if p.ndim == 2), lr=0.1).param_groups[0]["params"]) == 2
