"""Sinks of telemetry: functions that take a `Record`. They write JSON lines, or scalars for any logger."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["JsonLines", "Record", "Scalars", "TensorBoard", "lines", "scalars"]


@dataclass(frozen=True)
class Record:
    """The measurements of one step.

    Attributes:
        step: The number of the optimizer's step; the first is 1.
        figures: {parameter name: {figure name: value}}.
        seconds: The time of this measurement.
        share: The time of all measurements divided by the time since telemetry was switched on.
        skipped: The number of measurements that were due until now and left out because of the budget.
        rates: {group: learning rate}. A group has the name of its rule, with a number if several groups have the same
            rule; groups of an optimizer of torch have the name "group".
    """

    step: int
    figures: Mapping[str, Mapping[str, float]]
    seconds: float
    share: float
    skipped: int
    rates: Mapping[str, float] = field(default_factory=dict)


def lines(record: Record) -> list[dict[str, Any]]:
    """One flat line for each parameter and one for the cost. JSON has no NaN or infinity: they become None."""
    cost = {"telemetry_seconds": record.seconds, "telemetry_share": record.share, "telemetry_skipped": record.skipped}
    figures = [{"step": record.step, "parameter": name, **_known(values)} for name, values in record.figures.items()]
    rates = {"rates": dict(record.rates)} if record.rates else {}
    return [*figures, {"step": record.step, **cost, **rates}]


def scalars(record: Record) -> dict[str, float]:
    """{tag: value}: ``<figure>/<parameter>``, ``rate/<group>`` and ``telemetry/...``, without what is not finite."""
    found = {f"{name}/{param}": values[name] for param, values in record.figures.items() for name in values}
    found |= {f"rate/{group}": rate for group, rate in record.rates.items()}
    cost = {"seconds": record.seconds, "share": record.share, "skipped": record.skipped}
    found |= {f"telemetry/{name}": value for name, value in cost.items()}
    return {tag: value for tag, value in found.items() if math.isfinite(value)}


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


class Scalars:
    """Passes each record as scalars to a logger, by its method `add_scalar` or `log`.

    Tags are ``<figure>/<parameter>``, ``rate/<group>`` and ``telemetry/...``; the step is the optimizer's. Values that
    are not finite are left out. The logger is flushed after each record if it has `flush`. `Telemetry.detach` does not
    close it.

    Args:
        logger: An object with ``add_scalar(tag, value, step)``, such as a SummaryWriter of TensorBoard, or with
            ``log(values, step=step)``, such as a run of Weights & Biases or an Accelerator. If it has both,
            `add_scalar` is used.

    Raises:
        TypeError: If `logger` has neither method.
    """

    def __init__(self, logger: Any) -> None:
        if not any(callable(getattr(logger, name, None)) for name in ("add_scalar", "log")):
            raise TypeError(
                f"Scalars takes a logger with add_scalar(tag, value, step) or log(values, step=step), got {logger!r}. "
                "To write your own sink, pass Telemetry a function that takes a Record."
            )
        self._writer = logger

    def __call__(self, record: Record) -> None:
        """Pass on the values of a record that are finite."""
        values = scalars(record)
        if callable(getattr(self._writer, "add_scalar", None)):
            for tag, value in values.items():
                self._writer.add_scalar(tag, value, record.step)
        else:
            self._writer.log(values, step=record.step)
        if callable(getattr(self._writer, "flush", None)):
            self._writer.flush()


class TensorBoard(Scalars):
    """Writes the scalars of `Scalars` into a folder for TensorBoard.

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
        super().__init__(SummaryWriter(str(folder)))

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()
