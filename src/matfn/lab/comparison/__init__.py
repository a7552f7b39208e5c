"""Comparison: several optimizers on the same data, and the report of it."""
