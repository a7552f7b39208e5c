"""python -m studies.plan_sweep OUT [ONLY]: plans the classes of transformers, with and without an example batch."""

import sys
from pathlib import Path

from .run import sweep

if __name__ == "__main__":
    sweep(Path(sys.argv[1]), *sys.argv[2:3])
