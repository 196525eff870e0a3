"""What the measurements of a run are called, and what each means, in tables and on pages."""

from __future__ import annotations

QUALITY = {
    "w2_target": ("W2 to the target", "2-Wasserstein distance from the particles to the rows that they were driven to"),
    "w2_holdout": ("W2 to held-out target", "the same to target rows that the flow never saw"),
    "w2_floor": ("  the target's own", "from the target to its held-out rows: what no honest method beats by much"),
    "energy_target": ("energy distance to the target", "another distance, 0 for equal laws, easy on samples"),
    "energy_holdout": ("energy distance to held-out target", "the same to target rows that the flow never saw"),
    "energy_floor": ("  the target's own", "from the target to its held-out rows"),
    "nearest_ratio": (
        "nearest-neighbour ratio (1 as fresh data, 0 copies)",
        "how far particles are from target rows, over how far held-out rows are, medians",
    ),
}
"""A title, indented where it belongs to the one above, and a meaning for each number of ``metrics.summary.summarise``."""
