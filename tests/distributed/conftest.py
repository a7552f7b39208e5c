"""Tests of several processes: the marker `processes`, and the fixture `world` that runs a function on every rank."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import Processes

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    """Mark the tests of this folder. They need the whole machine: `make test` runs them after the others."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.processes)


class World:
    """Some ranks of the shared processes."""

    def __init__(self, processes: Processes, ranks: int) -> None:
        self.processes, self.ranks = processes, ranks

    def run(self, function: Callable[..., Any], *args: Any, **limits: float) -> list[Any]:
        """The results of ``function(*args)`` by rank. A rank's exception is raised here, with its traceback."""
        return self.processes.run(self.ranks, function, *args, **limits)

    def outcomes(self, function: Callable[..., Any], *args: Any, **limits: float) -> list[Any]:
        """The result or the exception of every rank; `RankLostError` for a rank that died or hung."""
        return self.processes.outcomes(self.ranks, function, *args, **limits)


@pytest.fixture(scope="session")
def processes() -> Iterator[Processes]:
    """The processes of this pytest worker."""
    if not torch.distributed.is_available():
        pytest.skip("this torch is built without torch.distributed")
    held = Processes()
    yield held
    held.stop()


@pytest.fixture
def world(processes: Processes) -> Callable[[int], World]:
    """world(n).run(function, *args): run a function of the test's file on n ranks of a fresh gloo process group."""
    return lambda ranks: World(processes, ranks)
