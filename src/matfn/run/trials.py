"""Trials: the times of kernels that earlier processes measured, kept on disk in one file for each kind of card."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from ..kernels.trial import Outcome, Seconds
from ..minimax.cache import directory, read_small, write_whole

__all__ = ["TRIALS", "Trials"]

_WAIT = 60  # seconds for the trials of another process


@dataclass(frozen=True)
class Trials:
    """The `Cache` of `Quickest` in `matfn.minimax.directory`; without a folder to write to, nothing is kept.

    A file with a wrong checksum or of another card counts as empty, and so does an outcome that no trial can have.
    """

    def read(self, card: str) -> dict[str, Outcome]:
        """See `Cache.read`."""
        path = _path(card)
        try:
            content = json.loads(read_small(path)) if path else {}
            body = content["body"]
            if content["sha256"] != _checksum(body) or body["card"] != card:
                return {}
            found = {kind: _outcome(entry) for kind, entry in body["outcomes"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return {}
        return {kind: outcome for kind, outcome in found.items() if outcome is not None}

    def measured(
        self, card: str, kind: str, fits: Callable[[Outcome], bool], measure: Callable[[], Outcome]
    ) -> Outcome:
        """See `Cache.measured`. Of processes that start together one measures; the others wait and take its outcome.

        A process waits for a minute at most, because the other one may itself wait for it; then it measures, too.
        """
        if (found := self.read(card).get(kind)) is not None and fits(found):
            return found
        path = _path(card)
        lock = None if path is None else _locked(path)
        if path is None or lock is None:
            return measure()
        try:
            known = self.read(card)
            if kind not in known or not fits(known[kind]):
                known[kind] = measure()
                body = {"card": card, "outcomes": {name: asdict(outcome) for name, outcome in known.items()}}
                write_whole(path, json.dumps({"sha256": _checksum(body), "body": body}, indent=1))
            return known[kind]
        finally:
            lock.release()


TRIALS = Trials()


def _path(card: str) -> Path | None:
    folder = directory()
    return folder / f"products-{hashlib.sha256(card.encode()).hexdigest()[:32]}.json" if folder else None


def _locked(path: Path) -> FileLock | None:
    """Return the lock beside a file, taken; None if the folder cannot be written or another process keeps the lock."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_suffix(".lock"), timeout=_WAIT)
        lock.acquire()
    except (OSError, NotImplementedError):
        return None
    return lock


def _checksum(body: object) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _outcome(entry: Any) -> Outcome | None:
    seconds = {name: Seconds(*times) for name, times in entry["seconds"].items()}
    timed = all(isinstance(time, float) and 0 < time < 1e3 for times in seconds.values() for time in times)
    told = all(isinstance(words, str) for words in entry["left_out"].values())
    return Outcome(seconds, dict(entry["left_out"])) if timed and told and seconds else None
