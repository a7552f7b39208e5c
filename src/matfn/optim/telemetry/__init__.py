"""Telemetry: figures about each matrix and its update, measured during training."""

from .telemetry import Telemetry

__all__ = ["Telemetry"]
