"""The augmenter under the checks that imbalanced-learn and scikit-learn have for their own estimators."""

import warnings

import numpy as np
import pytest
from imblearn.utils import estimator_checks as imblearn_checks
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from particles.augment.estimator import ParticleAugmenter

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

NAME = "ParticleAugmenter"
CHEAP = ParticleAugmenter(method="gaussian", random_state=0)
NOT_APPLICABLE = {
    # A continuous target is refused there and is welcome here: rows and values are made together.
    "check_target_type": "continuous targets are augmented, not refused",
}


def imblearn_reasons(estimator):
    return NOT_APPLICABLE


@imblearn_checks.parametrize_with_checks([CHEAP], expected_failed_checks=imblearn_reasons)
def test_sampler_checks(estimator, check):
    check(estimator)


@parametrize_with_checks([CHEAP])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize(
    "check",
    ["samplers_fit", "samplers_one_label", "samplers_string", "samplers_nan", "samplers_fit_resample"],
)
def test_sampler_checks_with_defaults(check):
    getattr(imblearn_checks, f"check_{check}")(NAME, ParticleAugmenter())


@pytest.mark.parametrize("latent", [None, "pca:2"])
@pytest.mark.parametrize("start", ["kde", "bootstrap", "normal"])
def test_list_and_frame_checks_with_a_flow(start, latent):
    short = ParticleAugmenter(method="flow", start=start, stop=1, latent=latent, random_state=0)
    for check in ("check_sampler_get_feature_names_out", "check_sampler_get_feature_names_out_pandas"):
        getattr(imblearn_checks, check)(NAME, clone(short))


def test_of_all_checks_one_alone_does_not_apply():
    """Multilabel targets, the other half of that check, are refused as it asks; a continuous target gives values."""
    x = np.random.default_rng(0).random((20, 2))
    with pytest.raises(ValueError, match="Multilabel and multioutput targets are not supported"):
        clone(CHEAP).fit_resample(x, np.ones((20, 3), dtype=int))
    x_all, y_all = clone(CHEAP).fit_resample(x, np.linspace(0, 1, 20))
    assert (x_all.shape, y_all.shape) == ((40, 2), (40,))
    assert len(NOT_APPLICABLE) == 1


def test_is_a_sampler_to_imbalanced_learn_and_needs_it_not():
    from imblearn.base import is_sampler
    from imblearn.utils._tags import get_tags

    assert is_sampler(CHEAP)
    tags = get_tags(CHEAP)
    assert tags.estimator_type == "sampler"
    assert tags.input_tags.dataframe
    assert tags.input_tags.sparse
    assert tags.input_tags.string
    assert tags.input_tags.allow_nan
    assert not tags.target_tags.required
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "method='gaussian'" in repr(CHEAP)
