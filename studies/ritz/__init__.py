"""The safety of RitzMinimax, tested on many spectra and matrices."""
