"""`python -m studies.prism`: the tables of the paper on PRISM, made anew."""

from studies.prism.report import report
from studies.reproduce import reproduction

app = reproduction({"full": report})

if __name__ == "__main__":
    app()
