"""The six scripts in a row on the example, as `make demo` runs them."""

import hashlib
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import encode_videos
from actalign.artifacts import merging, read_array
from actalign.evaluation import accuracy, top_k_hits
from actalign.predictions import read_predictions
from examples import demo

ROOT = Path(__file__).resolve().parent.parent


def test_alignment_beats_the_baseline_by_far_and_order_is_why(demo_folder):
    results = {name: accuracy(top_k_hits(read_predictions(demo_folder / f"{name}.json")[1], 1))
               for name in ("baseline_predictions", "unordered_predictions", "predictions",
                            "recommended_predictions")}
    pooled, unordered, *methods = results.values()
    for aligned in methods:
        assert aligned.value - pooled.value >= 0.25
        assert aligned.low > pooled.high
        assert aligned.low > unordered.high


def test_every_sample_is_scored_and_joined_by_id(demo_folder):
    manifest = [json.loads(line) for line in (ROOT / "examples/manifest.jsonl").read_text().splitlines()]
    _, predictions = read_predictions(demo_folder / "predictions.json")
    answers = {row["id"]: row["answer"] - 1 for row in manifest}
    assert {prediction.sample.id: prediction.sample.answer for prediction in predictions} == answers
    assert not list(demo_folder.glob("*.missing.json"))
    assert not list(demo_folder.glob("*.partial"))
    assert not list(demo_folder.glob("*.lock"))


def test_arrays_read_with_plain_numpy_as_the_readme_says(demo_folder):
    embeddings = np.load(demo_folder / "video_embeddings.npy", mmap_mode="r")
    items = json.loads((demo_folder / "video_embeddings.json").read_text())["items"]
    assert embeddings.dtype == np.float32
    assert items[-1]["stop"] == len(embeddings)


def test_running_the_same_commands_again_changes_nothing(demo_folder, monkeypatch):
    monkeypatch.chdir(ROOT)
    before = digests_of(demo_folder)
    for script, *arguments in demo.commands(demo_folder, "cpu"):
        assert importlib.import_module(script.removesuffix(".py")).main(arguments) == 0
    assert digests_of(demo_folder) == before


def digests_of(folder):
    """What is in each file, in a form that pytest can show the differences of."""
    return {path.name: hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest() for path in folder.iterdir()}


def test_sixteen_shards_without_frames_on_disk_give_the_same_results(demo_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    video, dataset = tmp_path / "video_embeddings.npy", "examples/manifest.jsonl"
    for number in range(16):
        assert encode_videos.main(["--dataset", dataset, "--output", str(video), "--model", "examples/checkpoint",
                                   "--device", "cpu", "--image_size", str(demo.IMAGE_SIZE), "--shard",
                                   f"{number}/16"]) == 0
    frames = str(demo_folder / "processed_dataset.npy")
    for script, *arguments in demo.commands(tmp_path, "cpu"):
        arguments = [str(demo_folder / Path(argument).name) if Path(argument).name in (
            "generated_subactions.json", "encoded_subactions.npy") else argument for argument in arguments]
        arguments = [{str(tmp_path / "processed_dataset.npy"): dataset, "--frames": "--dataset"}.get(argument, argument)
                     for argument in arguments]
        if script in ("baseline.py", "seq_alignment.py"):
            assert importlib.import_module(script.removesuffix(".py")).main(arguments) == 0
    for name in ("baseline_predictions.json", "predictions.json", "recommended_predictions.json"):
        ours, theirs = (json.loads((folder / name).read_text()) for folder in (tmp_path, demo_folder))
        assert ours["samples"] == theirs["samples"]
        assert ours["summary"] == theirs["summary"]
    pictures = [re.findall("data:image/webp;base64,[^)\"']*|\"image\":\"[^\"]*", (folder / "report.html").read_text())
                for folder in (tmp_path, demo_folder)]
    assert pictures[0] == pictures[1] != []
    assert merging.main(["merge", str(video)]) == 0
    assert video.read_bytes() == (demo_folder / "video_embeddings.npy").read_bytes()
    fingerprints = [read_array(path, "video_embeddings").fingerprint
                    for path in (video, demo_folder / "video_embeddings.npy")]
    assert fingerprints[0] == fingerprints[1]
    assert not list(tmp_path.glob("processed*")), frames


def test_the_comparison_names_every_method_and_what_the_example_is_not(demo_folder, capsys):
    demo.print_comparison(demo_folder)
    printed = capsys.readouterr().out
    for word in ("chance", "mean pool", "unordered", "published", "recommended", "Top-1", "Top-2", "Top-3"):
        assert word in printed
    assert "It says nothing about accuracy on real\nsport" in printed
    assert f"open {demo_folder}/report.html in a browser" in printed
    assert (demo_folder / "report.html").exists()


def test_the_example_is_small():
    files = [path for path in (ROOT / "examples").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) < 8e6
    assert 40 <= len(list((ROOT / "examples/clips").glob("*.mp4"))) <= 80


@pytest.mark.parametrize("script", ["process_data", "encode_videos", "generate_subactions", "encode_subactions",
                                    "baseline", "seq_alignment"])
def test_help_gives_an_example(script):
    shown = subprocess.run([sys.executable, f"{script}.py", "--help"], cwd=ROOT, check=True, capture_output=True,
                           text=True).stdout
    assert f"\n    python {script}.py " in shown


@pytest.mark.parametrize("script", ["process_data", "encode_videos", "generate_subactions", "encode_subactions",
                                    "baseline", "seq_alignment"])
def test_importing_a_script_loads_no_heavy_library_and_prints_nothing(script):
    heavy = "{'torch', 'transformers', 'datasets', 'openai', 'av', 'cv2', 'pandas', 'yt_dlp', 'plotly', " \
            "'jinja2', 'matplotlib'}"
    code = f"import sys, {script}; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert result.stdout == "[]\n"
    assert result.stderr == ""
