"""Calibration: the agreement of how sure a network is with how often it is right."""

import numpy as np

BINS = 15  # as in Guo et al.
DRAWS = 200  # the mean of so many varies by about a hundredth of itself


# Of bins of answers, [B]: their mean probability, the fraction that was right, and their count. The
# first two are NaN of an empty bin.
Reliability = tuple[np.ndarray, np.ndarray, np.ndarray]


def reliability(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> Reliability:
    """Sorts answers into bins by their probability [N]; `right` says which are right, bool [N].

    The bins are equally wide, from 0 to 1; an answer on a border belongs to the lower one. C. Guo,
    G. Pleiss, Y. Sun and K. Weinberger, "On Calibration of Modern Neural Networks", 2017,
    https://arxiv.org/abs/1706.04599
    """
    confidence = np.asarray(confidence, np.float64)
    bin_of = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence)
    counts = np.bincount(bin_of, minlength=bins)
    some = np.where(counts, counts, np.nan)
    mean, accuracy = (np.bincount(bin_of, each, bins) / some for each in (confidence, right))
    return mean, accuracy, counts


def expected_calibration_error(binned: Reliability) -> float:
    """Returns the mean distance, over all answers, of confidence and accuracy in their bin.

    M. Naeini, G. Cooper and M. Hauskrecht, "Obtaining Well Calibrated Probabilities Using Bayesian
    Binning", 2015; Guo et al. 2017, see `reliability`.
    """
    confidence, accuracy, counts = binned
    distance = np.nan_to_num(np.abs(confidence - accuracy))
    return float(counts @ distance / max(counts.sum(), 1))


def chance_calibration_error(confidence: np.ndarray) -> float:
    """Returns the error that a perfectly calibrated network would have on answers so sure, [N].

    It is above 0, as the answers of a bin are seldom right exactly as often as they should be; an
    error is to be held against it. Each answer is drawn to be right as often as its probability
    says, the same way each time: J. Broecker and L. A. Smith, "Increasing the Reliability of
    Reliability Diagrams", Weather and Forecasting 22, 2007, https://doi.org/10.1175/WAF993.1
    """
    rng = np.random.default_rng(0)
    draws = (rng.random(len(confidence)) < confidence for _ in range(DRAWS))
    errors = [expected_calibration_error(reliability(confidence, right)) for right in draws]
    return float(np.mean(errors))
