"""Rational methods: QDWH and ZOLO-PD, schedules of Zolotarev functions."""

from .qdwh import QDWH
from .zolo_pd import ZoloPD

__all__ = ["QDWH", "ZoloPD"]
