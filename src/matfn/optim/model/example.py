"""Runs a model on one example batch and leaves it as it was: mode, buffers, gradients, flags and random numbers."""

import contextlib
import dataclasses
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .graph import trace
from .places import Fact, facts
from .walk import PlanError, made_from, unwrapped

__all__ = ["check_example", "read_example"]


def check_example(example: object) -> None:
    """Refuse an example in a form that could mean two things.

    Raises:
        TypeError: If the example is a list, a text or a number.
    """
    if isinstance(example, list):
        raise TypeError(
            "example is a list, which may be one input or several. Give a tuple of positional arguments, a mapping of "
            "keyword arguments, one tensor, or a function from the model to its loss."
        )
    if isinstance(example, str | bytes | int | float | bool):
        raise TypeError(
            f"example must be one batch (a tensor, a tuple of arguments, a mapping of keyword arguments) or a function "
            f"from the model to its loss; got {example!r}."
        )


def read_example(model: nn.Module, example: Any) -> dict[Tensor, Fact]:
    """Read the facts about the parameters from the graph of one example.

    The model runs in eval mode, so that dropout drops nothing. If this run does not reach all weights, the model runs
    in train mode as well: some outputs exist only there. One of the two runs may fail, as a batch norm does in train
    mode on a batch of one. The model is left as it was.

    Args:
        model: The model. Wrappers are set aside, and compiled parts run uncompiled.
        example: A tensor, a tuple of arguments, a mapping of keyword arguments, or a function from model to outputs.

    Raises:
        PlanError: If the model is under fully_shard, or both runs fail: the model raises an error, makes parameters, or
            no output depends on a parameter.
    """
    _refuse_resharded(model)
    weights = [param for param in model.parameters() if param.ndim > 1]
    found, failed = dict[Tensor, Fact](), list[PlanError]()
    for training in (False, True):
        if all(param in found for param in weights):
            break
        try:
            found = _facts(model, example, training) | found
        except PlanError as error:
            failed.append(error)
    if len(failed) == 2:
        raise failed[0]
    return found


def _refuse_resharded(model: nn.Module) -> None:
    """Refuse a model under fully_shard: its forward pass uses other tensors than its parameters."""
    if any(cls.__name__ == "FSDPModule" for module in model.modules() for cls in type(module).__mro__):
        raise PlanError(
            "an example cannot be read with a model under fully_shard, because its parameters do not take part in its "
            "graph. Plan the model without example, or plan a whole copy of it on the example and pass its decisions: "
            "plan(model, overrides={e.name: e.layout or e.rule for e in plan(whole, example)})."
        )


def _facts(model: nn.Module, example: Any, training: bool) -> dict[Tensor, Fact]:
    """The facts from one run. In this run all parameters require gradients, so that the graph has frozen ones, too."""
    inner, known = unwrapped(model), set(model.parameters())
    with _restored(model), torch.inference_mode(False), torch.enable_grad(), _uncompiled(), parametrize.cached():
        for module in model.modules():
            module.training = training
        for param in model.parameters():
            param.requires_grad_(param.requires_grad or param.is_floating_point() or param.is_complex())
        try:
            returned = _call(inner, example)
        except Exception as error:
            raise PlanError(
                f"{type(inner).__name__} could not run on the example: {type(error).__name__}: {error}\n"
                "Give the arguments of one call of the model on its device (a tensor, a tuple, a mapping of keyword "
                "arguments), or a function from the model to its loss."
            ) from error
        if new := [name for name, param in model.named_parameters() if param not in known]:
            raise PlanError(
                f"{type(inner).__name__} makes parameters while it runs: {new}. They would not be in the plan. Run the "
                "model once, then plan."
            )
        outputs = [x for x in _tensors(_loss_of(returned)) if x.grad_fn is not None]
        if not outputs:
            raise PlanError(
                f"{type(inner).__name__} returned {_described(returned)} for the example: no tensor that depends on a "
                "parameter. A forward under no_grad cannot be read; give a function from the model to its loss."
            )
        return facts(trace(outputs, list(model.parameters()), _computed(model)))


def _computed(model: nn.Module) -> dict[Any, Tensor]:
    """{operation: parameter} for weights that a module computes from parameters; see `made_from`."""
    found: dict[Any, Tensor] = {}
    for module in model.modules():
        for leaf, param in made_from(module).items():
            weight: object = getattr(module, leaf, None)
            if isinstance(weight, Tensor) and weight.grad_fn is not None:
                found[weight.grad_fn] = param
    return found


def _call(model: nn.Module, example: Any) -> Any:
    if isinstance(example, Mapping):
        return model(**example)
    if isinstance(example, tuple):
        return model(*example)
    if callable(example) and not isinstance(example, Tensor):
        return example(model)
    return model(example)


def _loss_of(returned: Any) -> Any:
    """The loss, if the outputs have one by name; else everything."""
    named = returned if isinstance(returned, Mapping) else getattr(returned, "__dict__", {})
    loss = named.get("loss")
    return loss if isinstance(loss, Tensor) and loss.grad_fn is not None else returned


def _tensors(value: Any, depth: int = 0) -> Iterator[Tensor]:
    """All tensors in nested tuples, lists, mappings, data classes and plain objects."""
    if isinstance(value, Tensor):
        yield value
    elif depth < 6:
        if isinstance(value, Mapping):
            parts: Any = value.values()
        elif isinstance(value, list | tuple | set):
            parts = value
        elif dataclasses.is_dataclass(value) or type(value).__module__ not in ("builtins", "torch"):
            parts = getattr(value, "__dict__", {}).values()
        else:
            parts = ()
        for part in parts:
            yield from _tensors(part, depth + 1)


def _described(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


@contextlib.contextmanager
def _uncompiled() -> Iterator[None]:
    """Compiled functions run as they were written. Without the compiler in memory nothing is compiled."""
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


@contextlib.contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Put back everything that a forward pass, or a backward pass in a user's function, may have changed."""
    undo = [_attributes(model), _gradients(model), _buffers(model), _limited_tables(model), _random_numbers(model)]
    for param in model.parameters():
        param.grad = None
    try:
        yield
    finally:
        for put_back in undo:
            put_back()


def _attributes(model: nn.Module) -> Callable[[], None]:
    """Modes, attributes and names of buffers. A cache and the attribute that holds its length go back together."""
    modes = [(module, module.training) for module in model.modules()]
    # Modules of torch.jit keep modes and buffers elsewhere than in dictionaries.
    named = [own for module in model.modules() for own in (module.__dict__, module._buffers) if isinstance(own, dict)]
    held = [(own, dict(own)) for own in named]
    sets = [(module._non_persistent_buffers_set, set(module._non_persistent_buffers_set)) for module in model.modules()]
    generators = [(x, x.get_state()) for own in named for x in own.values() if isinstance(x, torch.Generator)]

    def put_back() -> None:
        for own, before in held:
            own.clear()
            own.update(before)
        for names, before in sets:
            names.clear()
            names.update(before)
        for module, training in modes:
            module.training = training
        for generator, state in generators:
            generator.set_state(state)

    return put_back


def _gradients(model: nn.Module) -> Callable[[], None]:
    held = [(param, param.grad, param.requires_grad) for param in model.parameters()]

    def put_back() -> None:
        for param, grad, flag in held:
            param.grad = grad
            param.requires_grad_(flag)

    return put_back


def _buffers(model: nn.Module) -> Callable[[], None]:
    """The values of buffers. An expanded buffer has an axis of stride 0, of which one entry is kept."""
    stored = [
        buffer.detach()[tuple(slice(0, 1 if stride == 0 else None) for stride in buffer.stride())]
        for buffer in model.buffers()
        if not buffer.is_inference() and buffer.layout == torch.strided
    ]
    held = [(values, values.clone()) for values in stored]

    def put_back() -> None:
        with torch.no_grad():
            for values, before in held:
                values.copy_(before)

    return put_back


def _limited_tables(model: nn.Module) -> Callable[[], None]:
    """An embedding with `max_norm` shortens its rows while it runs."""
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag) and m.max_norm is not None]
    held = [(table.weight, table.weight.detach().clone()) for table in tables]

    def put_back() -> None:
        with torch.no_grad():
            for weight, value in held:
                weight.detach().copy_(value)

    return put_back


def _random_numbers(model: nn.Module) -> Callable[[], None]:
    devices = {p.device for p in model.parameters() if p.device.type not in ("cpu", "meta")}
    cpu, python, legacy = torch.get_rng_state(), random.getstate(), numpy.random.get_state()
    others = [(device, torch.get_device_module(device).get_rng_state(device)) for device in devices]

    def put_back() -> None:
        torch.set_rng_state(cpu)
        random.setstate(python)
        numpy.random.set_state(legacy)
        for device, state in others:
            torch.get_device_module(device).set_rng_state(state, device)

    return put_back
