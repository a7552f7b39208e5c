"""`python -m studies.gram_safety --out docs/results`: the worst rounding error of every plan that chooses Gram.

With `--preset float16`: the greatest singular value of an optimizer's step in true float16 arithmetic.
"""

from matfn.train.terminal import launch
from studies.gram_safety import half
from studies.gram_safety.report import report
from studies.reproduce import reproduction

app = reproduction(
    {
        "full": lambda notice: report(notice, 8),
        "quick": lambda notice: report(notice, 2),
        "float16": lambda notice: half.report(notice, 16, 6),
    }
)

if __name__ == "__main__":
    launch(app)
