"""The step as one thing: memory that is shared and bounded, nothing read back, and torch.compile of all of it."""

import copy
import pickle
import shutil

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import matfn
from benchmarks.memory import peak_bytes
from matfn.engines import Direct
from matfn.optim import Muon, NorMuon, PolarGrad
from matfn.optim.matrices.buckets import fill_buckets
from matfn.optim.matrices.foreach import moved
from matfn.optim.matrices.layout import convolution, linear, stack, transposed
from matfn.optim.matrices.stacks import Stacks
from matfn.optim.rules.rule import Rule
from matfn.run.machine import machine

KINDS = [Muon, NorMuon, PolarGrad]
EXPRESS = matfn.PolarExpress()


def parameters(shapes, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    found = [torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]
    for p in found:
        p.grad = torch.randn(p.shape, generator=generator).to(dtype)
    return found


def largest(optimizer):
    return 4 * max(b * m * n for b, m, n in (bucket.shape for bucket in optimizer.buckets))


# -- the workspace --


@pytest.mark.parametrize("kind", KINDS)
def test_all_buckets_and_steps_share_one_stack(kind, monkeypatch):
    optimizer, seen = kind(parameters([(8, 6)] * 3 + [(4, 4)]), lr=0.1), []
    matrices = Stacks.matrices
    monkeypatch.setattr(Stacks, "matrices", lambda *given: (seen.append(matrices(*given)), seen[-1])[1])
    optimizer.step()
    optimizer.step()
    assert len(seen) == 4
    assert len({stack.data_ptr() for stack in seen}) == 1
    assert optimizer.workspace == largest(optimizer) == 4 * 3 * 8 * 6


def test_the_workspace_follows_the_gradients_there_are():
    params = parameters([(8, 6), (4, 4)])
    optimizer = Muon(params)
    assert optimizer.workspace == 0
    optimizer.step()
    assert optimizer.workspace == 4 * 8 * 6
    params[0].grad = None
    optimizer.step()
    assert optimizer.workspace == 4 * 4 * 4


@pytest.mark.parametrize("again", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_copies_have_a_workspace_of_their_own(again):
    optimizer = Muon(parameters([(64, 64)]))
    optimizer.step()
    other = again(optimizer)
    assert other.workspace == 0
    [p] = other.param_groups[0]["params"]
    p.grad = torch.ones_like(p)
    other.step()
    held = [x.stacks._held[torch.float32].data_ptr() for x in (optimizer, other)]
    assert held[0] != held[1]


def test_each_dtype_has_a_buffer():
    wide, narrow = parameters([(5, 4)], torch.float64), parameters([(6, 6)])
    optimizer = Muon([*wide, *narrow])
    optimizer.step()
    assert optimizer.workspace == 8 * 20 + 4 * 36


# What the peak and the norm of each matrix take is less than a hundredth of the stack here.
@pytest.mark.parametrize("shapes", [[(96, 384)] * 2, [(192, 192)] * 4], ids=["1 : 4", "square"])
def test_the_step_itself_adds_no_memory_to_the_polar_factor(shapes):
    optimizer = Muon(parameters(shapes), method=EXPRESS, engine=Direct())
    optimizer.step()
    [bucket] = optimizer.buckets
    filled = optimizer.stacks.matrices(bucket, optimizer.chain[0])
    factor = peak_bytes(lambda: optimizer.chain[1].update(filled, bucket.runs))
    assert peak_bytes(optimizer.step) <= factor + 0.01 * largest(optimizer)


# In stacks of float32: the one that is held, the one divided by its norm and its first iterate, in bfloat16, half of
# one; or later, halves, the one at hand and its successor, and for square matrices M and what is added to the identity.
# Of many large matrices only a part is in work at a time.
@pytest.mark.parametrize(
    ("shapes", "bounds"),
    [([(96, 384)] * 2, (2.65, 4.0)), ([(192, 192)] * 4, (3.15, 5.0)), ([(768, 768)] * 4, (1.5, 2.0))],
    ids=str,
)
@pytest.mark.parametrize("options", [{"method": EXPRESS, "engine": Direct()}, {}], ids=["direct", "default"])
def test_the_memory_of_a_step_is_bounded(shapes, bounds, options):
    """The first bound is of an iteration in bfloat16, the second of one in float32, on a machine without bfloat16."""
    bound = bounds[machine(torch.device("cpu")).narrow is torch.float32]
    optimizer = Muon(parameters(shapes), **options)
    optimizer.step()
    assert peak_bytes(optimizer.step) + optimizer.workspace <= (bound + 0.15) * largest(optimizer)


def test_half_precision_weights_take_no_more_than_their_float32_selves():
    optimizer = Muon(parameters([(128, 128)] * 4, torch.bfloat16), method=EXPRESS, weight_decay=0.1)
    optimizer.step()
    [bucket] = optimizer.buckets
    filled = optimizer.stacks.matrices(bucket, optimizer.chain[0])
    factor = peak_bytes(lambda: optimizer.chain[1].update(filled, bucket.runs))
    assert peak_bytes(optimizer.step) <= max(factor, 2 * largest(optimizer)) + 0.01 * largest(optimizer)


def test_peaks_count_what_is_held_at_once():
    def work():
        a = torch.empty(1000, dtype=torch.float64)
        del a
        b = torch.empty(500, dtype=torch.float64), torch.empty(700, dtype=torch.float64)
        del b

    assert peak_bytes(work) == pytest.approx(9600, rel=0.02)  # an allocator may round up


# -- views --


def test_places_are_those_of_the_slots():
    shapes = [((4, 6), linear((4, 6))), ((6, 4), transposed((6, 4))), ((4, 3, 2), linear((4, 3, 2)))]
    shapes += [((8, 6), linear((8, 6)).cut(2)), ((2, 4, 6), stack((2, 4, 6))), ((8, 6, 1), convolution((8, 6, 1), 2))]
    members = [
        (i // 3, f"p{i}", torch.nn.Parameter(torch.zeros(shape)), layout) for i, (shape, layout) in enumerate(shapes)
    ]
    [bucket] = fill_buckets(members)
    filled = torch.arange(9.0 * 24).view(bucket.shape)
    for slot, place in zip(bucket.slots, bucket.places(filled), strict=True):
        assert torch.equal(place, slot.place(filled))
        assert place.shape == slot.read(slot.param).shape
    whole = [slot.whole for slot in bucket.slots]
    assert whole == [True, False, True, False, False, True, False]
    again = bucket.gather(lambda slot: slot.place(filled))
    assert torch.equal(again, filled)


def test_plain_matrices_are_cut_apart_as_slots_are():
    members = [(i, f"p{i}", torch.nn.Parameter(torch.zeros(3, 5)), linear((3, 5))) for i in (0, 0, 2)]
    [bucket] = fill_buckets(members)
    filled = torch.arange(45.0).view(3, 3, 5)
    places = bucket.places(filled)
    assert len(places) == 3
    assert torch.equal(places[2], filled[2])


def test_weights_gradients_and_state_may_be_exchanged_between_steps():
    """Nothing is kept of last step's tensors: model.to, FSDP and checkpoints put others in their place."""
    ours, theirs = (parameters([(8, 6), (8, 6)]) for _ in range(2))
    one, two = Muon(ours), Muon(theirs)
    for k in range(3):
        for p in ours:
            p.data = p.data.clone()
            p.grad = torch.full_like(p, 1.0 + k)
        for p in theirs:
            p.grad.fill_(1.0 + k)
        one.load_state_dict(copy.deepcopy(one.state_dict()))
        one.step()
        two.step()
    assert all(torch.equal(p, q) for p, q in zip(ours, theirs, strict=True))


class Narrow(Rule):
    """A direction in the dtype of the iteration."""

    def update(self, stack, runs):
        return stack.bfloat16()


class Rounded(Rule):
    """The same in float32."""

    def update(self, stack, runs):
        return stack.bfloat16().float()


def test_a_direction_in_a_narrower_dtype_moves_the_same_and_is_seen_in_the_buckets_dtype():
    ours, theirs = (parameters([(8, 6), (4, 4)]) for _ in range(2))
    (one, two), seen = (Muon(p, weight_decay=0.1) for p in (ours, theirs)), []
    one.chain, two.chain = (*one.chain, Narrow()), (*two.chain, Rounded())
    one.before_move.append(lambda bucket, direction: seen.append(direction.dtype))
    one.step()
    two.step()
    assert all(torch.equal(p, q) for p, q in zip(ours, theirs, strict=True))
    assert seen == [torch.float32, torch.float32]


# -- the update --


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cautious", [False, True])
@pytest.mark.parametrize("number", [float, torch.tensor], ids=["number", "tensor"])
def test_moved_decays_and_moves(number, cautious, dtype):
    w = parameters([(16, 12)], dtype)[0].detach()
    u = torch.randn(16, 12, generator=torch.Generator().manual_seed(1))
    kept = w.double() * (1 - 0.25 * ((w.double() * u >= 0) if cautious else 1))
    want = kept - 0.5 * u.double()
    moved([w], [u], number(-0.5), number(0.25), cautious=cautious)
    # Three roundings in float32, of numbers that are at most so large, and one in the dtype of the weight.
    size = (kept.abs() + 0.5 * u.double().abs()) * (2 * torch.finfo(torch.float32).eps)
    assert ((w.double() - want).abs() <= size + want.abs() * torch.finfo(dtype).eps).all()


class NoReading(TorchDispatchMode):
    """Refuses what makes the host wait for a value on the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func not in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default), func
        assert func is not torch.ops.aten.is_nonzero.default
        return func(*args, **(kwargs or {}))


def test_readings_would_be_found():
    with pytest.raises(AssertionError), NoReading():
        float(torch.tensor(1.0))


@pytest.mark.parametrize("cautious", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_reads_nothing_back(kind, cautious):
    params = parameters([(8, 6)] * 2 + [(64, 64)], torch.bfloat16)
    optimizer = kind(params, lr=torch.tensor(0.1), weight_decay=0.1, cautious=cautious)
    with NoReading():
        optimizer.step()
        optimizer.step()


COMPILED = {
    "muon": lambda p, **kw: Muon(p, lr=torch.tensor(0.05), method=matfn.PolarExpress(steps=2), **kw),
    "default": lambda p, **kw: Muon(p, lr=torch.tensor(0.05), **kw),
    "normuon": lambda p, **kw: NorMuon(p, lr=torch.tensor(0.05), method=matfn.PolarExpress(steps=2), **kw),
}


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile wants a C++ compiler on a CPU")
@pytest.mark.parametrize("kind", COMPILED.values(), ids=COMPILED)
def test_a_compiled_step_is_the_eager_one(kind):
    """On torch 2.8 and later, as one graph that serves all steps."""
    ours, theirs = (parameters([(16, 8)] * 2 + [(12, 12)]) for _ in range(2))
    one, two = (kind(p, precision=torch.float32, weight_decay=0.1) for p in (ours, theirs))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    # Not by inductor: torch 2.13 told to use AVX2 alone (ATEN_CPU_CAPABILITY) generates code that gives NaN here.
    compiled, graphs = torch.compile(two.step, backend="aot_eager"), []
    for k in range(4):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(k))
            q.grad = p.grad.clone()
        for optimizer in (one, two):
            optimizer.param_groups[0]["lr"].fill_(0.05 / (k + 1))
        one.step()
        compiled()
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
        # The factor of these matrices, of condition 5, in float32: some hundred roundings, each grown by it at most.
        assert all((p - q).abs().max() < 500 * torch.finfo(p.dtype).eps for p, q in zip(ours, theirs, strict=True))
    assert graphs == [1] * 4, "it compiles anew for new gradients or another learning rate"
