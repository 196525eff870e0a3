"""Distances between clouds, and how closely one copies another: functions (Cloud, Cloud) -> float."""
