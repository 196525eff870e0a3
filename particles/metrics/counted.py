"""Which points of clouds a measure counts."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from particles.cloud import Cloud

Measure = TypeVar("Measure", bound=Callable[..., Any])


def counted(measure: Measure) -> Measure:
    """A measure of clouds, asked of the points that are not carried: of probability measures of one dimension.

    It raises ValueError where a cloud is none, or their dimensions differ.
    """

    @functools.wraps(measure)
    def of(*given: Any, **named: Any) -> Any:
        clouds = [cloud for cloud in (*given, *named.values()) if isinstance(cloud, Cloud)]
        if len(sizes := list(dict.fromkeys(cloud.dimension for cloud in clouds))) > 1:
            raise ValueError(f"the clouds have dimensions {sizes[0]} and {sizes[1]}; they must be the same")
        for cloud in clouds:
            cloud.check_weights("cloud")
        return measure(*map(_active, given), **{name: _active(value) for name, value in named.items()})

    return of  # type: ignore[return-value]


def _active(value: Any) -> Any:
    return value.active if isinstance(value, Cloud) else value
