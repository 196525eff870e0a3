"""Threads pinned before torch comes in: on two cores, thread pools that fight cost more than they give."""

import os

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

from collections.abc import Iterator  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="module")
def small_forests() -> Iterator[None]:
    """Forests of 20 trees: for tests in which their size does not matter, but their time would."""
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    with pytest.MonkeyPatch.context() as patch:
        for forest in (RandomForestClassifier, RandomForestRegressor):

            def fit(self, *arguments, whole=forest.fit, **options):  # type: ignore[no-untyped-def]
                return whole(self.set_params(n_estimators=min(20, self.n_estimators)), *arguments, **options)

            patch.setattr(forest, "fit", fit)
        yield
