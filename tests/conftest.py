"""For every test: one thread, a cache of polynomials that is thrown away, hypothesis without deadlines."""

import os
import shutil
import tempfile

import torch
from hypothesis import settings

# Tests run beside each other (pytest-xdist): more threads than processes would only wait for one another.
torch.set_num_threads(1)

# A timing on a busy machine is no property of the code; `derandomize` makes a failure repeatable.
settings.register_profile("matfn", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("matfn")

# Set before pytest-xdist starts its workers, which so share it and compute each polynomial once.
_CREATED = None
if "MATFN_CACHE_DIR" not in os.environ:
    _CREATED = os.environ["MATFN_CACHE_DIR"] = tempfile.mkdtemp(prefix="matfn-tests-")


def pytest_configure(config):
    """Short schedules are compared with their scalar map, not with the function: that they end early is no news."""
    config.addinivalue_line("filterwarnings", "ignore::matfn.ConvergenceWarning")


def pytest_unconfigure(config):
    """Remove the cache; only the process that made it knows its name."""
    if _CREATED is not None:
        shutil.rmtree(_CREATED, ignore_errors=True)
