"""Faults: a rank that is lost, that raises or that has another model ends the step of the others with a clear error."""

import os
import signal

import pytest
import torch
from models import Tiny, batch, loss_of, spread, step_on_given_gradients
from models import weights as whole_weights
from processes import RankLostError
from torch import distributed, nn
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint import state_dict as tools
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from matfn.methods import NewtonSchulz
from matfn.optim import Muon, NorMuon, Shampoo, plan
from matfn.optim.matrices import exchange
from matfn.optim.matrices.layout import linear

TIMEOUT = 6.0  # seconds of a collective
LOST = ("the exchange of matrices", "comparing the plans of a step")


def names_the_exchange(error):
    """Whether an error says which exchange failed and where to look."""
    text = str(error)
    return isinstance(error, RuntimeError) and "Muon: " in text and any(what in text for what in LOST)


# A rank that is lost


def lost(signals, victim, calls, path):
    """Steps until the victim stops itself, at its `calls`-th collective of the optimizer. A checkpoint at step 2."""
    model, _, _ = spread(Tiny(layers=1, fused=False, dtype=torch.float64), "fsdp")
    optimizer = Muon(plan(model), lr=0.02)
    step_on_given_gradients(model, optimizer, 2)
    if path is not None:
        dcp.save(gathered(model, optimizer), checkpoint_id=path)
        distributed.barrier()
    made = [0]
    names = ("send", "_reduced") if calls % 2 else ("send",)
    for name in names:
        setattr(exchange.Team, name, counted(getattr(exchange.Team, name), made, victim, calls, signals))
    step_on_given_gradients(model, optimizer, 30, first=2)
    return "finished"


def counted(method, made, victim, calls, sent):
    """The method, which stops the victim at a call."""

    def call(team, *args):
        made[0] += 1
        if made[0] == calls and distributed.get_rank() == victim:
            if args and isinstance(args[0], exchange.Message):  # the message has left when the rank stops
                method(team, *args)
            os.kill(os.getpid(), sent)
        return method(team, *args)

    return call


def gathered(model, optimizer):
    return {"model": tools.get_model_state_dict(model), "optimizer": tools.get_optimizer_state_dict(model, optimizer)}


def uninterrupted():
    """The weights after five steps of one process."""
    model = Tiny(layers=1, fused=False, dtype=torch.float64)
    step_on_given_gradients(model, Muon(plan(model), lr=0.02), 5)
    return whole_weights(model)


def resumed(path, kind):
    """The weights after step 5, from the checkpoint of step 2."""
    model = Tiny(layers=1, fused=False, dtype=torch.float64, seed=1)
    if kind is not None:
        model, _, _ = spread(model, kind)
    optimizer = Muon(plan(model), lr=0.02)
    held = gathered(model, optimizer)
    dcp.load(held, checkpoint_id=path)
    tools.set_state_dict(model, optimizer, model_state_dict=held["model"], optim_state_dict=held["optimizer"])
    step_on_given_gradients(model, optimizer, 3, first=2)
    return whole_weights(model)


def check_lost(world, victim, calls, path, sent=signal.SIGKILL):
    """Lose a rank, and check how the others end. If they did not end in time, their outcome would be RankLostError."""
    outcomes = world(4).outcomes(lost, sent, victim, calls, path, timeout=TIMEOUT, limit=60.0)
    for rank, outcome in enumerate(outcomes):
        if rank == victim:
            assert isinstance(outcome, RankLostError)
        else:
            assert names_the_exchange(outcome), outcome


@pytest.mark.parametrize(("victim", "calls"), [(0, 1), (3, 2), (2, 9)])
def test_a_killed_rank_ends_the_others_and_the_checkpoint_resumes(world, tmp_path, victim, calls):
    path = str(tmp_path)
    check_lost(world, victim, calls, path)
    expected = uninterrupted()
    for ranks, kind in ((3, "fsdp"), (2, "fsdp"), (1, None)) if calls == 9 else ((3, "fsdp"),):
        for weights in world(ranks).run(resumed, path, kind):
            assert max((w - expected[name]).norm() / w.norm() for name, w in weights.items()) < 1e-9


def test_a_stopped_rank_is_a_timeout(world):
    check_lost(world, 1, 4, None, signal.SIGSTOP)


# A rank that makes a step less


def makes_a_step_less():
    """Rank 1 leaves out its second step, so messages of DDP meet the step of rank 0."""
    model, _, reads = spread(Tiny(layers=1, fused=False), "ddp")
    optimizer = Muon(plan(model), lr=0.02)
    for step in range(4):
        optimizer.zero_grad()
        loss_of(model, batch(step, *reads)).backward()
        if distributed.get_rank() == 0 or step != 1:
            optimizer.step()


def test_a_step_that_one_rank_leaves_out_is_an_error_within_the_timeout(world):
    outcomes = world(2).outcomes(makes_a_step_less, timeout=2.0, limit=20.0)
    assert names_the_exchange(outcomes[0]), outcomes[0]
    assert "made no step" in str(outcomes[0])
    assert isinstance(outcomes[1], RuntimeError)
    assert not isinstance(outcomes[1], RankLostError)


# A rank that raises


def raises_in_a_hook():
    """Rank 1 runs out of memory in a hook of its third bucket."""
    model, _, _ = spread(Tiny(layers=1, fused=False, dtype=torch.float64), "fsdp")
    optimizer, seen = Muon(plan(model), lr=0.02), []

    def hook(bucket, update):
        seen.append(bucket)
        if distributed.get_rank() == 1 and len(seen) == 3:
            raise torch.OutOfMemoryError("no memory is left")

    optimizer.before_move.append(hook)
    step_on_given_gradients(model, optimizer, 30)


def test_an_error_of_one_rank_ends_the_others(world):
    outcomes = world(4).outcomes(raises_in_a_hook, timeout=TIMEOUT, limit=60.0)
    assert isinstance(outcomes[1], torch.OutOfMemoryError)
    for rank in (0, 2, 3):
        assert names_the_exchange(outcomes[rank]), outcomes[rank]


# A rank with another model


def stack_of(shapes, dtype=torch.float32):
    """Named parameters, cut along their rows."""
    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    params = [
        nn.Parameter(distribute_tensor(torch.ones(s, dtype=dtype), mesh, [Shard(0)], src_data_rank=None))
        for s in shapes
    ]
    for param in params:
        param.grad = torch.ones_like(param)
    return [(f"layer{i}", p) for i, p in enumerate(params)]


def other_layer(odd):
    return Muon(stack_of([(8, 4), (8, 8)] if odd else [(8, 4), (8, 8), (6, 6)]))


def other_shape(odd):
    return Muon(stack_of([(8, 4), (8, 7 if odd else 8)]))


def other_order(odd):
    return Muon(stack_of([(8, 4), (8, 8)])[:: -1 if odd else 1])


def other_rule(odd):
    first, second = stack_of([(8, 4), (8, 8)])
    return Muon([{"params": [first]}, {"params": [second], "rule": "adamw" if odd else "matrix"}])


def other_dtype(odd):
    return Muon(stack_of([(8, 4), (8, 8)], torch.float64 if odd else torch.float32))


def other_method(odd):
    return Muon(stack_of([(8, 4), (8, 8)]), method=NewtonSchulz(steps=3) if odd else None)


def other_precision(odd):
    return Muon(stack_of([(8, 4), (8, 8)]), precision=torch.float32 if odd else torch.bfloat16)


def other_option(odd):
    return Muon(stack_of([(8, 4), (8, 8)]), momentum=0.9 if odd else 0.95)


def other_optimizer(odd):
    return (NorMuon if odd else Muon)(stack_of([(8, 4), (8, 8)]), lr=0.02)


def other_rest(odd):
    first, second = stack_of([(8, 4), (8, 8)])
    return Muon([{"params": [first]}, {"params": [second], "rule": "adamw", "betas": (0.8 if odd else 0.9, 0.99)}])


def other_factors(odd):
    return Shampoo(stack_of([(8, 4), (8, 8)]), lr=0.02, root_every=5 if odd else 10)


def other_layout(odd):
    [(name, param)] = stack_of([(8, 4)])
    return Muon([{"params": [(name, param)], "layout": [linear((8, 4)).cut(2 if odd else 1)]}])


def other_placement(odd):
    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    param = nn.Parameter(DTensor.from_local(torch.ones(4, 4), mesh, [Replicate() if odd else Shard(0)]))
    param.grad = torch.ones_like(param)
    return Muon([("layer0", param)])


def group_added_by_one(odd):
    first, second = stack_of([(8, 4), (8, 8)])
    optimizer = Muon([first])
    optimizer.step()
    if odd:
        optimizer.add_param_group({"params": [second]})
    return optimizer


OTHERS = {
    other_layer: ("layer2 of shape (6, 6)",),
    other_shape: ("layer1 of shape (8, 8)", "layer1 of shape (8, 7)"),
    other_order: ("the same parameters in another order",),
    other_rule: ("'matrix'", "'adamw'"),
    other_dtype: ("torch.float32", "torch.float64"),
    other_method: ("method=NewtonSchulz("),
    other_precision: ("precision=torch.bfloat16", "precision=torch.float32"),
    other_option: ("momentum=0.95", "momentum=0.9,"),
    other_optimizer: ("Polar(", "RowNorm("),
    other_rest: ("betas=(0.9, 0.99)", "betas=(0.8, 0.99)"),
    other_factors: ("root_every=10", "root_every=5"),
    other_layout: ("read as ((1, 8, 4),)", "read as ((1, 4, 4), (1, 4, 4))"),
    other_placement: ("placements (Shard(dim=0),)", "placements (Replicate(),)"),
    group_added_by_one: ("layer1 of shape (8, 8)",),
}


def refusal(make):
    """The message of the refusal, and whether any weight moved before it. Rank 1 has another model."""
    optimizer = make(distributed.get_rank() == 1)
    params = [p for group in optimizer.param_groups for p in group["params"]]
    before = [p.to_local().detach().clone() for p in params]
    try:
        optimizer.step()
    except RuntimeError as error:
        return str(error), all(torch.equal(p.to_local(), old) for p, old in zip(params, before, strict=True))
    return "no error", False


def refusals():
    return {make.__name__: refusal(make) for make in OTHERS}


def test_another_model_is_refused_on_all_ranks_with_the_difference(world):
    for found in world(3).run(refusals):
        for make, shown in OTHERS.items():
            text, unmoved = found[make.__name__]
            assert "the plans of ranks 0 and 1 differ, so their exchange would hang" in text, (make.__name__, text)
            assert all(part in text for part in shown), (make.__name__, text)
            assert unmoved, make.__name__
            assert len(text) < 3000, text
