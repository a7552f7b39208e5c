"""Iteration: the target, its steps, schedules and residuals, and the protocols of a method; no engine is known here."""
