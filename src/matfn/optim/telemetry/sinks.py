"""Sinks of telemetry: functions that take a `Record`. The two here write lines of JSON and TensorBoard events."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .figures import FIGURES

__all__ = ["JsonLines", "Record", "TensorBoard", "lines"]


@dataclass(frozen=True)
class Record:
    """The measurements of one step.

    Attributes:
        step: The number of the optimizer's step; the first is 1.
        figures: {parameter name: {figure name: value}}.
        seconds: The time of this measurement.
        share: The time of all measurements divided by the time since telemetry was switched on.
        skipped: The number of measurements that were due until now and left out because of the budget.
    """

    step: int
    figures: Mapping[str, Mapping[str, float]]
    seconds: float
    share: float
    skipped: int


def lines(record: Record) -> list[dict[str, Any]]:
    """One flat line for each parameter and one for the cost. JSON has no NaN or infinity: they become None."""
    cost = {"telemetry_seconds": record.seconds, "telemetry_share": record.share, "telemetry_skipped": record.skipped}
    figures = [{"step": record.step, "parameter": name, **_known(values)} for name, values in record.figures.items()]
    return [*figures, {"step": record.step, **cost}]


def _known(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


class JsonLines:
    """Appends lines of JSON to a file: at each measured step one for each parameter and one for the cost.

    The file and its folder are created if they do not exist.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")

    def __call__(self, record: Record) -> None:
        """Write the lines of a record and flush them."""
        self._file.write("".join(json.dumps(line, allow_nan=False) + "\n" for line in lines(record)))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoard:
    """Writes scalars ``<figure>/<parameter>`` for TensorBoard into a folder, and the cost as ``telemetry/...``.

    Raises:
        ImportError: If the package tensorboard is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as missing:
            raise ImportError(
                "the TensorBoard sink needs the package tensorboard, which is not installed: pip install tensorboard. "
                "Or write JSON lines with JsonLines(path)."
            ) from missing
        self._writer = SummaryWriter(str(folder))

    def __call__(self, record: Record) -> None:
        """Write a record without the values that are not finite."""
        *figures, cost = lines(record)
        scalars = {f"{name}/{line['parameter']}": line[name] for line in figures for name in line if name in FIGURES}
        scalars |= {name.replace("_", "/", 1): cost[name] for name in cost if name != "step"}
        for tag, value in scalars.items():
            if value is not None:
                self._writer.add_scalar(tag, value, record.step)
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()
