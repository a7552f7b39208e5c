"""`python -m studies.gram_safety --out docs/results`: the worst rounding error of every plan that chooses Gram."""

from matfn.train.terminal import launch
from studies.gram_safety.report import report
from studies.reproduce import reproduction

app = reproduction({"full": lambda notice: report(notice, 8), "quick": lambda notice: report(notice, 2)})

if __name__ == "__main__":
    launch(app)
