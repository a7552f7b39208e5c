"""Training: optimizers from a recipe, the loop, what watches it and what it leaves."""
