"""`python -m studies.plan_sweep OUT`: plans the model classes of transformers, with and without an example batch."""

import argparse
from pathlib import Path

from matfn.train.terminal import guarded
from studies.plan_sweep.report import report
from studies.plan_sweep.run import sweep
from studies.plan_sweep.timm_models import sweep_timm


def main() -> None:
    """Sweep over transformers or timm, or write the page on sweeps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, nargs="+", help="file of JSON lines to write; with --report, files to read")
    parser.add_argument("--only", default="", help="part of the names of the classes of transformers")
    parser.add_argument("--every", type=int, default=1, help="plan each n-th of them")
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--timm", action="store_true", help="the families of timm in place of transformers")
    other.add_argument("--report", action="store_true", help="write docs/results/plan_sweep.md and .json")
    asked = parser.parse_args()
    if asked.every < 1:
        parser.error(f"--every is at least 1, got {asked.every}")
    if asked.report:
        report(asked.out)
    elif len(asked.out) > 1:
        parser.error(f"one file is written, got {len(asked.out)} names: {' '.join(map(str, asked.out))}")
    elif asked.timm:
        sweep_timm(asked.out[0])
    else:
        sweep(asked.out[0], asked.only, asked.every)


if __name__ == "__main__":
    guarded(main)
