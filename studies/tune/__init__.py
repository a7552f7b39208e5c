"""Tuning: the cost of a shape on this machine by kernel, engine and schedule, and the best choice."""
