"""Tuning: what a shape costs here by kernel, engine and schedule, and the choice."""
