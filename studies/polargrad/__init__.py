"""PolarGrad's matrix problems and claims, reproduced."""
