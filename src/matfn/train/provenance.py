"""Where and with what a result was made: versions, machine, threads, revision."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import matfn
from matfn.train.chosen import found


def conditions(device: torch.device) -> dict[str, str]:
    """Plain facts to record beside every number. Nothing is read from the network or the environment's variables."""
    facts = {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "matfn": _version("matfn") + _revision(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": _version("numpy"),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": f"{_processor()}, {os.cpu_count()} cores seen",
        "threads": str(torch.get_num_threads()),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "profile of the machine": found(device),
        "float32 products": torch.get_float32_matmul_precision(),
    }
    if hasattr(os, "getloadavg"):
        facts["load at the end"] = f"{os.getloadavg()[0]:.1f} runnable tasks (1 min)"
    return facts


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _revision() -> str:
    """`, revision abc1234` where matfn runs from a git checkout, with `, changed` for a modified one; else nothing."""
    root = Path(matfn.__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return ""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ("git", "-C", str(root), *arguments), capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return f", revision {git('rev-parse', '--short=10', 'HEAD')}" + (
            ", changed" if git("status", "--porcelain", "-uno") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return ", revision unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"
