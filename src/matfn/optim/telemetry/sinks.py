"""Sinks: where telemetry goes. A sink is a function of a `Record`; here to lines of JSON, and to TensorBoard."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["JsonLines", "Record", "TensorBoard", "lines"]


@dataclass(frozen=True)
class Record:
    """What was measured at one step.

    Attributes:
        step: of the optimizer, the first is 1.
        figures: by parameter and by name of the figure.
        seconds: this measurement took.
        share: of the time since telemetry was switched on that it has taken, all measurements together.
        skipped: steps so far that were due, and not measured because of the budget.
    """

    step: int
    figures: Mapping[str, Mapping[str, float]]
    seconds: float
    share: float
    skipped: int


def lines(record: Record) -> list[dict[str, Any]]:
    """One flat line for each parameter and one for the cost; what is not finite, which JSON cannot say, is None."""
    cost = {"telemetry_seconds": record.seconds, "telemetry_share": record.share, "telemetry_skipped": record.skipped}
    figures = [{"step": record.step, "parameter": name, **_known(values)} for name, values in record.figures.items()]
    return [*figures, {"step": record.step, **cost}]


def _known(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


class JsonLines:
    """Appends to a file, a line of JSON for each parameter of each measured step and one for the cost.

    Args:
        path: made with its folder where it does not exist; else gone on with.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")

    def __call__(self, record: Record) -> None:
        """Write a record, whole, at once."""
        self._file.write("".join(json.dumps(line, allow_nan=False) + "\n" for line in lines(record)))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoard:
    """Scalars ``<figure>/<parameter>`` for TensorBoard, and the cost as ``telemetry/...``.

    Args:
        folder: where its event files go.

    Raises:
        ImportError: the package tensorboard is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as missing:
            raise ImportError(
                "the TensorBoard sink needs the package tensorboard, which is not installed: pip install tensorboard, "
                "or write JSON lines with JsonLines(path)"
            ) from missing
        self._writer = SummaryWriter(str(folder))

    def __call__(self, record: Record) -> None:
        """Write a record; what is not finite is left out."""
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
