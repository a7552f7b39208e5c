"""`python -m studies.ritz`: the measurements behind RitzMinimax, made anew."""

from studies.reproduce import reproduction
from studies.ritz.report import full, quick

app = reproduction({"full": full, "quick": quick})

if __name__ == "__main__":
    app()
