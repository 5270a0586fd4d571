"""Confidence by definition: odds from z, Platt's fit, calibration error, and what rejecting costs."""

import numpy as np
import pytest
from refusals import refusal

from actalign import confidence
from actalign.alignment import Contrast
from actalign.dataset import Sample
from actalign.evaluation import Prediction


def prediction(n, z, answer=0, told=0.5):
    z = np.array(z, dtype=float)
    sample = Sample(id=str(n), domain="d", options=tuple(map(str, range(len(z)))), answer=answer)
    return Prediction(sample, z, order=Contrast(z, np.ones(len(z)), z), confidence=told)


def test_confidence_is_the_best_options_share_of_all_options_odds():
    odds = np.exp(confidence.SHARPNESS * np.array([2.0, 1.0, -1.0]))
    assert confidence.confidence_of(np.array([2.0, 1.0, -1.0]), 0) == pytest.approx(odds[0] / odds.sum())
    assert confidence.confidence_of(np.array([2.0, 1.0, -1.0]), 1) == pytest.approx(odds[1] / odds.sum())
    assert confidence.confidence_of(np.zeros(4), 2) == 0.25
    assert confidence.confidence_of(np.array([-3.0]), 0) == 1
    assert confidence.confidence_of(np.array([900.0, -900.0]), 0) == 1


def drawn(n, seed=0):
    """(log-odds that are told, hits by odds of 0.5 x - 1, groups)."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(2, 2, n)
    hits = (rng.random(n) < 1 / (1 + np.exp(1 - 0.5 * odds))).astype(float)
    return 1 / (1 + np.exp(-odds)), hits, np.arange(n)


def test_calibrated_confidences_are_shares_of_right_answers():
    told, hits, groups = drawn(4000)
    found = confidence.calibrated(told, hits, groups)
    truth = 1 / (1 + np.exp(1 - 0.5 * np.log(told / (1 - told))))
    assert np.abs(found - truth).max() < 0.08
    before, after = (confidence.calibration_error(confidence.reliability(one, hits)) for one in (told, found))
    assert before > 0.2
    assert after < 0.03


def test_no_sample_is_judged_by_itself_nor_by_its_group():
    told, hits, groups = drawn(200)
    found = confidence.calibrated(told, hits, groups)
    turned = hits.copy()
    turned[7] = 1 - turned[7]
    again = confidence.calibrated(told, turned, groups)
    same = groups % confidence.FOLDS == 7
    assert (found[same] == again[same]).all()
    assert (found[~same] != again[~same]).all()


def test_what_has_no_answer_is_told_by_all_that_have_one():
    told, hits, groups = drawn(300)
    hits[::3] = np.nan
    found = confidence.calibrated(told, hits, groups)
    turned = hits.copy()
    turned[1] = 1 - turned[1]
    assert np.isfinite(found).all()
    assert (confidence.calibrated(told, turned, groups)[::3] != found[::3]).all()


@pytest.mark.parametrize("right", [0.0, 1.0])
def test_where_all_answers_are_alike_confidences_stay_short_of_sure(right):
    told, _, groups = drawn(50)
    found = confidence.calibrated(told, np.full(50, right), groups)
    assert np.all((found > 0.85) & (found < 1) if right else (found < 0.15) & (found > 0))


def test_extreme_confidences_are_calibrated_too():
    told = np.array([1.0, 1 - 1e-17, 1e-300, 0.5] * 10)
    found = confidence.calibrated(told, np.array([1.0, 1, 0, 1] * 10), np.arange(40))
    assert np.isfinite(found).all()
    assert found[0] > found[3] > found[2]


def test_platts_fit_is_at_the_minimum_of_its_loss():
    told, hits, _ = drawn(120, seed=3)
    odds = np.log(told / (1 - told))
    function = confidence._platt(odds, hits, np.ones(120, bool))
    targets = np.where(hits == 1, 1 - 1 / (hits.sum() + 2), 1 / ((1 - hits).sum() + 2))
    difference = function(odds) - targets
    assert abs(difference.sum()) < 1e-6
    assert abs(difference @ odds) < 1e-5


def test_calibration_error_by_hand():
    told, hits = np.array([0.95, 0.91, 0.55, 1.0]), np.array([True, False, True, True])
    rows = confidence.reliability(told, hits)
    assert rows == [(0.55, 1.0, 1), (pytest.approx((0.95 + 0.91 + 1) / 3), pytest.approx(2 / 3), 3)]
    assert confidence.calibration_error(rows) == pytest.approx((0.45 + 3 * (2.86 / 3 - 2 / 3)) / 4)


def test_the_coverage_curve_counts_from_the_surest_on():
    coverages, accuracies = confidence.coverage_curve(np.array([1.0, 3.0, 2.0, 0.0]),
                                                      np.array([False, True, True, False]))
    assert coverages.tolist() == [0.25, 0.5, 0.75, 1]
    assert accuracies.tolist() == [1, 1, pytest.approx(2 / 3), 0.5]


def test_what_chance_orders_exceed_in_one_of_twenty():
    rng = np.random.default_rng(4)
    for K in (1, 2, 5):
        best = rng.normal(size=(100_000, K)).max(axis=1)
        assert np.mean(best > confidence.chance_threshold(K)) == pytest.approx(0.05, abs=0.003)


def test_rejecting_goes_by_the_option_that_is_taken_and_its_cost_is_told():
    made = [prediction(0, [3, 0]), prediction(1, [1, 0]), prediction(2, [0.5, 0], 1), prediction(3, [2.5, 0], None)]
    rejected = confidence.reject(made, 1.5)
    assert [one.is_none for one in rejected] == [False, True, True, False]
    said = "\n".join(confidence.lines(rejected, False, 1.5, "from here"))
    assert "none of these: 2 of 4 samples, whose best option has an order's z below 1.50, from here" in said
    assert "costs 1 right answers and spares 1 wrong ones; 33.3% are answered, 100.0" in said
    assert "not calibrated" in said
    everything = confidence.lines(confidence.reject(made, 9.0), False, 9.0, "from here")
    assert "costs 2 right answers and spares 1 wrong ones; 0.0% are answered" in everything[-1]


def test_calibrating_takes_enough_answers():
    made = [prediction(n, [1, 0], answer=None if n % 2 else 0) for n in range(30)]
    refusal(lambda: confidence.calibrate(made), "15 scored samples have a known answer")
    found = confidence.calibrate([prediction(n, [1, 0], answer=n % 2) for n in range(30)])
    assert all(0.4 < one.confidence < 0.6 for one in found)
