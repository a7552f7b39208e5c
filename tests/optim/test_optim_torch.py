"""Muon as a torch optimizer: schedulers, closures, accumulation, GradScaler, wrappers, hooks, AdamW for the rest."""

import copy

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from matfn import Exact
from matfn.optim import Muon, plan


def model(dtype=torch.float32, seed=0):
    """Embedding, two hidden layers, a norm, an untied head."""
    torch.manual_seed(seed)
    parts = [nn.Embedding(11, 8), nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 8), nn.LayerNorm(8), nn.Linear(8, 11)]
    return nn.Sequential(*parts).to(dtype)


def tokens(n=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 11, (n,), generator=generator)


def loss_of(net, x):
    return nn.functional.cross_entropy(net(x), (3 * x + 1) % 11)


def train(net, optimizer, steps, *, each=lambda: None, seed=0):
    losses = []
    for i in range(steps):
        optimizer.zero_grad()
        loss = loss_of(net, tokens(seed=seed + i))
        loss.backward()
        optimizer.step()
        each()
        losses.append(loss.item())
    return losses


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_the_rest_moves_exactly_as_by_torch_adamw():
    ours, theirs = model(), model()
    rest = {"lr": 3e-3, "weight_decay": 0.1, "betas": (0.8, 0.95), "eps": 1e-7}
    optimizer = Muon(plan(ours), lr=0.0, rest=rest)
    named = dict(theirs.named_parameters())
    decayed = [named[name] for name in ("0.weight", "5.weight")]
    plain = [p for p in named.values() if p.ndim < 2]
    reference = torch.optim.AdamW([{"params": decayed}, {"params": plain, "weight_decay": 0.0}], **rest)
    train(ours, optimizer, 5)
    train(theirs, reference, 5)
    assert same(ours, theirs)
    assert not torch.equal(ours[0].weight, model()[0].weight)


def test_without_rest_options_the_rest_has_the_defaults_of_torch_adamw():
    optimizer = Muon(plan(model()))
    defaults = torch.optim.AdamW([torch.zeros(1)]).defaults
    for group in optimizer.param_groups[1:]:
        assert {key: group[key] for key in ("lr", "betas", "eps")} == {
            key: defaults[key] for key in ("lr", "betas", "eps")
        }
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.0, defaults["weight_decay"], 0.0]


@pytest.mark.parametrize(
    "make",
    [
        lambda o: lr_scheduler.LambdaLR(o, lambda k: 1 / (1 + k)),
        lambda o: lr_scheduler.LambdaLR(o, [lambda k: 0.5**k, lambda k: 1.0, lambda k: 0.9**k]),
        lambda o: lr_scheduler.CosineAnnealingLR(o, 5),
        lambda o: lr_scheduler.OneCycleLR(o, max_lr=[0.02, 1e-3, 1e-3], total_steps=8),
        lambda o: lr_scheduler.SequentialLR(
            o, [lr_scheduler.LinearLR(o, 0.1, total_iters=2), lr_scheduler.ExponentialLR(o, 0.5)], [2]
        ),
    ],
    ids=["lambda", "lambdas", "cosine", "onecycle", "sequential"],
)
def test_schedulers_move_the_learning_rates_that_the_step_uses(make):
    net = model()
    optimizer = Muon(plan(net), method=Exact())
    scheduler = make(optimizer)
    for i in range(6):
        before = {name: p.detach().clone() for name, p in net.named_parameters()}
        lr = optimizer.param_groups[0]["lr"]
        train(net, optimizer, 1, seed=i)
        moved = torch.linalg.matrix_norm(net[3].weight.detach() - before["3.weight"], 2)
        # an exact polar factor of an 8 x 16 matrix: spectral norm 1, scale 1; the weights are below 1
        assert moved == pytest.approx(lr, rel=1e-4, abs=1e-6)
        scheduler.step()
    assert scheduler.get_last_lr() == [group["lr"] for group in optimizer.param_groups]


CYCLES = [
    lambda o: lr_scheduler.OneCycleLR(
        o, max_lr=[0.02, 1e-3, 1e-3], total_steps=9, base_momentum=0.7, max_momentum=0.9, anneal_strategy="linear"
    ),
    lambda o: lr_scheduler.CyclicLR(
        o, [0.001] * 3, [0.02, 1e-3, 1e-3], step_size_up=3, base_momentum=0.7, max_momentum=0.9
    ),
]


@pytest.mark.parametrize("make", CYCLES, ids=["one-cycle", "cyclic"])
def test_cycles_move_momentum_of_matrices_and_beta1_of_the_rest_as_of_torch_adamw(make):
    ours, theirs = model(), model()
    optimizer = Muon(plan(ours), lr=0.0, rest={"lr": 1e-3})
    groups = [{key: group[key] for key in ("params", "rule", "weight_decay")} for group in plan_groups(theirs)]
    reference = torch.optim.AdamW(groups, lr=1e-3)
    first, second = make(optimizer), make(reference)
    seen = []
    for i in range(7):
        optimizer.param_groups[0]["lr"] = reference.param_groups[0]["lr"] = 0.0  # the rest is compared
        train(ours, optimizer, 1, seed=i)
        # the reference must see what the matrices did not do: they did not move at a learning rate of 0
        train(theirs, reference, 1, seed=i)
        matrices, *rest = optimizer.param_groups
        seen.append(matrices["momentum"])
        assert [group["betas"] for group in rest] == [group["betas"] for group in reference.param_groups[1:]]
        assert rest[0]["betas"][0] == matrices["momentum"]
        assert all("momentum" not in group for group in rest)
        first.step()
        second.step()
    assert same(ours, theirs)
    assert min(seen) < 0.75
    assert max(seen) > 0.85


def plan_groups(net):
    """The groups of a plan as plain torch groups."""
    return [{"weight_decay": 1e-2, **group, "params": [p for _, p in group["params"]]} for group in plan(net).groups()]


@pytest.mark.parametrize("make", CYCLES, ids=["one-cycle", "cyclic"])
def test_cycles_resume_bit_identically_and_leave_no_idle_key_in_a_checkpoint(make):
    through = model()
    optimizer = Muon(plan(through))
    scheduler = make(optimizer)
    train(through, optimizer, 4, each=scheduler.step)
    half = copy.deepcopy((through.state_dict(), optimizer.state_dict(), scheduler.state_dict()))
    assert ["momentum" in group for group in half[1]["param_groups"]] == [True, False, False]
    train(through, optimizer, 3, each=scheduler.step, seed=4)
    net = model()
    again = Muon(plan(net))
    resumed = make(again)
    for part, state in zip((net, again, resumed), half, strict=True):
        part.load_state_dict(state)
    train(net, again, 3, each=resumed.step, seed=4)
    assert same(net, through)


def test_a_cycle_without_momentum_leaves_momentum_and_betas():
    net = model()
    optimizer = Muon(plan(net))
    scheduler = lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=5, cycle_momentum=False)
    train(net, optimizer, 3, each=scheduler.step)
    assert optimizer.param_groups[0]["momentum"] == 0.95
    assert optimizer.param_groups[1]["betas"] == (0.9, 0.999)


def test_momentum_written_into_an_adamw_group_by_hand_is_refused():
    net = model()
    optimizer = Muon(plan(net))
    for group in optimizer.param_groups:
        group["momentum"] = 0.9
    with pytest.raises(ValueError, match='group 1 has rule "adamw" and was given "momentum"'):
        train(net, optimizer, 1)
    assert same(net, model())


def test_a_closure_is_evaluated_with_gradients_and_its_loss_returned():
    one, two = model(), model()
    first, second = Muon(plan(one)), Muon(plan(two))

    def closure():
        first.zero_grad()
        loss = loss_of(one, tokens())
        loss.backward()
        return loss

    returned = first.step(closure)
    assert returned.requires_grad
    train(two, second, 1)
    assert same(one, two)
    assert second.step() is None


def test_accumulated_micro_batches_equal_one_batch():
    one, two = model(torch.float64), model(torch.float64)
    first, second = Muon(plan(one), method=Exact()), Muon(plan(two), method=Exact())
    for step in range(3):
        first.zero_grad()
        loss_of(one, tokens(seed=step)).backward()
        first.step()
        second.zero_grad()
        for part in tokens(seed=step).chunk(4):
            (loss_of(two, part) / 4).backward()
        second.step()
    for p, q in zip(one.parameters(), two.parameters(), strict=True):
        # gradients differ in their last bits; a polar factor amplifies that by its condition, AdamW by |g| / eps: 1e8
        assert torch.allclose(p, q, rtol=0, atol=1e8 * torch.finfo(torch.float64).eps)


def test_grad_scaler_unscales_for_both_rules_and_skips_a_step_with_infinities():
    plain, scaled = model(), model()
    first, second = Muon(plan(plain)), Muon(plan(scaled))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    train(plain, first, 3)
    for i in range(3):
        second.zero_grad()
        scaler.scale(loss_of(scaled, tokens(seed=i))).backward()
        scaler.step(second)
        scaler.update()
    # a scale that is a power of two changes no bit
    assert same(plain, scaled)
    before = copy.deepcopy(scaled)
    state = copy.deepcopy(second.state_dict())
    second.zero_grad()
    scaler.scale(loss_of(scaled, tokens())).backward()
    scaled[1].weight.grad[0, 0] = torch.inf
    scaler.step(second)
    scaler.update()
    assert same(before, scaled)
    assert scaler.get_scale() == 2.0**9
    for name, entry in second.state_dict()["state"].items():
        assert all(torch.equal(value, state["state"][name][key]) for key, value in entry.items())


def test_zero_grad_covers_both_rules():
    net = model()
    optimizer = Muon(plan(net))
    train(net, optimizer, 1)
    optimizer.zero_grad(set_to_none=False)
    assert all(not p.grad.any() for p in net.parameters())
    optimizer.zero_grad()
    assert all(p.grad is None for p in net.parameters())


def test_a_compiled_model_trains_as_the_plain_one():
    plain, compiled = model(), model()
    wrapped = torch.compile(compiled, backend="eager")
    first, second = Muon(plan(plain)), Muon(plan(wrapped))
    train(plain, first, 3)
    train(wrapped, second, 3)
    assert same(plain, compiled)
    assert list(first.state_dict()["state"]) == list(second.state_dict()["state"])


def test_step_hooks_fire_once():
    net = model()
    optimizer = Muon(plan(net))
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
    optimizer.register_step_post_hook(lambda *_: calls.append("post"))
    train(net, optimizer, 2)
    assert calls == ["pre", "post"] * 2


def test_a_parameter_group_can_be_added_while_training():
    net = model()
    net[3].requires_grad_(False)
    optimizer = Muon(plan(net))
    train(net, optimizer, 2)
    before = net[3].weight.detach().clone()
    net[3].requires_grad_(True)
    optimizer.add_param_group({"params": [("3.weight", net[3].weight)], "lr": 0.1})
    optimizer.add_param_group({"params": [("3.bias", net[3].bias)], "rule": "adamw"})
    train(net, optimizer, 2)
    assert not torch.equal(before, net[3].weight)
    assert set(optimizer.state[net[3].weight]) == {"momentum_buffer"}
    assert set(optimizer.state[net[3].bias]) == {"step", "exp_avg", "exp_avg_sq"}


def test_a_tensor_learning_rate_works():
    one, two = model(), model()
    first, second = Muon(plan(one), lr=0.125), Muon(plan(two), lr=torch.tensor(0.125))
    train(one, first, 1)
    train(two, second, 1)
    # The rate of a matrix is lr times its scale: a double for a number, rounded to float32 where lr is a tensor.
    for p, q in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=0, atol=4 * torch.finfo(torch.float32).eps * (1 + p.abs().max().item()))


def test_the_step_builds_no_graph_and_sets_no_global():
    net = model()
    optimizer = Muon(plan(net), weight_decay=0.1)
    rng, threads, grad = torch.get_rng_state(), torch.get_num_threads(), torch.is_grad_enabled()
    loss_of(net, tokens()).backward()
    optimizer.step()
    assert torch.equal(rng, torch.get_rng_state())
    assert (threads, grad) == (torch.get_num_threads(), torch.is_grad_enabled())
    assert all(p.grad_fn is None and p.requires_grad for p in net.parameters())
    assert not any(v.requires_grad for entry in optimizer.state.values() for v in entry.values())
