"""Machines: which profile is found, what is timed and kept, and that every profile runs every verb and optimizer."""

import itertools
import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

import matfn
from matfn.optim import SOAP, AdaMuon, Muon, NorMuon, PolarGrad, Shampoo
from matfn.run import machine as machines
from matfn.run.machine import PROFILES, Half, machine
from matrices import gaussian

CPU = torch.device("cpu")
VERBS = {
    "orthogonalize": matfn.orthogonalize,
    "polar": lambda X: matfn.polar(X).U,
    "signm": lambda X: matfn.signm(definite(X)),
    "sqrtm": lambda X: matfn.sqrtm(definite(X), method=matfn.PolarExpress(steps=12, lower=1e-3)),
    "inv_sqrtm": lambda X: matfn.inv_sqrtm(definite(X)),
    "rootm": lambda X: matfn.rootm(definite(X), 3),
    "inv_rootm": lambda X: matfn.inv_rootm(definite(X), 4, method=matfn.RitzMinimax(tol=1e-4)),
    "inv": lambda X: matfn.inv(definite(X)),
}
OPTIMIZERS = {
    "muon": lambda p: Muon(p, lr=0.1),
    "normuon": lambda p: NorMuon(p, lr=0.1),
    "adamuon": lambda p: AdaMuon(p, lr=0.1),
    "polargrad": lambda p: PolarGrad(p, lr=0.1),
    "shampoo": lambda p: Shampoo(p, lr=0.1, root_every=1),
    "soap": lambda p: SOAP(p, lr=0.1),
}


def definite(X):
    n = min(X.shape)
    return X[:n, :n] @ X[:n, :n].mT + n * torch.eye(n, dtype=X.dtype)


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """A folder of its own for what is timed, and nothing remembered from before."""
    monkeypatch.setenv("MATFN_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("MATFN_MACHINE", raising=False)
    machines._machine.cache_clear()
    yield tmp_path
    machines._machine.cache_clear()


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_runs_every_verb_and_optimizer_on_plain_products(name, monkeypatch):
    """The numbers agree between profiles up to the precision of the iteration: the polynomials are the same."""
    X = gaussian(16, 40, seed=1).float()
    reference = {verb: call(X) for verb, call in VERBS.items()}
    monkeypatch.setenv("MATFN_MACHINE", name)
    for verb, call in VERBS.items():
        assert torch.allclose(call(X), reference[verb], rtol=0, atol=1e-5), verb
        assert call(X.bfloat16().float()).dtype == torch.float32
    half = matfn.orthogonalize(X.bfloat16())
    assert half.dtype == torch.bfloat16
    assert torch.allclose(half.float(), reference["orthogonalize"], rtol=0, atol=0.1)
    steps = {}
    for kind, make in OPTIMIZERS.items():
        weights = [nn.Parameter(torch.zeros(16, 40)), nn.Parameter(torch.zeros(144, 130))]
        optimizer = make(weights)
        for seed in (1, 2):
            for weight in weights:
                weight.grad = gaussian(*weight.shape, seed=seed).float()
            optimizer.step()
            steps.setdefault(kind, weights[0].detach().clone())
        assert all(torch.isfinite(weight).all() and weight.any() for weight in weights), kind
    # Muon's update is the polar factor: its direction does not depend on the machine, only its rounding does.
    U = matfn.polar(gaussian(16, 40, seed=1).float()).U
    assert torch.nn.functional.cosine_similarity(steps["muon"].flatten(), -U.flatten(), dim=0) > 0.8


def test_the_profile_is_named_by_the_environment(monkeypatch):
    monkeypatch.setenv("MATFN_MACHINE", "x86-avx2")
    assert machine(CPU) is PROFILES["x86-avx2"]
    monkeypatch.setenv("MATFN_MACHINE", "my-laptop")
    with pytest.raises(ValueError, match=r"MATFN_MACHINE must be one of x86-avx2, .*, probe, got 'my-laptop'"):
        machine(CPU)


@pytest.mark.parametrize(
    ("capability", "flags", "vendor", "name"),
    [
        ("AVX2", "avx2 f16c", "GenuineIntel", "x86-avx2"),
        ("AVX512", "avx512f", "GenuineIntel", "x86-avx512"),
        ("AVX512", "avx512f avx512_bf16", "GenuineIntel Cooper Lake", "x86-avx512-bf16"),
        ("AVX512", "avx512f avx512_bf16", "AuthenticAMD EPYC", "amd-avx512-bf16"),
        ("AVX512", "avx512f avx512_bf16 amx_bf16", "GenuineIntel", "x86-amx"),
        ("AVX2", "avx512f avx512_bf16", "AuthenticAMD EPYC", "x86-avx2"),  # torch was told to do without AVX512
        ("DEFAULT", "sse4_2", "GenuineIntel", "cpu"),
    ],
)
def test_the_processor_is_recognised(monkeypatch, capability, flags, vendor, name):
    monkeypatch.setattr(machines, "processor", lambda: (frozenset(flags.split()), vendor))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(machines.platform, "machine", lambda: "x86_64")
    assert machines._cpu() == name


@pytest.mark.parametrize(("flags", "name"), [("asimd bf16", "arm-bf16"), ("asimd", "arm")])
def test_arm_is_recognised(monkeypatch, flags, name):
    monkeypatch.setattr(machines, "processor", lambda: (frozenset(flags.split()), "ARM"))
    monkeypatch.setattr(machines.platform, "machine", lambda: "aarch64")
    assert machines._cpu() == name


def test_what_is_not_known_is_timed_once_and_kept(cache, monkeypatch):
    monkeypatch.setattr(machines, "_cpu", lambda: "arm")
    timed = []
    times = {"float32": 1e-3, "bfloat16": 5e-4, "float16": 2e-3}
    monkeypatch.setattr(machines, "_timed", lambda device: timed.append(device) or times)
    found = machine(CPU)
    assert (found.half.bfloat16, found.half.float16) == (True, False)
    assert "timed here" in found.half.where
    assert found.narrow == torch.bfloat16
    machines._machine.cache_clear()
    assert machine(CPU).half == found.half  # from the file
    assert len(timed) == 1
    [file] = cache.glob("machine-*.json")
    for damaged in ("", "[]", json.dumps({"key": "other", "seconds": times}), '{"key": 1}', '{"seconds": {}}'):
        file.write_text(damaged)
        machines._machine.cache_clear()
        assert machine(CPU).half.bfloat16
    assert len(timed) == 6


def test_processes_that_start_together_decide_by_the_same_times(cache, monkeypatch):
    """Otherwise the replicas of a model could iterate in different dtypes, and drift apart."""
    timed = itertools.count(1)

    def slowly(device):
        count = next(timed)
        time.sleep(0.3)  # the others arrive meanwhile
        return {"float32": 1e-3, "bfloat16": 1e-4 * count}

    monkeypatch.setattr(machines, "_timed", slowly)
    with ThreadPoolExecutor(4) as pool:  # a file lock also excludes threads of one process
        found = list(pool.map(lambda _: machines.probe(CPU), range(4)))
    assert found == [{torch.float32: 1e-3, torch.bfloat16: 1e-4}] * 4


def test_without_a_folder_to_write_to_the_products_are_timed_each_time(cache, monkeypatch):
    monkeypatch.setattr(machines, "_timed", lambda device: {"float32": 1e-3})
    (cache / "file").write_text("")
    monkeypatch.setenv("MATFN_CACHE_DIR", str(cache / "file" / "below"))
    assert machines.probe(CPU) == {torch.float32: 1e-3}


def test_the_times_are_of_products_on_this_machine(cache, monkeypatch):
    monkeypatch.setenv("MATFN_MACHINE", "probe")
    times = machines.probe(CPU)
    assert set(times) >= {torch.float32}
    assert all(0 < seconds < 10 for seconds in times.values())
    found = machine(CPU)
    assert found.half.bfloat16 == (times[torch.bfloat16] <= times[torch.float32])


def test_products_that_torch_lacks_are_not_planned(cache, monkeypatch):
    monkeypatch.setattr(machines, "_cpu", lambda: "amd-avx512-bf16")
    monkeypatch.setattr(machines, "onednn_runs", lambda: False)
    found = machine(CPU)
    assert found.onednn_rows.value is None
    assert "no oneDNN" in found.onednn_rows.where


def test_a_known_machine_is_not_timed(cache, monkeypatch):
    monkeypatch.setattr(machines, "_cpu", lambda: "x86-avx2")
    monkeypatch.setattr(machines, "_timed", lambda device: pytest.fail("timed"))
    assert machine(CPU).half == PROFILES["x86-avx2"].half
    assert machine(torch.device("meta")).half is not None


def test_every_constant_says_where_it_was_measured():
    for profile in PROFILES.values():
        facts = [value for value in vars(profile).values() if isinstance(value, machines.Fact | Half)]
        assert len(facts) >= 5
        assert all(len(fact.where) > 10 for fact in facts), profile.name


def test_products_that_are_emulated_are_never_quick(cache, monkeypatch):
    """On a busy machine two threads of float32 may take as long as one emulated bfloat16 product."""
    monkeypatch.setattr(machines, "_cpu", lambda: "arm")
    monkeypatch.setattr(machines, "_timed", lambda device: {"float32": 1.2e-2, "bfloat16": 1.0e-2, "float16": 3e-3})
    found = machine(CPU).half
    assert (found.bfloat16, found.float16) == (False, True)


@pytest.mark.parametrize(
    ("capability", "name"), [((8, 9), "cuda-sm80"), ((9, 0), "cuda-sm90"), ((12, 0), "cuda-sm100"), ((7, 5), "cuda")]
)
def test_nvidia_gpus_are_recognised(cache, monkeypatch, capability, name):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(machines, "probe", lambda device: {torch.float32: 1e-3, torch.float16: 5e-4})
    found = machine(torch.device("cuda"))
    assert found.name == name
    assert found.half.float16
    assert found.half.bfloat16 == (name != "cuda")
