"""Model: which parameters of a model are matrices, and why."""

from .plan import Entry, Plan, PlanError, plan

__all__ = ["Entry", "Plan", "PlanError", "plan"]
