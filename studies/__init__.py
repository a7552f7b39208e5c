"""Studies of the methods and optimizers; each runs from the root of the repository: `python -m studies.prism`."""
