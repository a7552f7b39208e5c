"""PRISM: the method, its family of polynomials, and the fit of the free coefficient."""
