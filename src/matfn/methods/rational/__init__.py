"""Rational methods: QDWH and ZOLO-PD, schedules of Zolotarev functions."""
