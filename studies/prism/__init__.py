"""PRISM's step counts made anew."""
