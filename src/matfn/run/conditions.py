"""Conditions: versions, processor and profile of the machine, to record beside every number."""

import os
import platform
import subprocess
from datetime import datetime
from pathlib import Path

import numpy as np
import torch

from .machine import machine

__all__ = ["conditions", "profile_of"]

_PACKAGE = Path(__file__).resolve().parents[1]


def conditions(device: torch.device) -> dict[str, str]:
    """Return facts about this process. Nothing is read from the network or the environment's variables.

    Raises:
        ValueError: If MATFN_MACHINE names no profile.
    """
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "matfn": _version() + _revision(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "processor": f"{_processor()}, {os.cpu_count()} cores seen",
        "threads": str(torch.get_num_threads()),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "profile of the machine": profile_of(device),
        "float32 products": torch.get_float32_matmul_precision(),
    }


def profile_of(device: torch.device) -> str:
    """Return name and description of the machine's profile.

    Raises:
        ValueError: If MATFN_MACHINE names no profile.
    """
    profile = machine(device)
    return f"{profile.name} ({profile.kind})"


def _version() -> str:
    import matfn

    return matfn.__version__


def _revision() -> str:
    """`, revision abc1234` and, for a modified checkout, `, changed`; empty outside a git checkout."""
    root = _PACKAGE.parents[1]
    if not (root / ".git").exists():
        return ""

    def git(*arguments: str) -> str:
        command = ("git", "-C", str(root), *arguments)
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    try:
        changed = ", changed" if git("status", "--porcelain", "-uno") else ""
        return f", revision {git('rev-parse', '--short=10', 'HEAD')}{changed}"
    except (OSError, subprocess.SubprocessError):  # no git, no answer of it, or none within 30 s
        return ", revision unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"
