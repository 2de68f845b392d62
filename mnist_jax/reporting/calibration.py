"""Calibration: whether a network is as often right as its probabilities say."""

import numpy as np

BINS = 15  # as in Guo et al.
DRAWS = 200  # their mean varies by about 1 %

# Mean probability, fraction of right answers, and count of each bin, [B]; NaN, NaN, 0 if empty.
Reliability = tuple[np.ndarray, np.ndarray, np.ndarray]


def reliability(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> Reliability:
    """Sorts answers into bins by their probabilities [N]; `right`, bool [N], marks right answers.

    The bins are equally wide, from 0 to 1; a border belongs to the lower one. C. Guo et al., "On
    Calibration of Modern Neural Networks", 2017, https://arxiv.org/abs/1706.04599
    """
    confidence = np.asarray(confidence, np.float64)
    bin_of = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence)
    counts = np.bincount(bin_of, minlength=bins)
    some = np.where(counts, counts, np.nan)
    mean, accuracy = (np.bincount(bin_of, each, bins) / some for each in (confidence, right))
    return mean, accuracy, counts


def expected_calibration_error(binned: Reliability) -> float:
    """Returns the mean distance of confidence and accuracy by bin, weighted by answers.

    M. Naeini et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning", 2015.
    """
    confidence, accuracy, counts = binned
    distance = np.nan_to_num(np.abs(confidence - accuracy))
    return float(counts @ distance / max(counts.sum(), 1))


def chance_calibration_error(confidence: np.ndarray) -> float:
    """Returns the calibration error that chance alone gives answers of these probabilities [N].

    It is above 0 even for a perfectly calibrated network. Answers are drawn to be right as often
    as their probabilities say, by a fixed seed: J. Broecker and L. A. Smith, "Increasing the
    Reliability of Reliability Diagrams", 2007, https://doi.org/10.1175/WAF993.1
    """
    rng = np.random.default_rng(0)
    draws = (rng.random(len(confidence)) < confidence for _ in range(DRAWS))
    errors = [expected_calibration_error(reliability(confidence, right)) for right in draws]
    return float(np.mean(errors))
