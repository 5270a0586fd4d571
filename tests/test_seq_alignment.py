"""Stage 6: smoothing, similarity, dynamic time warping, joining by id, and the script's results."""

import hashlib
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from made_artifacts import (
    CHECKPOINT,
    drop_checks,
    make_entries,
    random_rows,
    write_entries,
    write_subaction_embeddings,
    write_video_embeddings,
)
from refusals import require_one_run_at_a_time

import seq_alignment
from actalign.artifacts import ArrayWriter, read_array
from actalign.console import InputError
from actalign.subactions import iter_subactions
from seq_alignment import (
    PackedPaths,
    dtw,
    dtw_batch,
    similarity_matrices_on,
    similarity_matrix,
    unordered,
    window_sums,
)

OPTIONS = {"a": ["hook shot", "jump shot", "dunk"], "b": ["dunk", "lay-up"], "c": ["jump shot", "dunk", "hook shot"]}
LENGTHS = {"a": 20, "b": 7, "c": 31}


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
    for similarity in random_matrices(400, seed=0):
        score, path = dtw(similarity)
        expected, longest = brute_force(similarity)
        assert score == pytest.approx(expected, abs=1e-12)
        assert len(path) == len(longest)
        assert similarity[path[:, 0], path[:, 1]].mean() == pytest.approx(expected, abs=1e-12)


def test_paths_are_monotonic_from_corner_to_corner():
    for similarity in random_matrices(100, seed=1):
        _, path = dtw(similarity)
        assert path[0].tolist() == [0, 0]
        assert path[-1].tolist() == [n - 1 for n in similarity.shape]
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


def test_batch_is_identical_to_one_by_one():
    rng = np.random.default_rng(3)
    matrices = random_matrices(60, seed=3) + [rng.random((rng.integers(1, 300), rng.integers(1, 15)))
                                              for _ in range(60)]
    scores, paths = dtw_batch(matrices, with_paths=True)
    scores_only, none = dtw_batch(matrices)
    assert none is None
    for matrix, score, only, path in zip(matrices, scores, scores_only, paths, strict=True):
        one_score, one_path = dtw(matrix)
        assert score == only == one_score
        assert np.array_equal(path, one_path)


def test_batches_split_by_memory_give_the_same(monkeypatch):
    matrices = random_matrices(50, seed=4)
    together, _ = dtw_batch(matrices)
    monkeypatch.setattr(seq_alignment, "CELLS_AT_ONCE", 40)
    apart, _ = dtw_batch(matrices)
    assert np.array_equal(together, apart)


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


@pytest.mark.parametrize("bad", [np.zeros((0, 3)), np.zeros((3, 0)), np.zeros(3), np.full((2, 2), np.nan),
                                 np.array([[1.0, np.inf]]), np.array([[1.0, -np.inf], [1.0, 1.0]])])
def test_empty_or_infinite_matrices_are_refused(bad):
    with pytest.raises(ValueError, match="similarity matrix"):
        dtw_batch([np.ones((3, 3)), bad])


def test_dtw_leaves_its_input_alone():
    similarity = np.random.default_rng(7).normal(size=(6, 4))
    before = similarity.copy()
    dtw(similarity)
    assert np.array_equal(similarity, before)


def test_order_decides_under_dtw_and_not_in_the_unordered_control():
    forwards = np.eye(3).repeat(5, axis=0)  # (15, 3): three phases in order
    backwards = forwards[:, ::-1]
    assert unordered(forwards) == unordered(backwards) == 1.0
    assert dtw(forwards)[0] > dtw(backwards)[0]


@pytest.mark.parametrize("lowest", [-1, 0])
def test_paths_over_more_diagonals_than_small_numbers_hold(lowest):
    similarity = np.random.default_rng(13).uniform(lowest, 1, (33_000, 2))
    score, path = dtw(similarity)
    assert path[0].tolist() == [0, 0]
    assert path[-1].tolist() == [32_999, 1]
    assert (np.diff(path, axis=0) >= 0).all()
    assert score == pytest.approx(similarity[path[:, 0], path[:, 1]].mean())


@pytest.mark.parametrize("lowest", [-1, 0])  # with negative entries a path may step in both at once
def test_packed_paths_are_the_paths(lowest):
    rng = np.random.default_rng(12)
    shapes = [(1, 1), (1, 5), (7, 1), (1, 1), (3, 3), (200, 11), (2, 30), (1, 1)]
    _, paths = dtw_batch([rng.uniform(lowest, 1, shape) for shape in shapes], with_paths=True)
    for some in (paths, paths[:1], paths[5:6], paths[3:7]):
        packed = PackedPaths(some)
        assert len(packed) == len(some)
        assert [path.tolist() for path in packed] == [path.tolist() for path in some]
        assert packed[-1].tolist() == some[-1].tolist()
        assert [path.tolist() for path in packed[1:]] == [path.tolist() for path in some[1:]]
        with pytest.raises(IndexError):
            packed[len(some)]


def test_unordered_is_the_mean_of_every_frames_best():
    assert unordered(np.array([[0.1, 0.7], [0.5, 0.2]])) == pytest.approx(0.6)


@pytest.mark.parametrize("window", [1, 2, 3, 4, 7, 30, 100])
@pytest.mark.parametrize("T", [1, 2, 5, 31])
def test_a_window_adds_the_frames_that_exist(window, T):
    embeddings = np.random.default_rng(8).normal(size=(T, 3)).astype(np.float32)
    sums = window_sums(embeddings, window)
    for t in range(T):
        first = t - window // 2
        there = [embeddings[i].astype(np.float64) for i in range(first, first + window) if 0 <= i < T]
        assert sums[t] == pytest.approx(np.sum(there, axis=0), abs=1e-12)
    assert sums.shape == (T, 3)


def test_similarity_is_siglips_formula():
    rng = np.random.default_rng(9)
    video, texts = rng.normal(size=(4, 6)), rng.normal(size=(3, 6))
    cosine = (video @ texts.T) / np.outer(np.linalg.norm(video, axis=1), np.linalg.norm(texts, axis=1))
    expected = 1 / (1 + np.exp(-(np.exp(4.7) * cosine - 16.5)))
    assert similarity_matrix(video, texts, 4.7, -16.5) == pytest.approx(expected, rel=1e-12)


def test_similarity_does_not_underflow_where_a_checkpoint_is_sure():
    similarity = similarity_matrix(np.array([[1.0, 0]]), np.array([[-1.0, 0], [-0.9, 0.1]]), 4.77, -16.5)
    assert (similarity > 0).all()
    assert similarity[0, 1] > similarity[0, 0]


@pytest.mark.parametrize("window", [1, 4, 30])
def test_comparing_many_samples_on_a_device_gives_what_each_gives_alone(window):
    rng = np.random.default_rng(10)
    samples = [(rng.normal(size=(T, 16)).astype(np.float32), rng.normal(size=(M, 16)).astype(np.float32))
               for T, M in ((50, 12), (1, 1), (3, 40), (200, 9))]
    together = similarity_matrices_on("cpu", samples, window, 4.7, -16.5)
    for (frames, texts), similarity in zip(samples, together, strict=True):
        alone = similarity_matrix(window_sums(frames, window), texts, 4.7, -16.5)
        assert similarity.shape == alone.shape
        assert similarity == pytest.approx(alone, rel=1e-10, abs=1e-300)


def by_definition(frames, texts, window, logit_scale, logit_bias):
    """The score of one option, written as it is defined: means, cosines, sigmoids and sums, one number at a time."""
    T = len(frames)
    sums = {}
    for t in range(T):
        there = frames[max(t - window // 2, 0):max(t - window // 2 + window, 0)].astype(np.float64)
        frame = there.mean(axis=0)
        for m, text in enumerate(texts.astype(np.float64)):
            cosine = frame @ text / np.sqrt((frame @ frame) * (text @ text))
            before = [sums[cell] for cell in ((t - 1, m), (t, m - 1)) if cell in sums]
            sums[t, m] = 1 / (1 + np.exp(-(np.exp(logit_scale) * cosine + logit_bias))) + max(before, default=0)
    return sums[T - 1, len(texts) - 1] / (T + len(texts) - 1)


# The script


@pytest.fixture
def stage(tmp_path):
    """Artifacts of three samples, and a function that runs the script on them with more arguments."""
    entries = make_entries(OPTIONS, {"a": 1, "b": None, "c": 2})
    write_entries(tmp_path / "generated.json", entries)
    write_video_embeddings(tmp_path, LENGTHS)
    write_subaction_embeddings(tmp_path, entries)

    def run(*more, **replaced):
        files = {"subactions": "generated.json", "video_embeddings": "video_embeddings.npy",
                 "subaction_embeddings": "encoded_subactions.npy", **replaced}
        inputs = [part for flag, name in files.items() for part in (f"--{flag}", str(tmp_path / name))]
        return seq_alignment.main([*inputs, "--device", "cpu", "--smooth", "3", *more])

    run.folder, run.entries = tmp_path, entries
    return run


def scores_of(stage, **replaced):
    """{id: scores} of predictions.json, and the ids that were not scored."""
    path = stage.folder / "predictions.json"
    assert stage("--output", str(path), **replaced) == 0
    content = json.loads(path.read_text())
    return ({sample["id"]: sample["scores"] for sample in content["samples"]},
            {entry["id"]: entry["reason"] for entry in content["not_scored"]})


def test_predictions_hold_scores_ranking_and_paths(stage, capsys):
    path = stage.folder / "predictions.json"
    assert stage("--output", str(path)) == 0
    content = json.loads(path.read_text())
    assert [sample["id"] for sample in content["samples"]] == ["a", "b", "c"]
    for sample in content["samples"]:
        T, K = LENGTHS[sample["id"]], len(OPTIONS[sample["id"]])
        video = window_sums(random_rows(T, f"{sample['id']} video", 0), 3)
        for k, option in enumerate(OPTIONS[sample["id"]]):
            texts = np.concatenate([random_rows(1, f"{option} phase {m}", 0) for m in range(3)])
            score, best = dtw(similarity_matrix(video, texts, CHECKPOINT["logit_scale"], CHECKPOINT["logit_bias"]))
            assert sample["scores"][k] == pytest.approx(score, abs=1e-12)
            assert sample["paths"][k] == best.tolist()
        assert sample["ranking"] == sorted(range(K), key=lambda k: -sample["scores"][k])
    assert content["summary"]["with_answer"] == 2
    printed = capsys.readouterr().out
    assert "Top-1" in printed
    assert "chance" in printed
    assert "3 of 3 samples scored, 1 of them without a known answer" in printed


@pytest.mark.parametrize("cells", [40, 1 << 20])  # a batch of every sample, and one of all
def test_scores_are_those_of_the_definition(stage, monkeypatch, cells):
    monkeypatch.setattr(seq_alignment, "CELLS_AT_ONCE", cells)
    scores, _ = scores_of(stage)
    for id, options in OPTIONS.items():
        video = random_rows(LENGTHS[id], f"{id} video", 0)
        for score, option in zip(scores[id], options, strict=True):
            texts = np.concatenate([random_rows(1, f"{option} phase {m}", 0) for m in range(3)])
            expected = by_definition(video, texts, 3, CHECKPOINT["logit_scale"], CHECKPOINT["logit_bias"])
            assert score == pytest.approx(expected, abs=1e-9)
            assert score == pytest.approx(expected, rel=1e-9)


def test_a_device_changes_no_score(stage, monkeypatch):
    expected, _ = scores_of(stage)
    monkeypatch.setattr(seq_alignment, "pick_device", lambda name: "cpu:0")  # torch's way, on the device at hand
    scores, _ = scores_of(stage)
    assert list(scores) == list(expected)
    for id in scores:
        assert scores[id] == pytest.approx(expected[id], rel=1e-10)


def test_torch_is_not_loaded_where_it_is_not_used(stage, root):
    names = {"subactions": "generated.json", "video_embeddings": "video_embeddings.npy",
             "subaction_embeddings": "encoded_subactions.npy"}
    inputs = [part for flag, name in names.items() for part in (f"--{flag}", str(stage.folder / name))]
    code = f"import sys, seq_alignment; seq_alignment.main({inputs!r}); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True, capture_output=True)


def test_a_sample_missing_from_any_artifact_changes_no_other_score(stage):
    everything, _ = scores_of(stage)
    others = {id: scores for id, scores in everything.items() if id != "a"}

    write_video_embeddings(stage.folder, {"c": 31, "b": 7}, name="fewer_videos.npy")
    scores, missing = scores_of(stage, video_embeddings="fewer_videos.npy")
    assert scores == others
    assert missing == {"a": "not in fewer_videos.npy"}

    write_subaction_embeddings(stage.folder, stage.entries[:0:-1], name="fewer_texts.npy")
    scores, missing = scores_of(stage, subaction_embeddings="fewer_texts.npy")
    assert scores == others
    assert missing == {"a": "not in fewer_texts.npy"}

    write_entries(stage.folder / "fewer.json", stage.entries[:0:-1])
    scores, missing = scores_of(stage, subactions="fewer.json")
    assert scores == others
    assert missing == {"a": "not among the generated sub-actions"}


def test_an_option_without_subactions_is_named_and_its_sample_not_scored(stage, capsys):
    everything, _ = scores_of(stage)
    entries = make_entries(OPTIONS, {"a": 1, "b": None, "c": 2})
    del entries[0]["subactions"]["jump shot in sport"]
    write_entries(stage.folder / "lacking.json", entries)
    write_subaction_embeddings(stage.folder, entries, name="lacking_texts.npy")
    scores, missing = scores_of(stage, subactions="lacking.json", subaction_embeddings="lacking_texts.npy")
    assert scores == {"b": everything["b"], "c": everything["c"]}
    assert missing == {"a": "no sub-actions for jump shot"}
    assert "not scored: 1, no sub-actions for jump shot (a)" in capsys.readouterr().out


def test_other_subactions_than_the_encoded_ones_are_refused(stage, capsys):
    stage.entries[1]["subactions"]["dunk in sport"][0] = "edited by hand"
    write_entries(stage.folder / "generated.json", stage.entries)
    assert stage() == 2
    error = capsys.readouterr().err
    assert "sample b" in error
    assert "run encode_subactions.py again" in error
    assert error.count("\n") == 1


def test_embeddings_of_two_checkpoints_are_refused(stage, capsys):
    write_video_embeddings(stage.folder, LENGTHS, name="other.npy", settings={**CHECKPOINT, "checkpoint": "another"})
    assert stage(video_embeddings="other.npy") == 2
    assert "different checkpoints" in capsys.readouterr().err


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinite_embeddings_are_refused_by_sample(stage, capsys, value):
    rows = random_rows(5, "x", 0)
    rows[3, 2] = value
    with ArrayWriter(stage.folder / "broken.npy", "video_embeddings", CHECKPOINT) as writer:
        writer.append("b", rows, fps=None)
    assert stage(video_embeddings="broken.npy") == 2
    error = capsys.readouterr().err
    assert "broken.npy: NaN or infinite embeddings in sample b" in error
    assert error.count("\n") == 1


def test_an_answer_out_of_range_is_refused(stage, capsys):
    stage.entries[2]["correct_answer_index"] = 3
    write_entries(stage.folder / "generated.json", stage.entries)
    assert stage() == 2
    assert "sample c has answer index 3" in capsys.readouterr().err


def test_output_that_is_something_else_is_not_replaced(stage, capsys):
    target = stage.folder / "generated.json"
    before = target.read_bytes()
    assert stage("--output", str(target)) == 2
    assert target.read_bytes() == before
    assert "holds no predictions" in capsys.readouterr().err
    assert stage("--output", str(stage.folder / "no such folder" / "predictions.json")) == 2


def test_nothing_to_score_fails_and_says_why(stage, capsys):
    write_video_embeddings(stage.folder, {"z": 4}, name="others.npy")
    assert stage(video_embeddings="others.npy") == 1
    captured = capsys.readouterr()
    assert "not scored: 3, not in others.npy (a, b, c)" in captured.out
    assert "no sample could be scored" in captured.err


def test_without_answers_predictions_are_listed(stage, capsys):
    write_entries(stage.folder / "generated.json", make_entries(OPTIONS, dict.fromkeys(OPTIONS)))
    assert stage() == 0
    printed = capsys.readouterr().out
    assert "none with a known answer: no accuracy" in printed
    assert "prediction" in printed
    assert "Top-1" not in printed


def test_a_window_longer_than_a_phase_is_said(stage, capsys):
    assert stage("--smooth", "25") == 0
    assert "in 3 of 3 samples the window is longer than a phase" in capsys.readouterr().out
    assert stage("--smooth", "2") == 0
    assert "longer than a phase" not in capsys.readouterr().out


def test_unordered_control_runs_and_writes_no_paths(stage):
    path = stage.folder / "unordered.json"
    assert stage("--alignment", "unordered", "--output", str(path)) == 0
    content = json.loads(path.read_text())
    assert content["method"]["name"] == "unordered"
    assert all("paths" not in sample for sample in content["samples"])


def test_a_device_that_is_not_there_is_refused(stage, capsys):
    assert stage("--device", "cuda:7") == 2
    assert "--device cuda:7: no such device" in capsys.readouterr().err


# Results that can be traced


def test_the_artifacts_that_made_a_result_are_printed_and_recorded(stage, capsys):
    path = stage.folder / "predictions.json"
    assert stage("--output", str(path)) == 0
    sources = json.loads(path.read_text())["sources"]
    raw = (stage.folder / "generated.json").read_bytes()
    assert sources["subactions"]["fingerprint"] == hashlib.blake2b(raw, digest_size=8).hexdigest()
    assert sources["video_embeddings"]["fingerprint"] == read_array(
        stage.folder / "video_embeddings.npy", "video_embeddings").fingerprint
    line = "made from " + ", ".join(f"{name} {sources[name]['fingerprint']}"
                                    for name in ("subactions", "video_embeddings", "subaction_embeddings"))
    assert line in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("name", ["video_embeddings.npy", "encoded_subactions.npy"])
@pytest.mark.parametrize(("key", "value"), [("digest", "0" * 32), ("check", 1)])
def test_checksums_that_are_not_those_of_the_rows_are_refused(stage, capsys, name, key, value):
    where = (stage.folder / name).with_suffix(".json")
    index = json.loads(where.read_text())
    index["items"][1][key] = value
    where.write_text(json.dumps(index))
    assert stage() == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "the rows of sample b are not those that were written" in captured.err


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])  # the second is compared as on a CUDA device
def test_a_frame_that_cancels_out_is_named_on_every_device(stage, device):
    with ArrayWriter(stage.folder / "video_embeddings.npy", "video_embeddings", CHECKPOINT, overwrite=True) as writer:
        rows = random_rows(4, "a", 0)
        writer.append("a", np.concatenate([rows, -rows[3:]]))
    video = read_array(stage.folder / "video_embeddings.npy", "video_embeddings")
    subactions = read_array(stage.folder / "encoded_subactions.npy", "subaction_embeddings")
    samples, _ = seq_alignment.join(iter_subactions(stage.folder / "generated.json"), video, subactions)
    with pytest.raises(InputError, match=r"frame 4 of sample a has no direction .* window of 2 frames"):
        seq_alignment.sample_similarities(samples[0], video, subactions, 2, device)
    assert seq_alignment.sample_similarities(samples[0], video, subactions, 4, device)[0].shape == (5, 3)


@pytest.mark.parametrize("more", [(), ("--alignment", "unordered")])
def test_frames_that_cancel_out_within_the_window_are_refused_by_name(stage, capsys, more):
    with ArrayWriter(stage.folder / "video_embeddings.npy", "video_embeddings", CHECKPOINT, overwrite=True) as writer:
        for id, T in LENGTHS.items():
            rows = random_rows(T, id, 0)
            if id == "b":
                rows[3:6] = [[1] * 8, [0.5] * 8, [-1.5] * 8]
            writer.append(id, rows)
    assert stage(*more) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    line, = (line for line in captured.err.splitlines() if "error" in line)
    assert "frame 4 of sample b has no direction" in line
    assert "--smooth" in line
    assert stage("--smooth", "1", *more) == 0


@pytest.mark.parametrize("name", ["subactions", "video_embeddings", "subaction_embeddings"])
def test_another_artifact_has_another_fingerprint(stage, capsys, name):
    assert stage() == 0
    before = re.search(rf"{name} (\w+)", capsys.readouterr().out)[1]
    stage.entries[0]["question"] = "What is it?"
    write_entries(stage.folder / "generated.json", stage.entries)
    write_video_embeddings(stage.folder, LENGTHS, seed=1, name="videos.npy")
    write_subaction_embeddings(stage.folder, stage.entries, seed=1, name="texts.npy")
    assert stage(video_embeddings="videos.npy", subaction_embeddings="texts.npy") == 0
    assert re.search(rf"{name} (\w+)", capsys.readouterr().out)[1] != before


@pytest.mark.parametrize("name", ["video_embeddings.npy", "encoded_subactions.npy"])
@pytest.mark.parametrize("older", [False, True])  # indexes that have digests alone
def test_one_damaged_byte_anywhere_in_the_embeddings_is_refused_and_no_number_printed(stage, capsys, name, older):
    path = stage.folder / name
    raw = path.read_bytes()
    if older:
        drop_checks(path)
    assert stage() == 0
    capsys.readouterr()
    for position in (128, 128 + (len(raw) - 128) // 2, len(raw) - 1):
        path.write_bytes(raw[:position] + bytes([raw[position] ^ 1]) + raw[position + 1:])
        assert stage() == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "are not those that were written" in captured.err
        assert captured.err.count("\n") == 1


@pytest.mark.parametrize("spoil", [
    lambda options: options[0].update(start=options[1]["start"], stop=options[1]["stop"]),
    lambda options: options[0].update(stop=options[0]["stop"] - 1),
    lambda options: options[0].update(start=options[0]["stop"], stop=options[0]["start"]),
    lambda options: options.append(dict(options[0])),
    lambda options: options.clear(),
], ids=["another option's", "a row less", "backwards", "twice", "none"])
def test_rows_of_options_that_do_not_fit_their_texts_are_refused(stage, capsys, spoil):
    index = stage.folder / "encoded_subactions.json"
    content = json.loads(index.read_text())
    spoil(content["items"][1]["options"])
    index.write_text(json.dumps(content))
    assert stage() == 2
    assert "does not tell the options of sample b and their rows" in capsys.readouterr().err


@pytest.mark.parametrize(("key", "value"), [("logit_scale", "4.7"), ("logit_scale", 1e6), ("logit_bias", [1]),
                                            ("logit_bias", 1e300), ("dtype", "int8"), ("checkpoint", None)])
def test_a_scale_and_bias_that_no_checkpoint_has_are_refused(stage, capsys, key, value):
    for name in ("video_embeddings.json", "encoded_subactions.json"):
        content = json.loads((stage.folder / name).read_text())
        content["meta"][key] = value
        (stage.folder / name).write_text(json.dumps(content))
    assert stage() == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "its index" in captured.err


def test_predictions_are_kept_to_one_run(stage, capsys):
    require_one_run_at_a_time(stage, stage.folder / "predictions.json", capsys)


def test_a_sample_that_was_joined_twice_or_lost_stops_the_run_before_a_number_is_printed(stage, monkeypatch, capsys):
    join = seq_alignment.join
    for spoil in (lambda samples: samples.append(samples[0]), lambda samples: samples.pop()):
        def joined_wrongly(*args, spoil=spoil):
            samples, not_scored = join(*args)
            spoil(samples)
            return samples, not_scored

        monkeypatch.setattr(seq_alignment, "join", joined_wrongly)
        with pytest.raises(RuntimeError, match="joined wrongly"):
            stage()
        assert "Top-1" not in capsys.readouterr().out
