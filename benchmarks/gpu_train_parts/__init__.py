"""Parts of benchmarks/gpu_train.py: text, arms, rules, runs, predictions, tables and plots."""
