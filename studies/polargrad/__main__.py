"""`python -m studies.polargrad`: the tables of the paper on PolarGrad, made anew."""

from studies.polargrad.report import full, quick
from studies.reproduce import reproduction

app = reproduction({"full": full, "quick": quick})

if __name__ == "__main__":
    app()
