"""The examples run, and their losses are those of one process on the whole batch.

`main` of an example runs in float64 on the processes of the tests, where runs differ by rounding alone. One example is
started by torchrun too, in float32.
"""

import contextlib
import importlib
import io
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from processes import LOOPBACK
from torch import nn

from matfn.optim import Muon, NorMuon, plan

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
STEPS = 20


@contextlib.contextmanager
def from_examples(dtype=torch.float64):
    """The examples can be imported, and models have this dtype."""
    before = torch.get_default_dtype()
    sys.path.insert(0, str(EXAMPLES))
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
        sys.path.remove(str(EXAMPLES))


def printed(name, *args):
    """What `main` of an example prints on this rank."""
    with from_examples(), contextlib.redirect_stdout(io.StringIO()) as out:
        importlib.import_module(name).main(*args)
    return out.getvalue()


def losses_of(text):
    return {int(step): float(loss) for step, loss in re.findall(r"^step (\d+)  loss ([\d.]+)$", text, re.MULTILINE)}


def alone(kind=Muon, clip=None, dtype=torch.float64):
    """The losses of one process."""
    with from_examples(dtype):
        example = importlib.import_module("small_gpt")
        model = example.SmallGPT()
        optimizer, losses = kind(plan(model), lr=0.02, rest=dict(lr=3e-3)), {}
        for step in range(STEPS):
            loss = example.loss_of(model, example.batch(step))
            loss.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad()
            losses[step] = loss.item()
    return losses


PRINTED = 1e-6  # losses are printed with six digits after the point


@pytest.mark.parametrize(
    ("name", "ranks", "kind", "clip"),
    [("ddp", 2, Muon, None), ("fsdp2", 2, Muon, 1.0), ("tensor_parallel", 2, Muon, None), ("hsdp", 4, NorMuon, None)],
)
def test_losses_are_those_of_one_process(world, name, ranks, kind, clip):
    expected = alone(kind, clip)
    first, *others = world(ranks).run(printed, name)
    assert losses_of(first) == pytest.approx(expected, abs=PRINTED)
    assert not any(others)
    assert expected[STEPS - 1] < expected[0] - 1


def test_a_checkpoint_goes_on_with_fewer_processes(world, tmp_path):
    folder, expected, losses = tmp_path / "small", alone(), {}
    for ranks, until in ((4, 8), (2, 14), (1, STEPS)):
        losses |= losses_of(world(ranks).run(printed, "checkpoint", folder, until)[0])
    assert losses == pytest.approx(expected, abs=PRINTED)


def test_torchrun_starts_an_example_as_its_first_lines_say():
    text = (EXAMPLES / "fsdp2.py").read_text()
    command = re.search(r"^    torchrun (.*)$", text, re.MULTILINE)
    assert command is not None
    with subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", *command[1].split()],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": LOOPBACK},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as started:
        try:
            out, errors = started.communicate(timeout=200)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)
    assert started.returncode == 0, errors
    # Rounding of the gradients' sums grows along the run to 3e-5 of the loss. The loss falls by 2 % in a step.
    assert losses_of(out) == pytest.approx(alone(clip=1.0, dtype=torch.float32), rel=1e-3)
