"""Bins of answers, against a slow count."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnist_jax.reporting import calibration

ANSWERS = st.lists(
    st.tuples(st.floats(0, 1) | st.integers(0, 15).map(lambda n: n / 15), st.booleans()), min_size=1
)


@given(ANSWERS, st.integers(1, 20))
def test_bins_are_those_of_a_slow_count(answers, bins):
    confidence, right = np.array(answers, float).T
    found = calibration.reliability(confidence, right.astype(bool), bins)
    means, accuracies, counts = found
    borders = np.linspace(0, 1, bins + 1)
    error = 0.0
    for number in range(bins):
        low = -1 if number == 0 else borders[number]
        inside = (confidence > low) & (confidence <= borders[number + 1])
        assert counts[number] == inside.sum()
        if inside.any():
            assert means[number] == pytest.approx(confidence[inside].mean())
            assert accuracies[number] == pytest.approx(right[inside].mean())
            error += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
        else:
            assert np.isnan([means[number], accuracies[number]]).all()
    assert calibration.expected_calibration_error(found) == pytest.approx(error, abs=1e-12)


def test_the_chance_error_is_what_calibrated_networks_have_on_average():
    rng = np.random.default_rng(1)
    confidence = rng.beta(8, 1, 500)
    bins = [calibration.reliability(confidence, rng.random(500) < confidence) for _ in range(400)]
    errors = [calibration.expected_calibration_error(each) for each in bins]
    found = calibration.chance_calibration_error(confidence)
    assert found == pytest.approx(np.mean(errors), rel=0.05)
    assert found == calibration.chance_calibration_error(confidence)
    assert calibration.chance_calibration_error(np.repeat(confidence, 100)) < found / 5
    assert calibration.chance_calibration_error(np.ones(10)) == 0
