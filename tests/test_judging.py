"""What seq_alignment.py tells beside the answer: phases, confidence, and that none of the options fits."""

import csv
import json

import numpy as np
import pytest
from made_artifacts import CHECKPOINT, make_entries, random_rows, write_entries, write_subaction_embeddings
from refusals import refusal

import seq_alignment
from actalign import alignment, phases
from actalign.artifacts.writer import ArrayWriter

OPTIONS = ("dive", "split", "squat")


def make_run(folder, lengths, answers=0, timestamps=True, truth=None, shared=True):
    """Flags of a run on made-up embeddings: {id: T}. Frames of a clip pass through its first option's sub-actions."""
    options = {id: OPTIONS if shared else tuple(f"{option} {id}" for option in OPTIONS) for id in lengths}
    entries = make_entries(options, dict.fromkeys(lengths, answers))
    texts = write_subaction_embeddings(folder, entries)
    with ArrayWriter(folder / "video_embeddings.npy", "video_embeddings", CHECKPOINT, {"model": "made-up"}) as writer:
        for id, T in lengths.items():
            option = options[id][0]
            shown = np.concatenate([random_rows(1, f"{option} phase {m}", 0) for m in range(3)])[np.arange(T) * 3 // T]
            fields = {"timestamps": [100 + t / 25 for t in range(T)]} if timestamps else {}
            writer.append(id, shown + 0.3 * random_rows(T, id, 1), fps=25.0, frames_checksum="", video=f"{id}.mp4",
                          **fields, **({"phases": truth} if truth else {}))
    return ["--subactions", str(write_entries(folder / "subactions.json", entries)), "--video_embeddings",
            str(folder / "video_embeddings.npy"), "--subaction_embeddings", str(texts)]


def run(flags, folder):
    """The samples of predictions.json and the rows of its two tables."""
    assert seq_alignment.main([*flags, "--output", str(folder / "predictions.json")]) == 0
    tables = []
    for name in ("predictions", "phases"):
        with open(folder / f"{name}.csv", encoding="utf-8", newline="") as file:
            tables.append(list(csv.DictReader(file)))
    return json.loads((folder / "predictions.json").read_text(encoding="utf-8"))["samples"], *tables


def test_every_options_phases_are_in_the_predictions_and_their_table(tmp_path):
    samples, _, rows = run(make_run(tmp_path, {"a": 12, "b": 9}), tmp_path)
    assert [len(of_option) for sample in samples for of_option in sample["phases"]] == [3] * 6
    first = samples[0]["phases"][0]
    assert [(one["subaction"], one["first_frame"], one["last_frame"]) for one in first] == [
        ("dive phase 0", 0, 3), ("dive phase 1", 4, 7), ("dive phase 2", 8, 11)]
    assert [(one["start"], one["end"]) for one in first] == [(100, 100.14), (100.14, 100.3), (100.3, 100.46)]
    assert all(one["found"] and one["inside"] > one["outside"] for one in first)
    assert len(rows) == 2 * 3 * 3
    assert rows[0] == {"id": "a", "domain": "sport", "option_index": "0", "option": "dive", "is_prediction": "True",
                       "is_answer": "True", "subaction_index": "0",
                       **{key: str(value) for key, value in first[0].items()}}


@pytest.mark.parametrize(("length", "seconds"), [(1, 3), (2, 3), (12, 3)])
def test_clips_of_few_frames_and_of_none_of_known_time_have_phases(tmp_path, capsys, length, seconds):
    flags = make_run(tmp_path, {"a": length}, timestamps=False)
    samples, *_ = run([*flags, "--phases", str(tmp_path / "out")], tmp_path)
    for one in samples[0]["phases"][0]:
        assert one["start"] is one["end"] is None
        assert one["first_frame"] is None or 0 <= one["first_frame"] <= one["last_frame"] < length
    assert "1 clips have no timestamps: their phases are in frames (a)" in capsys.readouterr().out
    assert "WEBVTT" in (tmp_path / "out" / "a.vtt").read_text()


@pytest.mark.parametrize(("form", "file"), [("webvtt", "a.vtt"), ("elan", "a.eaf"), ("fiftyone", "labels.json"),
                                            ("csv", "phases.csv")])
def test_the_predicted_options_phases_are_exported(tmp_path, form, file):
    flags = make_run(tmp_path, {"a": 12})
    assert seq_alignment.main([*flags, "--phases", str(tmp_path / "out"), "--phases_format", form]) == 0
    text = (tmp_path / "out" / file).read_text(encoding="utf-8")
    assert "dive phase 2" in text
    assert "squat phase" not in text


def test_phases_against_the_datasets_truth_are_told(tmp_path, capsys):
    borders = [100, 100.14, 100.3, 100.46]  # half-way between frames
    truth = [{"start": borders[m], "end": borders[m + 1], "subactions": [m]} for m in range(3)]
    assert seq_alignment.main([*make_run(tmp_path, {"a": 12}, truth=truth), "--output", str(tmp_path / "p.json")]) == 0
    assert ("phases of the true options, known in 1 samples: 100.0% of frames right (equal parts: 100.0%), borders "
            "0.000 s off") in capsys.readouterr().out


def test_confidence_and_z_are_those_of_the_orders(tmp_path):
    samples, table, _ = run(make_run(tmp_path, {"a": 12}), tmp_path)
    video, texts = (seq_alignment.artifacts.read_array(tmp_path / name, kind) for name, kind in (
        ("video_embeddings.npy", "video_embeddings"), ("encoded_subactions.npy", "subaction_embeddings")))
    [sample], _ = seq_alignment.join(seq_alignment.read_subactions(tmp_path / "subactions.json"), video, texts)
    [matrices] = seq_alignment.similarities(sample, video, texts, 1, ["sigmoid"])
    order = alignment.align(matrices, orders=alignment.ORDERS).order
    assert samples[0]["order_z"] == pytest.approx(order.z.tolist())
    odds = np.exp(seq_alignment.confidence.SHARPNESS * order.z)
    assert samples[0]["confidence"] == pytest.approx(odds[0] / odds.sum())
    assert [row["confidence"] for row in table] == [repr(samples[0]["confidence"]), "", ""]
    assert samples[0]["phases"][0] == phases.records(
        phases.phases_of(matrices[0], alignment.dtw(matrices[0])[1]), [f"dive phase {m}" for m in range(3)],
        phases.borders_of(video.timestamps("a")))[0:3]


def test_calibrating_is_said_and_changes_confidences_alone(tmp_path, capsys):
    flags = make_run(tmp_path, {str(n): 9 + n % 3 for n in range(30)})
    plain, *_ = run(flags, tmp_path)
    assert "confidence is not calibrated: see --calibrate" in capsys.readouterr().out
    calibrated, *_ = run([*flags, "--calibrate"], tmp_path)
    assert "calibrated on 30 answers, cross-fitted: expected calibration error" in capsys.readouterr().out
    for one, other in zip(plain, calibrated, strict=True):
        assert one.pop("confidence") != other.pop("confidence")
        assert one == other


def test_without_enough_answers_confidences_are_not_calibrated(tmp_path, capsys):
    flags = make_run(tmp_path, {"a": 9, "b": 9}, answers=None)
    assert seq_alignment.main([*flags, "--calibrate"]) == 2
    assert "0 scored samples have a known answer, it takes 20" in capsys.readouterr().err
    assert seq_alignment.main(flags) == 0
    assert "confidence is not calibrated, which takes known answers" in capsys.readouterr().out


def test_none_of_these_by_a_threshold_of_ones_own(tmp_path, capsys):
    flags = make_run(tmp_path, {"a": 12, "b": 9})
    samples, table, _ = run([*flags, "--reject", "900", "--phases", str(tmp_path / "out")], tmp_path)
    assert [sample["none_of_these"] for sample in samples] == [True, True]
    assert {row["none_of_these"] for row in table} == {"True"}
    assert list((tmp_path / "out").iterdir()) == []
    assert "below 900.00, as --reject says" in capsys.readouterr().out
    samples, *_ = run([*flags, "--reject", "-900"], tmp_path)
    assert [sample["none_of_these"] for sample in samples] == [False, False]


@pytest.mark.parametrize(("shared", "origin"), [(True, "chance orders of 3 options"),
                                                (False, "other samples' options")])
def test_where_the_threshold_comes_from_is_told(tmp_path, capsys, shared, origin):
    flags = make_run(tmp_path, {str(n): 9 for n in range(6)}, shared=shared)
    samples, *_ = run([*flags, "--reject", "auto"], tmp_path)
    printed = capsys.readouterr().out
    assert origin in printed
    assert f"none of these: {sum(sample['none_of_these'] for sample in samples)} of 6 samples" in printed


def test_what_has_no_order_cannot_be_judged_by_it(tmp_path, capsys):
    flags = [*make_run(tmp_path, {"a": 9}), "--alignment", "unordered"]
    assert seq_alignment.main([*flags, "--reject", "auto"]) == 2
    assert "no order to judge by" in capsys.readouterr().err
    assert seq_alignment.main([*flags, "--phases", str(tmp_path / "out")]) == 2
    assert "has no path and no order" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["sometimes", "nan", "inf", "1e9", ""])
def test_a_threshold_that_is_none_is_refused(tmp_path, capsys, given):
    with pytest.raises(SystemExit):
        seq_alignment.parse_args([*make_run(tmp_path, {"a": 9}), f"--reject={given}"])
    assert "--reject" in capsys.readouterr().err


def test_a_folder_for_phases_that_cannot_be_made_is_refused_before_anything_is_scored(tmp_path, capsys):
    flags = make_run(tmp_path, {"a": 9})
    (tmp_path / "file").write_text("mine")
    for folder in ("file", "no/such"):
        refusal(lambda folder=folder: seq_alignment.exports.require_usable(tmp_path / folder), folder)
        assert seq_alignment.main([*flags, "--phases", str(tmp_path / folder)]) == 2
        assert "scored" not in capsys.readouterr().out
