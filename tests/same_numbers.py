"""Check that a change of the code leaves every number as it was, bit for bit.

Run `record` with the code before the change and with the code after it, on one machine, then compare the two files:

    python tests/same_numbers.py record FILE                 # also writes FILE.checkpoints
    python tests/same_numbers.py compare OLD NEW             # status 1 if a case changed that EXPECTED does not name
    python tests/same_numbers.py resume OLD.checkpoints      # load old checkpoints into the present code, train on

The script uses public names alone, so that one copy of it runs on any commit: put the commit's src on PYTHONPATH.
"""

import copy
import fnmatch
import hashlib
import sys
import time
import warnings
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

import matfn
from matfn import Direct, Exact, Gram, PolarExpress, kernels, method
from matfn.optim import SOAP, Cutting, Muon, NorMuon, PolarGrad, Shampoo, minimax, plan, resolvents

# Pattern of case names -> why these cases may differ, in one clause.
_SMALL = "without precision=, momenta below 48 rows are iterated in float32, which is quicker there on this machine"
_DEFAULTS = ("muon/default/*", "muon/deflated/*", "muon/prism*", "muon/ritz-minimax/*", "muon/schedule/*")
_DEFAULTS += ("normuon/default/*", "normuon/mixed/*", "normuon/options/*")
_GRAM = "the Gram engine multiplies Q from the other side, and restarts by a model for every spectrum"
_OBLONG = tuple(
    f"orthogonalize/*/{shape}/*" for shape in ("oblong", "batch", "tall", "wide", "deficient", "row", "column")
)
_OBLONG += ("muon/*/step*", "normuon/*/step*")  # with a schedule as the method; the others are equal
EXPECTED: dict[str, str] = {
    **dict.fromkeys((*_OBLONG, "resume/muon/*", "resume/normuon/*"), _GRAM),
    "orthogonalize/*/float16*": "float16 products are emulated on this machine, so the iteration runs in float32",
    **{f"{before}soap/*": "SOAP's momentum begins anew at the second step" for before in ("", "resume/")},
    "shampoo/none/*": "Shampoo without a graft renews the roots of a young average",
    "certify/*": "up to 512 rows the figures are exact, and the direction is cut to [-1, 1]",
    "*/0.001/exact": "the ridge is added in float64, not in the dtype of the matrix",
    **{before + pattern: _SMALL for pattern in _DEFAULTS for before in ("", "resume/")},
}

Made = Iterator[tuple[str, Callable[[], Any]]]  # the name of a case, and a function that computes its tensors
F16, BF16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
DTYPES = {"float16": F16, "bfloat16": BF16, "float32": F32, "float64": F64}

DEFLATED = "polar-express:degree=(5,5,5),lower=1.4e-2,cushion=0.06,norm=schatten4,deflation=1/16"
POLYNOMIAL = (
    *("polar-express", "polar-express:degree=(9,9,5)", "polar-express:degree=3,steps=8,lower=1e-2"),
    "polar-express:steps=10,lower=1e-6",
    DEFLATED,
    "polar-express:degree=(5,5,5,5,3),lower=2e-3,cushion=0.07,norm=schatten4",
    *("newton-schulz", "newton-schulz:degree=3,steps=14", "tuned:name=jordan", "tuned:name=you", "tuned:name=you6"),
)
ADAPTIVE = (
    *("prism", "prism:degree=3,steps=8,warm=2", "prism:sketch=exact", "prism:draw=fixed", "db-newton"),
    *("ritz-minimax", "ritz-minimax:tol=1e-3", "ritz-minimax:degree=(7,5,5)"),
)
RATIONAL = ("qdwh", "qdwh:lower=1e-4", "zolo-pd", "zolo-pd:r=3,lower=1e-3")
ORACLES = (  # for Muon
    *("polar-express", "newton-schulz", "tuned:name=jordan", "prism", "prism:sketch=exact", "ritz-minimax"),
    *("db-newton", "qdwh", "zolo-pd", "exact"),
)
METHODS = (*POLYNOMIAL, *ADAPTIVE, *RATIONAL, "exact")
ACCURATE = (  # enough steps for matrices of condition 100
    *("exact", "polar-express:steps=10,lower=1e-6", "newton-schulz:steps=20", "prism:steps=14", "db-newton:steps=12"),
    *("ritz-minimax:tol=1e-5", "qdwh", "zolo-pd"),
)


def gaussian(name: str, *shape: int, dtype: torch.dtype = F64) -> Tensor:
    """Normal entries drawn from a seed that the name gives."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())), dtype=F64).to(dtype)


def definite(name: str, *batch: int, n: int = 14) -> Tensor:
    """Symmetric positive definite matrices of condition 100."""
    Q = torch.linalg.qr(gaussian(name, *batch, n, n)).Q
    A = Q * torch.logspace(0, -2, n, dtype=F64) @ Q.mT
    return (A + A.mT) / 2


def indefinite(name: str, n: int = 14) -> Tensor:
    """A nonsymmetric matrix of real eigenvalues of both signs, the least of them 0.1."""
    values = torch.logspace(0, -1, n, dtype=F64) * torch.tensor([1.0, -1.0] * (n // 2))
    V = torch.eye(n, dtype=F64) + 0.1 * gaussian(name, n, n) / n**0.5
    return V * values @ torch.linalg.inv(V)


MATRICES = {
    **{"square": gaussian("square", 24, 24), "tall": gaussian("tall", 40, 16), "wide": gaussian("wide", 16, 40)},
    **{"batch": gaussian("batch", 3, 20, 28), "row": gaussian("row", 1, 9), "zero": torch.zeros(12, 8, dtype=F64)},
    "deficient": gaussian("left", 30, 7) @ gaussian("right", 7, 20),
    **{"large": gaussian("large", 160, 144), "oblong": gaussian("oblong", 64, 256)},
}
SPD = {"one": definite("one"), "pair": definite("pair", 2), "large": definite("large", n=100)}


def orthogonalize_cases() -> Made:
    run = matfn.orthogonalize
    for (shape, X), (dtype, kind) in product(MATRICES.items(), DTYPES.items()):
        yield f"orthogonalize/default/{shape}/{dtype}", partial(run, X.to(kind))
        for text in METHODS:
            yield f"orthogonalize/methods/{shape}/{dtype}/{text}", partial(run, X.to(kind), method=method(text))
    engines = {"direct": Direct(), "gram": Gram(), "gram2": Gram((2,)), "gram0": Gram(())}
    some = {shape: MATRICES[shape] for shape in ("tall", "batch", "oblong")}
    for (shape, X), (dtype, kind), (name, engine) in product(some.items(), DTYPES.items(), engines.items()):
        for text in METHODS:
            call = partial(run, X.to(kind), method=method(text), engine=engine)
            yield f"orthogonalize/engines/{shape}/{dtype}/{name}/{text}", call
    for (shape, X), precision, text in product(MATRICES.items(), ("bfloat16", "float32"), METHODS):
        call = partial(run, X.to(F32), method=method(text), precision=DTYPES[precision])
        yield f"orthogonalize/precision/{shape}/{precision}/{text}", call
    chosen = {"eager": kernels.EAGER, "blocked": kernels.Blocked(32)}
    for (shape, X), (dtype, kind), (name, products) in product(some.items(), DTYPES.items(), chosen.items()):
        yield f"orthogonalize/products/{shape}/{dtype}/{name}", partial(run, X.to(kind), products=products)


def verb_cases() -> Made:
    for (shape, A), dtype, side, factor in product(MATRICES.items(), DTYPES, ("left", "right"), ("range", "complete")):
        for text in ACCURATE if dtype in ("float32", "float64") else ("exact", "qdwh"):
            call = partial(matfn.polar, A.to(DTYPES[dtype]), side, factor=factor, method=method(text))
            yield f"polar/{factor}/{side}/{shape}/{dtype}/{text}", call
    for (dtype, kind), text in product(DTYPES.items(), ACCURATE):
        for name, A in {"general": indefinite("sign"), "symmetric": SPD["one"] - 0.05 * torch.eye(14)}.items():
            yield f"signm/{name}/{dtype}/{text}", partial(matfn.signm, A.to(kind), method=method(text))
        for name, A in {"general": indefinite("inv"), **SPD}.items():
            for ridge in (0.0, 1e-3):
                call = partial(matfn.inv, A.to(kind), ridge=ridge, method=method(text))
                yield f"inv/{name}/{dtype}/{ridge}/{text}", call
    for name, dtype, ridge, text in product(SPD, DTYPES, (0.0, 1e-3), ACCURATE):
        for verb, run in roots().items():
            call = partial(run, SPD[name].to(DTYPES[dtype]), ridge=ridge, method=method(text))
            yield f"{verb}/{name}/{dtype}/{ridge}/{text}", call
    for name, p, (kind, make) in product(SPD, (2, 4), {"resolvents": resolvents, "minimax": minimax}.items()):
        call = partial(matfn.inv_rootm, SPD[name].to(F32), p, method=make(p, 1e-2))
        yield f"inv_rootm{p}/{name}/float32/{kind}", call


def roots() -> dict[str, Callable[..., Tensor]]:
    powers = {f"inv_rootm{p}": partial(matfn.inv_rootm, p=p) for p in (1, 2, 4)}
    return {"sqrtm": matfn.sqrtm, "inv_sqrtm": matfn.inv_sqrtm, "rootm3": partial(matfn.rootm, p=3), **powers}


def certify_cases() -> Made:
    for (shape, X), text, exact in product(MATRICES.items(), ("polar-express", "exact"), (False, True)):
        U = matfn.orthogonalize(X, method=method(text))
        yield f"certify/polar/{shape}/{text}/exact={exact}", partial(figures, X, U, exact=exact)
    spd = SPD["pair"]
    results: dict[str, tuple[Tensor, Tensor, dict[str, int]]] = {
        "sign": (indefinite("sign"), matfn.signm(indefinite("sign")), {}),
        "sqrt": (spd, matfn.sqrtm(spd), {}),
        "inv_sqrt": (spd, matfn.inv_sqrtm(spd), {}),
        "root": (spd, matfn.rootm(spd, 3), {"p": 3}),
        "inv_root": (spd, matfn.inv_rootm(spd, 4), {"p": 4}),
        "inv": (spd, matfn.inv(spd), {}),
    }
    for (of, (X, U, p)), exact in product(results.items(), (False, True)):
        noise = 1e-3 * gaussian("noise", *U.shape)
        yield f"certify/{of}/exact={exact}", partial(figures, X, U + noise, of=of, exact=exact, **p)
    _, U, _ = results["inv_root"]
    yield "certify/balanced", partial(figures, spd, U, of="inv_root", p=4, only="balanced")


def figures(*arguments: Any, **options: Any) -> list[Tensor]:
    c = matfn.certify(*arguments, **options)
    return [c.orthogonality, c.direction, c.residual]


def gradient_cases() -> Made:
    verbs: dict[str, tuple[Callable[..., Any], Tensor]] = {
        "signm": (matfn.signm, indefinite("sign")),
        "inv": (matfn.inv, indefinite("inv")),
        **{verb: (run, SPD["pair"]) for verb, run in roots().items()},
    }
    for side, shape in product(("left", "right"), ("square", "tall", "wide", "batch")):
        verbs[f"polar-{side}-{shape}"] = (partial(matfn.polar, side=side), MATRICES[shape])
        verbs[f"orthogonalize-{shape}"] = (matfn.orthogonalize, MATRICES[shape])
    for (verb, (run, A)), text in product(verbs.items(), ("exact", "polar-express:steps=10,lower=1e-6", "qdwh")):
        yield f"gradients/{verb}/{text}", partial(gradient, partial(run, method=method(text)), A)


def gradient(run: Callable[[Tensor], Any], A: Tensor) -> Tensor:
    leaf = A.clone().requires_grad_()
    found = run(leaf)
    loss = sum((F * gaussian("loss", *F.shape)).sum() for F in (found if isinstance(found, tuple) else (found,)))
    return torch.autograd.grad(loss, leaf)[0]


def schedule_cases() -> Made:
    for text, p in product((*POLYNOMIAL, *RATIONAL), (1, 2, 3, 4)):
        yield f"schedules/{text}/p={p}", partial(schedule, method(text), p)
    for p, lower in product((1, 2, 4), (1e-1, 1e-2)):
        yield f"schedules/minimax/p={p}/lower={lower}", lambda p=p, lower=lower: schedule(minimax(p, lower), p)


def schedule(made: Any, p: int) -> list[Tensor]:
    """The scalar map after all steps, the images and the amplification; for polynomials the coefficients as well."""
    found = made.schedule(p)
    numbers = [found(torch.linspace(found.lower, 1, 33, dtype=F64)), torch.tensor(found.images(), dtype=F64)]
    polynomial = all(hasattr(row, "coefficients") for row in found.rows)
    rows = found.coefficients if polynomial else ()
    return [*numbers, torch.tensor([found.rounding], dtype=F64), *(torch.tensor(row, dtype=F64) for row in rows)]


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(4, 16, 24))


class Model(nn.Module):
    """A layer of every kind. The sides of `wide` and `oblong` are at least 128, from where Muon deflates."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(50, 32), nn.LayerNorm(48)
        self.first, self.second, self.up, self.down = linears((48, 64), (48, 64), (48, 192), (192, 48))
        self.qkv, self.wide, self.oblong, self.idle = linears((32, 96), (136, 160), (256, 128), (24, 24))
        self.conv, self.experts = nn.Conv2d(4, 8, 3), Experts()
        for name, parameter in self.named_parameters():
            parameter.data = 0.1 * gaussian(name, *parameter.shape, dtype=F32)


def linears(*sides: tuple[int, int]) -> list[nn.Linear]:
    return [nn.Linear(inputs, outputs) for inputs, outputs in sides]


BARE = tuple(name for name, _ in Model().named_parameters())
VECTORS = tuple(name for name in BARE if name.endswith("bias") or name.startswith(("norm", "embed")))
RULES = {name: "adamw" if name in VECTORS else "matrix" for name in BARE if name != "qkv.weight"}
REST = {"rest": dict(lr=3e-3, weight_decay=0.1)}


def arms() -> dict[str, tuple[Callable[[Any], torch.optim.Optimizer], str]]:
    """The optimizers to compare: how each is made, and which dtypes its weights have."""
    muon, normuon, shampoo, soap = (partial(kind, **REST) for kind in (Muon, NorMuon, Shampoo, SOAP))
    polargrad = partial(PolarGrad, lr=1e-3, **REST)
    often = partial(shampoo, root_every=5, lr=0.01)
    made: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
        "muon/default": muon,
        **{f"muon/{name}": partial(muon, precision=DTYPES[name]) for name in ("bfloat16", "float32")},
        **{f"muon/{text}": partial(muon, method=method(text)) for text in ORACLES},
        "muon/deflated": partial(muon, method=method(DEFLATED)),
        "muon/polar-express-float32": partial(muon, method=PolarExpress(), precision=F32),
        "muon/schedule": partial(muon, method=PolarExpress(degree=(7, 5, 5)).schedule()),
        **{f"muon/{e!r}": partial(muon, engine=e, method=PolarExpress()) for e in (Direct(), Gram((2,)))},
        "muon/eager": partial(muon, products=kernels.EAGER),
        "muon/plain-momentum": partial(muon, nesterov=False, momentum=0.9),
        "muon/cautious": partial(muon, cautious=True, weight_decay=0.1),
        "muon/decay": partial(muon, weight_decay=0.1),
        **{f"muon/{scale}": partial(muon, scale=scale) for scale in ("spectral", "moonlight", "unit")},
        "muon/own-scale": partial(muon, scale=lambda m, n: (m + n) ** -0.5),
        "normuon/default": normuon,
        **{f"normuon/{name}": partial(normuon, precision=DTYPES[name]) for name in ("bfloat16", "float32")},
        "normuon/options": partial(normuon, nesterov=False, beta2=0.9, cautious=True, weight_decay=0.1),
        **{f"polargrad/{v}": partial(polargrad, variant=v) for v in ("momentum-first", "heavy-ball", "vanilla")},
        "polargrad/polar-first": partial(polargrad, variant="polar-first"),
        "polargrad/rank": partial(polargrad, scale="rank", lr=0.02),
        "polargrad/growth": partial(polargrad, growth=4.0, weight_decay=0.1),
        "polargrad/power": partial(polargrad, power=0.5, cautious=True, weight_decay=0.1),
        "polargrad/polar-express": partial(polargrad, method=PolarExpress(steps=8), precision=BF16),
        **{f"shampoo/{graft}": partial(often, graft=graft) for graft in ("adam", "sgd", "none")},
        "shampoo/exact": partial(often, method=Exact(), root=2),
        "shampoo/minimax": partial(often, method=minimax),
        "shampoo/blocks": partial(often, cutting=Cutting(block=40, merge=9)),
        "shampoo/large-blocks": partial(often, cutting=Cutting(block=128, largest=150)),
        "shampoo/late": partial(often, start=3, factor_every=2, nesterov=True, cautious=True, weight_decay=0.1),
        "soap/default": soap,
        "soap/blocks": partial(soap, basis_every=3, cutting=Cutting(block=40), nesterov=True, weight_decay=0.1),
    }
    dtypes = product(("muon", "normuon", "polargrad", "shampoo", "soap"), ("mixed", "double"))
    usual = {"muon": muon, "normuon": normuon, "polargrad": polargrad, "shampoo": often, "soap": soap}
    return {name: (make, "single") for name, make in made.items()} | {
        f"{kind}/{dtype}": (usual[kind], dtype) for kind, dtype in dtypes
    }


class Run:
    """A model and its optimizer, driven by gradients that depend on the step and on the name alone."""

    def __init__(self, arm: str) -> None:
        make, dtype = arms()[arm]
        model = Model().double() if dtype == "double" else Model()
        if dtype == "mixed":
            model.second.bfloat16(), model.conv.bfloat16(), model.down.bfloat16(), model.embed.bfloat16()
        self.parameters = dict(model.named_parameters())
        self.optimizer = make(plan(model, overrides=RULES, qkv={"qkv.weight": 3}))

    def advance(self, first: int, last: int) -> None:
        """Steps `first` to `last`. Some parameters have no gradient at some steps, and `idle` never has any."""
        for step in range(first, last + 1):
            for place, (name, parameter) in enumerate(self.parameters.items()):
                absent = name.startswith("idle") or (3 * step + place) % 11 == 0
                parameter.grad = None if absent else slope(name, step, parameter)
            self.optimizer.step()

    def weights(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    def state(self) -> dict[str, Tensor]:
        """The state tensors, as "parameter/key": by name, whether state_dict() is keyed by name or by position."""
        saved = self.optimizer.state_dict()
        found: dict[str, Tensor] = {}
        for group in saved["param_groups"]:
            for key, name in zip(group["params"], group.get("param_names", group["params"]), strict=True):
                found |= {f"{name}/{k}": torch.as_tensor(v).clone() for k, v in saved["state"].get(key, {}).items()}
        return found


def slope(name: str, step: int, parameter: Tensor) -> Tensor:
    """A gradient: noise, and for all but vectors a part along one direction that stays the same."""
    noise = gaussian(f"{name}/{step}", *parameter.shape)
    return (0.01 * (noise + 3 * gaussian(f"{name}/direction", *parameter.shape[:1], *[1] * (noise.ndim - 1)))).to(
        parameter.dtype
    )


def run_arm(arm: str, checkpoints: dict[str, Any]) -> dict[str, Tensor]:
    """The weights and the state after steps 1, 2 and 20; and a checkpoint, with the weights five steps later."""
    run, found = Run(arm), {}
    for first, last in ((1, 1), (2, 2), (3, 20)):
        run.advance(first, last)
        found |= {f"step{last}/weight/{name}": value for name, value in run.weights().items()}
        found |= {f"step{last}/state/{name}": value for name, value in run.state().items()}
    saved = {"optimizer": copy.deepcopy(run.optimizer.state_dict()), "weights": run.weights()}
    run.advance(21, 25)
    checkpoints[arm] = saved | {"later": run.weights()}
    return found


def planned() -> Tensor:
    """1 for each parameter of the model that a plan without overrides gives to the matrix rule, else 0."""
    return torch.tensor([int(entry.rule == "matrix") for entry in plan(Model())])


def cases(checkpoints: dict[str, Any]) -> Made:
    for family in (orthogonalize_cases, verb_cases, certify_cases, gradient_cases, schedule_cases):
        yield from family()
    yield "plan/rules", planned
    for arm in arms():
        yield arm, partial(run_arm, arm, checkpoints)


def described(value: Tensor) -> dict[str, Any]:
    """What is kept of a tensor: the hash of its bytes, and at most 512 entries to measure a difference by."""
    flat = value.detach().contiguous().reshape(-1)
    digest = hashlib.sha256(flat.view(torch.uint8).numpy().tobytes()).hexdigest()
    sample = flat[:: -(-flat.numel() // 512) or 1].clone()
    return {"hash": digest, "dtype": str(value.dtype), "shape": tuple(value.shape), "sample": sample}


def flattened(name: str, value: Any) -> dict[str, Tensor]:
    if isinstance(value, Tensor):
        return {name: value}
    parts = value.items() if isinstance(value, Mapping) else enumerate(value)
    return {f"{name}/{key}": part for key, part in parts}


def record(path: str) -> int:
    """Compute all cases. A case that raises is recorded by the type of its error, so that a refusal stays one."""
    began, found, checkpoints = time.perf_counter(), {}, {}
    times: dict[str, float] = defaultdict(float)
    for name, compute in cases(checkpoints):
        start = time.perf_counter()
        try:
            found |= {key: described(value) for key, value in flattened(name, compute()).items()}
        except Exception as error:
            found[name] = {"hash": "", "shape": "no value", "dtype": type(error).__name__, "message": str(error)}
        times[name.split("/")[0]] += time.perf_counter() - start
    torch.save(found, path)
    torch.save(checkpoints, f"{path}.checkpoints")
    print(", ".join(f"{name} {seconds:.1f} s" for name, seconds in times.items()))
    refused = [name for name, case in found.items() if "message" in case]
    print(f"{len(found)} cases in {time.perf_counter() - began:.0f} s, {len(refused)} of them refusals")
    return int(any(name in arms() for name in refused))


def difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Empty for equal cases, else the errors, shapes or dtypes that differ, or the relative difference of the samples.

    A relative difference of 0 beside unequal bytes means that the entries differ outside the samples, or in a sign of
    zero.
    """
    if (old["hash"], old["shape"], old["dtype"]) == (new["hash"], new["shape"], new["dtype"]):
        return ""
    if (old["shape"], old["dtype"]) != (new["shape"], new["dtype"]) or old["shape"] == "no value":
        return " now ".join(f"{case['shape']} {case['dtype']} {case.get('message', '')}" for case in (old, new))
    before, after = old["sample"].double(), new["sample"].double()
    return f"{((before - after).abs().max() / before.abs().max().clamp(min=1e-300)).item():.1e}"


def compare(before: str, after: str) -> int:
    """Print a table by groups of cases, then every case that differs."""
    old, new = torch.load(before), torch.load(after)
    missing = "missing"
    found = {name: difference(case, new[name]) if name in new else missing for name, case in old.items()}
    groups: dict[str, list[str]] = defaultdict(list)
    for name, what in found.items():
        groups["/".join(name.split("/")[:2]) if name.split("/step")[0] in arms() else name.split("/")[0]].append(what)
    print(f"{'group':50} {'cases':>6} {'equal':>6} {'differ':>6} {missing:>7}   largest relative difference")
    for group, results in groups.items():
        changed = [what for what in results if what not in ("", missing)]
        sizes = [float(what) for what in changed if what[0].isdigit()]
        largest = f"{max(sizes):.1e}" if sizes else ""
        counts = f"{len(results):6} {results.count(''):6} {len(changed):6} {results.count(missing):7}"
        print(f"{group:50} {counts}   {largest}")
    unexpected = report({name: what for name, what in found.items() if what})
    added = len(set(new) - set(old))
    print(f"{len(found)} cases, {list(found.values()).count('')} equal, {unexpected} unexpected, {added} new")
    return int(unexpected > 0)


def report(changed: dict[str, str]) -> int:
    """Print the cases that differ; the number of those that EXPECTED does not name."""
    reasons = {name: [EXPECTED[p] for p in EXPECTED if fnmatch.fnmatchcase(name, p)] for name in changed}
    for name, what in changed.items():
        print(f"{'expected: ' + reasons[name][0] if reasons[name] else 'DIFFERS'}  {name}  {what}")
    return sum(not reason for reason in reasons.values())


def resume(path: str) -> int:
    """Load every checkpoint into an optimizer of the present code, train on, compare with what the old code did."""
    changed, count = {}, 0
    for arm, saved in torch.load(path).items():
        run = Run(arm)
        with torch.no_grad():
            for name, parameter in run.parameters.items():
                parameter.copy_(saved["weights"][name])
        try:
            run.optimizer.load_state_dict(saved["optimizer"])
            run.advance(21, 25)
        except Exception as error:
            changed[f"resume/{arm}"] = f"raises {type(error).__name__}: {error}"
            continue
        now = run.weights()
        for name, later in saved["later"].items():
            count += 1
            changed[f"resume/{arm}/{name}"] = difference(described(later), described(now[name]))
    unexpected = report({name: what for name, what in changed.items() if what})
    print(f"{len(arms())} optimizers, {count} weights after a resume, {unexpected} unexpected differences")
    return int(unexpected > 0)


def main() -> int:
    verbs = {"record": (record, 1), "compare": (compare, 2), "resume": (resume, 1)}
    run, count = verbs.get(sys.argv[1] if len(sys.argv) > 1 else "", (None, 0))
    if run is None or len(sys.argv) != 2 + count:
        print(__doc__)
        return 2
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    return run(*sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
