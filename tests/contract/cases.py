"""The members of the suite, read from `METHODS`, `ENGINES` and `TARGETS`, and which of them refuse what."""

import pytest

from matfn import ENGINES, METHODS, Gram, NewtonSchulz, PolarExpress, Prism, Tuned
from matfn.iteration.protocols import Evaluation, Scheduled
from matfn.iteration.target import INV_ROOT, POLAR, ROOT, TARGETS

from .adaptive import Damped

METHOD = {name: kind() for name, kind in METHODS.items()} | {
    "mixed degrees": PolarExpress(degree=(7, 3, 5)),  # degree 9 is refused in bfloat16
    "cubic": PolarExpress(degree=3, steps=8, lower=1e-2, cushion=0, safety=1),
    "eight steps": PolarExpress(steps=8),
    "taylor 7": NewtonSchulz(degree=7, steps=4),
    "taylor 3": NewtonSchulz(degree=3, steps=8),
    "you": Tuned("you"),
    "you6": Tuned("you6"),
    "a schedule": PolarExpress(degree=7, steps=3).schedule(2),
    "adaptive": Damped(),
    "prism, exact fit": Prism(steps=7, sketch="exact"),
    "prism, degree 7, exact fit": Prism(degree=7, steps=6, sketch="exact"),
    "prism, cubic, exact fit": Prism(degree=3, steps=9, sketch="exact"),
    "prism, warm": Prism(steps=8, warm=2, sketch="exact"),
}
TARGET = {str(t): t for t in TARGETS if t not in (INV_ROOT, ROOT)} | {
    str(t): t for p in (1, 2, 3, 4, 8) for t in (INV_ROOT.with_exponent(p), ROOT.with_exponent(p))
}
ENGINE = {name: kind() for name, kind in ENGINES.items()} | {
    "gram, never restarted": Gram(restarts=()),
    "gram, restarted once": Gram(restarts=(1,)),
    "gram, restarted twice": Gram(restarts=(1, 2)),
}

# Accurate to the dtype where the matrix is harmless; all other iterations stop where their schedule ends.
ITERATIONS = {name: method for name, method in METHOD.items() if not isinstance(method, Evaluation)}


def refusal(method, target):
    """The message with which the method refuses the target, or None if it takes it.

    A refusal counts if the message names the method, says p, and the documentation of the method says it too.
    """
    if not isinstance(method, Scheduled):
        return None
    try:
        method.schedule(target.p)
    except ValueError as error:
        message = str(error)
        documented = f"{type(method).__doc__} {type(method).schedule.__doc__}"
        assert f"p = {target.p}" in message or f"p={target.p}" in message, message
        assert type(method).__name__.lower() in message.lower(), message
        assert "p = 2" in documented or "made for" in documented, f"undocumented refusal: {message}"
        return message
    return None


def sketches(method):
    """Whether its steps depend on more than the spectrum of M, so that no scalar map says what it does."""
    return not isinstance(method, Evaluation | Scheduled) and not getattr(method, "invariant", False)


def engines(method, target):
    """The engines that run the method for the target; None for one that evaluates."""
    if isinstance(method, Evaluation):
        return {}
    return {name: engine for name, engine in ENGINE.items() if target.name in engine.targets}


def all_engines_of_polar(method):
    """`engines`, with the default under its own name; for the verb, which takes an engine."""
    return engines(method, POLAR) or {"none": None}


every_method = pytest.mark.parametrize("method", METHOD.values(), ids=METHOD)
every_iteration = pytest.mark.parametrize("method", ITERATIONS.values(), ids=ITERATIONS)
every_target = pytest.mark.parametrize("target", TARGET.values(), ids=TARGET)
every_engine_of_a_target = pytest.mark.parametrize(
    ("target", "engine"),
    [
        pytest.param(t, e, id=f"{target}-{engine}")
        for target, t in TARGET.items()
        for engine, e in ENGINE.items()
        if t.name in e.targets
    ],
)
every_orthogonalization = pytest.mark.parametrize(
    ("method", "engine"),
    [
        pytest.param(m, e, id=f"{name}-{engine}")
        for name, m in METHOD.items()
        for engine, e in all_engines_of_polar(m).items()
        if e is None or not isinstance(e, Gram) or e.restarts in (None, (1,))
    ],
)
