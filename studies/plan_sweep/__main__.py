"""`python -m studies.plan_sweep`: plans the model classes of transformers, with and without an example batch.

python -m studies.plan_sweep OUT [PART OF THE NAME [EACH n-TH]]    the classes of transformers
python -m studies.plan_sweep OUT --timm                            the families of timm
python -m studies.plan_sweep OUT OUT --report                      docs/results/plan_sweep.md and .json
"""

import sys
from pathlib import Path

from .report import report
from .run import sweep
from .timm_models import sweep_timm

if __name__ == "__main__":
    if sys.argv[-1] == "--timm":
        sweep_timm(Path(sys.argv[1]))
    elif sys.argv[-1] == "--report":
        report([Path(path) for path in sys.argv[1:-1]])
    else:
        sweep(Path(sys.argv[1]), *sys.argv[2:3], *(int(n) for n in sys.argv[3:4]))
