"""RitzMinimax: the method, the measured density, and the table of polynomials."""
