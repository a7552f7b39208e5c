"""Budget: RitzMinimax beside the other methods at a fixed number of steps."""
