"""`python -m studies.polargrad`: reproduces the tables of the paper on PolarGrad."""

from matfn.train.terminal import launch
from studies.polargrad.report import claims, full, quick
from studies.reproduce import reproduction

app = reproduction({"full": full, "quick": quick, "claims": claims})

if __name__ == "__main__":
    launch(app)
