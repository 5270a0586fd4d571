"""What stands on a terminal, where there is none, and Ctrl-C before a script has begun: all scripts alike."""

import ast
import importlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from made_artifacts import make_entries, write_entries, write_frames_index, write_video_embeddings
from report_runs import make_run, write_other_predictions

from actalign import SCRIPTS, console
from actalign.checkpoint import find_checkpoint

ROOT = Path(console.__file__).parent.parent
LIMIT = 600  # s; nothing waits for as long, unless it hangs
HOSTILE = "a\x1b]0;title\x07\x9b2J\u202e\nTop-1 100.0\r"
SHOWN = "a\ufffd]0;title\ufffd\ufffd2J Top-1 100.0"


def require_harmless(said):
    """No character of what a script said steers a terminal, and none of its lines is a file's."""
    assert not re.search(r"[^\n -~\xa0-\U000dffff]|[\u202a-\u202e\u2066-\u2069]|^Top-1", said, flags=re.MULTILINE), said


# Results are on the disk before they are printed


def command(folder, *more):
    """seq_alignment.py on some more samples than a pipe's buffer holds the predictions of, none with an answer."""
    lengths = {f"née-{n}-{'x' * 60}": 4 for n in range(800)}
    arguments = make_run(folder, lengths, dict.fromkeys(lengths), frame_size=(4, 4), without_frames=list(lengths)[1:])
    return [sys.executable, str(ROOT / "seq_alignment.py"), *arguments, "--output", str(folder / "p.json"), "--report",
            str(folder / "r.html"), "--report_limit", "3", *more]


def require_whole(folder):
    assert read_ids(folder / "p.json") == 800
    assert (folder / "p.csv").read_text(encoding="utf-8").count("\n") == 2401
    assert (folder / "r.html").read_text(encoding="utf-8").endswith("</html>")


def read_ids(path):
    return len(json.loads(path.read_text(encoding="utf-8"))["samples"])


def test_a_reader_that_has_read_enough_loses_no_file(tmp_path):
    process = subprocess.Popen(command(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline().startswith(b"sample")
    process.stdout.close()
    assert (process.stderr.read(), process.wait(LIMIT)) == (b"", 0)
    require_whole(tmp_path)


def test_a_terminal_that_is_not_utf_8_shows_what_it_can(tmp_path):
    ran = subprocess.run(command(tmp_path), env={**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"},
                         capture_output=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert b"n\\xe9e-799-" in ran.stdout
    require_whole(tmp_path)


@pytest.mark.parametrize("closed", [[1], [2], [1, 2]])
def test_closed_streams_are_no_failure_and_none_of_the_files_is_taken_for_one(tmp_path, closed):
    ran = subprocess.run(command(tmp_path), preexec_fn=lambda: [os.close(number) for number in closed],
                         capture_output=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert (b"800 of 800 samples scored" in ran.stdout) == (1 not in closed)
    require_whole(tmp_path)


def test_a_full_disk_behind_stdout_is_one_line_after_the_predictions_are_there(tmp_path):
    with open("/dev/full", "w") as full:
        ran = subprocess.run(command(tmp_path), stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stderr.count("\n") == 1
    assert "No space left" in ran.stderr
    assert read_ids(tmp_path / "p.json") == 800


# No id, option or name of a file steers the terminal


def hostile_process_data(folder, checkpoint):
    import process_data

    row = {"id": HOSTILE, "video": "none.mp4", "domain": HOSTILE, "choices": [HOSTILE, "b"], HOSTILE: "x"}
    (folder / "d.jsonl").write_text(json.dumps(row))
    return process_data.main(["--dataset", str(folder / "d.jsonl"), "--output", str(folder / "f.npy")])


def entries_of(ids=(HOSTILE, "b"), text=HOSTILE):
    entries = make_entries(dict.fromkeys(ids, (text, "dunk")), dict.fromkeys(ids))
    for entry in entries:
        entry["domain"] = text
        entry["subactions"] = {f"{option} in {text}": [text, text] for option in entry["cleaned_options"]}
    return entries


def hostile_encode_videos(folder, checkpoint):
    import encode_videos

    write_video_embeddings(folder, {HOSTILE: 3}, name="v.npy",
                           settings=find_checkpoint(str(checkpoint)).settings("float32"))
    return encode_videos.main(["--input", str(write_frames_index(folder, entries_of())), "--output",
                               str(folder / "v.npy"), "--model", str(checkpoint), "--device", "cpu"])


def hostile_generate_subactions(folder, checkpoint):
    import generate_subactions

    frames = write_frames_index(folder, entries_of(text=HOSTILE.replace("\n", "")))  # a prompt has lines of its own
    generate_subactions.main(["--input", str(frames), "--output", str(folder / "g.json"), "--dry_run"])
    return generate_subactions.main(["--check", str(write_entries(folder / "h.json", entries_of())), "--text_model",
                                     str(checkpoint)])


def hostile_encode_subactions(folder, checkpoint):
    import encode_subactions

    entries = entries_of(["b", HOSTILE])
    del entries[1]["subactions"]
    return encode_subactions.main(["--subactions", str(write_entries(folder / "g.json", entries)), "--output",
                                   str(folder / "t.npy"), "--model", str(checkpoint), "--device", "cpu"])


def hostile_baseline(folder, checkpoint):
    import baseline

    path = write_video_embeddings(folder, {HOSTILE: 3, HOSTILE + "c": 2}, features=64,
                                  settings=find_checkpoint(str(checkpoint)).settings("float32"))
    return baseline.main(["--input_dataset", str(write_frames_index(folder, entries_of(["b", HOSTILE]))),
                          "--video_embeddings", str(path), "--model", str(checkpoint), "--device", "cpu"])


def hostile_seq_alignment(folder, checkpoint):
    import seq_alignment

    arguments = make_run(folder, {HOSTILE: 5, "b": 4}, {HOSTILE: 1, "b": None})
    write_other_predictions(folder / f"{HOSTILE}.json", folder, name=HOSTILE)
    return seq_alignment.main([*arguments, "--compare", str(folder / f"{HOSTILE}.json"), "--alignment", "all",
                               "--controls", "--report", str(folder / f"{HOSTILE}.html")])


@pytest.mark.parametrize("stage", [hostile_process_data, hostile_encode_videos, hostile_generate_subactions,
                                   hostile_encode_subactions, hostile_baseline, hostile_seq_alignment])
def test_nothing_from_a_file_steers_the_terminal(tmp_path, checkpoint, capfd, stage):
    stage(tmp_path, checkpoint)
    out, err = capfd.readouterr()
    require_harmless(out)
    require_harmless(err)
    assert SHOWN[-12:] in out + err


def test_results_are_printed_in_one_place():
    """So that no message is forgotten: nothing but console.say prints."""
    files = [*ROOT.glob("*.py"), *(ROOT / "actalign").rglob("*.py")]
    printing = [file.name for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"]
    assert printing == ["console.py"]


# Ctrl-C while a script loads its modules

HANGING_NUMPY = 'import os, time\nos.write(1, b"loading\\n")\ntime.sleep(3600)\n'


@pytest.mark.parametrize("script", SCRIPTS)
def test_ctrl_c_while_modules_load_ends_in_one_line(tmp_path, script):
    (tmp_path / "numpy.py").write_text(HANGING_NUMPY)
    process = subprocess.Popen([sys.executable, str(ROOT / f"{script}.py")], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert process.stdout.readline() == b"loading\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=LIMIT) == (b"", b"interrupted\n")
    assert process.returncode == 130


@pytest.mark.parametrize("code", ["import actalign.console", "import process_data"])
def test_a_program_that_uses_the_package_keeps_its_own_ctrl_c(code):
    code = f"import signal; before = signal.getsignal(2); {code}; assert signal.getsignal(2) is before"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# Numbers out of range

ENDLESS = "100000000000000000000"


@pytest.mark.parametrize(("script", "flag", "value"), [
    ("process_data", "--image_size", "100000"), ("process_data", "--workers", "1000000000"),
    ("process_data", "--limit", ENDLESS), ("process_data", "--fps", "1e300"), ("process_data", "--fps", "nan"),
    ("encode_videos", "--batch_size", "1000000000"), ("encode_subactions", "--batch_size", ENDLESS),
    ("generate_subactions", "--timeout", "1e300"), ("generate_subactions", "--timeout", "1e7"),
    ("generate_subactions", "--workers", "1000000000"), ("generate_subactions", "--temp", "1e300"),
    ("generate_subactions", "--temp", "nan"), ("generate_subactions", "--max_tokens", ENDLESS),
    ("generate_subactions", "--min_subactions", ENDLESS), ("generate_subactions", "--attempts", ENDLESS),
    ("seq_alignment", "--smooth", ENDLESS), ("seq_alignment", "--smooth", "1e300s"), ("seq_alignment", "--smooth", "0"),
    ("seq_alignment", "--report_limit", ENDLESS), ("seq_alignment", "--contrast", ENDLESS),
    ("seq_alignment", "--contrast", "-1"), ("seq_alignment", "--report_limit", "9" * 5000),
])
def test_a_number_out_of_range_is_bad_usage(capsys, script, flag, value):
    with pytest.raises(SystemExit) as caught:
        importlib.import_module(script).main([f"{flag}={value}"])
    assert caught.value.code == 2
    assert f"argument {flag}" in capsys.readouterr().err.splitlines()[-1]
