"""python -m studies.plan_sweep OUT [ONLY]: plans the classes of transformers, with and without an example batch.

``python -m studies.plan_sweep OUT --timm`` plans the families of timm, and
``python -m studies.plan_sweep --report OUT OUT`` writes docs/results/plan_sweep.md.
"""

import sys
from pathlib import Path

from .run import sweep
from .timm_models import sweep_timm

if __name__ == "__main__":
    if sys.argv[2:] == ["--timm"]:
        sweep_timm(Path(sys.argv[1]))
    else:
        sweep(Path(sys.argv[1]), *sys.argv[2:3])
