"""Steppers: from x(t) to x(t + h), with as many velocities as they like."""
