"""Lessons: data, the networks that learn it, and both as one value."""
