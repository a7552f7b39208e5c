"""`python -m studies.polar_express`: repeats the claims of the paper on Polar Express."""

from matfn.train.terminal import launch
from studies.polar_express.report import full, quick
from studies.reproduce import reproduction

app = reproduction({"full": full, "quick": quick})

if __name__ == "__main__":
    launch(app)
