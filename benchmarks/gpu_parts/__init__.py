"""Parts of benchmarks/gpu.py: each is a generator of rows, the most telling first, which may be stopped after any."""
