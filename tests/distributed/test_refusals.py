"""Plans of sharded models, and bad use of many processes: refused by the parameter's name, with what to do."""

import re
import warnings

import pytest
import torch
from models import KINDS, Tiny, batch, farthest, give_gradients, loss_of, spread, weights
from torch import distributed, nn
from torch.distributed import checkpoint as dcp
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy, fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from matfn import Exact
from matfn.optim import Muon, PlanError, plan
from matfn.optim.matrices.shards import local


def error_of(function, *args, **kwargs):
    """The type and the text of the exception that a call raises; None if it raises none."""
    try:
        function(*args, **kwargs)
    except Exception as error:
        return type(error), str(error)
    return None


def tables(kind):
    model, *_ = spread(Tiny(fused=False), kind)
    return str(plan(model)), [entry.name for entry in plan(model)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_sharded_model_has_the_plan_of_the_whole_one(world, kind):
    whole = plan(Tiny(fused=False))
    for table, names in world(4).run(tables, kind):
        assert table == str(whole)
        assert names == [entry.name for entry in whole]


def examples():
    """Plans with an example: under TP and DDP, the error under fully_shard, and the way that the error recommends."""
    tokens = batch(0)
    whole = plan(Tiny(fused=False), tokens)
    found = {kind: str(plan(spread(Tiny(fused=False), kind)[0], tokens)) for kind in ("ddp", "tp")}
    model, *_ = spread(Tiny(fused=False), "fsdp")
    error = error_of(plan, model, tokens)
    passed = plan(model, overrides={e.name: e.layout or e.rule for e in whole})
    same = all(
        (one.rule, one.layout, one.decays) == (two.rule, two.layout, two.decays)
        for one, two in zip(passed, whole, strict=True)
    )
    return str(whole), found, error, same


def test_an_example_is_read_under_tp_and_ddp_and_refused_under_fully_shard(world):
    for whole, found, (kind, text), same in world(2).run(examples):
        assert found == {"ddp": whole, "tp": whole}
        assert kind is PlanError
        assert "under fully_shard" in text
        assert "overrides={e.name: e.layout or e.rule" in text
        assert same


def on_a_mesh_of_two():
    """An optimizer on a mesh of ranks 0 and 1 only; the outlook of a model on another mesh than the given one."""
    pair = DeviceMesh("cpu", [0, 1])
    outside = error_of(lambda: Muon(plan(Tiny(fused=False), mesh=pair)))
    model, *_ = spread(Tiny(fused=False), "fsdp")
    return outside, error_of(plan(model).outlook, "8x8"), str(plan(Tiny(fused=False), mesh=pair).mesh)


def test_a_mesh_without_this_process_or_without_the_parameters_is_refused(world):
    for rank, (outside, (kind, text), shown) in enumerate(world(4).run(on_a_mesh_of_two)):
        assert (outside is None) == (rank < 2)
        if outside is not None:
            assert outside[0] is ValueError
            assert f"mesh has the ranks [0, 1], but this process is rank {rank}" in outside[1]
        assert kind is ValueError
        assert text.startswith("Plan.outlook: a parameter is sharded over dp 4 ranks, which are no part of 64 ranks")
        assert shown == "2 ranks"


def too_early(what):
    """An optimizer made before the model is changed; the error at its first step."""
    model = Tiny(fused=False)
    optimizer = Muon(plan(model))
    before = dict(model.named_parameters())
    if what == "fully_shard":
        fully_shard(model)
    elif what == "parallelize_module":
        spread(model, "tp")
    elif what == "after two steps":
        for seed in range(2):
            give_gradients(model, seed)
            optimizer.step()
        model.blocks[0].q.weight = nn.Parameter(torch.zeros(16, 16))
    else:
        model.blocks[0].q.weight = nn.Parameter(torch.zeros(16, 16))
    optimizer.zero_grad()
    weights = {name: p.detach().clone() for name, p in before.items()}
    loss_of(model, batch(0)).backward()
    found = error_of(optimizer.step)
    return found, all(torch.equal(weights[name], p) for name, p in before.items())


@pytest.mark.parametrize("what", ["fully_shard", "parallelize_module", "one parameter", "after two steps"])
def test_parameters_that_are_replaced_after_the_optimizer_was_made_are_named(world, what):
    for (kind, text), unchanged in world(2).run(too_early, what):
        assert kind is RuntimeError
        assert text.startswith("Muon: the model has other tensors now for the parameters ")
        assert "blocks.0.q.weight" in text
        assert ("embed.weight" in text) == (what == "fully_shard")
        assert "Make the plan and the optimizer after that" in text
        assert unchanged


def test_an_optimizer_without_any_gradient_warns_once_that_nothing_moves():
    model = nn.Linear(4, 3, bias=False)
    optimizer = Muon(model.parameters())
    with pytest.warns(UserWarning, match="no parameter has a gradient at the first step.*after them"):
        optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()


def fsdp2_between_passes():
    """After a forward pass alone, FSDP2 has plain tensors in the model. This is no replacement."""
    model, *_ = spread(Tiny(fused=False), "fsdp")
    optimizer = Muon(plan(model))
    loss = loss_of(model, batch(0))
    optimizer.step()
    loss.backward()
    optimizer.step()


def test_a_step_between_the_passes_of_fsdp2_is_no_error(world):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        world(2).run(fsdp2_between_passes)


def flattened(strategy, use_orig_params):
    model = nn.Sequential(Tiny(fused=False), nn.Linear(2, 2))
    model[0] = FullyShardedDataParallel(
        model[0], sharding_strategy=strategy, use_orig_params=use_orig_params, device_id=torch.device("cpu")
    )
    parameters = [(name, p) for name, p in model[0].named_parameters()]
    return error_of(plan, model), error_of(Muon, [{"params": parameters, "rule": "adamw"}]), parameters[0][0]


@pytest.mark.parametrize("use_orig_params", [False, True])
@pytest.mark.parametrize("strategy", [ShardingStrategy.FULL_SHARD, ShardingStrategy.NO_SHARD])
def test_fsdp1_is_refused_by_name(world, strategy, use_orig_params):
    for planned, made, name in world(2).run(flattened, strategy, use_orig_params):
        assert planned[0] is PlanError
        assert "its module '0' is wrapped in FullyShardedDataParallel (FSDP1)" in planned[1]
        assert "fully_shard" in planned[1]
        assert made[0] is TypeError
        assert made[1].startswith(f"Muon: group 0: parameter {name!r} belongs to FullyShardedDataParallel (FSDP1)")


def tensor_parallel_under_ddp():
    """Parameters after DDP has made plain ones of them, and after a forward pass, when torch hides them."""
    mesh = init_device_mesh("cpu", (2, 1), mesh_dim_names=("dp", "tp"))
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 4, bias=False))
    parallelize_module(model, mesh["tp"], {"0": ColwiseParallel(), "1": RowwiseParallel()})
    wrapped = DistributedDataParallel(model, device_mesh=mesh["dp"])
    made = error_of(Muon, list(wrapped.named_parameters()))
    planned = error_of(plan, wrapped)
    wrapped(torch.ones(2, 4)).sum().backward()
    return made, planned, error_of(plan, wrapped)


def test_tensor_parallel_under_ddp_is_refused(world):
    for made, planned, later in world(2).run(tensor_parallel_under_ddp):
        assert made[0] is TypeError
        assert made[1].startswith("Muon: group 0: parameter 'module.0.weight' is a part of a matrix")
        assert planned == later
        assert planned[0] is PlanError
        assert "its module 'module' is tensor parallel under DistributedDataParallel" in planned[1]
        assert "fully_shard(model, mesh=...)" in planned[1]


def ranks_that_do_not_ascend():
    parameter = nn.Parameter(distribute_tensor(torch.ones(4, 6), DeviceMesh("cpu", [1, 0]), [Shard(0)]))
    optimizer = Muon([("w", parameter)])
    parameter.grad = torch.ones_like(parameter)
    return error_of(optimizer.step)


def test_a_mesh_whose_ranks_do_not_ascend_is_refused(world):
    for kind, text in world(2).run(ranks_that_do_not_ascend):
        assert kind is ValueError
        assert re.match(r"Muon: in DeviceMesh.* the ranks along an axis do not ascend\.", text)


def bad_parameters():
    mesh = init_device_mesh("cpu", (2,))
    partial = DTensor.from_local(torch.zeros(4, 6), mesh, [Partial()])
    meta = DTensor.from_local(torch.zeros(2, 6, device="meta"), mesh, [Shard(0)])
    return [error_of(Muon, [("w", nn.Parameter(x))]) for x in (partial, meta)]


def test_dtensors_that_hold_no_weights_are_refused_by_name(world):
    for partial, meta in world(2).run(bad_parameters):
        assert partial[0] is TypeError
        assert partial[1].startswith("Muon: group 0: parameter 'w' is a DTensor with the placements (Partial(sum),)")
        assert meta[0] is TypeError
        assert meta[1].startswith("Muon: group 0: parameter 'w' is on the meta device")


def gradients_of_another_kind(rule):
    mesh, other = init_device_mesh("cpu", (2,)), init_device_mesh("cpu", (1, 2), mesh_dim_names=("a", "b"))
    sharded = nn.Parameter(distribute_tensor(torch.randn(4, 6), mesh, [Shard(0)]))
    plain = nn.Parameter(torch.randn(4, 6))
    bad = {
        "plain": (sharded, torch.zeros(4, 6)),
        "DTensor": (plain, distribute_tensor(torch.zeros(4, 6), mesh, [Shard(0)])),
        "mesh": (sharded, distribute_tensor(torch.zeros(4, 6), other, [Replicate(), Shard(0)])),
    }
    found = {}
    for what, (param, gradient) in bad.items():
        optimizer = Muon([{"params": [("w", param)], "rule": rule}])

        def step(param=param, gradient=gradient, optimizer=optimizer):
            param.grad = gradient
            optimizer.step()

        found[what] = error_of(step)
        param.grad = None
    return found


@pytest.mark.parametrize("rule", ["matrix", "adamw"])
def test_gradients_of_another_kind_than_their_parameter_are_refused(world, rule):
    for found in world(2).run(gradients_of_another_kind, rule):
        for what, (kind, text) in found.items():
            assert kind is RuntimeError, (what, text)
            assert re.search("'w'|assign", text), (what, text)  # torch refuses some assignments itself


def filled_by_dcp(path):
    """What a fresh optimizer makes of dcp.load without a template of its state."""
    model, *_ = spread(Tiny(fused=False), "fsdp")
    optimizer = Muon(plan(model))
    give_gradients(model, 0)
    optimizer.step()
    dcp.save({"optimizer": optimizer.state_dict()}, checkpoint_id=path)
    fresh = Muon(plan(model))
    held = {"optimizer": fresh.state_dict()}
    dcp.load(held, checkpoint_id=path)
    error = error_of(fresh.load_state_dict, held["optimizer"])
    for group in held["optimizer"]["param_groups"]:
        del group["filled"]
    fresh.load_state_dict(held["optimizer"])  # the options alone
    return error, len(fresh.state)


def test_a_state_dict_that_dcp_could_not_fill_is_refused(world, tmp_path):
    for (kind, text), states in world(2).run(filled_by_dcp, str(tmp_path)):
        assert kind is ValueError
        assert "group 0 was saved with the state of" in text
        assert "get_optimizer_state_dict(model, optimizer)" in text
        assert states == 0


def not_finite(kind, where):
    """A NaN in the part of one rank, for a method that refuses NaN."""
    model, *_ = spread(Tiny(fused=False), kind)
    optimizer = Muon(plan(model), method=Exact())
    give_gradients(model, 0)
    before = weights(model)
    gradient = local(dict(model.named_parameters())[("module." if kind == "ddp" else "") + where].grad)
    if distributed.get_rank() == 1 or kind == "ddp":
        gradient.flatten()[0] = torch.nan
    error = error_of(optimizer.step)
    return error, farthest(weights(model), before), len(optimizer.state)


@pytest.mark.parametrize("kind", ["fsdp", "ddp", "tp"])
def test_a_gradient_that_is_not_finite_is_refused_on_every_rank(world, kind):
    for (error, text), moved, states in world(2).run(not_finite, kind, "blocks.0.up.weight"):
        assert error is ValueError
        assert "the gradient of 'blocks.0.up.weight'" in text
        assert moved == states == 0


# A mesh or shards that do not fit


def cut_by_hand():
    """Shards of lengths that torch.chunk does not give, as an own from_local may make them."""
    mesh, rank = init_device_mesh("cpu", (2,)), distributed.get_rank()
    shard = torch.randn(3 if rank == 0 else 5, 4)
    whole = {"shape": torch.Size((8, 4)), "stride": (4, 1)}
    param = nn.Parameter(DTensor.from_local(shard, mesh, [Shard(0)], run_check=False, **whole))
    param.grad = torch.ones_like(param)
    return error_of(Muon([("w", param)]).step)


def test_shards_that_were_cut_by_hand_are_refused(world):
    for kind, text in world(2).run(cut_by_hand):
        assert kind is RuntimeError
        assert text.startswith("Muon: parameter 'w' has a shard of ")
        assert "Only Shard and Replicate as made by fully_shard and parallelize_module are served" in text


def one_gradient_is_partial():
    """A gradient that waits for a sum, as sequence parallelism leaves it: it is summed, not refused."""
    mesh = init_device_mesh("cpu", (2,))
    x, g = (torch.randn(6, 4, generator=torch.Generator().manual_seed(seed)).double() for seed in (0, 1))
    param, plain = nn.Parameter(distribute_tensor(x, mesh, [Replicate()])), nn.Parameter(x.clone())
    param.grad = DTensor.from_local(g * (0.25 if distributed.get_rank() else 0.75), mesh, [Partial()])
    plain.grad = g
    for each in (param, plain):
        Muon([("w", each)]).step()
    return (param.to_local() - plain).norm().item()


def test_partial_gradients_of_matrices_are_summed(world):
    assert max(world(2).run(one_gradient_is_partial)) < 1e-12


@pytest.mark.parametrize(
    ("mesh", "kind", "shown"),
    [
        ("4x", ValueError, "got '4x'"),
        ({"fsdp": 4}, TypeError, "got dict"),
        ((0,), ValueError, "every size must be at least 1"),
        ("fsdp=8,ep=3", ValueError, "ep=3 must divide fsdp x tp = 8"),
    ],
)
def test_a_mesh_that_makes_no_sense_is_refused(mesh, kind, shown):
    error, text = error_of(plan, Tiny(), mesh=mesh)
    assert error is kind
    assert text.startswith("plan: mesh")
    assert shown in text


def planned_on(kind, words):
    """The error of a plan of a spread model on another mesh, in words or of half of the processes."""
    model, mesh, _ = spread(Tiny(fused=False), kind)
    assert len(plan(model, mesh=mesh)) == len(plan(model))
    half = init_device_mesh("cpu", (2, 2), mesh_dim_names=("a", "b"))["b"]
    distributed.barrier()  # a rank that ends at once must not disturb how the others connect
    with pytest.raises(ValueError, match=r"plan: parameter '.*' is sharded over .*, which is no part of mesh="):
        plan(model, mesh=half if words is None else words)


@pytest.mark.parametrize(("kind", "words"), [("fsdp", None), ("fsdp", "8"), ("hsdp", "8"), ("fsdp_tp", "3x4")])
def test_a_plan_on_another_mesh_is_refused(world, kind, words):
    world(4).run(planned_on, kind, words)
