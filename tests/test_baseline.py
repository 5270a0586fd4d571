"""Stage 5: mean pooling against label sentences."""

import hashlib
import json

import numpy as np
import pytest
import torch
from made_artifacts import make_entries, write_frames_index
from refusals import require_one_run_at_a_time

import baseline
from actalign.artifacts import read_array
from actalign.artifacts.writer import ArrayWriter
from actalign.checkpoint import find_checkpoint
from actalign.siglip import load_siglip

OPTIONS = {"a": ["hook shot", "jump shot", "dunk"], "b": ["dunk", "lay-up"]}


@pytest.fixture
def stage(tmp_path, checkpoint):
    """A dataset of two samples whose frames point where one option's label points, and a function that runs on it."""
    entries = make_entries(OPTIONS, {"a": 1, "b": 0})
    frames = write_frames_index(tmp_path, entries)
    found = find_checkpoint(str(checkpoint))
    encoder = load_siglip(found, torch.device("cpu"), baseline.BATCH_SIZE, "float32")
    with ArrayWriter(tmp_path / "video.npy", "video_embeddings", found.settings("float32"),
                     {"model": str(checkpoint)}) as writer:
        for entry, target in zip(entries, ("jump shot", "lay-up"), strict=True):
            row = encoder.encode_texts([baseline.LABEL_TEMPLATE.format(option=target, domain="sport")])[0]
            writer.append(entry["id"], np.stack([row * 0.5, row * 3]).astype(np.float32), fps=25.0)

    def run(*more):
        return baseline.main(["--input_dataset", str(frames), "--video_embeddings", str(tmp_path / "video.npy"),
                              "--device", "cpu", *more])

    run.folder = tmp_path
    return run


def test_scores_are_cosines_with_the_mean_frame():
    rng = np.random.default_rng(0)
    video, labels = rng.normal(size=(7, 5)), rng.normal(size=(3, 5)) * [[1.0], [10.0], [0.1]]
    mean = video.mean(axis=0)
    expected = [label @ mean / np.linalg.norm(label) / np.linalg.norm(mean) for label in labels]
    assert baseline.mean_pool_scores(video, labels) == pytest.approx(expected)


def test_the_label_that_the_frames_point_at_wins(stage, capsys):
    path = stage.folder / "predictions.json"
    assert stage("--output", str(path)) == 0
    content = json.loads(path.read_text())
    assert [sample["ranking"][0] for sample in content["samples"]] == [1, 1]
    assert content["samples"][0]["scores"][1] == pytest.approx(1, abs=1e-6)
    assert content["summary"]["top1"]["accuracy"] == 0.5
    printed = capsys.readouterr().out
    assert "2 of 2 samples scored" in printed
    assert "mean pool" in printed


def test_frames_that_cancel_out_are_refused_by_name(stage, checkpoint, capsys):
    found = find_checkpoint(str(checkpoint))
    with ArrayWriter(stage.folder / "video.npy", "video_embeddings", found.settings("float32"),
                     {"model": str(checkpoint)}, overwrite=True) as writer:
        row = np.ones(found.width, np.float32)
        writer.append("a", np.stack([row, row]), fps=25.0)
        writer.append("b", np.stack([row, -row]), fps=25.0)
    assert stage() == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "sample b cancel out" in captured.err


def test_the_frames_themselves_are_not_needed(stage):
    (stage.folder / "processed_dataset.npy").unlink()
    assert stage() == 0


def test_another_checkpoint_than_that_of_the_embeddings_is_refused(stage, so400m_settings_checkpoint, capsys):
    assert stage("--model", str(so400m_settings_checkpoint)) == 2
    assert "was made with another checkpoint" in capsys.readouterr().err


def test_samples_on_one_side_only_are_counted(stage, capsys):
    frames = stage.folder / "more"
    frames.mkdir()
    index = write_frames_index(frames, make_entries({"b": OPTIONS["b"], "z": ["x", "y"]}))
    assert baseline.main(["--input_dataset", str(index), "--video_embeddings", str(stage.folder / "video.npy"),
                          "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "1 of 3 samples scored" in printed
    assert "not scored: 1, not in video.npy (z)" in printed
    assert "not scored: 1, not in the dataset (a)" in printed


def test_the_artifacts_that_made_a_result_are_printed_and_recorded(stage, capsys):
    path = stage.folder / "predictions.json"
    assert stage("--output", str(path)) == 0
    sources = json.loads(path.read_text())["sources"]
    index = (stage.folder / "processed_dataset.json").read_bytes()
    assert sources["input_dataset"]["fingerprint"] == hashlib.blake2b(index, digest_size=8).hexdigest()
    line = ", ".join(f"{name} {source['fingerprint']}" for name, source in sources.items())
    assert f"made from {line}" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("meta", [{"model": None}, {"model": 5}, {"dtype": "os"}, {"checkpoint": 7},
                                  {"logit_bias": None}, "no model"])
def test_an_index_that_does_not_tell_the_checkpoint_is_refused(stage, capsys, meta):
    index = stage.folder / "video.json"
    content = json.loads(index.read_text())
    if meta == "no model":
        del content["meta"]["model"]
    else:
        content["meta"] |= meta
    index.write_text(json.dumps(content))
    assert stage() == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "its index" in captured.err


def test_embeddings_of_the_published_scripts_are_refused_with_the_command_that_converts_them(stage, capsys):
    (stage.folder / "video.json").unlink()
    np.save(stage.folder / "video.npy", np.ones((2, 5, 8), np.float32))
    assert stage() == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "python -m actalign.artifacts convert" in captured.err


def test_predictions_are_kept_to_one_run(stage, capsys):
    require_one_run_at_a_time(stage, stage.folder / "predictions.json", capsys)


def test_the_template_of_labels_is_used_and_recorded(stage, checkpoint):
    path = stage.folder / "predictions.json"
    assert stage("--output", str(path)) == 0
    plain = json.loads(path.read_text())
    assert plain["method"] == {"name": "mean pool", "template": "a person performing {option} in {domain}"}
    template = "{domain}: {option}"
    assert stage("--template", template, "--output", str(path)) == 0
    content = json.loads(path.read_text())
    assert content["method"] == {"name": "mean pool", "template": template}
    encoder = load_siglip(find_checkpoint(str(checkpoint)), torch.device("cpu"), baseline.BATCH_SIZE, "float32")
    video = read_array(stage.folder / "video.npy", "video_embeddings")
    for sample in content["samples"]:
        labels = encoder.encode_texts([f"sport: {option}" for option in sample["cleaned_options"]])
        assert sample["scores"] == pytest.approx(baseline.mean_pool_scores(video.embeddings(sample["id"]), labels))
    assert content["samples"][0]["scores"] != pytest.approx(plain["samples"][0]["scores"])


@pytest.mark.parametrize("template", ["a person", "{option} {subaction}", "{option"])
def test_templates_that_tell_no_option_are_refused(stage, capsys, template):
    with pytest.raises(SystemExit) as ended:
        stage("--template", template)
    assert ended.value.code == 2
    assert "argument --template" in capsys.readouterr().err


def test_labels_that_the_encoder_cannot_tell_are_told(stage, capsys):
    write_frames_index(stage.folder, make_entries({"a": ["分腿跳", "前滚翻", "dunk"], "b": OPTIONS["b"]}),
                       name="chinese.npy")
    assert baseline.main(["--input_dataset", str(stage.folder / "chinese.npy"), "--video_embeddings",
                          str(stage.folder / "video.npy"), "--device", "cpu"]) == 0
    told = capsys.readouterr().err
    assert "2 labels are mostly of characters that the tokenizer" in told
    assert "1 options are the same to" in told
    assert "'前滚翻' of sample a" in told


def test_converted_embeddings_of_other_clips_than_the_datasets_are_refused(stage, checkpoint, capsys):
    index = stage.folder / "video.json"
    content = json.loads(index.read_text())
    content["meta"]["made_by"] = "the published scripts"
    index.write_text(json.dumps(content))
    assert stage() == 0
    found = find_checkpoint(str(checkpoint))
    with ArrayWriter(stage.folder / "video.npy", "video_embeddings", found.settings("float32"),
                     {"model": str(checkpoint), "made_by": "the published scripts"}, overwrite=True) as writer:
        writer.append("a", np.ones((2, found.width), np.float32), fps=None)
        writer.append("b", np.ones((3, found.width), np.float32), fps=None)
    assert stage() == 2
    captured = capsys.readouterr()
    assert "sample b has another number of frames" in captured.err
    assert "convert what the published scripts wrote with --subactions" in captured.err.splitlines()[-1]


WORDS = {"domain": "yoga", "cleaned_options": ["dunk", "lay-up", "pass"], "correct_answer_index": 1}


@pytest.mark.parametrize(("changed", "what"), [
    ({"domain": WORDS["domain"]}, "domain"), ({"cleaned_options": WORDS["cleaned_options"]}, "list of options"),
    ({"correct_answer_index": 1}, "answer"), ({"correct_answer_index": None}, "answer"), ("frames", "set of frames")])
def test_embeddings_of_another_state_of_the_dataset_are_refused(stage, checkpoint, capsys, changed, what):
    found, entries = find_checkpoint(str(checkpoint)), make_entries(OPTIONS, {"a": 1, "b": 0})
    frames = read_array(stage.folder / "processed_dataset.npy", "frames")

    def write(**of_b):
        with ArrayWriter(stage.folder / "video.npy", "video_embeddings", found.settings("float32"),
                         {"model": str(checkpoint)}, overwrite=True) as writer:
            for entry in entries:
                fields = {**{name: entry[name] for name in WORDS}, **(of_b if entry["id"] == "b" else {})}
                fields.setdefault("frames_checksum", frames.item(entry["id"])["checksum"])
                writer.append(entry["id"], np.ones((2, found.width), np.float32), fps=25.0, **fields)

    write()
    assert stage() == 0
    write(**({"frames_checksum": "0" * 32} if changed == "frames" else changed))
    capsys.readouterr()
    assert stage() == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"video.npy: sample b has another {what} in " in captured.err
    assert "run encode_videos.py again" in captured.err
