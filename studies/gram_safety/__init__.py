"""Gram safety: a search for matrices on which the Gram engine loses more digits than its model predicts."""
