"""Rules: what the optimizers do to stacks of matrices, apart from parameters, groups and processes."""
