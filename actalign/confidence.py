"""How sure an answer is, and when none of the options fits: from how far options score above chance orders.

All of it rests on the z of alignment.Contrast: by how many standard deviations of chance orders' scores an option's
sub-actions align better in their own order.
"""

import zlib
from dataclasses import replace
from statistics import NormalDist

import numpy as np

from actalign import evaluation
from actalign.console import InputError

SHARPNESS = 1.5  # nats for a z of 1; in drawn worlds 1 calibrates weak encoders best, 2.5 strong ones
FOLDS = 10
LEAST_ANSWERS = 20  # to calibrate on
MOST_ODDS = 12.0  # nats; a confidence of 1 has no odds
NEWTON_STEPS = 50
RIDGE = 1e-6
BINS = 10  # of the reliability diagram
PASSED_BY_CHANCE = 0.05  # of samples none of whose options fits, that --reject auto would answer


def confidence_of(z, best):
    """Softmax of SHARPNESS times z (K,) at the option `best`: in 0..1, and 1 with a single option. Not calibrated."""
    odds = np.exp(SHARPNESS * (z - z.max()))
    return float(odds[best] / odds.sum())


def calibrate(predictions):
    """The predictions with calibrated confidences. Raises InputError if there are fewer than LEAST_ANSWERS answers."""
    hits = np.array([np.nan if one.is_right is None else one.is_right for one in predictions], dtype=float)
    if (known := np.count_nonzero(~np.isnan(hits))) < LEAST_ANSWERS:
        raise InputError(f"--calibrate: {known} scored samples have a known answer, it takes {LEAST_ANSWERS}; go "
                         "without")
    told = np.array([one.confidence for one in predictions])
    groups = np.array([zlib.crc32(one.sample.id.encode()) for one in predictions])
    return [replace(one, confidence=float(confidence))
            for one, confidence in zip(predictions, calibrated(told, hits, groups), strict=True)]


def reject(predictions, threshold):
    """The predictions, those of which `is_none` whose best option has a z below the threshold."""
    return [replace(one, is_none=z_of(one) < threshold) for one in predictions]


def z_of(prediction):
    """The z of the option that a Prediction takes: the score that rejecting goes by."""
    return float(prediction.order.z[prediction.ranking[0]])


def lines(predictions, is_calibrated, threshold=None, origin=""):
    """What the terminal says of confidences, and of what was rejected below a threshold that comes from `origin`."""
    answered = [one for one in predictions if one.is_right is not None]
    hits = np.array([one.is_right for one in answered])
    told = np.array([one.confidence for one in answered])
    said = []
    if is_calibrated:
        said.append(f"confidence calibrated on {len(answered)} answers, cross-fitted: expected calibration error "
                    f"{calibration_error(reliability(told, hits)):.3f}")
    elif predictions:
        said.append("confidence is not calibrated" + (": see --calibrate" if len(answered) >= LEAST_ANSWERS else
                                                      ", which takes known answers"))
    if threshold is not None:
        none = sum(one.is_none for one in predictions)
        said.append(f"none of these: {none} of {len(predictions)} samples, whose best option has an order's z below "
                    f"{threshold:.2f}, {origin}")
        if answered:
            is_none = np.array([one.is_none for one in answered])
            right = "" if is_none.all() else f", {evaluation.accuracy(hits[~is_none])} of these are right"
            said.append(f"that costs {np.count_nonzero(hits & is_none)} right answers and spares "
                        f"{np.count_nonzero(~hits & is_none)} wrong ones; {100 * np.mean(~is_none):.1f}% are answered"
                        f"{right}")
    return said


def calibrated(confidences, hits, groups):
    """Confidences (N,) by which of those that are told so, so many are right: Platt's, cross-fitted.

    confidences (N,) in 0..1; hits (N,): 1 right, 0 wrong, NaN unknown; groups (N,) whole numbers: a sample's
    confidence is fitted on the samples of other groups, one without an answer on all that have one.
    Source: Platt 1999, with his targets, which keep the fit finite where all hits are alike.
    """
    odds = np.clip(np.log(confidences) - np.log1p(-np.minimum(confidences, 1 - 1e-15)), -MOST_ODDS, MOST_ODDS)
    is_known, found = ~np.isnan(hits), np.empty(len(odds))
    for group in range(FOLDS):
        own = groups % FOLDS == group
        found[own & is_known] = _platt(odds, hits, is_known & ~own)(odds[own & is_known])
    found[~is_known] = _platt(odds, hits, is_known)(odds[~is_known])
    return found


def _platt(odds, hits, of):
    """The function from log-odds to probability that is fitted on the samples `of`, (N,) bool."""
    rows, right = np.stack([odds[of], np.ones(np.count_nonzero(of))], axis=1), hits[of]
    targets = np.where(right == 1, 1 - 1 / (right.sum() + 2), 1 / ((1 - right).sum() + 2))

    def loss(weights):
        return np.logaddexp(0, rows @ weights).sum() - targets @ (rows @ weights)

    weights = np.array([1.0, 0.0])  # as they are, where there is nothing to fit
    for _ in range(NEWTON_STEPS):
        p = 1 / (1 + np.exp(-rows @ weights))
        hessian = rows.T @ (rows * (p * (1 - p))[:, None]) + RIDGE * np.eye(2)
        step = np.linalg.solve(hessian, rows.T @ (p - targets))
        while loss(weights - step) > loss(weights) and np.abs(step).max() > RIDGE:
            step = step / 2
        weights = weights - step
    return lambda odds: 1 / (1 + np.exp(-(weights[0] * odds + weights[1])))


def reliability(confidences, hits):
    """[(mean confidence, share of hits, n)] of samples (N,) in BINS of equal width, those that have any."""
    bins = np.minimum((confidences * BINS).astype(int), BINS - 1)
    return [(float(confidences[here].mean()), float(hits[here].mean()), int(np.count_nonzero(here)))
            for here in (bins == bin for bin in np.unique(bins))]


def calibration_error(rows):
    """The expected calibration error of `reliability`: the mean distance of confidence and share of hits, in 0..1.

    Source: Guo et al. 2017 (arXiv 1706.04599), section 2.
    """
    return sum(n * abs(told - right) for told, right, n in rows) / sum(n for *_, n in rows)


def coverage_curve(scores, hits):
    """(coverages, accuracies), (N,) each in 0..1: of the samples with the greatest scores, what share is right."""
    ordered = hits[np.argsort(-scores, kind="stable")]
    counts = np.arange(1, len(hits) + 1)
    return counts / len(hits), np.cumsum(ordered) / counts


def chance_threshold(K):
    """The z that the best of K options exceeds by chance as often as PASSED_BY_CHANCE, were their z independent."""
    return NormalDist().inv_cdf((1 - PASSED_BY_CHANCE) ** (1 / K))
