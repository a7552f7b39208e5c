"""Telemetry: what a step does to each matrix."""

from .telemetry import Telemetry

__all__ = ["Telemetry"]
