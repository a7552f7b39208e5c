"""Matrices: how parameters are read as stacks of matrices."""
