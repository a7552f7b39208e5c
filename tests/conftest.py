"""For every test: one thread, a cache of polynomials that is thrown away, triton's interpreter, no deadlines."""

import os
import shutil
import signal
import tempfile

import pytest
import torch
from hypothesis import settings

# `pytest -m versions`: what other versions of torch and Python may break, in three minutes. Run by hand for the lowest
# and the newest supported versions; needs pytest, hypothesis, numpy, mpmath and scipy beside torch.
VERSIONS = (
    *("unit/test_functions.py", "unit/test_arguments.py", "unit/test_plan.py", "unit/test_machine.py"),
    *("unit/test_kernels.py", "unit/test_lu.py", "unit/test_record.py", "contract/test_spectrum.py"),
    *("optim/test_optim_torch.py", "optim/test_optim_checkpoint.py", "optim/test_optim_muon.py"),
    *("optim/test_optim_shampoo.py", "optim/test_optim_plan.py"),
)

# Without a GPU triton's kernels run in its interpreter. Triton reads this when a kernel is defined, so it must be the
# same for all tests of a process, and stand before the first import of a kernel.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# Tests run beside each other (pytest-xdist): more threads than processes would only wait for one another.
torch.set_num_threads(1)

# A timing on a busy machine is no property of the code; `derandomize` makes a failure repeatable.
settings.register_profile("matfn", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("matfn")

# Set before pytest-xdist starts its workers, which so share it and compute each polynomial once.
_CREATED = None
if "MATFN_CACHE_DIR" not in os.environ:
    _CREATED = os.environ["MATFN_CACHE_DIR"] = tempfile.mkdtemp(prefix="matfn-tests-")


# Who starts the tests may have signals ignored (a shell SIGINT in the background, nohup SIGHUP) or blocked, which
# processes inherit: matfn leaves ignored signals ignored, a blocked SIGALRM keeps the limit on a test's time from it,
# and without SIGCHLD the status of every child process is 0.
for number, usual in (
    *((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)),
    *((signal.SIGTERM, signal.SIG_DFL), (signal.SIGCHLD, signal.SIG_DFL)),
):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)
signal.pthread_sigmask(signal.SIG_SETMASK, ())


def pytest_configure(config):
    """Short schedules are compared with their scalar map, not with the function: that they end early is no news."""
    config.addinivalue_line("markers", "versions: run on the lowest and the newest torch and Python, by hand")
    config.addinivalue_line("markers", "processes: several processes with torch.distributed, set for tests/distributed")
    config.addinivalue_line("filterwarnings", "ignore::matfn.ConvergenceWarning")


def pytest_collection_modifyitems(items):
    """Mark the files of `VERSIONS`."""
    for item in items:
        if item.path.as_posix().endswith(VERSIONS):
            item.add_marker(pytest.mark.versions)


def pytest_unconfigure(config):
    """Remove the cache; only the process that made it knows its name."""
    if _CREATED is not None:
        shutil.rmtree(_CREATED, ignore_errors=True)
