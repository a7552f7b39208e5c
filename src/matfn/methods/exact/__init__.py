"""Exact: functions by decompositions."""

from .exact import Exact

__all__ = ["Exact"]
