"""An oracle for heads that knows neither names nor graphs: which outputs are affine in a matrix.

Logits are affine in the weight of a head, since nothing but sums and views lies behind it. They are not affine in a
weight whose output passes an activation, a norm or a softmax. Two matrices without anything between are both affine, so
the oracle finds at least the heads.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["affine"]

_NOT_OUTPUTS = "past|hidden_state|attention|cache|encoder_|vision_|text_model|embeds|states|loss|mems"


def affine(model: nn.Module, example: Mapping[str, Tensor], names: Iterable[str]) -> list[str]:
    """The parameters among `names` in which the outputs of the model are affine, and not constant; in float64."""
    model = model.double().eval()
    batch = {key: x.double() if x.is_floating_point() else x for key, x in example.items()}
    params = dict(model.named_parameters())
    found = []
    with torch.no_grad():
        middle = _outputs(model, batch)
        for name in names:
            param = params[name]
            step = torch.randn(param.shape, dtype=param.dtype, generator=torch.Generator().manual_seed(1))
            step *= 0.3 / param.shape[-1] ** 0.5
            param += step
            above = _outputs(model, batch)
            param -= 2 * step
            below = _outputs(model, batch)
            param += step
            bend, slope = (above - 2 * middle + below).norm(), (above - below).norm()
            if slope > 0 and bend < 1e-9 * (slope + middle.norm()):
                found.append(name)
    return found


def _outputs(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    torch.manual_seed(0)
    returned: Any = model(**batch)
    import re

    named = returned.items() if isinstance(returned, Mapping) else enumerate(returned)
    wanted = [value for key, value in named if not re.search(_NOT_OUTPUTS, str(key))]
    return torch.cat([x.double().reshape(-1) for x in _tensors(wanted) if x.is_floating_point()])


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
