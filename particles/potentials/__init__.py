"""Potentials: functions fitted to two clouds, whose gradient moves the first."""
