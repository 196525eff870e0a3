"""``python -m particles.cli``."""

from particles.cli import main

main()
