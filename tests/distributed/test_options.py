"""Options and tools on sharded parameters: rounding, hooks, telemetry, copies, and the precision of the iteration."""

import copy
import pickle

import pytest
import torch
from models import Tiny, farthest, full, give_gradients, spread, step_on_given_gradients
from models import weights as whole_weights
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from matfn.engines import Direct, Gram
from matfn.optim import Muon, Shampoo, Telemetry, plan

STEPS = 20
LR = 0.02


def rounded(rounding, ranks_shape):
    """Two shards with equal entries: the mean of the weights that round up, and what is equal between replicas."""
    mesh = init_device_mesh("cpu", ranks_shape)
    placements = [Replicate()] * (len(ranks_shape) - 1) + [Shard(0)]
    start = torch.ones(512, 8, dtype=torch.bfloat16)
    param = nn.Parameter(distribute_tensor(start, mesh, placements, src_data_rank=None))
    gradient = torch.ones(512, 8, dtype=torch.bfloat16)
    param.grad = distribute_tensor(gradient, mesh, placements, src_data_rank=None)
    optimizer = Muon([("p", param)], lr=1e-3, weight_decay=1.0, rounding=rounding)
    param.grad.to_local().zero_()  # the step is the decay by 1e-3 alone
    optimizer.step()
    return param.to_local().detach().clone()


@pytest.mark.parametrize("shape", [(2,), (2, 2)])
def test_stochastic_rounding_is_right_on_average_and_equal_on_replicas(world, shape):
    shards = world(len(shape) * 2).run(rounded, "stochastic", shape)
    # 1 - 1e-3 lies .256 of the way from 1 to its neighbour 1 - 2^-8: 2048 draws have a standard deviation of .0096
    for shard in shards:
        assert ((shard < 1).float().mean() - 0.256).abs() < 5 * 0.0096
    assert not torch.equal(shards[0], shards[1])
    for one, replica in zip(shards, shards[2:], strict=False):
        assert torch.equal(one, replica)


def compensated(kind):
    """Weights in bfloat16 plus their rounding errors, after steps that rounding to nearest would lose."""
    model = Tiny(layers=1, fused=False, dtype=torch.bfloat16)
    if kind is not None:
        model, _, _ = spread(model, kind)
    optimizer = Muon(plan(model), lr=1e-4, rounding="compensated")
    step_on_given_gradients(model, optimizer, 4)
    found = {}
    for group in optimizer.param_groups:
        for name, param in zip(group["param_names"], group["params"], strict=True):
            if group["rule"] == "matrix":
                found[name] = full(param).double() + full(optimizer.state[param]["compensation"]).double()
    return found


@pytest.mark.parametrize("kind", ["ddp", "fsdp", "fsdp_tp"])
def test_compensated_rounding_keeps_small_moves(world, kind):
    alone, start = compensated(None), whole_weights(Tiny(layers=1, fused=False, dtype=torch.bfloat16))
    for found in world(4).run(compensated, kind):
        for name, weight in found.items():
            move = (alone[name] - start[name].double()).norm()
            # Messages round inputs and directions to 2^-9 relative, each time; the iteration in bfloat16 turns a
            # rounding of its input into as much as its own error, 2^-6. The buffer rounds its error to 2^-17 relative.
            assert (weight - alone[name]).norm() < 4 * 2**-6 * move + 8 * 2**-17 * alone[name].norm(), name


def seen_by_hooks(kind):
    """What hooks see, and the weights if a hook doubles the update."""
    model = Tiny(layers=1, fused=False, dtype=torch.float64)
    if kind is not None:
        model, _, _ = spread(model, kind)
    optimizer, before, after = Muon(plan(model), lr=0.02), [], []

    def double(bucket, update):
        assert len(bucket.names) == len(bucket.weights()) == len(bucket.places(update))
        for weight, part in zip(bucket.weights(), bucket.places(update), strict=True):
            assert weight.shape == part.shape
        before.extend(zip(bucket.names, (w.shape for w in bucket.weights()), strict=True))
        update.mul_(2)

    optimizer.before_move.append(double)
    optimizer.after_move.append(lambda bucket: after.extend(bucket.names))
    step_on_given_gradients(model, optimizer, 2)
    entries = {e.name for e in plan(model) if e.is_matrix}
    return whole_weights(model), before, after, entries


@pytest.mark.parametrize("kind", ["ddp", "fsdp", "fsdp_tp"])
def test_hooks_see_every_part_once_and_change_the_update(world, kind):
    expected, _, _, names = seen_by_hooks(None)
    for weights, before, after, _ in world(2).run(seen_by_hooks, kind):
        assert farthest(weights, expected) < 1e-9
        assert [name for name, _ in before] == after
        if kind == "ddp":
            assert set(after) == names


def measured(kind):
    """Telemetry of three steps, or the message of its refusal."""
    model = Tiny(layers=1, fused=False, dtype=torch.float64)
    if kind is not None:
        model, _, _ = spread(model, kind)
    records, optimizer = [], Muon(plan(model), lr=0.02)
    try:
        Telemetry(optimizer, records.append, every=1, budget=1.0, exact=True)
    except ValueError as error:
        return str(error)
    step_on_given_gradients(model, optimizer, 2)
    return [record.figures for record in records]


def test_telemetry_has_whole_figures_or_is_refused(world):
    alone = measured(None)
    for records in world(2).run(measured, "ddp"):
        assert len(records) == 2
        for figures, others in zip(records, alone, strict=True):
            assert figures.keys() == others.keys()
            for name, figure in figures.items():
                assert figure == pytest.approx(others[name], rel=1e-6, abs=1e-9, nan_ok=True), name
    for kind in ("fsdp", "tp", "hsdp"):
        for text in world(4).run(measured, kind):
            assert text.startswith("Telemetry: '")
            assert "is sharded: this process has a part of shape" in text
            assert "only=[...]" in text


def copied(make, how):
    """The distance between weights moved by an optimizer, and by its copy together with copied parameters."""
    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    params = [nn.Parameter(distribute_tensor(torch.randn(5, 4).double(), mesh, [Shard(0)])) for _ in range(3)]
    optimizer = make([(f"p{i}", p) for i, p in enumerate(params)], lr=0.02)
    gradients = [torch.randn(5, 4).double() for _ in params]
    for param, gradient in zip(params, gradients, strict=True):
        param.grad = distribute_tensor(gradient, mesh, [Shard(0)])
    optimizer.step()
    both = copy.deepcopy(optimizer) if how == "deepcopy" else pickle.loads(pickle.dumps(optimizer))
    others = both.param_groups[0]["params"]
    for param, other in zip(params, others, strict=True):
        other.grad = param.grad.clone()
    optimizer.step()
    both.step()
    return max((full(p) - full(q)).norm().item() for p, q in zip(params, others, strict=True))


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies_go_on_alike_and_those_that_would_lack_state_are_refused(world, how):
    assert max(world(2).run(copied, Muon, how)) == 0
    for error in world(2).outcomes(copied, Shampoo, how):
        assert isinstance(error, RuntimeError)
        assert str(error).startswith("Shampoo: an optimizer of sharded parameters cannot be copied or pickled")
        assert "state_dict()" in str(error)


def after_many_steps(precision, kind=None, engine=None):
    """The matrices after steps on given gradients, which are the same in every dtype, and the direction of each step.

    Directions are of this process alone.
    """
    model = Tiny(layers=1, fused=False, dtype=torch.promote_types(precision, torch.float32))
    if kind is not None:
        model, _, _ = spread(model, kind)
    optimizer, directions = Muon(plan(model), lr=LR, scale="unit", precision=precision, engine=engine), {}

    def note(bucket, update):
        for name, part in zip(bucket.names, bucket.places(update), strict=True):
            directions.setdefault(name, []).append(part.double().clone())

    optimizer.before_move.append(note)
    for seed in range(STEPS):
        give_gradients(model, seed)
        for param in model.parameters():
            param.grad = param.grad.float().to(param.dtype)
        optimizer.step()
    found = whole_weights(model)
    return {name: found[name].double() for name in directions}, directions


def matrices_of(precision, kind):
    return after_many_steps(precision, kind)[0]


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_weights_after_many_steps_are_those_of_one_process_up_to_rounding(world, precision):
    """A derived bound. The gradients do not depend on the weights, so the weights are a sum of directions times lr.

    Each direction of either run has an error e of the iteration, which depends on the engine; it is measured against
    float64. A message in bfloat16 rounds the input once more, as the iteration does with its own input, so it adds at
    most e again; and it rounds the direction, by 2^-8. Each sum is rounded to float32, 2^-24 of the weights.
    """
    _, exact = after_many_steps(torch.float64)
    runs = [after_many_steps(precision, engine=engine)[1] for engine in (Direct(), Gram())]
    message = 2**-8 if precision is torch.bfloat16 else 0.0
    alone, _ = after_many_steps(precision)
    bounds, moves = {}, {}
    for name, directions in exact.items():
        errors = [max((run[name][t] - D).norm() for run in runs) for t, D in enumerate(directions)]
        moves[name] = LR * sum(D.norm() for D in directions)
        bounds[name] = LR * 3 * sum(errors) + message * moves[name] + 2 * STEPS * 2**-24 * alone[name].norm()
        assert bounds[name] < moves[name] * (0.5 if message else 2e-4), name  # the bound says something
    for kind in ("ddp", "fsdp", "tp", "fsdp_tp"):
        for name, w in world(4).run(matrices_of, precision, kind)[0].items():
            assert (w - alone[name]).norm() < bounds[name], (kind, name)
