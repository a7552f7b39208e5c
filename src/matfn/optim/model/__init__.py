"""The plan of a model: which parameters are matrices, which rule moves each parameter, and why."""

from .plan import Entry, Plan, PlanError, plan

__all__ = ["Entry", "Plan", "PlanError", "plan"]
