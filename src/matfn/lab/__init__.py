"""The lab: train and compare optimizers on real text, and write down what was measured."""
