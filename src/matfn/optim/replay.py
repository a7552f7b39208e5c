"""Replay: the steps of an optimizer with ``graph=True``, each by one CUDA graph.

A step has a part on the host (checks, buckets) and a part on the device. The part on the device is a function of
memory alone: weights, state, gradients, and the numbers of the groups that are dials (``matrices/dials.py``). It is

    run            if anything is new since the last step: other gradients, options, or memory
    captured       if the last step ran with the same options and memory, or gradients have moved; then replayed
    replayed       if it was captured before

Options that are no dials may change too. After a change one step runs as usual, and the next one is captured. If a
capture fails, the optimizer goes on without graphs, and one warning names the cause.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .cuda_graphs import RECORDERS, Recorder
from .matrices import foreach
from .matrices.dials import Dial, Dialled, Dials
from .matrices.shards import is_dtensor

if TYPE_CHECKING:
    from .optimizer import MatrixOptimizer

__all__ = ["Replay", "check_capturable"]

_KEPT = 4  # captured steps of one optimizer, for example of sets of gradients that alternate
_MOST_WAITS = 8  # steps in a row that wait, each with other gradients, options or memory than the step before
_ALWAYS = frozenset({"lr", "weight_decay"})  # dials of every matrix group, because `move` takes them


@dataclass(frozen=True, eq=False)
class Captured:
    """One captured step: what replays it, the memory of its gradients, and its numbers.

    A gradient is not held, because then the next one could not take its memory, and because torch.compile with
    mode="reduce-overhead" refuses access to gradients of earlier steps.
    """

    key: Any
    replay: Callable[[], None]
    gradients: tuple[tuple[Tensor, int | None], ...]  # (parameter, address of its gradient)
    copies: list[Tensor] | None  # what the graph reads in place of gradients that do not stay where they were
    dials: Dials

    @property
    def fits(self) -> bool:
        """Whether the graph can read the present gradients."""
        return self.copies is not None or all(_address(p.grad) == held for p, held in self.gradients)

    def run(self) -> None:
        """Replay with the present gradients and numbers."""
        if self.copies is not None:
            foreach.copy_(self.copies, [p.grad for p, _ in self.gradients if p.grad is not None])
        self.dials.turn()
        self.replay()


class Replay:
    """Runs the device's part of each step, and replays it where possible."""

    def __init__(self) -> None:
        self.current: Dials | None = None  # the numbers of the step that runs or is captured now
        self._recorder: Recorder | None = None
        self._settled: Any = None  # the key after the last step that ran, if it did not wait for the device
        self._waited: Any = None  # the key after the last step that ran, if it waited
        self._captured: list[Captured] = []
        self._waits = 0  # steps in a row that waited for the device
        self.off = False

    @property
    def captures(self) -> int:
        """The number of captured steps that are kept."""
        return len(self._captured)

    def step(self, optimizer: "MatrixOptimizer", work: Callable[[], None]) -> None:
        """Do the `work` of a step on the device.

        Raises:
            RuntimeError: If the optimizer has hooks, which a replay would not call.
        """
        _refuse_hooks(optimizer)
        if not optimizer.moving:
            return
        device = optimizer.moving[0].device
        if self._recorder is None:
            self._recorder = RECORDERS[device.type](device)
        key = None if self.off else _key(optimizer)
        found = next((each for each in self._captured if each.key == key), None)
        if found is not None and not found.fits:
            self._captured = [each for each in self._captured if each is not found]
            found = self._capture(self._recorder, optimizer, work, key, found.dials, copied=True)
        elif found is None and not self.off and key == self._settled:
            found = self._capture(self._recorder, optimizer, work, key, self.current)
        if found is not None:
            found.run()
            return
        self.current = Dials(device)
        if self.off:
            work()
            return
        waited = self._recorder.warm_up(work)
        again = waited and key == self._waited  # nothing was new, so the next step would wait, too
        self._waits = self._waits + 1 if waited else 0
        after = _key(optimizer)
        self._settled, self._waited = (None, after) if waited else (after, None)
        if again or self._waits >= _MOST_WAITS:
            self._stop(optimizer, waited)

    def _capture(
        self,
        recorder: Recorder,
        optimizer: "MatrixOptimizer",
        work: Callable[[], None],
        key: Any,
        like: Dials | None,
        *,
        copied: bool = False,
    ) -> Captured | None:
        """Capture the step, on copies of the gradients if these move; None, after a warning, if this fails."""
        device = optimizer.moving[0].device
        dials = self.current = Dials(device, like=like)
        pairs = [(p, p.grad) for p in optimizer.moving if p.grad is not None]
        try:
            copies = [torch.empty_like(gradient) for _, gradient in pairs] if copied else None
            for (param, _), copy in zip(pairs, copies or (), strict=False):
                param.grad = copy
            replay = recorder.capture(work)
        except Exception as error:
            self._stop(optimizer, f"{type(error).__name__}: {error}")
            return None
        finally:
            for param, gradient in pairs:
                param.grad = gradient
        gradients = tuple((param, _address(gradient)) for param, gradient in pairs)
        found = Captured(key, replay, gradients, copies, dials)
        self._captured = [*self._captured[1 - _KEPT :], found]
        return found

    def _stop(self, optimizer: "MatrixOptimizer", cause: str) -> None:
        self.off, self._captured, self._settled, self._waited = True, [], None, None
        optimizer.sort_again()  # the next step has the groups themselves as options
        warnings.warn(
            f"{type(optimizer).__name__}: graph=True has no effect any more, because the step cannot be captured: "
            f"{cause}. The steps run as with graph=False.",
            RuntimeWarning,
            stacklevel=6,
        )

    def options(self, optimizer: "MatrixOptimizer") -> list[Mapping[str, Any]]:
        """The groups, in which the numbers that may change between replays are dials."""
        found: list[Mapping[str, Any]] = []
        for group in optimizer.param_groups:
            if self.off or group["rule"] == "adamw" or not group["params"]:
                found.append(group)
            else:
                found.append(Dialled(group, _dials(optimizer, group["rule"]), self, group["params"][0].device))
        return found

    def capturable(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """A group for torch's AdamW in a captured step, with the learning rate as a tensor."""
        lr, params = group["lr"], group["params"]
        if params and not (isinstance(lr, Tensor) and lr.device == params[0].device):
            lr = Dial(self, lambda: float(group["lr"])).tensor(torch.float32)
        return {**group, "lr": lr, "capturable": True}


def _address(gradient: Tensor | None) -> int | None:
    return None if gradient is None else gradient.data_ptr()


def _dials(optimizer: "MatrixOptimizer", rule: str) -> frozenset[str]:
    """The options of a rule's groups that every rule of its chain takes as dials."""
    chain = optimizer.lender(rule).chain
    frozen = {key for link in chain for key in link.reads if key not in link.dials}
    return (_ALWAYS | {key for link in chain for key in link.dials}) - frozen


def _key(optimizer: "MatrixOptimizer") -> Any:
    """What a captured step depends on beside the values in memory: options that are frozen, and addresses."""
    options = []
    for group in optimizer.param_groups:
        options.append(id(group))  # the numbers of a captured step are read from the group, also after its list changed
        adamw = group["rule"] == "adamw"
        dials = frozenset({"lr"}) if adamw else _dials(optimizer, group["rule"])
        for option in (*optimizer.own_options(group["rule"]), "rule"):
            value = group.get(option)
            if isinstance(value, Tensor) and value.device.type != "cpu":
                options.append((value.data_ptr(), value.dtype))
            elif option in dials:
                options.append(None if adamw else float(value or 0) != 0)  # without decay a pass is left out
            else:
                options.append(float(value) if isinstance(value, Tensor) else value)
    places = []
    for param in optimizer.moving:
        gradient = param.grad
        places += [id(param), param.data_ptr(), None if gradient is None else (gradient.stride(), gradient.dtype)]
        places += [(k, x.data_ptr()) for k, x in optimizer.state.get(param, {}).items() if isinstance(x, Tensor)]
    return options, places


def _refuse_hooks(optimizer: "MatrixOptimizer") -> None:
    for name in ("before_move", "after_move"):
        if getattr(optimizer, name):
            raise RuntimeError(
                f"{type(optimizer).__name__}: graph=True replays its steps, which would not call the functions in "
                f"{name}. Remove them, or make the optimizer with graph=False."
            )


def check_capturable(optimizer: "MatrixOptimizer") -> None:
    """Refuse an optimizer with ``graph=True`` whose steps cannot be captured.

    Raises:
        ValueError: If a rule counts steps on the host, a method reads values from the device, weights are rounded
            stochastically, or parameters are sharded, on other devices than one GPU, or shared by processes.
    """
    name = f"{type(optimizer).__name__}: graph=True"
    groups = [group for group in optimizer.param_groups if group["params"]]
    params = [param for group in groups for param in group["params"]]
    if any(is_dtensor(param) for param in params) or optimizer.spread:
        raise ValueError(f"{name} cannot capture the exchange between processes. Leave graph out.")
    devices = {param.device for param in params}
    if len(devices) > 1 or any(device.type not in RECORDERS for device in devices):
        shown = ", ".join(sorted(map(str, devices)))
        raise ValueError(
            f"{name} needs all parameters on one CUDA device, got {shown}. Move the model before you make the "
            "optimizer, or leave graph out."
        )
    for group in groups:
        if group["rounding"] == "stochastic":
            raise ValueError(
                f'{name} would repeat the noise of one step under rounding="stochastic". Use rounding="compensated", '
                "or leave graph out."
            )
        if group["rule"] == "adamw":
            continue
        shapes = {shape for param in group["params"] for shape in optimizer.layouts[param].shapes}
        lender = optimizer.lender(group["rule"])
        for link in lender.chain:
            method = getattr(getattr(link, "polar", link), "method", None)
            if any("counter" in link.state(shape, group).values() for shape in shapes):
                looks = getattr(method, "every", 1) > 1
                what = repr(method) if looks else f"the rule {group['rule']!r} ({type(lender).__name__})"
                raise ValueError(
                    f"{name} cannot capture {what}, which counts steps on the host. Leave "
                    f"{'every or ' if looks else ''}graph out."
                )
            if link.refuses_nan or getattr(method, "tol", None) is not None:
                raise ValueError(
                    f"{name} cannot capture {method!r}, which reads values from the device. Use a method with a fixed "
                    "number of steps, such as PolarExpress(), or leave graph out."
                )
