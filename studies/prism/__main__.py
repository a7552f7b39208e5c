"""`python -m studies.prism`: reproduces the tables of the paper on PRISM."""

from matfn.train.terminal import launch
from studies.prism.report import report
from studies.reproduce import reproduction

app = reproduction({"full": report})

if __name__ == "__main__":
    launch(app)
