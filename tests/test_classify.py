"""From clips to answers: `python -m actalign`, `actalign.classify` and `actalign.align`."""

import contextlib
import dataclasses
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from video_server import VideoServer

import actalign
from actalign import alignment, artifacts, pipeline
from actalign.checkpoint import find_checkpoint
from actalign.console import InputError, StageError
from actalign.own_subactions import OwnSubactions
from actalign.pipeline import Answer

ROOT = Path(__file__).resolve().parent.parent
CHECKPOINT = str(ROOT / "examples/checkpoint")
PHASES = """\
handstand to split
    standing with the hands up
    an upside down balance on the hands
    lunging low, front knee bent
    a full split, the legs slid apart on the floor
split to handstand
    standing with the hands up
    a full split, the legs slid apart on the floor
    lunging low, front knee bent
    an upside down balance on the hands
"""
OPTIONS = ["handstand to split", "split to handstand"]


@pytest.fixture
def clips(tmp_path, monkeypatch):
    """A folder of two clips that show both actions, and one that is no video; the working directory is above it."""
    (tmp_path / "clips/more").mkdir(parents=True)
    shutil.copy(ROOT / "examples/clips/gymnastics-02.mp4", tmp_path / "clips/a.mp4")
    shutil.copy(ROOT / "examples/clips/gymnastics-02.mp4", tmp_path / "clips/more/b.mp4")
    (tmp_path / "clips/damaged.mp4").write_bytes(b"\0" * 1000)
    (tmp_path / "phases.txt").write_text(PHASES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    return tmp_path / "clips"


def door(*flags, output="out"):
    return pipeline.main(["clips", "--domain", "gymnastics", "--model", CHECKPOINT, "--output", output, *flags])


def contents(folder):
    """{file: content} of all but the page, which names its files."""
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir()) if path.suffix != ".html"}


def test_a_folder_is_answered_and_the_damaged_clip_is_named(clips, capsys):
    assert door("--options", *OPTIONS, "--subactions", "phases.txt") == 0
    printed = capsys.readouterr().out
    assert [re.search(rf"^\$ python (-m )?{script}(\.py)? ", printed, re.MULTILINE) is not None
            for script in actalign.SCRIPTS] == [True] * 6
    *_, table, _ = printed.split("\n\n")
    assert re.search(r"^a +split to handstand +0\.\d\d$", table, re.MULTILINE)
    assert re.search(r"^more/b +split to handstand +0\.\d\d$", table, re.MULTILINE)
    assert re.search(r"^damaged: no answer, .*damaged\.mp4: ", table, re.MULTILINE)
    assert printed.rstrip().endswith("open out/report.html in a browser.")
    assert "split to handstand" in Path("out/report.html").read_text()


def test_it_makes_what_the_commands_that_it_shows_make(clips, capsys, monkeypatch):
    assert door("--subactions", "phases.txt", output="out") == 0  # the options are those that the file names
    by_door = contents("out")
    shown = re.findall(r"^\$ python (?:-m )?(\w+)(?:\.py)? (.*)$", capsys.readouterr().out, re.MULTILINE)
    shutil.rmtree("out")
    Path("out").mkdir()
    for script, flags in shown:
        assert importlib.import_module(script).main(shlex.split(flags)) == 0
    assert by_door == contents("out")


def test_again_it_makes_nothing_anew_and_takes_over_new_clips(clips, capsys, monkeypatch):
    door("--subactions", "phases.txt")
    before = contents("out")
    capsys.readouterr()
    assert door("--subactions", "phases.txt") == 0
    printed = capsys.readouterr().out
    assert "0 clips processed (0 frames" in printed
    assert "0 clips encoded (0 frames" in printed
    assert "0 samples encoded (0 texts" in printed
    assert contents("out") == before
    shutil.copy(clips / "a.mp4", clips / "c.mp4")
    assert door("--subactions", "phases.txt") == 0
    printed = capsys.readouterr().out
    assert "1 clips encoded" in printed
    assert re.search(r"^c +split to handstand", printed, re.MULTILINE)


def test_addresses_are_clips_and_a_language_model_is_asked_for_what_phases_lack(clips, server, capsys):
    web = VideoServer(clips)
    only_one = "".join(PHASES.partition("split to handstand")[:1])
    Path("one.txt").write_text(only_one)
    try:
        assert pipeline.main([f"{web.url}/a.mp4", "--domain", "gymnastics", "--options", *OPTIONS, "--subactions",
                              "one.txt", "--base_url", server.url, "--model", CHECKPOINT]) == 0
    finally:
        web.close()
    assert [re.findall(r"^- (.*)$", prompt, re.MULTILINE) for prompt in server.prompts] == [["split to handstand"]]
    printed = capsys.readouterr().out
    assert re.search(r"^\S+ +(split to handstand|handstand to split) +[01]\.\d\d$", printed, re.MULTILINE)


def test_a_correction_of_the_phases_is_one_edit(clips, capsys):
    door("--subactions", "phases.txt")
    Path("phases.txt").write_text(PHASES.replace("lunging low, front knee bent", "a low lunge"))
    capsys.readouterr()
    assert door("--subactions", "phases.txt") == 0
    printed = capsys.readouterr().out
    assert "2 samples take their sub-actions from phases.txt" in printed
    assert "2 samples encoded (1 texts" in printed
    assert "0 clips encoded" in printed


def test_other_settings_are_refused_and_start_over_when_told(clips, capsys):
    door("--subactions", "phases.txt")
    assert door("--subactions", "phases.txt", "--fps", "8") == 2
    assert "start over with --overwrite" in capsys.readouterr().err
    assert door("--subactions", "phases.txt", "--fps", "8", "--overwrite") == 0
    assert artifacts.read_index("out/video_embeddings.npy", "video_embeddings")["meta"]["fps"] == 8


@pytest.mark.parametrize(("flags", "said"), [
    (["--subactions", "nowhere.txt", "--options", *OPTIONS], "nowhere.txt: cannot be read"),
    (["--subactions", "phases.txt", "--reject", "often"], "argument --reject")])
def test_what_cannot_be_used_is_said_before_any_stage(clips, capsys, flags, said):
    with contextlib.suppress(SystemExit):
        assert door(*flags) == 2
    printed = capsys.readouterr()
    assert said in printed.err.splitlines()[-1]
    assert "$ python" not in printed.out


def test_phases_that_are_missing_are_told_before_frames_are_encoded(clips, capsys):
    assert door("--options", *OPTIONS, "--subactions", "phases.txt") == 0
    shown = re.findall(r"^\$ python (?:-m )?(\w+)", capsys.readouterr().out, re.MULTILINE)
    assert shown.index("generate_subactions") < shown.index("encode_videos")


@pytest.mark.parametrize(("content", "domain", "options"), [
    ("a\n  x\nA in yoga\n  y\nb\n  z", "yoga", ["A", "b"]),
    ("a\n  x\nA\n  x\nb in judo\n  z", "yoga", ["A", "b in judo"]),
    (json.dumps([{"id": n, "domain": domain, "cleaned_options": ["a"], "subactions": {f"a in {domain}": ["x"]}}
                 for n, domain in enumerate(["yoga", "judo", "yoga"])]), "Judo", ["a"])])
def test_options_of_a_file_are_those_of_the_domain_once_each(tmp_path, content, domain, options):
    (tmp_path / "own").write_text(content)
    assert pipeline.own_options(OwnSubactions(tmp_path / "own"), domain) == options


REFUSED = {
    "no folder, told before a checkpoint is looked for": (
        ["nowhere", "--domain", "d", "--options", "a", "b", "--model", "empty"], "nowhere: no such file or folder"),
    "no clip": (["nowhere.mp4", "--domain", "d", "--options", "a", "b"], "nowhere.mp4"),
    "an empty folder": (["empty", "--domain", "d", "--options", "a", "b"], "empty"),
    "no options": (["clips", "--domain", "d"], "--options"),
    "no domain": (["clips", "--options", "a", "b"], "--domain"),
    "an option twice": (["clips", "--domain", "d", "--options", "a", "A"], "rename one"),
    "no phases and no language model": (["clips", "--domain", "d", "--options", "a", "b"],
                                        "or write the sub-actions yourself: --subactions"),
    "phases of another name": (["clips", "--domain", "gymnastics", "--options", "handstand to splits",
                                "split to handstand", "--subactions", "phases.txt"],
                               "the nearest without phases is 'handstand to splits'"),
    "an option without phases": (["clips", "--domain", "d", "--subactions", "bare.txt"], "'b' has no phases"),
    "no file of phases": (["clips", "--domain", "d", "--options", "a", "--subactions", "nowhere.txt"], "nowhere.txt"),
    "no checkpoint": (["clips", "--domain", "d", "--options", "a", "b", "--model", "empty"], "--model empty"),
    "output is a file": (["clips", "--domain", "d", "--options", "a", "b", "--output", "phases.txt"], "phases.txt"),
}


@pytest.mark.parametrize(("flags", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_used_is_one_line(clips, capsys, flags, said):
    Path("empty").mkdir()
    Path("bare.txt").write_text("a\n  one phase\nb\n")
    assert pipeline.main([*flags, *([] if "--model" in flags else ["--model", CHECKPOINT])]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("pytest: error: ") or ": error: " in last
    assert said in last


def test_where_no_clip_can_be_decoded_it_fails(clips, capsys):
    assert pipeline.main(["clips/damaged.mp4", "--domain", "d", "--subactions", "phases.txt", "--model",
                          CHECKPOINT]) == 1
    assert "no clip could be processed (damaged.mp4: cannot be decoded" in capsys.readouterr().err


@pytest.mark.parametrize(("operations", "kept"), [(1e6, None), (20e12, 4), (400e9, 20)])
def test_frames_are_as_many_as_a_cpu_can_encode_and_stay_so(clips, capsys, monkeypatch, operations, kept):
    checkpoint = dataclasses.replace(find_checkpoint(CHECKPOINT), operations=operations)
    monkeypatch.setattr(pipeline.cores, "count", lambda: 1)
    monkeypatch.setattr(pipeline, "OPERATIONS", 400e9 * 620 / 1800)  # 20 frames/s of 31 s in half an hour at 400e9
    args = pipeline.parse_args(["clips", "--device", "cpu"])
    flags = pipeline.rate_flags(args, 31.0, checkpoint, Path("nothing.npy"))
    assert flags == ([] if kept is None else ["--fps", str(kept)])
    assert ("minutes on this CPU; --fps" in capsys.readouterr().err) == (kept is not None)


@pytest.mark.parametrize("rate", ["8.0", "23.976023976023978"])
def test_clips_that_come_later_get_the_rate_of_those_that_are_there(clips, rate):
    door("--subactions", "phases.txt", "--fps", rate)
    args = pipeline.parse_args(["clips", "--device", "cpu"])
    frames = Path("out/processed_dataset.npy")
    assert pipeline.rate_flags(args, 31.0, find_checkpoint(CHECKPOINT), frames) == ["--fps", rate]
    assert door("--subactions", "phases.txt") == 0  # which takes it for its own


def test_seconds_of_clips_are_known_before_they_are_decoded(clips, capsys):
    Path("c.csv").write_text("video,start,end,domain,choices\nclips/a.mp4,,,d,a|b\nclips/a.mp4,1,2.5,d,a|b\n"
                             "https://example.org/x.mp4,,,d,a|b\n")
    assert pipeline.clip_seconds(["--dataset", "c.csv"]) == pytest.approx(3.88 + 1.5 + 10, abs=0.1)
    assert capsys.readouterr().err == ""


def test_an_interrupt_while_modules_load_is_one_line(clips):
    """The first module that takes long to load interrupts."""
    (clips / "numpy.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    for start in (["-m", "actalign"], ["-c", "import sys; from actalign.__main__ import main; sys.exit(main())"]):
        ran = subprocess.run([sys.executable, *start, "clips"], capture_output=True, text=True, check=False,
                             env={**os.environ, "PYTHONPATH": os.pathsep.join([str(clips), str(ROOT)])})
        assert (ran.returncode, ran.stderr) == (130, "interrupted\n")


# From Python


def test_classify_gives_answers_with_scores_phases_and_a_report(clips, capsys):
    phases = {"handstand to split": PHASES.splitlines()[1:5], "split to handstand": PHASES.splitlines()[6:]}
    answers, report = actalign.classify("clips", OPTIONS, "gymnastics", phases, CHECKPOINT, fps=12)
    assert capsys.readouterr().out == ""
    by_id = {answer.id: answer for answer in answers}
    assert sorted(by_id) == ["a", "damaged", "more/b"]
    assert by_id["a"].option == "split to handstand"
    assert 0.5 < by_id["a"].confidence < 1
    assert max(by_id["a"].scores, key=by_id["a"].scores.get) == "split to handstand"
    assert [phase["subaction"] for phase in by_id["a"].phases["handstand to split"]] == [
        one.strip() for one in phases["handstand to split"]]
    assert by_id["damaged"] == Answer("damaged", reason=by_id["damaged"].reason)
    assert "damaged.mp4" in by_id["damaged"].reason
    assert report.read_text().startswith("<!doctype html>")
    frames = json.loads((report.parent / "processed_dataset.json").read_text())
    assert frames["meta"]["fps"] == 12


def test_classify_says_none_where_no_option_fits(clips):
    [answer], _ = actalign.classify("clips/a.mp4", OPTIONS, "gymnastics", "phases.txt", CHECKPOINT, reject=900)
    assert answer.option is None
    assert answer.scores.keys() == set(OPTIONS)


def test_classify_raises_what_the_command_says(clips):
    with pytest.raises(InputError, match="nowhere"):
        actalign.classify("nowhere.mp4", OPTIONS, "gymnastics", "phases.txt", CHECKPOINT)
    with pytest.raises(InputError, match="cannot use"):
        actalign.classify("clips", OPTIONS, "gymnastics", "phases.txt", CHECKPOINT, method="magic")
    with pytest.raises(InputError, match="cannot use"):
        actalign.classify("clips", OPTIONS, "gymnastics", "phases.txt", CHECKPOINT, reject="often")
    with pytest.raises(InputError, match="phases in order"):
        actalign.classify("clips", OPTIONS, "gymnastics", {1: {"a"}}, CHECKPOINT)
    with pytest.raises(InputError, match=r"phases\.txt: is no folder"):
        actalign.classify("clips", OPTIONS, "gymnastics", {"a": ["b"]}, CHECKPOINT, output="phases.txt")
    with pytest.raises(StageError, match="no clip"):
        actalign.classify("clips/damaged.mp4", OPTIONS, "gymnastics", "phases.txt", CHECKPOINT)


def test_align_gives_what_the_stage_gives(clips):
    door("--subactions", "phases.txt", "--fps", "10")
    video = artifacts.read_array("out/video_embeddings.npy", "video_embeddings")
    texts = artifacts.read_array("out/encoded_subactions.npy", "subaction_embeddings")
    item = texts.item("a")
    rows = [texts.embeddings("a")[one["start"] - item["start"]:one["stop"] - item["start"]] for one in item["options"]]
    found = actalign.align(video.embeddings("a"), rows, video.meta["logit_scale"], video.meta["logit_bias"])
    [one] = [one for one in json.loads(Path("out/predictions.json").read_text())["samples"] if one["id"] == "a"]
    assert found.scores.tolist() == one["scores"]
    assert found.order_p.tolist() == one["order_p"]
    assert found.confidence == one["confidence"]
    assert [path.tolist() for path in found.paths] == one["paths"]
    assert [of_option.frames[0][0] for of_option in found.phases] == [
        of_option[0]["first_frame"] for of_option in one["phases"]]
    assert found.best == one["ranking"][0]


@pytest.mark.parametrize("method", [*alignment.METHODS, alignment.Method("unordered", "cosine")])
def test_align_takes_any_arrays_and_methods(method):
    rng = np.random.default_rng(0)
    texts = rng.normal(size=(4, 32))
    frames = np.repeat(texts, 6, axis=0).tolist()
    found = actalign.align(frames, [texts[::-1], texts], 4.7, -16.5, method=method, smooth=3)
    assert found.scores.shape == found.order_p.shape == (2,)
    assert (found.paths is None) == (found.phases is None) == (method not in alignment.METHODS)
    if method in alignment.METHODS:
        assert found.best == 1
        assert found.confidence > 0.8


ONES = np.ones((2, 4), np.float32)


@pytest.mark.parametrize(("changes", "said"), [
    ({"frame_embeddings": np.zeros((3, 4))}, "finite"),
    ({"frame_embeddings": []}, r"frame_embeddings: has shape \(0,\)"),
    ({"frame_embeddings": ONES[0]}, r"frame_embeddings: has shape \(4,\)"),
    ({"frame_embeddings": ONES[None]}, r"frame_embeddings: has shape \(1, 2, 4\)"),
    ({"subaction_embeddings": []}, "subaction_embeddings: is empty"),
    ({"subaction_embeddings": ONES}, r"subaction_embeddings\[0\]: has shape \(4,\)"),
    ({"subaction_embeddings": [ONES, ONES[:, :3]]}, r"subaction_embeddings\[1\]: has shape \(2, 3\), not \(M, 4\)"),
    ({"subaction_embeddings": [ONES, []]}, r"subaction_embeddings\[1\]: has shape"),
    ({"logit_scale": 110.0}, "logit_scale 110.0: is no logarithm"),
    ({"logit_scale": float("nan")}, "logit_scale nan"),
    ({"logit_bias": float("nan")}, "finite"),
    ({"method": "magic"}, "method 'magic': is none of published, recommended"),
    ({"smooth": 0}, "smooth 0"), ({"smooth": "auto"}, "smooth 'auto'")])
def test_align_refuses_what_it_cannot_use(changes, said):
    with pytest.raises(ValueError, match=said):
        actalign.align(**{"frame_embeddings": ONES, "subaction_embeddings": [ONES], "logit_scale": 1.0,
                          "logit_bias": 0.0, **changes})


def test_align_takes_tensors_of_any_type_as_models_give_them():
    rng = np.random.default_rng(0)
    frames, texts = (torch.tensor(rng.normal(size=(n, 8)), requires_grad=True) for n in (9, 3))
    scale, bias = torch.tensor([4.7]), torch.tensor([-16.5])
    found = actalign.align(frames, [texts], scale, bias)
    assert found.scores == pytest.approx(
        actalign.align(frames.tolist(), [texts.tolist()], scale.item(), bias.item()).scores)
    assert actalign.align(frames.bfloat16(), [texts.half()], 4.7, -16.5).scores.shape == (1,)


def test_the_page_about_python_runs_as_it_stands(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/python.md").read_text(), re.DOTALL)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "page.py").write_text("\n".join(blocks))
    ran = subprocess.run([sys.executable, "page.py"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
                         capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    first, *rest = ran.stdout.splitlines()
    assert first.startswith("split to handstand 0.")
    assert rest[3].endswith("an upside down balance on the hands")
    assert rest[4].startswith("0 [")


def test_importing_the_package_loads_nothing(tmp_path):
    code = "import sys, actalign; print(sorted({'numpy', 'torch', 'numba'} & set(sys.modules)), actalign.__version__)"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout == f"[] {actalign.__version__}\n"
    with pytest.raises(AttributeError):
        actalign.nothing  # noqa: B018


def test_an_installed_package_brings_all_that_it_needs(tmp_path, clips):
    source = tmp_path / "source"
    shutil.copytree(ROOT / "actalign", source / "actalign", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "requirements.txt", *(f"{s}.py" for s in actalign.SCRIPTS)):
        shutil.copy(ROOT / name, source)
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target",
                    tmp_path / "installed", source], check=True, capture_output=True)
    ours, theirs = (sorted(path.relative_to(root) for path in (root / "actalign").rglob("*.*") if path.suffix != ".pyc")
                    for root in (source, tmp_path / "installed"))
    assert ours == theirs
    ran = subprocess.run([tmp_path / "installed/bin/actalign", "clips/a.mp4", "--domain", "gymnastics", "--subactions",
                          "phases.txt", "--model", CHECKPOINT], cwd=tmp_path, capture_output=True, text=True,
                         check=False, env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")})
    assert ran.returncode == 0, ran.stderr
    assert "$ python -m process_data " in ran.stdout
    assert (tmp_path / "actalign_output/report.html").exists()
