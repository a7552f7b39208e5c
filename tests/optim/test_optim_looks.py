"""RitzMinimax(every=k) in optimizers: looks at some steps, steps that are kept between them, and their state."""

import io

import pytest
import torch
from torch import nn

import matfn
from launches import step_launches
from matfn import Direct, PolarExpress, RitzMinimax
from matfn.kernels import EAGER
from matfn.methods.ritz_minimax import fused, kept
from matfn.methods.ritz_minimax.kept import due
from matfn.optim import AdaMuon, Muon, NorMuon, PolarGrad, Shampoo
from matfn.optim.matrices.layout import stack
from matfn.optim.optimizer import MatrixOptimizer

SHAPES = [(32, 64), (32, 64), (64, 48), (40, 40)]


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def made(kind=Muon, every=4, shapes=SHAPES, method=None, **options):
    method = RitzMinimax(every=every) if method is None else method
    params = [(f"w{i}", nn.Parameter(gaussian(*shape, seed=i))) for i, shape in enumerate(shapes)]
    return kind(params, lr=0.02, method=method, **{"precision": torch.float32, **options})


def step(optimizer, number, skip=(), grow=1.0):
    """One step on gradients of independent entries plus a fixed gradient of rank 1."""
    for i, param in enumerate(optimizer.param_groups[0]["params"]):
        drift = torch.outer(gaussian(param.shape[0], seed=50 + i), gaussian(param.shape[1], seed=60 + i))
        gradient = gaussian(*param.shape, seed=1000 * number + i) + 0.3 * drift
        param.grad = None if i in skip else (grow * gradient).to(param.dtype)
    optimizer.step()


def weights(optimizer):
    return [param.detach().clone() for param in optimizer.param_groups[0]["params"]]


def looks(monkeypatch):
    """The numbers of matrices of all looks from now on."""
    seen, looked = [], RitzMinimax.looked

    def noted(self, k, residual):
        if k == 0:
            seen.append(residual.M.shape[0])
        return looked(self, k, residual)

    monkeypatch.setattr(RitzMinimax, "looked", noted)
    return seen


def test_which_steps_look():
    assert [s for s in range(1, 40) if due(s, 10)] == [1, 2, 4, 8, 11, 21, 31]
    assert [s for s in range(1, 12) if due(s, 4)] == [1, 2, 5, 9]
    assert all(due(s, 1) for s in range(1, 9))


@pytest.mark.parametrize("kind", [Muon, NorMuon, AdaMuon, PolarGrad], ids=lambda kind: kind.__name__)
def test_looks_are_rare(kind, monkeypatch):
    seen, optimizer = looks(monkeypatch), made(kind, every=4)
    for number in range(1, 11):
        step(optimizer, number)
    assert sum(seen) == len(SHAPES) * 4  # the steps 1, 2, 5 and 9
    for param in optimizer.param_groups[0]["params"]:
        assert optimizer.state[param]["looks"].shape == (5 * 3, 1, 1)


def test_old_looks_cost_little():
    """rms(1 - sigma) on momenta of gradients with singular values 1/i, "steep" in docs/results/ritz_measurement.md.

    Looks up to sixteen steps old change the error by 1 % there.
    """
    errors = {}
    shrink = 1 / torch.arange(1, 129)
    for every in (1, 4, 16):
        found = errors[every] = []
        optimizer = made(every=every, shapes=[(128, 128)] * 2)
        optimizer.before_move.append(
            lambda _, update, found=found: found.append((1 - torch.linalg.svdvals(update.double())).square().mean())
        )
        for number in range(24):
            for i, param in enumerate(optimizer.param_groups[0]["params"]):
                P, Q = (torch.linalg.qr(gaussian(128, 128, seed=1000 * number + 2 * i + j))[0] for j in (0, 1))
                param.grad = P * shrink @ Q
            optimizer.step()
    fresh, *old = (torch.stack(found).mean().sqrt() for found in errors.values())
    assert all(0.97 * fresh <= each <= 1.03 * fresh for each in old)


def test_a_step_that_looks_is_the_step_of_every_look():
    """The first two steps look, so their weights are those of looks at every step."""
    old, fresh = made(every=10), made(every=1)
    for number in (1, 2):
        step(old, number)
        step(fresh, number)
    assert all(torch.equal(a, b) for a, b in zip(weights(old), weights(fresh), strict=True))


@pytest.mark.parametrize("kind", [Muon, PolarGrad], ids=lambda kind: kind.__name__)
def test_a_resumed_run_has_the_same_bits(kind):
    """Saved between two looks, so that the state is needed."""
    whole = made(kind)
    for number in range(1, 8):
        step(whole, number)
    memory = io.BytesIO()
    torch.save((whole.state_dict(), weights(whole)), memory)
    memory.seek(0)
    saved, values = torch.load(memory)
    resumed = made(kind)
    resumed.load_state_dict(saved)
    with torch.no_grad():
        for param, value in zip(resumed.param_groups[0]["params"], values, strict=True):
            param.copy_(value)
    for param, other in zip(*(o.param_groups[0]["params"] for o in (whole, resumed)), strict=True):
        assert torch.equal(whole.state[param]["looks"], resumed.state[other]["looks"])
    for number in range(8, 12):
        step(whole, number)
        step(resumed, number)
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(resumed), strict=True))


def test_checkpoints_of_other_methods():
    """State of another method has no looks, so the next step looks. Looks without a use are dropped."""
    plain, old = made(method=PolarExpress()), made()
    for number in range(1, 4):
        step(plain, number)
        step(old, number)
    there, back = made(), made(method=PolarExpress())
    there.load_state_dict(plain.state_dict())
    back.load_state_dict(old.state_dict())
    first = back.param_groups[0]["params"][0]
    assert set(back.state[first]) == {"momentum_buffer"}
    step(there, 4)
    state = there.state[there.param_groups[0]["params"][0]]
    assert (state["step"], bool(state["looks"].any())) == (1, True)


def test_a_matrix_without_a_look_takes_usual_steps(monkeypatch):
    """A checkpoint that counts steps, because its rounding needs them, but has no looks."""
    plain, there = (made(method=m, rounding="stochastic") for m in (PolarExpress(), RitzMinimax(every=10)))
    for optimizer in (plain, there):
        for param in optimizer.param_groups[0]["params"]:
            param.data = param.data.bfloat16()
    for number in range(1, 5):
        step(plain, number)
    there.load_state_dict(plain.state_dict())
    seen, updates = looks(monkeypatch), []
    there.before_move.append(lambda _, update: updates.append(torch.linalg.svdvals(update.double())))
    step(there, 5)
    assert not seen
    assert all(0.5 < s.median() < 1.3 and s.max() < 1.3 for s in updates)


def test_each_matrix_of_a_parameter_keeps_its_own_steps():
    """One parameter of two matrices, of even spectrum and of nearly rank 1, beside an optimizer for each."""
    gradient = gaussian(2, 24, 40)
    gradient[1] = gradient[1, :, :1] + 1e-3 * gradient[1]
    whole, parts = nn.Parameter(torch.zeros(2, 24, 40)), [nn.Parameter(torch.zeros(24, 40)) for _ in range(2)]
    runs = [(whole, {"layout": stack}, gradient), *((part, {}, g) for part, g in zip(parts, gradient, strict=True))]
    for param, layout, given in runs:
        optimizer = Muon([{"params": [param], **layout}], lr=1.0, method=RitzMinimax(every=8), precision=torch.float32)
        for _ in range(3):  # the third keeps the steps of the second
            param.grad = given.clone()
            optimizer.step()
    torch.testing.assert_close(whole, torch.stack(list(parts)), rtol=0, atol=1e-4)


def test_parameters_of_different_ages_share_a_stack(monkeypatch):
    """The second of two equal shapes has no gradient in the first step, so they look at different steps."""
    seen, optimizer = looks(monkeypatch), made(every=4, shapes=[(32, 64)] * 3)
    for number in range(1, 7):
        step(optimizer, number, skip=(1,) if number == 1 else ())
    alone = made(every=4, shapes=[(32, 64)] * 3)
    for number in range(1, 7):
        step(alone, number, skip=(1,) if number == 1 else ())
    # Ages 1, 2, 5 look: of two parameters at the steps 1, 2, 5, of the other at 2, 3, 6.
    assert sum(seen[: len(seen) // 2]) == 9
    assert all(torch.equal(a, b) for a, b in zip(weights(optimizer), weights(alone), strict=True))
    kept_rows = [optimizer.state[p]["looks"] for p in optimizer.param_groups[0]["params"]]
    assert not torch.equal(kept_rows[0], kept_rows[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_a_spectrum_that_jumps_does_not_diverge(dtype):
    """Flat gradients until step 5, then one of rank 1, a million times larger, at a step without a look."""
    optimizer, greatest = made(every=16, shapes=[(48, 96)] * 2, precision=dtype), []
    optimizer.before_move.append(lambda _, update: greatest.append(torch.linalg.svdvals(update.double()).max()))
    for number in range(1, 6):
        step(optimizer, number)
    for param in optimizer.param_groups[0]["params"]:
        param.grad = 1e6 * torch.outer(gaussian(48), gaussian(96, seed=1))
    optimizer.step()
    step(optimizer, 7, grow=1e12)
    assert max(greatest) <= 1.3 + 20 * torch.finfo(dtype).eps


def test_a_compiled_step_keeps_looks():
    """The looks are outside the graph, so the steps are those of a step that is not compiled."""
    compiled, plain = (made(every=4, shapes=[(16, 24)] * 2) for _ in range(2))
    step_of = torch.compile(compiled.step)
    for number in range(1, 5):
        for optimizer, move in ((compiled, step_of), (plain, plain.step)):
            for i, param in enumerate(optimizer.param_groups[0]["params"]):
                param.grad = gaussian(16, 24, seed=10 * number + i)
            move()
    for a, b in zip(weights(compiled), weights(plain), strict=True):
        assert (a - b).abs().max() <= 1e-5


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"every must be an integer of at least 1"):
        RitzMinimax(every=0)
    with pytest.raises(ValueError, match=r"every=3 with steps=\.\.\., got tol=1e-06"):
        RitzMinimax(every=3, tol=1e-6)
    with pytest.raises(ValueError, match=r"every=3\) keeps its steps from one step of an optimizer to the next"):
        matfn.orthogonalize(torch.eye(4), method=RitzMinimax(every=3))
    assert "RitzMinimax(" in str(matfn.explain((64, 64), "muon", method=RitzMinimax(every=3)))
    with pytest.raises(ValueError, match=r"^Shampoo: .* leave every out"):
        Shampoo([nn.Parameter(torch.eye(4))], lr=0.1, method=RitzMinimax(every=3))
    for verb in ("orthogonalize", "polar", "sqrtm", "shampoo"):
        with pytest.raises(ValueError, match="leave every out"):
            matfn.explain((64, 64), verb, method=RitzMinimax(every=3))


@pytest.fixture
def gpu(monkeypatch):
    """A stand-in for the tables and the counter, whose values a fake tensor does not have."""
    pytest.importorskip("triton", reason="triton is not installed: it comes with torch for CUDA, or pip install triton")
    from contextlib import nullcontext

    from matfn.kernels.triton_look import Rehearsal

    def empty(*shape, device):
        return torch.empty(*shape, dtype=torch.float64, device=device)

    monkeypatch.setenv("MATFN_MACHINE", "cuda-sm90")
    monkeypatch.setattr(torch.cuda, "device_of", lambda x: nullcontext())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(
        fused, "rehearsal", lambda p, d, u, device: Rehearsal(empty(3 * len(d) + 1, 64, device=device), p, 2, len(d))
    )
    monkeypatch.setattr(kept, "composition", lambda p, d, u, low, device: empty(len(d), 3, device=device))
    monkeypatch.setattr(MatrixOptimizer, "age", lambda self, param: 3)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16], ids=str)
def test_launches_on_a_gpu(gpu, precision):
    """Counted with fake tensors, which raise an error if a value is read; 768 rows are cut among programs."""
    options = {"precision": precision, "engine": Direct(), "products": EAGER}
    counts = {}
    for rows in (256, 768):
        for every in (1, 10):
            found, buckets = step_launches(Muon, [(rows, 2 * rows)] * 4, method=RitzMinimax(every=every), **options)
            assert buckets == 1
            counts[rows, every] = found.counts
        fixed, _ = step_launches(Muon, [(rows, 2 * rows)] * 4, method=PolarExpress(), **options)
        ours = sum(counts[rows, 10].values()) - counts[rows, 10]["add"]  # the counters are on the host
        assert ours <= fixed.total + 15
        assert counts[rows, 10]["triton look_kernel"] == 0
        assert counts[rows, 10]["bmm"] + counts[rows, 10]["baddbmm"] == 15  # as many products as fixed steps
    assert counts[256, 1]["triton look_kernel"] == 5
    assert counts[768, 1]["triton look_kernel"] == 5 * 7
    assert sum(counts[256, 1].values()) <= 55
