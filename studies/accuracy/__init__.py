"""Accuracy: error, steps and work of every method on matrices of known spectrum."""
