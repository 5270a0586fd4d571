"""The method: smoothing, similarity, dynamic time warping, and the table of alignments."""

import os
import subprocess
import sys

import numpy as np
import pytest

from actalign import alignment
from actalign.alignment import align, dtw, similarity, smooth, unordered


def brute_force(similarity):
    """(score, path) over all monotonic paths: the greatest sum, of equal sums the longest."""
    T, M = similarity.shape
    found = []

    def extend(path, total):
        t, m = path[-1]
        if (t, m) == (T - 1, M - 1):
            found.append((total, len(path), path))
        for step in ((1, 0), (0, 1), (1, 1)):
            t_next, m_next = t + step[0], m + step[1]
            if t_next < T and m_next < M:
                extend([*path, (t_next, m_next)], total + similarity[t_next, m_next])

    extend([(0, 0)], similarity[0, 0])
    total, cells, path = max(found, key=lambda entry: entry[:2])
    return total / cells, path


def random_matrices(count, seed):
    """Matrices up to 6 x 5: positive, of both signs, and small whole numbers with many equal sums, zeros included."""
    rng = np.random.default_rng(seed)
    kinds = (lambda shape: rng.random(shape), lambda shape: rng.normal(size=shape),
             lambda shape: rng.integers(-2, 3, shape).astype(float),
             lambda shape: rng.integers(0, 2, shape).astype(float))
    return [kinds[i % len(kinds)]((rng.integers(1, 7), rng.integers(1, 6))) for i in range(count)]


def test_dtw_equals_brute_force_over_all_paths():
    for matrix in random_matrices(400, seed=0):
        score, path = dtw(matrix)
        expected, longest = brute_force(matrix)
        assert score == pytest.approx(expected, abs=1e-12)
        assert len(path) == len(longest)
        assert matrix[path[:, 0], path[:, 1]].mean() == pytest.approx(expected, abs=1e-12)


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
    expected, _ = brute_force(similarity)
    assert score == pytest.approx(expected)
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
    scores, paths = align(matrices, with_paths=True)
    scores_only, none = align(matrices)
    assert none is None
    for matrix, score, only, path in zip(matrices, scores, scores_only, paths, strict=True):
        one_score, one_path = dtw(matrix)
        assert score == only == one_score
        assert np.array_equal(path, one_path)


@pytest.mark.parametrize("bad", [np.zeros((0, 3)), np.zeros((3, 0)), np.full((2, 2), np.nan), np.array([[1.0, np.inf]]),
                                 np.array([[1.0, -np.inf], [1.0, 1.0]]), np.array([[-1.0, np.nan], [1.0, 1.0]])])
def test_empty_or_infinite_matrices_are_refused(bad):
    with pytest.raises(ValueError, match="similarity matrix"):
        align([np.ones((3, 3)), bad])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_matrices_of_either_float_and_in_columns_are_aligned(dtype):
    matrix = np.random.default_rng(11).random((9, 4)).astype(dtype)
    expected, path = brute_force(matrix.astype(np.float64)[:6])
    for layout in (matrix[:6], np.asfortranarray(matrix[:6]), matrix.T.copy().T[:6]):
        score, found = dtw(layout)
        assert score == pytest.approx(expected)
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
    assert similarity(video, texts, 4.7, -16.5) == pytest.approx(expected, rel=1e-12)


def test_similarity_does_not_underflow_where_a_checkpoint_is_sure():
    found = similarity(np.array([[1.0, 0]]), np.array([[-1.0, 0], [-0.9, 0.1]]), 4.77, -16.5)
    assert (found > 0).all()
    assert found[0, 1] > found[0, 0]


def test_mps_computes_on_its_cpu_since_it_has_no_float64():
    rows = np.random.default_rng(10).normal(size=(3, 4)).astype(np.float32)
    assert np.array_equal(similarity(rows, rows, 2.0, -1.0, "mps"), similarity(rows, rows, 2.0, -1.0))


def test_every_alignment_of_the_table_is_a_function_that_aligns():
    matrices = random_matrices(8, seed=20)
    for name in alignment.ALIGNMENTS:
        scores, _ = align(matrices, name, with_paths=True)
        assert np.isfinite(scores).all()


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
