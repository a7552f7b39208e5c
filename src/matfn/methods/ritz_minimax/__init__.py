"""RitzMinimax: the method, the measured density, the table of polynomials, and the choice among them."""
