"""Flows: the velocity of a cloud at a time."""
