"""Write a run's files in a process that may write no file longer than 100 bytes, and print what each write says.

    python tests/train/full_disk.py FOLDER

The limit holds for a whole process, so no process that runs other tests may have it.
"""

import json
import resource
import signal
import sys
from pathlib import Path

import torch

from matfn.train import TrainError, checkpoint, files
from matfn.train.loop import CHECKPOINT, METRICS
from matfn.train.metrics import Metrics


def write_checkpoint(folder: Path) -> None:
    checkpoint.save(folder / CHECKPOINT, {"model": torch.zeros(10**4)})


def write_log(folder: Path) -> None:
    log = Metrics(folder / METRICS)
    for step in range(1, 10):
        log.write(step=step, loss=0.5)


def write_plot(folder: Path) -> None:
    with files.whole(folder / "loss.png") as file:
        file.write(b"x" * 10**5)


def write_text(folder: Path) -> None:
    files.replace_text(folder / "report.html", "x" * 1000)


def main() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    for write in (write_checkpoint, write_log, write_plot, write_text):
        try:
            write(Path(sys.argv[1]))
        except TrainError as error:
            print(json.dumps([write.__name__, str(error)]))


if __name__ == "__main__":
    main()
