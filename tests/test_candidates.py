"""The alignments that are being measured: each against all its paths, and the order contrast against its definition."""

import itertools
import math
import sys

import numpy as np
import pytest
from conftest import ROOT
from test_alignment import random_matrices

sys.path.insert(0, str(ROOT / "benchmarks"))
import candidates


def assignments(T, M):
    """All ways to give every frame one of M sub-actions in order, none left out: tuples of T."""
    for cuts in itertools.combinations(range(1, T), M - 1):
        yield tuple(int(np.searchsorted(cuts, t, side="right")) for t in range(T))


def best_of(paths, value):
    """(value, path) of the best of many paths."""
    return max(((value(path), path) for path in paths), key=lambda found: found[0])


def wide(count, seed):
    """Random matrices with as many frames as sub-actions or more."""
    return [matrix if len(matrix) >= len(matrix.T) else matrix.T.copy() for matrix in random_matrices(count, seed)]


def total(matrix):
    return lambda path: sum(matrix[t, m] for t, m in path)


def test_segment_equals_brute_force():
    for matrix in wide(300, seed=30):
        score, path = candidates.segment(matrix)
        expected, _ = best_of((list(enumerate(a)) for a in assignments(*matrix.shape)), total(matrix))
        assert score == pytest.approx(expected / len(matrix), abs=1e-12)
        assert candidates.segment(matrix, False) == (score, None)
        assert total(matrix)(path) / len(matrix) == pytest.approx(score, abs=1e-12)
        assert tuple(path[:, 1]) in set(assignments(*matrix.shape))


def test_balanced_is_the_mean_of_means_over_segments_path():
    for matrix in wide(300, seed=31):
        score, path = candidates.balanced(matrix)
        assert np.array_equal(path, candidates.segment(matrix)[1])
        means = [matrix[path[path[:, 1] == m, 0], m].mean() for m in range(matrix.shape[1])]
        assert score == pytest.approx(np.mean(means), abs=1e-12)
        assert candidates.balanced(matrix, False) == (score, None)


def test_drop_equals_brute_force():
    for matrix in wide(300, seed=32):
        T, M = matrix.shape
        price = np.sort(matrix, axis=None)[matrix.size * 30 // 100]
        paths = ([*zip(kept, a, strict=True)] for count in range(M, T + 1)
                 for kept in itertools.combinations(range(T), count) for a in assignments(count, M))
        expected, _ = best_of(paths, lambda path, matrix=matrix, price=price, T=T:
                              total(matrix)(path) + price * (T - len(path)))
        score, path = candidates.drop(matrix)
        assert score == pytest.approx(expected / T, abs=1e-12)
        assert candidates.drop(matrix, False) == (score, None)
        assert (total(matrix)(path) + price * (T - len(path))) / T == pytest.approx(score, abs=1e-12)
        assert tuple(path[:, 1]) in set(assignments(len(path), M))
        assert (np.diff(path[:, 0]) > 0).all()


def test_subsequence_equals_brute_force():
    def extend(path, T, M):
        if path[-1][1] == M - 1:
            yield path
        for dt, dm in ((1, 0), (0, 1), (1, 1)):
            if path[-1][0] + dt < T and path[-1][1] + dm < M:
                yield from extend([*path, (path[-1][0] + dt, path[-1][1] + dm)], T, M)

    for matrix in random_matrices(300, seed=33):
        T, M = matrix.shape
        centred = matrix - matrix.mean()
        paths = (path for t in range(T) for path in extend([(t, 0)], T, M))
        expected, _ = best_of(paths, total(centred))
        score, path = candidates.subsequence(matrix)
        assert score == pytest.approx(expected / (T + M - 1), abs=1e-12)
        assert candidates.subsequence(matrix, False) == (score, None)
        assert total(centred)(path) / (T + M - 1) == pytest.approx(score, abs=1e-12)
        assert path[0, 1] == 0
        assert path[-1, 1] == M - 1
        assert {tuple(step) for step in np.diff(path, axis=0)} <= {(1, 0), (0, 1), (1, 1)}


@pytest.mark.parametrize("name", ["segment", "balanced", "drop", "equal"])
def test_with_fewer_frames_than_sub_actions_the_path_is_dtws(name):
    for matrix in random_matrices(100, seed=34):
        if matrix.shape[0] < matrix.shape[1]:
            assert np.array_equal(candidates.ALIGNMENTS[name](matrix)[1], candidates.dtw(matrix)[1])
            if name != "balanced":
                assert candidates.ALIGNMENTS[name](matrix)[0] == candidates.dtw(matrix)[0]


@pytest.mark.parametrize("name", ["segment", "balanced", "paced", "drop", "subsequence", "equal"])
@pytest.mark.parametrize("bad", [np.empty((0, 2)), np.empty((2, 0)), np.full((3, 2), np.nan),
                                 np.array([[1.0, np.inf], [1.0, 1.0], [1.0, 1.0]])])
def test_a_matrix_without_a_cell_or_not_finite_is_refused(name, bad):
    with pytest.raises(ValueError, match="similarity matrix"):
        candidates.ALIGNMENTS[name](bad)


@pytest.mark.parametrize("name", candidates.ALIGNMENTS)
def test_contrast_over_all_orders_equals_its_definition(name):
    function = candidates.ALIGNMENTS[name]
    for matrix in random_matrices(40, seed=35):
        M = matrix.shape[1]
        scores = [function(matrix[:, list(order)], False)[0] for order in itertools.permutations(range(M))]
        own = function(matrix, False)[0]
        contrast, p = candidates.contrast(matrix, own, function, math.factorial(5))
        assert contrast == pytest.approx(own - np.mean(scores), abs=1e-12)
        assert p == np.mean(np.array(scores) >= own - 1e-12)


def test_contrast_takes_the_same_random_orders_again_where_there_are_many():
    matrix = np.random.default_rng(36).random((9, 7))
    own = candidates.dtw(matrix)[0]
    found = candidates.contrast(matrix, own, candidates.dtw, 50)
    candidates.orders_of.cache_clear()
    assert candidates.contrast(matrix, own, candidates.dtw, 50) == found
    assert len(candidates.orders_of(7, 50)) == 50
    assert len(candidates.orders_of(4, 32)) == 24  # all of them
    assert all(sorted(order) == list(range(7)) for order in candidates.orders_of(7, 50).tolist())


@pytest.mark.parametrize("name", candidates.ALIGNMENTS)
def test_what_says_nothing_of_order_has_no_contrast_and_p_1(name):
    for matrix in (np.full((5, 3), 0.25), np.random.default_rng(37).random((4, 1))):
        function = candidates.ALIGNMENTS[name]
        contrast, p = candidates.contrast(matrix, function(matrix, False)[0], function)
        assert contrast == pytest.approx(0, abs=1e-12)
        assert p == 1


def test_centred_similarities_have_mean_0_for_every_sub_action():
    similarity = candidates.centred(np.random.default_rng(38).random((9, 4)), 100.0)
    assert similarity.mean(axis=0) == pytest.approx(0, abs=1e-12)


def test_paced_is_segment_with_a_prior_around_phases_of_one_length():
    for matrix in wide(100, seed=39):
        T, M = matrix.shape
        prior = -0.5 * ((np.arange(M) + 0.5) - M * (np.arange(T)[:, None] + 0.5) / T) ** 2
        assert candidates.paced(matrix)[0] == pytest.approx(candidates.segment(matrix + prior)[0], abs=1e-12)
        assert candidates.balanced_paced(matrix)[0] == pytest.approx(candidates.balanced(matrix + prior)[0], abs=1e-12)
    assert candidates.paced(np.zeros((12, 4)))[1][:, 1].tolist() == [m for m in range(4) for _ in range(3)]


def test_equal_parts_are_what_their_name_says():
    score, path = candidates.equal(np.arange(12.0).reshape(6, 2))
    assert path[:, 1].tolist() == [0, 0, 0, 1, 1, 1]
    assert score == np.mean([0, 2, 4, 7, 9, 11])
