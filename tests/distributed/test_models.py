"""What users do with sharded models: accumulation, clipping, compilation, offload, two dtypes, frozen parts, groups."""

import contextlib
from functools import partial

import pytest
import torch
from models import Tiny, batch, farthest, full, give_gradients, loss_of, spread, step_on_given_gradients
from models import weights as whole_weights
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard

from matfn.optim import Muon, NorMuon, PolarGrad, Shampoo, plan

CLOSE = 1e-9  # float64; no matrix here is worse conditioned than 1e5
STEPS = 4


def made(kind, dtype=torch.float64, **options):
    """A model spread in a kind (None: plain), and which part of the batch this rank reads."""
    model = Tiny(layers=1, fused=False, dtype=dtype, **options)
    if kind is None:
        return model, (0, 1)
    model, _, reads = spread(model, kind)
    return model, reads


def sharded(model, **policies):
    """FSDP2 with policies over all ranks."""
    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    for block in model.blocks:
        fully_shard(block, mesh=mesh, **policies)
    fully_shard(model, mesh=mesh, **policies)
    return model, (mesh.get_local_rank(), mesh.size())


# Training with real gradients


def accumulated(kind):
    """Two backward passes for each step, the first without communication; then clipping; a scheduler."""
    model, (part, parts) = made(kind)
    optimizer = Muon(plan(model), lr=0.02)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.5, STEPS)
    norms = []
    for step in range(STEPS):
        optimizer.zero_grad()
        for micro in range(2):
            quiet = contextlib.nullcontext()
            if kind == "ddp" and micro == 0:
                quiet = model.no_sync()
            elif kind is not None and kind != "ddp":
                model.set_requires_gradient_sync(micro == 1)
            with quiet:
                (loss_of(model, batch(2 * step + micro, part, parts)) / 2).backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        norms.append(full(norm).item())
        optimizer.step()
        scheduler.step()
    return whole_weights(model), norms


@pytest.mark.parametrize("kind", ["ddp", "fsdp", "hsdp"])
def test_accumulation_clipping_and_schedules(world, kind):
    expected, norms = accumulated(None)
    assert min(norms) > 0.1  # clipping has an effect
    for weights, others in world(4).run(accumulated, kind):
        assert farthest(weights, expected) < CLOSE
        assert others == pytest.approx(norms, rel=1e-9)


def compiled(kind):
    model, reads = made(None) if kind is None else made(kind)
    model = torch.compile(model, backend="aot_eager") if kind else model
    optimizer = Muon(plan(model), lr=0.02)
    for step in range(2):
        optimizer.zero_grad()
        loss_of(model, batch(step, *reads)).backward()
        optimizer.step()
    return {name.removeprefix("_orig_mod."): w for name, w in whole_weights(model).items()}


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_compiled_models(world, kind):
    expected = compiled(None)
    for weights in world(2).run(compiled, kind):
        weights = {name.removeprefix("module."): w for name, w in weights.items()}
        assert farthest(weights, expected) < CLOSE


def low_precision():
    """FSDP2 computes in bfloat16, and keeps parameters and gradients for the optimizer in float32."""
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    model, reads = sharded(Tiny(layers=1), mp_policy=policy)
    optimizer = Muon(plan(model), lr=0.02)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = loss_of(model, batch(0, *reads))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    dtypes = {p.dtype for p in model.parameters()} | {
        s["momentum_buffer"].dtype for s in optimizer.state.values() if "momentum_buffer" in s
    }
    return losses, dtypes


def test_mixed_precision_policies_train(world):
    for losses, dtypes in world(2).run(low_precision):
        assert losses[-1] < losses[0] - 0.5
        assert dtypes == {torch.float32}


# Given gradients, in ways a model may be made


def mixed_dtypes(kind):
    """The blocks in bfloat16, the rest in float64, so all bfloat16 matrices and some float64 ones share rounds."""
    model = Tiny(layers=1, fused=False, dtype=torch.float64)
    model.blocks.to(torch.bfloat16)
    if kind is not None:
        model, _, _ = spread(model, kind)
    step_on_given_gradients(model, NorMuon(plan(model), lr=0.02), STEPS)
    return whole_weights(model)


@pytest.mark.parametrize("kind", ["ddp", "fsdp", "fsdp_tp"])
def test_one_model_in_two_dtypes(world, kind):
    alone = mixed_dtypes(None)
    narrow = {name for name, w in alone.items() if w.dtype is torch.bfloat16}
    wide = alone.keys() - narrow
    assert narrow
    assert wide
    for weights in world(4).run(mixed_dtypes, kind):
        assert {name: w.dtype for name, w in weights.items()} == {name: w.dtype for name, w in alone.items()}
        assert farthest({k: weights[k] for k in wide}, {k: alone[k] for k in wide}) < CLOSE
        # A float32 result near the middle of two bfloat16 numbers may be rounded to either: one spacing, 2^-7 relative.
        own, other = ({name: each[name].double() for name in narrow} for each in (weights, alone))
        assert farthest(own, other) < STEPS * 2**-7


def offloaded():
    """FSDP2 with all shards on the host, beside a plain model."""
    model, reads = sharded(Tiny(layers=1, dtype=torch.float64), offload_policy=CPUOffloadPolicy(pin_memory=False))
    alone = Tiny(layers=1, dtype=torch.float64)
    optimizer, reference = Shampoo(plan(model), lr=0.02), Shampoo(plan(alone), lr=0.02)
    for step in range(STEPS):
        for each, mine, read in ((model, optimizer, reads), (alone, reference, (0, 1))):
            mine.zero_grad()
            loss_of(each, batch(step, *read)).backward()
            mine.step()
    return farthest(whole_weights(model), whole_weights(alone))


def test_shards_on_the_host(world):
    assert max(world(2).run(offloaded)) < 1e-7  # Shampoo's roots of factors of condition 1e10 multiply rounding errors


def unfrozen(kind):
    """A block that is frozen at first and trained later."""
    model = Tiny(layers=2, fused=False, dtype=torch.float64)
    model.blocks[0].requires_grad_(False)
    reads = (0, 1)
    if kind is not None:
        model, _, reads = spread(model, kind)
    optimizer = Muon(plan(model, frozen="keep"), lr=0.02)
    before = whole_weights(model)
    moved = []
    for step in range(4):
        if step == 2:
            model.blocks[0].requires_grad_(True)
        optimizer.zero_grad()
        loss_of(model, batch(step, *reads)).backward()
        optimizer.step()
        now = whole_weights(model)
        moved.append(not torch.equal(now["blocks.0.up.weight"], before["blocks.0.up.weight"]))
    return now, moved


@pytest.mark.parametrize("kind", ["fsdp", "hsdp", "tp"])
def test_frozen_blocks_are_kept_and_trained_later(world, kind):
    expected, _ = unfrozen(None)
    for weights, moved in world(4).run(unfrozen, kind):
        assert moved == [False, False, True, True]
        assert farthest(weights, expected) < CLOSE


def grown(kind):
    """Groups that are added after two steps: a matrix of another rule, and vectors."""
    model, _ = made(kind)
    entries = list(plan(model))
    first = [e for e in entries if "extra" not in e.name]
    later = [e for e in entries if "extra" in e.name and e.is_matrix]
    vectors = [e for e in entries if "extra" in e.name and not e.is_matrix]
    optimizer = Muon(
        [
            {"params": [(e.name, e.parameter) for e in first if e.is_matrix]},
            {"params": [(e.name, e.parameter) for e in first if not e.is_matrix], "rule": "adamw", "lr": 0.01},
        ],
        lr=0.02,
    )
    step_on_given_gradients(model, optimizer, 2)
    optimizer.add_param_group(
        {"params": [(e.name, e.parameter) for e in later], "layout": [e.layout for e in later], "lr": 0.03}
    )
    optimizer.add_param_group({"params": [(e.name, e.parameter) for e in vectors], "rule": "adamw", "lr": 0.01})
    step_on_given_gradients(model, optimizer, 2, first=2)
    return whole_weights(model)


@pytest.mark.parametrize("kind", ["fsdp", "fsdp_tp"])
def test_groups_that_are_added_later(world, kind):
    expected = grown(None)
    for weights in world(4).run(grown, kind):
        assert farthest(weights, expected) < CLOSE


def several_rules(kind):
    """Rules side by side, an lr that is a tensor, and a closure."""
    model, _ = made(kind)
    optimizer = Muon(
        plan(model, overrides={"*up*": "flat", "*down*": "shampoo"}),
        lr=torch.tensor(0.02, dtype=torch.float64),
        rules={"flat": partial(PolarGrad, lr=0.02, growth=2.0), "shampoo": partial(Shampoo, lr=0.02)},
    )
    calls = []

    def closure():
        calls.append(1)
        give_gradients(model, len(calls))
        return float(len(calls))

    losses = [optimizer.step(closure) for _ in range(STEPS)]
    return whole_weights(model), losses


@pytest.mark.parametrize("kind", ["ddp", "fsdp", "fsdp_tp"])
def test_rules_side_by_side_with_a_closure_and_a_tensor_as_lr(world, kind):
    expected, losses = several_rules(None)
    for weights, others in world(4).run(several_rules, kind):
        assert others == losses
        assert farthest(weights, expected) < CLOSE


def missing_on_a_replica(kind):
    """Rank 1 loses gradients that its replicas have: of matrices, vectors and a table."""
    model = Tiny(layers=1, fused=False, dtype=torch.float64)
    if kind is not None:
        model, _, _ = spread(model, kind)
    optimizer, gone = Muon(plan(model), lr=0.02), ("q.weight", "norm1", "embed")
    for seed in range(3):
        give_gradients(model, seed)
        if kind is not None and distributed.get_rank() == 1 and seed != 1:
            give_gradients(model, seed, without=gone)
        optimizer.step()
    lacking = [name for name, p in model.named_parameters() if p.grad is None]
    return whole_weights(model), lacking


@pytest.mark.parametrize("kind", ["ddp", "hsdp"])
def test_replicas_stay_equal_if_one_lacks_gradients(world, kind):
    expected, _ = missing_on_a_replica(None)
    results = world(4).run(missing_on_a_replica, kind)
    for rank, (weights, lacking) in enumerate(results):
        assert farthest(weights, expected) < CLOSE
        assert len(lacking) == (3 if rank == 1 else 0)


def scaled(kind):
    """GradScaler: a gradient that overflows on one rank makes every rank skip the step."""
    model, _ = made(kind)
    optimizer = Muon(plan(model), lr=0.02)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for seed in range(3):
        give_gradients(model, seed)
        for param in model.parameters():
            param.grad.mul_(scaler.get_scale())
        if seed == 1 and (kind is None or distributed.get_rank() == 1):
            gradient = dict(model.named_parameters())["blocks.0.up.weight"].grad
            (gradient if kind is None else gradient.to_local()).view(-1)[0] = torch.inf
        scaler.scale(torch.zeros(()))  # makes the scale, which backward() would have needed
        scaler.step(optimizer)
        scaler.update()
    return whole_weights(model), scaler.get_scale()


def test_a_grad_scaler_skips_the_step_of_all_ranks(world):
    expected, scale = scaled(None)
    assert scale == 2.0
    for weights, other in world(2).run(scaled, "fsdp"):
        assert other == scale
        assert farthest(weights, expected) < CLOSE
