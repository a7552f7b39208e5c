"""One Muon step at GPT-2 small's shapes beside other packages: a front of `matfn bench step`, which has the options.

python benchmarks/optimizer_step.py --threads 2 --rounds 5
"""

import sys

from matfn.cli import app

if __name__ == "__main__":
    app(["bench", "step", "--preset", "full", "--only", "gpt2-small", *sys.argv[1:]])
