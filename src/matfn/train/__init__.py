"""Training and comparing optimizers: recipes, data, a model, the loop, checkpoints and reports."""
