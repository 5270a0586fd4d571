"""The method: smoothing, similarities, every alignment against all its paths, and the order contrast."""

import itertools
import math
import os
import subprocess
import sys

import numpy as np
import pytest

from actalign import alignment
from actalign.alignment import align, contrast, cosines, dtw, orders_of, similarity_of, smooth, unordered

IN_ORDER = ["segment", "balanced", "paced", "drop"]  # those that are dtw where there are fewer frames than sub-actions


def monotonic(path, T, M):
    """All paths that begin with this one and end at a frame of the last sub-action, by steps of `dtw`."""
    t, m = path[-1]
    if m == M - 1:
        yield path
    for dt, dm in ((1, 0), (0, 1), (1, 1)):
        if t + dt < T and m + dm < M:
            yield from monotonic([*path, (t + dt, m + dm)], T, M)


def assignments(T, M):
    """All ways to give every frame one of M sub-actions in order, none left out: paths of T cells."""
    for cuts in itertools.combinations(range(1, T), M - 1):
        yield [(t, int(np.searchsorted(cuts, t, side="right"))) for t in range(T)]


def total(matrix, path):
    return sum(matrix[t, m] for t, m in path)


def brute_force(matrix):
    """(greatest sum, the paths that have it) of `dtw`."""
    T, M = matrix.shape
    sums = [(total(matrix, path), path) for path in monotonic([(0, 0)], T, M) if path[-1][0] == T - 1]
    best = max(sum for sum, _ in sums)
    return best, [path for sum, path in sums if sum == pytest.approx(best, abs=1e-12)]


def random_matrices(count, seed):
    """Matrices up to 6 x 5: positive, of both signs, and small whole numbers with many equal sums, zeros included."""
    rng = np.random.default_rng(seed)
    kinds = (lambda shape: rng.random(shape), lambda shape: rng.normal(size=shape),
             lambda shape: rng.integers(-2, 3, shape).astype(float),
             lambda shape: rng.integers(0, 2, shape).astype(float))
    return [kinds[i % len(kinds)]((rng.integers(1, 7), rng.integers(1, 6))) for i in range(count)]


def wide(count, seed):
    """Random matrices with as many frames as sub-actions or more."""
    return [matrix if len(matrix) >= len(matrix.T) else matrix.T.copy() for matrix in random_matrices(count, seed)]


def test_dtw_equals_brute_force_over_all_paths():
    for matrix in random_matrices(400, seed=0):
        score, path = dtw(matrix)
        best, paths = brute_force(matrix)
        assert [tuple(cell) for cell in path] in paths
        assert score == pytest.approx(best / len(path), abs=1e-12)
        assert dtw(matrix, False) == (score, None)
        if (matrix >= 0).all():
            assert len(path) == sum(matrix.shape) - 1


def test_segment_equals_brute_force_over_all_paths():
    for matrix in wide(300, seed=30):
        score, path = alignment.segment(matrix)
        paths = list(assignments(*matrix.shape))
        assert score == pytest.approx(max(total(matrix, one) for one in paths) / len(matrix), abs=1e-12)
        assert alignment.segment(matrix, False) == (score, None)
        assert [tuple(cell) for cell in path] in paths
        assert total(matrix, path) / len(matrix) == pytest.approx(score, abs=1e-12)


def test_balanced_is_the_mean_of_means_over_segments_path():
    for matrix in wide(300, seed=31):
        score, path = alignment.balanced(matrix)
        assert np.array_equal(path, alignment.segment(matrix)[1])
        means = [matrix[path[path[:, 1] == m, 0], m].mean() for m in range(matrix.shape[1])]
        assert score == pytest.approx(np.mean(means), abs=1e-12)
        assert alignment.balanced(matrix, False) == (score, None)


def test_paced_equals_brute_force_with_a_prior_around_phases_of_one_length():
    for matrix in wide(300, seed=39):
        T, M = matrix.shape
        prior = -0.5 * ((np.arange(M) + 0.5) - M * (np.arange(T)[:, None] + 0.5) / T) ** 2
        score, path = alignment.paced(matrix)
        paths = list(assignments(T, M))
        assert score == pytest.approx(max(total(matrix + prior, one) for one in paths) / T, abs=1e-12)
        assert alignment.paced(matrix, False) == (score, None)
        assert total(matrix + prior, path) / T == pytest.approx(score, abs=1e-12)
    assert alignment.paced(np.zeros((12, 4)))[1][:, 1].tolist() == [m for m in range(4) for _ in range(3)]


def test_drop_equals_brute_force_over_all_paths_and_frames_left_out():
    for matrix in wide(300, seed=32):
        T, M = matrix.shape
        price = alignment._price(matrix)
        assert np.sort(matrix, axis=None)[::-1][math.ceil(0.3 * matrix.size) - 1] - price == pytest.approx(
            0, abs=np.ptp(matrix) / 256 + 1e-12)
        paths = [[(kept[t], m) for t, m in one] for count in range(M, T + 1)
                 for kept in itertools.combinations(range(T), count) for one in assignments(count, M)]
        score, path = alignment.drop(matrix)
        expected = max(total(matrix, one) + price * (T - len(one)) for one in paths) / T
        assert score == pytest.approx(expected, abs=1e-12)
        assert alignment.drop(matrix, False) == (score, None)
        assert [tuple(cell) for cell in path] in paths
        assert (total(matrix, path) + price * (T - len(path))) / T == pytest.approx(score, abs=1e-12)


@pytest.mark.parametrize("scale", [5e-324, 0.0, 1.0, 1e306])
def test_a_dropped_frames_price_is_within_any_range(scale):
    matrix = (scale * np.arange(-150.0, 150.0)).reshape(60, 5)
    assert matrix.min() <= alignment._price(matrix) <= matrix.max()
    assert np.isfinite(alignment.drop(matrix / 1e3)[0])


def test_subsequence_equals_brute_force_over_all_paths():
    for matrix in random_matrices(300, seed=33):
        T, M = matrix.shape
        centred = matrix - matrix.mean()
        paths = [path for t in range(T) for path in monotonic([(t, 0)], T, M)]
        score, path = alignment.subsequence(matrix)
        assert score == pytest.approx(max(total(centred, one) for one in paths) / (T + M - 1), abs=1e-12)
        assert alignment.subsequence(matrix, False) == (score, None)
        assert [tuple(cell) for cell in path] in paths
        assert total(centred, path) / (T + M - 1) == pytest.approx(score, abs=1e-12)


@pytest.mark.parametrize("name", IN_ORDER)
def test_with_fewer_frames_than_sub_actions_the_path_is_dtws(name):
    for matrix in random_matrices(200, seed=34):
        if matrix.shape[0] < matrix.shape[1] and name != "paced":  # which aligns other similarities
            score, path = getattr(alignment, name)(matrix)
            assert np.array_equal(path, dtw(matrix)[1])
            assert name == "balanced" or score == dtw(matrix)[0]


@pytest.mark.parametrize("name", alignment.ALIGNMENTS)
@pytest.mark.parametrize("bad", [np.empty((0, 2)), np.empty((2, 0)), np.full((3, 2), np.nan),
                                 np.array([[1.0, np.inf], [1.0, 1.0], [1.0, 1.0]]), np.array([[1.0, np.inf]]),
                                 np.array([[1.0, -np.inf], [1.0, 1.0]]), np.array([[-1.0, np.nan], [1.0, 1.0]])])
def test_a_matrix_without_a_cell_or_not_finite_is_refused(name, bad):
    with pytest.raises(ValueError, match="similarity matrix"):
        align([np.ones((3, 3)), bad], name)


def test_paths_are_monotonic_from_corner_to_corner():
    for matrix in random_matrices(100, seed=1):
        _, path = dtw(matrix)
        assert path[0].tolist() == [0, 0]
        assert path[-1].tolist() == [n - 1 for n in matrix.shape]
        assert {tuple(step) for step in np.diff(path, axis=0)} <= {(1, 0), (0, 1), (1, 1)}


def test_planted_path_is_recovered():
    rng = np.random.default_rng(2)
    for _ in range(20):
        T, M = rng.integers(20, 60), rng.integers(3, 12)
        borders = np.sort(rng.choice(np.arange(1, T), M - 1, replace=False))
        phase = np.searchsorted(borders, np.arange(T), side="right")  # the sub-action of each frame
        similarity = rng.random((T, M)) * 0.2
        similarity[np.arange(T), phase] += 0.8
        _, path = dtw(similarity)
        assert {(t, phase[t]) for t in range(T)} <= {tuple(cell) for cell in path}


def test_path_of_a_positive_matrix_has_t_plus_m_minus_1_cells():
    rng = np.random.default_rng(5)
    for _ in range(50):
        T, M = rng.integers(1, 30), rng.integers(1, 12)
        _, path = dtw(rng.random((T, M)) + 1e-9)
        assert len(path) == T + M - 1


def test_values_too_small_to_change_a_sum_still_give_the_longest_path():
    similarity = np.full((5, 4), 1e-300)
    similarity[0, 0] = 1.0
    score, path = dtw(similarity)
    assert len(path) == 8
    assert score == 1 / 8


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (9, 1), (2, 7)])
def test_one_frame_one_subaction_and_fewer_frames_than_subactions_work(shape):
    similarity = np.random.default_rng(6).random(shape)
    score, path = dtw(similarity)
    best, _ = brute_force(similarity)
    assert score == pytest.approx(best / len(path))
    assert len(path) == sum(shape) - 1


def test_dtw_leaves_its_input_alone():
    similarity = np.random.default_rng(7).normal(size=(6, 4))
    before = similarity.copy()
    dtw(similarity)
    assert np.array_equal(similarity, before)


def test_order_decides_under_dtw_and_not_in_the_unordered_control():
    forwards = np.eye(3).repeat(5, axis=0)  # (15, 3): three phases in order
    backwards = forwards[:, ::-1]
    assert unordered(forwards) == unordered(backwards) == (1.0, None)
    assert dtw(forwards)[0] > dtw(backwards)[0]


@pytest.mark.parametrize("lowest", [-1, 0])
def test_paths_over_more_diagonals_than_small_numbers_hold(lowest):
    similarity = np.random.default_rng(13).uniform(lowest, 1, (33_000, 2))
    score, path = dtw(similarity)
    assert path[0].tolist() == [0, 0]
    assert path[-1].tolist() == [32_999, 1]
    assert (np.diff(path, axis=0) >= 0).all()
    assert score == pytest.approx(similarity[path[:, 0], path[:, 1]].mean())


def test_unordered_is_the_mean_of_every_frames_best():
    assert unordered(np.array([[0.1, 0.7], [0.5, 0.2]]))[0] == pytest.approx(0.6)


def test_many_matrices_are_aligned_as_each_alone():
    rng = np.random.default_rng(3)
    matrices = random_matrices(60, seed=3) + [rng.random((rng.integers(1, 300), rng.integers(1, 15)))
                                              for _ in range(60)]
    scores, paths, none = align(matrices, with_paths=True)
    scores_only, *nones = align(matrices)
    assert [none, *nones] == [None] * 3
    for matrix, score, only, path in zip(matrices, scores, scores_only, paths, strict=True):
        one_score, one_path = dtw(matrix)
        assert score == only == one_score
        assert np.array_equal(path, one_path)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_matrices_of_either_float_and_in_columns_are_aligned(dtype):
    matrix = np.random.default_rng(11).random((9, 4)).astype(dtype)
    best, [path] = brute_force(matrix.astype(np.float64)[:6])
    for layout in (matrix[:6], np.asfortranarray(matrix[:6]), matrix.T.copy().T[:6]):
        score, found = dtw(layout)
        assert score == pytest.approx(best / len(path))
        assert [tuple(cell) for cell in found] == path


@pytest.mark.parametrize("window", [1, 2, 3, 4, 7, 30, 100])
@pytest.mark.parametrize("T", [1, 2, 5, 31])
def test_a_window_averages_the_frames_that_exist(window, T):
    embeddings = np.random.default_rng(8).normal(size=(T, 3)).astype(np.float32)
    smoothed = smooth(embeddings, window)
    for t in range(T):
        first = t - window // 2
        there = [embeddings[i].astype(np.float64) for i in range(first, first + window) if 0 <= i < T]
        assert smoothed[t] == pytest.approx(np.mean(there, axis=0), abs=1e-12)
    assert smoothed.shape == (T, 3)


def test_similarity_is_siglips_formula():
    rng = np.random.default_rng(9)
    video, texts = rng.normal(size=(4, 6)), rng.normal(size=(3, 6))
    cosine = (video @ texts.T) / np.outer(np.linalg.norm(video, axis=1), np.linalg.norm(texts, axis=1))
    expected = 1 / (1 + np.exp(-(np.exp(4.7) * cosine - 16.5)))
    assert similarity_of(cosines(video, texts), 4.7, -16.5) == pytest.approx(expected, rel=1e-12)


def test_similarity_does_not_underflow_where_a_checkpoint_is_sure():
    found = similarity_of(cosines(np.array([[1.0, 0]]), np.array([[-1.0, 0], [-0.9, 0.1]])), 4.77, -16.5)
    assert (found > 0).all()
    assert found[0, 1] > found[0, 0]


def test_mps_computes_on_its_cpu_since_it_has_no_float64():
    rows = np.random.default_rng(10).normal(size=(3, 4)).astype(np.float32)
    assert np.array_equal(cosines(rows, rows, "mps"), cosines(rows, rows))


def test_cosine_is_the_cosine_and_centred_similarities_have_mean_0_for_every_sub_action():
    rng = np.random.default_rng(38)
    video, texts = rng.normal(size=(9, 6)), rng.normal(size=(4, 6))
    cosine = similarity_of(cosines(video, texts), 4.7, -16.5, "cosine")
    assert cosine == pytest.approx((video @ texts.T) / np.outer(np.linalg.norm(video, axis=1),
                                                                np.linalg.norm(texts, axis=1)))
    centred = similarity_of(cosines(video, texts), 4.7, -16.5, "centred")
    assert centred.mean(axis=0) == pytest.approx(0, abs=1e-12)
    assert np.diff(centred, axis=0) == pytest.approx(np.exp(4.7) * np.diff(cosine, axis=0))
    assert similarity_of(cosines(video, texts), 4.7, -16.5, "evidence") == pytest.approx(np.log(1 + np.exp(centred)))


def test_one_frame_has_nothing_that_changes():
    video, texts = np.ones((1, 3)), np.eye(3)
    assert (similarity_of(cosines(video, texts), 4.7, -16.5, "centred") == 0).all()
    assert similarity_of(cosines(video, texts), 4.7, -16.5, "evidence") == pytest.approx(np.log(2))


@pytest.mark.parametrize("name", alignment.ALIGNMENTS)
def test_contrast_over_all_orders_equals_its_definition(name):
    for matrix in random_matrices(40, seed=35):
        M = matrix.shape[1]
        function = getattr(alignment, name)
        scores = [function(matrix[:, list(order)], False)[0] for order in itertools.permutations(range(M))]
        own = function(matrix, False)[0]
        [found], _, ([again], [p], _) = align([matrix], name, orders=math.factorial(5))
        assert found == again
        assert found == pytest.approx(own - np.mean(scores), abs=1e-12)
        assert p == np.mean(np.array(scores) >= own - 1e-12)


@pytest.mark.parametrize("name", sorted(alignment.ALIGNMENTS.keys() - {"unordered"}))
def test_the_contrast_of_many_matrices_is_that_of_each_and_compiled(name, monkeypatch):
    matrices = random_matrices(30, seed=39)
    function = getattr(alignment, name)
    own = [function(matrix, False)[0] for matrix in matrices]
    monkeypatch.setattr(alignment, "_score_orders", None)  # what Python would run
    found = contrast(matrices, own, function, 20)
    for matrix, score, difference, p in zip(matrices, own, found.difference, found.p, strict=True):
        assert contrast([matrix], [score], function, 20)[:2] == ([difference], [p])


def test_contrast_takes_the_same_random_orders_again_where_there_are_many():
    matrix = np.random.default_rng(36).random((9, 7))
    own = dtw(matrix)[0]
    [found], [p], [z] = contrast([matrix], [own], dtw, 50)
    orders_of.cache_clear()
    assert contrast([matrix], [own], dtw, 50) == ([found], [p], [z])
    scores = [dtw(matrix[:, order])[0] for order in orders_of(7, 50)]
    assert found == pytest.approx(own - np.mean(scores))
    assert p == (1 + sum(score >= own for score in scores)) / 51
    assert z == pytest.approx(found / np.std(scores))
    assert len(orders_of(7, 50)) == 50
    assert len(orders_of(4, 32)) == 24  # all of them
    assert all(sorted(order) == list(range(7)) for order in orders_of(7, 50).tolist())


@pytest.mark.parametrize("name", alignment.ALIGNMENTS)
@pytest.mark.parametrize("shape", [(5, 3), (2, 9), (1, 4)])
def test_what_says_nothing_of_order_has_contrast_0_and_p_1(name, shape):
    rng = np.random.default_rng(37)
    scores, _, order = align([np.full(shape, 0.37), rng.random((4, 1)), rng.normal(size=(1, 1))], name, orders=32)
    assert scores.tolist() == order.difference.tolist() == order.z.tolist() == [0, 0, 0]
    assert order.p.tolist() == [1, 1, 1]


def test_what_an_own_alignment_scores_in_python_has_a_contrast_too(monkeypatch):
    monkeypatch.setattr(alignment, "first", lambda similarity, with_path: (similarity[0, 0], None), raising=False)
    matrix = np.array([[1.0, 2.0, 6.0]])
    scores, paths, order = align([matrix, matrix[:, ::-1]], "first", orders=32)
    assert scores.tolist() == [-2, 3]
    assert paths is None
    assert order.p == pytest.approx([1, 1 / 3])


COMPILE = "import sys, numpy; from actalign.alignment import dtw; print(dtw(numpy.ones((3, 2)))[0])"


def compiles(root, cache):
    """What a fresh interpreter says on stderr when it aligns with numba's cache in this folder."""
    ran = subprocess.run([sys.executable, "-c", COMPILE], cwd=root, env={**os.environ, "NUMBA_CACHE_DIR": str(cache)},
                         capture_output=True, text=True, check=True)
    assert ran.stdout == "1.0\n"
    return ran.stderr


def test_the_first_call_on_a_machine_says_why_it_takes_seconds_and_the_next_has_nothing_to_say(root, tmp_path):
    assert "compiling" in compiles(root, tmp_path)
    assert compiles(root, tmp_path) == ""


def test_without_a_folder_for_the_cache_it_is_compiled_again(root):
    code = "import numba.core.caching as caching; caching.CacheImpl._locator_classes = []; " + COMPILE
    ran = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert ran.stdout == "1.0\n"
    assert "compiling" in ran.stderr
