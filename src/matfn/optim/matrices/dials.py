"""Dials: numbers of a step that lie in the device's memory, so that a captured step follows a schedule.

A captured step repeats its operations with the numbers that it was captured with. A learning rate from a group would be
frozen. A `Dial` stands for such a number, and holds the function that computes it from the groups. Where an operation
needs the number, the dial becomes a tensor without axes: one place of a tensor that `Dials` holds. Before each replay
`Dials.turn` computes all numbers anew on the host, and copies them to the device if one has changed. So the arithmetic
on the host is the same as without a capture.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["Dial", "Dialled", "Dials"]


class Dials:
    """The numbers of one captured step, in one tensor for each dtype.

    Args:
        device: Where the tensors lie.
        like: The numbers of a step like the one to be captured, which tell how many places are needed. None is for a
            step that is not captured: each number is written when it is asked for.
    """

    def __init__(self, device: torch.device, like: "Dials | None" = None) -> None:
        self._device, self._live = device, like is None
        self._numbers: dict[torch.dtype, list[Callable[[], float]]] = {}
        self._last: dict[torch.dtype, list[float]] = {}
        self._places: dict[torch.dtype, Tensor] = {}
        for dtype, numbers in like._numbers.items() if like is not None else ():
            self._places[dtype] = torch.zeros(len(numbers), dtype=dtype, device=device)

    def tensor(self, number: Callable[[], float], dtype: torch.dtype) -> Tensor:
        """A tensor without axes for the number.

        Raises:
            RuntimeError: If the captured step asks for more numbers than the step before it.
        """
        numbers = self._numbers.setdefault(dtype, [])
        numbers.append(number)
        if self._live:
            return torch.full((), number(), dtype=dtype, device=self._device)
        places = self._places.get(dtype)
        if places is None or len(numbers) > len(places):
            raise RuntimeError("the captured step reads more numbers of its groups than the step before it did")
        return places.select(0, len(numbers) - 1)

    def turn(self) -> None:
        """Copy the present numbers to the device, in one copy for each dtype, if one has changed."""
        for dtype, numbers in self._numbers.items():
            present = [number() for number in numbers]
            if present != self._last.get(dtype):
                # New memory for each copy: an earlier copy may not have run yet.
                fresh = torch.tensor(present, dtype=dtype, pin_memory=self._device.type == "cuda")
                self._places[dtype][: len(fresh)].copy_(fresh, non_blocking=True)
                self._last[dtype] = present


class Dial:
    """A number that depends on options of groups; sums and products with numbers are dials again.

    Args:
        dials: Has the current `Dials` in its attribute `current`.
        number: Computes the number.
    """

    __slots__ = ("_dials", "number")

    def __init__(self, dials: Any, number: Callable[[], float]) -> None:
        self._dials, self.number = dials, number

    def tensor(self, dtype: torch.dtype) -> Tensor:
        """The number on the device, without axes."""
        return self._dials.current.tensor(self.number, dtype)

    def __bool__(self) -> bool:
        return self.number() != 0

    def __float__(self) -> float:
        raise TypeError("a dial is no Python number: a captured step would keep its present value for ever")

    def __neg__(self) -> "Dial":
        return Dial(self._dials, lambda: -self.number())

    def __add__(self, other: "float | Dial") -> "Dial":
        return Dial(self._dials, lambda: self.number() + _present(other))

    def __sub__(self, other: "float | Dial") -> "Dial":
        return Dial(self._dials, lambda: self.number() - _present(other))

    def __rsub__(self, other: float) -> "Dial":
        return Dial(self._dials, lambda: other - self.number())

    def __mul__(self, other: "float | Dial | Tensor") -> "Any":
        if isinstance(other, Tensor):
            return other * self.tensor(other.dtype)
        return Dial(self._dials, lambda: self.number() * _present(other))

    __radd__, __rmul__ = __add__, __mul__


def _present(value: float | Dial) -> float:
    return value.number() if isinstance(value, Dial) else value


class Dialled(Mapping[str, Any]):
    """A group whose changing numbers are dials. It reads the group itself, so schedulers are followed.

    Args:
        group: The group.
        keys: The options that are dials, unless they are tensors on `device`, which captured steps read anyway.
        dials: As for `Dial`.
        device: The device of the parameters.
    """

    def __init__(self, group: Mapping[str, Any], keys: frozenset[str], dials: Any, device: torch.device) -> None:
        self._group, self._keys, self._dials, self._device = group, keys, dials, device

    def __getitem__(self, key: str) -> Any:
        value = self._group[key]
        if key not in self._keys or (isinstance(value, Tensor) and value.device == self._device):
            return value
        return Dial(self._dials, lambda: float(self._group[key]))

    def __iter__(self) -> Iterator[str]:
        return iter(self._group)

    def __len__(self) -> int:
        return len(self._group)
