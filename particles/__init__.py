"""Particle gradient flows without a generator.

A potential is fitted to two clouds, a flow is its downhill velocity, a stepper moves the first cloud along it, and
one loop repeats that and tells its observers. The public names are listed in ``__init__.pyi`` and imported when they
are first used, so that ``import particles`` costs nothing.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
