"""Stage 6: smoothing, similarity, dynamic time warping, joining by id, and the script's results."""

import csv
import hashlib
import json
import re

import numpy as np
import pytest
from made_artifacts import (
    CHECKPOINT,
    make_entries,
    random_rows,
    write_entries,
    write_subaction_embeddings,
    write_video_embeddings,
)
from refusals import require_one_run_at_a_time

import seq_alignment
from actalign import alignment
from actalign.alignment import cosines, dtw, similarity_of, smooth
from actalign.artifacts import read_array
from actalign.artifacts.writer import ArrayWriter
from actalign.checkpoint import find_checkpoint
from actalign.console import InputError
from actalign.subactions import options_of, read_subactions

OPTIONS = {"a": ["hook shot", "jump shot", "dunk"], "b": ["dunk", "lay-up"], "c": ["jump shot", "dunk", "hook shot"]}
LENGTHS = {"a": 20, "b": 7, "c": 31}


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
        video = smooth(random_rows(T, f"{sample['id']} video", 0), 3)
        for k, option in enumerate(OPTIONS[sample["id"]]):
            texts = np.concatenate([random_rows(1, f"{option} phase {m}", 0) for m in range(3)])
            score, best = dtw(similarity_of(cosines(video, texts), CHECKPOINT["logit_scale"],
                                            CHECKPOINT["logit_bias"]))
            assert sample["scores"][k] == pytest.approx(score, abs=1e-12)
            assert sample["paths"][k] == best.tolist()
        assert sample["ranking"] == sorted(range(K), key=lambda k: -sample["scores"][k])
    assert content["summary"]["with_answer"] == 2
    printed = capsys.readouterr().out
    assert "Top-1" in printed
    assert "chance" in printed
    assert "3 of 3 samples scored, 1 of them without a known answer" in printed


def test_scores_are_those_of_the_definition(stage):
    scores, _ = scores_of(stage)
    for id, options in OPTIONS.items():
        video = random_rows(LENGTHS[id], f"{id} video", 0)
        for score, option in zip(scores[id], options, strict=True):
            texts = np.concatenate([random_rows(1, f"{option} phase {m}", 0) for m in range(3)])
            expected = by_definition(video, texts, 3, CHECKPOINT["logit_scale"], CHECKPOINT["logit_bias"])
            assert score == pytest.approx(expected, abs=1e-9)
            assert score == pytest.approx(expected, rel=1e-9)


def test_scale_and_bias_of_another_checkpoint_are_taken_when_asked_for(stage, checkpoint):
    path = stage.folder / "p.json"
    assert stage("--output", str(path), "--scale_from", str(checkpoint)) == 0
    content, other = json.loads(path.read_text()), find_checkpoint(str(checkpoint))
    assert content["method"]["scale_from"] == str(checkpoint)
    video = random_rows(LENGTHS["a"], "a video", 0)
    texts = np.concatenate([random_rows(1, f"dunk phase {m}", 0) for m in range(3)])
    expected = by_definition(video, texts, 3, other.logit_scale, other.logit_bias)
    assert content["samples"][0]["scores"][2] == pytest.approx(expected, rel=1e-9)
    assert stage("--scale_from", str(stage.folder)) == 2


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


@pytest.mark.parametrize(("changed", "what"), [
    ({"domain": "yoga"}, "domain"), ({"cleaned_options": ["lay-up", "dunk"]}, "list of options"),
    ({"cleaned_options": ["dunk", "pass"]}, "list of options"), ({"correct_answer_index": 1}, "answer")])
def test_videos_of_another_state_of_the_dataset_than_the_subactions_are_refused(stage, capsys, changed, what):
    def write(entries):
        with ArrayWriter(stage.folder / "video_embeddings.npy", "video_embeddings", CHECKPOINT,
                         overwrite=True) as writer:
            for entry in entries:
                fields = {name: entry[name] for name in ("domain", "cleaned_options", "correct_answer_index")}
                writer.append(entry["id"], random_rows(LENGTHS[entry["id"]], "x", 0), **fields)

    first, second, third = stage.entries
    write(stage.entries)
    assert stage() == 0
    write([first, {**second, **changed}, third])
    capsys.readouterr()
    assert stage() == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"video_embeddings.npy: sample b has another {what} in " in captured.err
    assert "run encode_videos.py and generate_subactions.py again" in captured.err


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


def test_without_being_asked_nothing_is_smoothed(stage, capsys):
    path, found = stage.folder / "p.json", []
    flags = ["--subactions", str(stage.folder / "generated.json"),
             "--video_embeddings", str(stage.folder / "video_embeddings.npy"),
             "--subaction_embeddings", str(stage.folder / "encoded_subactions.npy"), "--output", str(path)]
    for more in ([], ["--smooth", "1"]):
        assert seq_alignment.main([*flags, *more]) == 0
        assert "no smoothing, median phase" in capsys.readouterr().out
        found.append([sample["scores"] for sample in json.loads(path.read_text())["samples"]])
    assert found[0] == found[1]


def test_an_automatic_window_is_a_third_of_each_samples_phase(stage, capsys):
    paths = [stage.folder / f"{name}.json" for name in ("auto", "1")]
    assert stage("--smooth", "auto", "--output", str(paths[0])) == 0
    phases = {id: 3 * T / sum(len(texts) for texts in entry["subactions"].values())
              for (id, T), entry in zip(LENGTHS.items(), stage.entries, strict=True)}
    windows = sorted({max(1, round(phase / 3)) for phase in phases.values()})
    shown = str(windows[0]) if len(windows) == 1 else f"{windows[0]} to {windows[-1]}"
    assert f"smoothing window {shown} frames" in capsys.readouterr().out
    for id, phase in phases.items():
        assert stage("--smooth", str(max(1, round(phase / 3))), "--output", str(paths[1])) == 0
        found = [{one["id"]: one["scores"] for one in json.loads(path.read_text())["samples"]} for path in paths]
        assert found[0][id] == found[1][id]
    assert json.loads(paths[0].read_text())["method"]["smooth"] == "auto"


@pytest.mark.parametrize("bad", ["0", "-1s", "0s", "s", "infs", "nans", "half", "1.5", "", "1e300s", "9" * 30])
def test_a_window_that_is_none_is_refused(stage, capsys, bad):
    with pytest.raises(SystemExit) as ended:
        stage(f"--smooth={bad}")
    assert ended.value.code == 2
    assert "--smooth" in capsys.readouterr().err


def test_seconds_without_a_frame_rate_are_refused_in_one_line(stage, capsys):
    with ArrayWriter(stage.folder / "video_embeddings.npy", "video_embeddings", CHECKPOINT, overwrite=True) as writer:
        for id, T in LENGTHS.items():
            writer.append(id, random_rows(T, id, 0))
    assert stage("--smooth", "0.5s") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "does not say how many frames a second sample a has; give --smooth in frames" in captured.err


def test_seconds_of_a_frame_rate_that_no_camera_has_are_a_window_over_all(stage):
    with ArrayWriter(stage.folder / "video_embeddings.npy", "video_embeddings", CHECKPOINT, overwrite=True) as writer:
        for id, T in LENGTHS.items():
            writer.append(id, random_rows(T, f"{id} video", 0), fps=2**61)
    assert stage("--smooth", "1000000s") == 0


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
def test_rows_that_are_not_those_of_the_checksum_are_refused(stage, capsys, name):
    items = json.loads((stage.folder / name).with_suffix(".json").read_text())["items"]
    rows = np.load(stage.folder / name)
    rows[items[1]["start"], 0] += 1
    np.save(stage.folder / name, rows)
    assert stage() == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "the rows of sample b are not those that were written" in captured.err


def test_a_frame_that_cancels_out_is_named(stage):
    with ArrayWriter(stage.folder / "video_embeddings.npy", "video_embeddings", CHECKPOINT, overwrite=True) as writer:
        rows = random_rows(4, "a", 0)
        writer.append("a", np.concatenate([rows, -rows[3:]]))
    video = read_array(stage.folder / "video_embeddings.npy", "video_embeddings")
    subactions = read_array(stage.folder / "encoded_subactions.npy", "subaction_embeddings")
    samples, _ = seq_alignment.join(read_subactions(stage.folder / "generated.json"), video, subactions)
    with pytest.raises(InputError, match=r"frame 4 of sample a has no direction .* window of 2 frames"):
        next(seq_alignment.similarities(samples[0], video, subactions, 2, ["sigmoid"]))
    assert next(seq_alignment.similarities(samples[0], video, subactions, 4, ["sigmoid"]))[0].shape == (5, 3)


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
def test_one_damaged_byte_anywhere_in_the_embeddings_is_refused_and_no_number_printed(stage, capsys, name):
    path = stage.folder / name
    raw = path.read_bytes()
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


# The alignment is what stands in actalign/alignment.py


def test_dtw_of_the_method_is_the_one_that_runs(stage, monkeypatch):
    def broken(similarity, with_path):
        raise ValueError("edited")

    monkeypatch.setattr(alignment, "dtw", broken)
    with pytest.raises(ValueError, match="edited"):
        stage()


def middle(similarity, with_path):
    """An alignment of three lines: the frame in the middle of the clip takes its best sub-action."""
    t = len(similarity) // 2
    m = int(np.argmax(similarity[t]))
    return float(similarity[t, m]), np.array([[t, m]], np.int32) if with_path else None


def test_an_alignment_from_outside_is_used_by_the_stage_its_report_and_its_figures(stage, monkeypatch, capsys):
    monkeypatch.setattr(alignment, "middle", middle, raising=False)
    monkeypatch.setitem(alignment.ALIGNMENTS, "middle", "the frame in the middle takes its best sub-action")
    folder = stage.folder
    assert stage("--alignment", "middle", "--output", str(folder / "predictions.json"), "--report",
                 str(folder / "report.html"), "--figures", str(folder / "figures")) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^middle +\d", printed, re.MULTILINE)
    content = json.loads((folder / "predictions.json").read_text())
    assert content["method"]["name"] == "middle"
    video, texts = (read_array(folder / f"{name}.npy", kind) for name, kind in (
        ("video_embeddings", "video_embeddings"), ("encoded_subactions", "subaction_embeddings")))
    samples, _ = seq_alignment.join(read_subactions(folder / "generated.json"), video, texts)
    for sample, entry in zip(samples, content["samples"], strict=True):
        expected = [middle(matrix, True) for matrix in next(
            seq_alignment.similarities(sample, video, texts, 3, ["sigmoid"]))]
        assert entry["scores"] == [score for score, _ in expected]
        assert entry["paths"] == [path.tolist() for _, path in expected]
    assert "middle" in (folder / "report.html").read_text(encoding="utf-8")
    assert (folder / "figures" / "a.png").stat().st_size


# Several scripts


def with_scripts(entries, *lengths):
    """Entries with further scripts, of other lengths."""
    return [{**entry, "more_subactions": [
        {key: [f"{text} otherwise {n}" for text in texts[:length]] for key, texts in entry["subactions"].items()}
        for n, length in enumerate(lengths)]} for entry in entries]


def write_scripts(stage, entries):
    """The entries' file, and made-up embeddings of all of their scripts."""
    write_entries(stage.folder / "generated.json", entries)
    with ArrayWriter(stage.folder / "encoded_subactions.npy", "subaction_embeddings", CHECKPOINT,
                     {"model": "made-up"}, overwrite=True) as writer:
        for of_sample in read_subactions(stage.folder / "generated.json"):
            rows = [random_rows(1, text, 0)[0] for script in of_sample.scripts for texts in script.texts
                    for text in texts]
            writer.append(of_sample.sample.id, np.stack(rows), **options_of(of_sample, writer.row_count))


def predicted(stage, *more):
    path = stage.folder / "predictions.json"
    assert stage("--output", str(path), *more) == 0
    return {sample["id"]: sample for sample in json.loads(path.read_text())["samples"]}


@pytest.mark.parametrize("method", [[], ["--method", "recommended"]])
def test_scores_of_an_options_scripts_are_averaged_or_the_best_is_taken(stage, capsys, method):
    alone = []
    for n in range(3):  # each as if it were the only one
        entries = with_scripts(stage.entries, 3, 2)
        write_scripts(stage, [{**entry, "subactions": [entry["subactions"], *entry["more_subactions"]][n],
                               "more_subactions": []} for entry in entries])
        alone.append(predicted(stage, *method))
    write_scripts(stage, with_scripts(stage.entries, 3, 2))
    first, mean, best = (predicted(stage, *method, "--scripts", how) for how in ("first", "mean", "best"))
    for id in OPTIONS:
        scores = np.array([one[id]["scores"] for one in alone])
        assert first[id]["scores"] == alone[0][id]["scores"]
        assert "script_scores" not in first[id]
        assert mean[id]["scores"] == pytest.approx(scores.mean(axis=0))
        assert best[id]["scores"] == pytest.approx(scores.max(axis=0))
        assert np.array(mean[id]["script_scores"]) == pytest.approx(scores)
        assert mean[id]["paths"] == first[id]["paths"]
        z = np.array([one[id]["order_z"] for one in alone])
        assert [phase["subaction"] for phase in mean[id]["phases"][0]] == [
            phase["subaction"] for phase in first[id]["phases"][0]]
        assert np.shape(mean[id]["order_z"]) == z[0].shape
    printed = capsys.readouterr().out
    assert "mean of 3 scripts in 3 samples: each alone takes the same option in " in printed
    assert len(re.search(r"and is right in ([\d., ]+)%", printed)[1].split(",")) == 3


def test_half_the_samples_may_have_more_scripts_and_an_option_that_lacks_some_counts_for_all(stage, capsys):
    entries = with_scripts(stage.entries[:2], 2, 3) + stage.entries[2:]
    del entries[1]["more_subactions"][1]["dunk in sport"]
    write_scripts(stage, entries)
    found = predicted(stage, "--scripts", "mean")
    assert {id: len(one.get("script_scores", [0])) for id, one in found.items()} == {"a": 3, "b": 2, "c": 1}
    assert "mean of 2-3 scripts in 2 samples" in capsys.readouterr().out
    write_scripts(stage, stage.entries)
    assert "script_scores" not in predicted(stage, "--scripts", "mean")["a"]
    assert "no sample has several scripts of all of its options" in capsys.readouterr().out


@pytest.mark.parametrize("more", [["--reject", "auto"], ["--contrast", "4", "--reject", "0"], ["--phases", "phases"],
                                  ["--report", "report.html"]])
@pytest.mark.parametrize("how", ["mean", "best"])
def test_what_a_run_tells_besides_goes_with_several_scripts(stage, monkeypatch, more, how):
    monkeypatch.chdir(stage.folder)
    write_scripts(stage, with_scripts(stage.entries, 3, 2))
    assert stage("--scripts", how, *more) == 0


@pytest.mark.parametrize("more", [["--alignment", "all"], ["--controls"]])
def test_what_looks_at_one_script_is_refused_with_several(stage, capsys, more):
    assert stage("--scripts", "mean", *more) == 2
    assert "look at one script; leave them or --scripts out" in capsys.readouterr().err


def test_scripts_that_were_not_encoded_are_refused(stage, capsys):
    write_entries(stage.folder / "generated.json", with_scripts(stage.entries, 2))
    assert stage() == 2
    assert "run encode_subactions.py again" in capsys.readouterr().err


@pytest.mark.parametrize(("flags", "scripts"), [([], 1), (["--scripts", "mean"], 3)])
def test_how_often_each_sub_action_is_found_is_told_and_written(stage, capsys, flags, scripts):
    write_scripts(stage, with_scripts(stage.entries, 3, 2))
    found = predicted(stage, *flags)
    rows = list(csv.DictReader((stage.folder / "found.csv").open()))
    assert len(rows) == 4 * {1: 3, 3: 3 + 3 + 2}[scripts]  # options and their sub-actions
    assert {row["script"] for row in rows} == {str(n) for n in range(scripts)}
    clips = {"dunk in sport": "3", "hook shot in sport": "2", "jump shot in sport": "2", "lay-up in sport": "1"}
    assert all(row["clips"] == clips[row["option"]] for row in rows)
    told = sum(phase["found"] for one in found.values() for phases in one["phases"] for phase in phases)
    assert sum(int(row["found"]) for row in rows if row["script"] == "0") == told
    assert re.search(rf"^sub-actions: \d+ of {len(rows)} are found in a clip, ", capsys.readouterr().out, re.MULTILINE)
    (stage.folder / "found.csv").write_text("mine")
    assert stage("--output", str(stage.folder / "predictions.json")) == 2
    assert (stage.folder / "found.csv").read_text() == "mine"
