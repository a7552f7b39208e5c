"""Sinks of telemetry: functions that take a `Record`. The two here write lines of JSON and TensorBoard events."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

    Args:
        path: The file. It is created if it does not exist, with its folder.
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
    """Writes scalars ``<figure>/<parameter>`` for TensorBoard, and the cost as ``telemetry/...``.

    Args:
        folder: The folder of the event files.

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
        for line in figures:
            for figure in line.keys() - {"step", "parameter"}:
                self._add(f"{figure}/{line['parameter']}", line[figure], record.step)
        for name in cost.keys() - {"step"}:
            self._add(name.replace("_", "/", 1), cost[name], record.step)
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()

    def _add(self, tag: str, value: float | None, step: int) -> None:
        if value is not None:
            self._writer.add_scalar(tag, value, step)
