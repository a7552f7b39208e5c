"""An oracle for heads that uses neither names nor graphs: how the outputs of a model change with a matrix.

A weight is taken for a head in two cases. "affine": the outputs are affine in the weight: only sums and views follow.
"local": a change of one row changes only one coordinate of the outputs, so at most elementwise functions follow (a cap
on logits, the sigmoid of a box). If a norm, a softmax or another matrix follows, neither holds. There are two
exceptions. Of two matrices with nothing between them the first one is affine too, and is taken for a head. And a head
whose outputs are mixed afterwards (normalised embeddings) is missed.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["answers"]

_NOT_OUTPUTS = "past|hidden_state|attention|cache|encoder_|vision_|text_model|embeds|states|loss|mems"

Batch = Mapping[str, Tensor] | tuple[Tensor, ...]


def answers(model: nn.Module, example: Batch, names: Iterable[str]) -> dict[str, str]:
    """{parameter: "affine" or "local"} for those among `names` that are taken for heads. The model becomes float64.

    Raises:
        ValueError: If the outputs are not finite.
    """
    model = model.double().eval()
    batch: Batch = (
        tuple(map(_double, example)) if isinstance(example, tuple) else {key: _double(x) for key, x in example.items()}
    )
    params = dict(model.named_parameters())
    found: dict[str, str] = {}
    with torch.no_grad():
        middle = _outputs(model, batch)
        if not middle.isfinite().all():
            raise ValueError("the outputs are not finite")
        for name in names:
            if _affine(model, batch, params[name], middle):
                found[name] = "affine"
            elif _local(model, batch, params[name], middle):
                found[name] = "local"
    return found


def _affine(model: nn.Module, batch: Batch, param: Tensor, middle: Tensor) -> bool:
    step = torch.randn(param.shape, dtype=param.dtype, generator=torch.Generator().manual_seed(1))
    step *= 0.3 / param.shape[-1] ** 0.5
    before = param.clone()
    param += step
    above = _outputs(model, batch)
    param.copy_(before - step)
    below = _outputs(model, batch)
    param.copy_(before)
    bend, slope = (above - 2 * middle + below).norm(), (above - below).norm()
    return bool(slope > 0 and bend < 1e-9 * (slope + middle.norm()))


def _local(model: nn.Module, batch: Batch, param: Tensor, middle: Tensor) -> bool:
    rows = param.shape[0]
    if rows < 2:
        return False
    for row in {0, rows - 1}:
        before = param[row].clone()
        param[row] += 0.1
        changed = (_outputs(model, batch) - middle).abs() > 1e-12 * middle.abs().max()
        param[row] = before
        if not 0 < int(changed.sum()) <= changed.numel() / rows:
            return False
    return True


def _outputs(model: nn.Module, batch: Batch) -> Tensor:
    torch.manual_seed(0)
    returned: Any = model(*batch) if isinstance(batch, tuple) else model(**batch)
    returned = [returned] if isinstance(returned, Tensor) else returned
    named = returned.items() if isinstance(returned, Mapping) else enumerate(returned)
    wanted = [value for key, value in named if not re.search(_NOT_OUTPUTS, str(key))]
    return torch.cat([x.double().reshape(-1) for x in _tensors(wanted) if x.is_floating_point()])


def _double(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() else x


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(part)
