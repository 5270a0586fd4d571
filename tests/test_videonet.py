"""VideoNet: its questions as they are, videos of a folder or of the hub, results as its own evaluation writes them."""

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
from drawn_videos import write_video
from refusals import refusal

import baseline
import encode_subactions
import encode_videos
import generate_subactions
import process_data
import seq_alignment
from actalign import download
from actalign.artifacts import read_array
from actalign.dataset import load_samples
from actalign.download import VideoError, Videos
from actalign.predictions import read_predictions

ASKED = "Please respond with only the letter of the correct answer."


def question(key, domain, options, answer, video, actions=" actions"):
    lines = [f"Which of the following {domain}{actions} is shown in the video?",
             *(f"{letter}. {option}" for letter, option in zip("ABCDEF", options, strict=False)), ASKED]
    return {"key": key, "question": [{"type": "text", "text": "\n".join(lines)}, {"type": "video", "video": video}],
            "answer": answer}


ROWS = [
    question("505-mcq-test-2", "Break Dance", ["1990 spin", "2. round, \"flare\"", "C. walk", "ufo"], "C", "b-1.mp4"),
    question("1-mcq-test-1", "Hand Sewing / Embroidery", ["tent stitch", "cross stitch", "d.o.t.", "seed stitch"], "B",
             "a-1.mp4"),
    question("516-mcq-test-1", "Neurological Abnormalities", ["absence seizure", "tremor"], "A", "c-1.mp4", actions=""),
]


def write_rows(path, rows=ROWS):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_questions_are_read_as_they_are(tmp_path, capsys):
    samples = load_samples(write_rows(tmp_path / "mcq_test.jsonl"))
    assert [(s.id, s.domain, s.labels, s.answer, s.video) for s in samples] == [
        ("505-mcq-test-2", "Break Dance", ("1990 spin", "round, \"flare\"", "C. walk", "ufo"), 2, "b-1.mp4"),
        ("1-mcq-test-1", "Hand Sewing / Embroidery", ("tent stitch", "cross stitch", "d.o.t.", "seed stitch"), 1,
         "a-1.mp4"),
        ("516-mcq-test-1", "Neurological Abnormalities", ("absence seizure", "tremor"), 0, "c-1.mp4")]
    assert samples[0].question == "Which of the following Break Dance actions is shown in the video?"
    assert "is read as questions of VideoNet" in capsys.readouterr().err


@pytest.fixture
def published_rows(root):
    path = root.parent / "shared/benchmarks/videonet_mcq_rows.jsonl"
    if not path.exists():
        pytest.skip(f"no rows of VideoNet in {path}")
    return path


def test_published_rows_are_read(published_rows):
    samples = load_samples(str(published_rows))
    assert len(samples) == len(published_rows.read_text().splitlines())
    assert {len(sample.options) for sample in samples} == {4}
    assert {sample.domain for sample in samples} == {"Figure Skating", "Break Dance", "Neurological Abnormalities"}
    assert [sample.labels[sample.answer] for sample in samples[:2]] == ["biellmann spin", "biellmann spin"]


BINARY = "Recall that a Camel Spin is an action in Figure Skating. Does the following video show a Camel Spin?"


@pytest.mark.parametrize("changes", [
    {"answer": "E"}, {"answer": "yes"}, {"question": [{"type": "text", "text": BINARY}, ROWS[0]["question"][1]]},
    {"question": [ROWS[0]["question"][0]]}, {"question": ROWS[0]["question"] * 2},
    {"question": [{"type": "text"}, ROWS[0]["question"][1]]}])
def test_what_is_no_such_question_is_refused(tmp_path, changes):
    path = write_rows(tmp_path / "a.jsonl", [ROWS[1], {**ROWS[0], **changes}])
    refusal(lambda: load_samples(path), "a.jsonl, row 2", "mcq_test.jsonl")


# Through the six stages


def read_results(path, questions):
    """The share of right answers in a results file. Written from its documented form alone.

    {key of a question: {"accurate": 1, 0 or -1, "prediction": str, "response": str}}
    """
    results, answers = json.loads(Path(path).read_text()), {row["key"]: row["answer"] for row in questions}
    for key, result in results.items():
        assert set(result) == {"accurate", "prediction", "response"}
        assert type(result["accurate"]) is int
        assert result["prediction"] in "ABCD"
        assert result["accurate"] == (result["prediction"] == answers[key])
        assert result["response"].splitlines()[-1] == result["prediction"]
    return sum(result["accurate"] for result in results.values()) / len(results), set(results)


def test_rows_go_through_all_six_stages_to_accuracy_and_a_results_file(tmp_path, root, capsys):
    """The example's clips and actions under VideoNet's names and in its form; one of the videos is not there."""
    drawn = [json.loads(line) for line in (root / "examples/manifest.jsonl").read_text().splitlines()[:6]]
    videos = tmp_path / "videos"
    videos.mkdir()
    rows = []
    for number, row in enumerate(drawn, start=1):
        options = [row["choices"].pop(row["answer"] - 1), *row["choices"][:3]]
        shutil.copy(root / "examples" / row["video"], videos / f"6168139c-{number}.mp4")
        rows.append(question(f"{number}-mcq-test-1", "gymnastics", options[::-1], "D", f"6168139c-{number}.mp4"))
    (videos / "6168139c-6.mp4").unlink()
    path = {name: str(tmp_path / name) for name in ("p.npy", "v.npy", "s.json", "t.npy", "b.json", "a.json", "r.json")}
    known = {key: texts for entry in json.loads((root / "examples/generated_subactions.json").read_text())
             for key, texts in entry["subactions"].items()}
    samples = load_samples(write_rows(tmp_path / "mcq_test.jsonl", rows))
    Path(path["s.json"]).write_text(json.dumps([
        {**sample.record(), "subactions": {key: known[key] for key in sample.keys}} for sample in samples]))
    model = ["--model", str(root / "examples/checkpoint"), "--device", "cpu"]
    for stage, arguments in (
            (process_data, ["--dataset", tmp_path / "mcq_test.jsonl", "--videos_dir", videos, "--output", path["p.npy"],
                            "--image_size", 48]),
            (encode_videos, ["--input", path["p.npy"], "--output", path["v.npy"], *model]),
            (generate_subactions, ["--input", path["p.npy"], "--output", path["s.json"]]),
            (encode_subactions, ["--subactions", path["s.json"], "--output", path["t.npy"], *model]),
            (baseline, ["--input_dataset", path["p.npy"], "--video_embeddings", path["v.npy"], "--device", "cpu",
                        "--output", path["b.json"]])):
        assert stage.main([*map(str, arguments)]) == 0, stage
    align = ["--subactions", path["s.json"], "--video_embeddings", path["v.npy"], "--subaction_embeddings",
             path["t.npy"], "--device", "cpu", "--output", path["a.json"], "--videonet", path["r.json"]]
    for _ in range(2):  # the second replaces what the first wrote
        capsys.readouterr()
        assert seq_alignment.main(align) == 0
        printed = capsys.readouterr().out
    assert "Top-1" in printed
    assert "5 answers as VideoNet's evaluation writes them" in printed
    accuracy, keys = read_results(path["r.json"], rows)
    assert keys == {f"{number}-mcq-test-1" for number in range(1, 6)}
    assert accuracy == sum(one.is_right for one in read_predictions(path["a.json"])[1]) / 5 > 0.5


def test_a_file_of_another_kind_is_not_replaced_by_results(tmp_path, capsys):
    (tmp_path / "r.json").write_text('{"format": "actalign-predictions"}')
    arguments = ["--subactions", "s", "--video_embeddings", "v", "--subaction_embeddings", "t", "--videonet"]
    assert seq_alignment.main([*arguments, str(tmp_path / "r.json")]) == 2
    assert "holds no results of VideoNet" in capsys.readouterr().err
    assert seq_alignment.main([*arguments, str(tmp_path / "nowhere/r.json")]) == 2
    assert "does not exist" in capsys.readouterr().err


# From the hub


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A stand-in for the hub: its datasets are folders, read by the library's own loader. Returns its folder."""
    import datasets

    folder, load = tmp_path / "hub", datasets.load_dataset
    (folder / "raivn/VideoNet/benchmarks").mkdir(parents=True)
    (folder / "raivn/VideoNet/videos").mkdir()
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(datasets, "load_dataset", lambda name, **how: load(
        str(folder / name), cache_dir=str(tmp_path / "cache"), **how))

    def hf_hub_download(repo_id, filename, *, repo_type):
        assert repo_type == "dataset"
        if not (folder / repo_id / filename).exists():
            raise huggingface_hub.errors.EntryNotFoundError(f"404 Client Error.\n\nEntry Not Found for url: {filename}")
        return str(folder / repo_id / filename)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    return folder


@pytest.mark.parametrize(("split", "file"), [("test", "mcq_test"), ("val", "mcq_val"), ("validation", "mcq_val")])
def test_questions_and_videos_come_from_the_hub_and_stay_in_its_cache(hub, tmp_path, split, file):
    kept = hub / "raivn/VideoNet"
    write_rows(kept / "benchmarks" / f"{file}.jsonl")
    write_rows(kept / "benchmarks" / "other.jsonl", [{"key": 1}])
    write_video(kept / "videos/b-1.mp4", 6)
    write_video(kept / "videos/a-1.mp4", 7)
    output = tmp_path / "p.npy"
    assert process_data.main(["--dataset", "raivn/VideoNet", "--split", split, "--output", str(output),
                              "--image_size", "48"]) == 0
    assert [item["id"] for item in read_array(output, "frames").items] == ["505-mcq-test-2", "1-mcq-test-1"]
    [missing] = json.loads((tmp_path / "p.missing.json").read_text())
    assert (missing["id"], missing["retry"]) == ("516-mcq-test-1", False)
    assert "Entry Not Found" in missing["reason"]
    assert (kept / "videos/b-1.mp4").exists()
    assert not (tmp_path / "p.videos").exists()


def test_a_dataset_of_the_hub_asks_for_nothing_outside_of_itself(hub, tmp_path):
    (tmp_path / "secret.mp4").touch()
    write_rows(hub / "raivn/VideoNet/benchmarks/mcq_test.jsonl", [
        question(f"{n}-mcq-test-1", "Tap Dance", ["flap", "riffle"], "A", video)
        for n, video in enumerate(["../secret.mp4", str(tmp_path / "secret.mp4"), "x/../../secret.mp4"])])
    (tmp_path / "own").mkdir()
    for folder in (None, tmp_path / "own"):
        for sample in load_samples("raivn/VideoNet", "test"):
            with pytest.raises(VideoError, match="leaves the folder"):
                Videos(folder, tmp_path / "downloads", [sample]).path(sample)


def test_videos_of_a_folder_are_taken_before_those_of_the_hub(hub, tmp_path):
    write_rows(hub / "raivn/VideoNet/benchmarks/mcq_test.jsonl")
    (tmp_path / "b-1.mp4").touch()
    sample = load_samples("raivn/VideoNet")[0]
    assert Videos(tmp_path, tmp_path / "downloads", [sample]).path(sample) == tmp_path / "b-1.mp4"


def test_who_is_not_signed_in_is_told_so(monkeypatch, tmp_path):
    import datasets

    def gated(name, **_):
        raise datasets.exceptions.DatasetNotFoundError(f"Dataset '{name}' is a gated dataset on the Hub.")

    monkeypatch.setattr(datasets, "load_dataset", gated)
    refusal(lambda: load_samples("raivn/VideoNet"), "raivn/VideoNet", "gated", "accept its terms", "hf auth login")
