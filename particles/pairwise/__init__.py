"""Sums over all pairs of points, at large N: softmins, kernel products, and exact transport plans. The face is ``sums``."""
