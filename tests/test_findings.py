"""What benchmarks/accuracy.py says of its figures: corrected tests, intervals, and the choice of a recommendation."""

import sys

import numpy as np
import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
sys.path.insert(0, str(ROOT / "examples"))
import accuracy
import findings
from methods import METHODS, PUBLISHED, STRONG, VARIANTS

from actalign.comparison import mcnemar

WORLDS = ("base", "lead", "unordered")


def made_results(gains):
    """Results of 200 clips a world, where {(encoder, method): share right}; all others are right in half of them."""
    rng = np.random.default_rng(0)

    def hits(encoder, method):
        return rng.permutation(np.arange(200) < 200 * gains.get((encoder, method), 0.5))

    names = [str(method) for method in (*METHODS, *VARIANTS)] + ["mean pool"] + [
        f"{method}; {control}" for method in METHODS if not method.orders for control in ("reversed", "shuffled")]
    return findings.Results({encoder: {world: {name: hits(encoder, name) for name in names} for world in WORLDS}
                             for encoder in (STRONG, "500 steps")})


def test_every_method_scores_every_option():
    matrices = list(np.random.default_rng(3).random((5, 12, 4)))
    for method in (*METHODS, *VARIANTS):
        scores = np.array(accuracy.score(method, matrices))
        assert scores.shape == (5,)
        assert len(set(scores)) == 5


def test_flipped_signs_give_mcnemars_p():
    for first, second in ((12, 3), (5, 5), (20, 2)):
        gains = np.array([100.0] * first + [-100.0] * second + [0.0] * 30)
        assert findings.paired_p(gains) == pytest.approx(mcnemar(first, second), abs=0.02)


def test_an_interval_covers_its_mean_and_narrows_with_clips():
    few, many = (findings.interval(np.tile([100.0, 0.0, -100.0, 100.0], n)) for n in (10, 1000))
    assert few[1] < few[0] < few[2]
    assert many[2] - many[1] < (few[2] - few[1]) / 5


def test_the_best_with_weak_encoders_is_recommended_unless_it_costs_the_strong_one():
    best, costly = METHODS[3], METHODS[5]
    gains = {("500 steps", str(best)): 0.7, ("500 steps", str(costly)): 0.9, (STRONG, str(costly)): 0.4}
    assert findings.recommended(made_results(gains)) == best
    assert findings.recommended(made_results({("500 steps", str(PUBLISHED)): 0.8})) is None


def test_the_page_says_what_was_found_and_what_not(tmp_path):
    best = METHODS[3]
    results = made_results({("500 steps", str(best)): 0.75, ("500 steps", str(METHODS[7])): 0.1})
    strengths = {STRONG: 0.8, "500 steps": 0.2}
    text = findings.page(results, results, strengths, best, clips=200, choice_seeds=(1, 3), report_seed=2,
                         frame_rate=12)
    assert f"**{best}**" in text
    assert "The gain is +25.0 [" in text
    assert "in 2 of 2 with" in text
    assert "is worse than the published method in" in text
    findings.draw(tmp_path / "evidence.png", results, strengths, best)
    assert (tmp_path / "evidence.png").stat().st_size > 10_000


def test_noise_of_a_length_is_that_long():
    rows = np.random.default_rng(1).normal(size=(400, 64))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    added = accuracy.noisy(rows, 2.0, 0.0, np.random.default_rng(2)) - unit
    assert np.linalg.norm(added, axis=1).mean() == pytest.approx(2.0, rel=0.05)
    added = accuracy.noisy(rows, 0.0, 3.0, np.random.default_rng(2)) - unit
    assert np.ptp(added, axis=0) == pytest.approx(0, abs=1e-12)
