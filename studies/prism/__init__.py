"""PRISM's step counts, reproduced."""
