"""PolarGrad's matrix problems and claims made anew."""
