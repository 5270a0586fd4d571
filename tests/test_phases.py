"""Phases: which frames, when, found or not, and against the truth."""

import itertools
from types import SimpleNamespace

import mir_eval
import numpy as np
import pytest

from actalign import alignment, phases


def by_definition(similarity, path):
    """Frames and means of every sub-action, the slow way."""
    T, M = similarity.shape
    owners = {}
    for t, m in path.tolist():
        if t not in owners or similarity[t, m] > similarity[t, owners[t]]:
            owners[t] = m
    for m in range(M):
        own = [t for t in range(T) if owners.get(t) == m]
        rest = [t for t in range(T) if t not in own]
        yield ([own[0], own[-1]] if own else [-1, -1],
               [np.mean(similarity[ts, m]) if ts else np.nan for ts in (own, rest)])


@pytest.mark.parametrize("name", ["dtw", "segment", "drop", "subsequence"])
def test_phases_are_the_frames_of_a_path_and_their_means(name):
    rng = np.random.default_rng(1)
    for _ in range(60):
        similarity = rng.random((rng.integers(1, 9), rng.integers(1, 6)))
        _, path = getattr(alignment, name)(similarity, True)
        found = phases.phases_of(similarity, path)
        frames, means = zip(*by_definition(similarity, path), strict=True)
        assert found.frames.tolist() == list(frames)
        assert found.means == pytest.approx(np.array(means), nan_ok=True)


def test_a_frame_of_two_sub_actions_is_of_the_one_that_it_is_like_and_another_may_have_none():
    similarity = np.array([[0.9, 0.1, 0.1], [0.8, 0.2, 0.7]])
    path = np.array([[0, 0], [1, 0], [1, 1], [1, 2]], np.int32)
    found = phases.phases_of(similarity, path)
    assert found.frames.tolist() == [[0, 1], [-1, -1], [-1, -1]]
    assert found.found.tolist() == [True, False, False]


def test_a_phase_that_is_no_more_like_its_sub_action_than_the_rest_is_not_found():
    similarity = np.array([[0.5, 0.9], [0.5, 0.9], [0.5, 0.1]])
    found = phases.phases_of(similarity, np.array([[0, 0], [1, 0], [2, 1]], np.int32))
    assert found.found.tolist() == [False, False]
    assert found.means.tolist() == [[0.5, 0.5], [0.1, 0.9]]


def test_a_single_sub_action_is_found_in_the_whole_clip():
    [record] = phases.records(phases.phases_of(np.full((3, 1), 0.2), np.array([[0, 0], [1, 0], [2, 0]], np.int32)),
                              ["jump"], phases.borders_of([7.0, 7.5, 8.0]))
    assert record == {"subaction": "jump", "start": 7.0, "end": 8.25, "first_frame": 0, "last_frame": 2, "inside": 0.2,
                      "outside": None, "found": True}


def test_times_are_the_videos_and_unknown_where_the_clips_are():
    found = phases.Phases(np.array([[0, 1], [-1, -1], [2, 2]], np.int32), np.full((3, 2), 0.5))
    told = phases.records(found, "abc", phases.borders_of([12.0, 12.04, 12.16]))
    assert [(one["start"], one["end"]) for one in told] == [(12.0, 12.12), (None, None), (12.12, 12.2)]
    assert [(one["start"], one["first_frame"]) for one in phases.records(found, "abc")] == [(None, 0), (None, None),
                                                                                           (None, 2)]
    assert phases.borders_of([3.0]).tolist() == [3.0, 3.0]  # nobody knows how long


def test_a_border_is_at_most_half_a_frame_from_what_changed_between_two_frames():
    rng = np.random.default_rng(3)
    errors = []
    for _ in range(200):
        times = rng.uniform(0, 100) + np.arange(9) / 4
        change = rng.uniform(times[0], times[-1])
        first = int(np.searchsorted(times, change))  # frame that shows what came
        errors.append(4 * (phases.borders_of(times)[first] - change))
    assert np.max(np.abs(errors)) <= 0.5 + 1e-9
    assert abs(np.mean(errors)) < 0.05


def test_a_picture_that_stands_for_long_is_of_its_phase_until_it_changes():
    assert phases.borders_of([0, 0.04, 0.08, 3.08, 3.12]) == pytest.approx([0, 0.02, 0.06, 3.06, 3.1, 3.14])


@pytest.mark.parametrize(("T", "M"), [*itertools.product([1, 2, 7, 30], [1, 3, 8])])
def test_equal_parts_are_in_order_and_take_every_frame(T, M):
    frames = phases.equal_parts(T, M)
    there = frames[frames[:, 0] >= 0]
    assert [t for first, last in there for t in range(first, last + 1)] == list(range(T))
    assert len(there) == min(T, M)
    assert T < M or np.ptp(there[:, 1] - there[:, 0]) <= 1


def test_against_the_truth_frames_and_borders_are_counted_by_hand():
    truth = [{"start": 0.2, "end": 1.0, "subactions": [0]}, {"start": 1.0, "end": 1.5, "subactions": []},
             {"start": 1.5, "end": 2.5, "subactions": [1, 2]}, {"start": 2.5, "end": 3.0, "subactions": [3]}]
    times = np.arange(8) * 0.5  # 0 to 3.5 s
    frames = np.array([[0, 1], [2, 3], [4, 4], [-1, -1]], np.int32)
    right, errors = phases.against_truth(frames, times, truth)
    assert right.tolist() == [True, True, True, False]  # 0.5; 1.5 and 2.0; 2.5 is none of 3
    assert errors == pytest.approx([-0.2, 0.75 - 1.5, 2.25 - 2.5, 2.25 - 3.0])


def test_errors_of_borders_are_those_of_mir_eval():
    rng = np.random.default_rng(2)
    for _ in range(50):
        T, M = rng.integers(20, 60), rng.integers(2, 7)
        similarity, times = rng.random((T, M)), np.cumsum(rng.uniform(0.03, 0.05, T))
        found = phases.phases_of(similarity, alignment.segment(similarity, True)[1])
        borders = np.sort(rng.uniform(0, times[-1], M + 1))
        truth = [{"start": a, "end": b, "subactions": [m]} for m, (a, b) in enumerate(itertools.pairwise(borders))]
        right, errors = phases.against_truth(found.frames, times, truth)
        seconds = phases.seconds_of(found.frames, phases.borders_of(times))
        told = np.append(seconds[:, 0], seconds[-1, 1])
        median, mean = mir_eval.alignment.absolute_error(borders, told)
        assert np.median(np.abs(errors)) == pytest.approx(median, abs=1e-9)
        assert np.mean(np.abs(errors)) == pytest.approx(mean, abs=1e-9)
        assert np.mean(np.abs(errors) <= phases.TOLERANCE) == pytest.approx(
            mir_eval.alignment.percentage_correct(borders, told, window=phases.TOLERANCE), abs=1e-9)
        within = (borders[0] <= times) & (times < borders[-1])
        labels = np.searchsorted(borders, times[within], side="right") - 1
        owners = np.concatenate([[m] * (last - first + 1) for m, (first, last) in enumerate(found.frames)])[within]
        assert right.mean() == pytest.approx(np.mean(labels == owners), abs=1e-9)


def test_what_is_found_is_counted_over_all_clips_the_most_seldom_first():
    def one(*found):
        return SimpleNamespace(phases=[SimpleNamespace(found=np.array(of)) for of in found])

    x, y = {"key": "x in sport", "texts": ["runs", "jumps"]}, {"key": "y in sport", "texts": ["falls"]}
    again = {"key": "y in sport", "texts": ["falls"], "script": 1}
    rows = phases.found_counts([one([True, False], [True]), one([True, False], [False]), one([False, True], [True])],
                               lambda prediction: [x, y])
    assert [(row["option"], row["subaction_index"], row["found"], row["clips"]) for row in rows] == [
        ("x in sport", 1, 1, 3), ("x in sport", 0, 2, 3), ("y in sport", 0, 2, 3)]
    assert phases.found_lines(rows) == ["sub-actions: 3 of 3 are found in a clip, 0 never"]
    rows = phases.found_counts([one([True, True], [True], [False])], lambda prediction: [x, y, again])
    assert [row["script"] for row in rows if not row["found"]] == [1]
    first, second = phases.found_lines(rows)
    assert first.startswith("sub-actions: 3 of 4 are found in a clip, 1 never (")
    assert second == "  0 of 1 clips: 'falls' (y in sport)"
    rows = [{**rows[0], "subaction": str(n)} for n in range(12)]
    assert len(phases.found_lines(rows)) == 12
    assert phases.found_lines(rows)[-1] == "  and 2 more"
    assert phases.found_lines([]) == []
