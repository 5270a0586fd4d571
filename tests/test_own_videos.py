"""A person's own clips: a CSV of videos, domain and choices, without answers, ids or a language model."""

import json
import resource
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from conftest import write_manifest
from drawn_videos import numbers_of, write_video
from held_runs import LIMIT, wait_until
from video_server import VideoServer

import baseline
import encode_subactions
import encode_videos
import process_data
import seq_alignment
from actalign import download
from actalign.artifacts import read_array


@pytest.fixture
def quick(monkeypatch):
    """No pauses between requests and attempts."""
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(download, "REQUEST_PAUSE", 0)


def process(folder, rows, *more):
    """Run process_data.py on rows of video, domain and choices; returns (exit code, {id: reason} of what failed)."""
    write_manifest(folder / "mine.jsonl", [{"domain": "yoga", "choices": ["crow pose", "tree pose"], **row}
                                           for row in rows])
    code = process_data.main(["--dataset", str(folder / "mine.jsonl"), "--output", str(folder / "out.npy"),
                              "--image_size", "48", *more])
    missing = folder / "out.missing.json"
    return code, ({entry["id"]: entry["reason"] for entry in json.loads(missing.read_text())} if missing.exists()
                  else {})


def test_a_csv_with_three_columns_gives_a_table_of_predictions(tmp_path, checkpoint, capsys):
    for name in ("one", "two"):
        write_video(tmp_path / f"{name}.mp4", 12)
    (tmp_path / "mine.csv").write_text('video,domain,choices\none.mp4,yoga,"crow pose\ntree pose"\n'
                                       'two.mp4,yoga,"1. 360 flip\n2. tree pose\n3. crow pose"\n')
    path = {name: str(tmp_path / name) for name in ("p.npy", "v.npy", "s.json", "t.npy")}
    model = ["--model", str(checkpoint), "--device", "cpu"]
    assert process_data.main(["--dataset", str(tmp_path / "mine.csv"), "--output", path["p.npy"],
                              "--image_size", "48"]) == 0
    assert encode_videos.main(["--input", path["p.npy"], "--output", path["v.npy"], *model]) == 0
    by_hand = [{"id": item["id"], "domain": item["domain"], "cleaned_options": item["cleaned_options"],
                "subactions": {f"{option} in yoga": [f"{option} begins", f"{option} ends"]
                               for option in item["cleaned_options"]}}
               for item in read_array(path["p.npy"], "frames").items]
    (tmp_path / "s.json").write_text(json.dumps(by_hand))
    assert encode_subactions.main(["--subactions", path["s.json"], "--output", path["t.npy"], *model]) == 0
    capsys.readouterr()
    assert seq_alignment.main(["--subactions", path["s.json"], "--video_embeddings", path["v.npy"],
                               "--subaction_embeddings", path["t.npy"], "--device", "cpu"]) == 0
    aligned = capsys.readouterr().out
    assert baseline.main(["--input_dataset", path["p.npy"], "--video_embeddings", path["v.npy"],
                          "--device", "cpu"]) == 0
    for printed in (aligned, capsys.readouterr().out):
        rows = {line.split()[0]: line for line in printed.splitlines() if line.startswith(("one ", "two "))}
        assert any(option in rows["two"] for option in ("360 flip", "tree pose", "crow pose"))
        assert set(rows) == {"one", "two"}
        assert "no accuracy" in printed
        assert "Top-1" not in printed


def test_a_url_is_downloaded_and_a_path_is_not(tmp_path, quick):
    web, mine = tmp_path / "web", tmp_path / "mine"
    web.mkdir()
    mine.mkdir()
    write_video(web / "far.mp4", 10, first=50)
    write_video(mine / "near.mp4", 8)
    server = VideoServer(web)
    try:
        code, missing = process(mine, [{"id": "far", "video": f"{server.url}/far.mp4"}, {"video": "near.mp4"}])
    finally:
        server.close()
    assert (code, missing) == (0, {})
    frames = read_array(mine / "out.npy", "frames")
    assert numbers_of(frames.rows("far")) == list(range(50, 60))
    assert len(frames.rows("near")) == 8
    assert not (mine / "out.videos").exists()


# process_data.py, whose downloads wait for a byte for longer than any test.
PATIENT = """import sys
from actalign import download
download.SOCKET_TIMEOUT = 36000
import process_data
sys.exit(process_data.main())"""


def test_an_interrupted_download_ends_the_run_at_once_and_is_gone_on_with(tmp_path, root):
    web, mine = tmp_path / "web", tmp_path / "mine"
    web.mkdir()
    mine.mkdir()
    write_video(web / "far.mp4", 10)
    with (web / "far.mp4").open("ab") as file:
        file.write(bytes(1 << 20))
    server, released = VideoServer(web), threading.Event()

    def hold(name, handler, content, count):
        """The download itself stops in the middle."""
        if count != 2:
            return False
        handler.start(content)
        handler.wfile.write(content[:len(content) // 2])
        handler.wfile.flush()
        released.wait()
        return True

    server.behave = hold
    write_manifest(mine / "mine.jsonl", [{"video": f"{server.url}/far.mp4", "domain": "yoga", "choices": ["a", "b"]}])
    command = [sys.executable, "-c", PATIENT, "--dataset", str(mine / "mine.jsonl"), "--output", str(mine / "out.npy"),
               "--image_size", "48"]
    run = subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: any(part.stat().st_size > 1 << 18 for part in mine.glob("out.videos/*.part")))
        run.send_signal(signal.SIGINT)
        _, stderr = run.communicate(timeout=LIMIT)
        assert run.returncode == 130
        assert "Traceback" not in stderr
        server.behave = None
        subprocess.run(command, cwd=root, check=True, capture_output=True)
    finally:
        run.kill()
        released.set()
        server.close()
    assert any(start > 1 << 18 for _, start in server.requests)
    assert len(read_array(mine / "out.npy", "frames").rows("far")) == 10


def test_what_yt_dlp_raises_at_one_video_ends_that_clip_alone(tmp_path, quick, monkeypatch, capsys):
    import yt_dlp

    monkeypatch.setattr(yt_dlp.YoutubeDL, "extract_info", lambda *_, **__: 1 / 0)
    write_video(tmp_path / "good.mp4", 6)
    code, missing = process(tmp_path, [{"id": "bad", "video": "http://127.0.0.1:1/a.mp4"}, {"video": "good.mp4"}])
    assert code == 1
    assert "ZeroDivisionError at test_own_videos.py:" in missing["bad"]
    assert [item["id"] for item in read_array(tmp_path / "out.npy", "frames").items] == ["good"]
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("video", ["file:///etc/passwd", "ftp://127.0.0.1/a.mp4", "http:///a.mp4", "rtmp://x/y",
                                   "http://a b/c.mp4", "https://[half/a.mp4"])
def test_urls_that_are_not_http_are_refused_and_not_asked_for_again(tmp_path, video, monkeypatch):
    write_video(tmp_path / "good.mp4", 6)
    monkeypatch.setattr(download, "download", lambda *_: pytest.fail("asked the web"))
    code, missing = process(tmp_path, [{"id": "bad", "video": video}, {"video": "good.mp4"}])
    assert code == 0
    assert "no http or https address" in missing["bad"]
    assert json.loads((tmp_path / "out.missing.json").read_text())[0]["retry"] is False


def test_paths_of_a_file_of_ones_own_may_lead_anywhere(tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    write_video(tmp_path / "outside.mp4", 6)
    write_video(mine / "inside.mp4", 6)
    rows = [{"id": "up", "video": "../outside.mp4"}, {"id": "absolute", "video": str(tmp_path / "outside.mp4")},
            {"id": "round", "video": "../mine/inside.mp4"}, {"id": "in", "video": "inside.mp4"}]
    assert process(mine, rows) == (0, {})
    code, missing = process(mine, rows, "--videos_dir", str(tmp_path), "--overwrite")
    assert (code, set(missing)) == (0, {"up", "round", "in"})


def test_each_bad_clip_is_a_reason_and_the_others_are_made(tmp_path):
    from drawn_videos import write_sound

    write_video(tmp_path / "good.mp4", 24)
    write_sound(tmp_path / "sound.mp4")
    (tmp_path / "empty.mp4").touch()
    rows = [{"id": "turned", "video": "good.mp4", "start_timestamp": 0.8, "end_timestamp": 0.2},
            {"id": "late", "video": "good.mp4", "start_timestamp": 0.5, "end_timestamp": 9},
            {"id": "sound", "video": "sound.mp4"}, {"id": "empty", "video": "empty.mp4"},
            {"id": "absent", "video": "absent.mp4"}, {"id": "good", "video": "good.mp4"}]
    code, missing = process(tmp_path, rows)
    assert code == 0
    assert set(missing) == {"turned", "late", "sound", "empty", "absent"}
    assert all("\n" not in reason for reason in missing.values())
    assert [item["id"] for item in read_array(tmp_path / "out.npy", "frames").items] == ["good"]


def test_fewer_frames_a_second_are_chosen_by_timestamp_and_keep_their_times(tmp_path):
    times = [0, 0.1, 0.15, 0.3, 0.5, 0.52, 0.54, 0.9, 1.0, 1.3]
    write_video(tmp_path / "uneven.mp4", timestamps=times)
    assert process(tmp_path, [{"video": "uneven.mp4"}], "--fps", "4") == (0, {})
    frames = read_array(tmp_path / "out.npy", "frames")
    kept = numbers_of(frames.rows("uneven"))
    assert kept == [0, 3, 4, 7, 8, 9]  # the first at or after 0, 0.25, 0.5, 0.75, 1 and 1.25 s
    assert frames.item("uneven")["timestamps"] == pytest.approx([times[i] for i in kept], abs=1e-4)


def test_the_smoothing_window_is_said_in_seconds_of_the_sampled_clip(tmp_path, capsys):
    from made_artifacts import make_entries, write_entries, write_subaction_embeddings

    entries = make_entries({"a": ["x", "y"]})
    write_entries(tmp_path / "s.json", entries)
    write_subaction_embeddings(tmp_path, entries, name="t.npy")
    from made_artifacts import CHECKPOINT, random_rows

    from actalign.artifacts.writer import ArrayWriter

    for fps, seconds in ((30.0, "0.20 s"), (8.0, "0.75 s")):
        with ArrayWriter(tmp_path / f"v{fps:.0f}.npy", "video_embeddings", CHECKPOINT) as writer:
            writer.append("a", random_rows(40, "a", 0), fps=fps, timestamps=list(np.arange(40) / fps))
        assert seq_alignment.main(["--subactions", str(tmp_path / "s.json"), "--video_embeddings",
                                   str(tmp_path / f"v{fps:.0f}.npy"), "--subaction_embeddings", str(tmp_path / "t.npy"),
                                   "--device", "cpu", "--smooth", "6"]) == 0
        assert f"smoothing window 6 frames ({seconds})" in capsys.readouterr().out
        assert seq_alignment.main(["--subactions", str(tmp_path / "s.json"), "--video_embeddings",
                                   str(tmp_path / f"v{fps:.0f}.npy"), "--subaction_embeddings", str(tmp_path / "t.npy"),
                                   "--device", "cpu", "--smooth", "0.5s"]) == 0
        assert f"smoothing window {fps / 2:.0f} frames (0.50 s)" in capsys.readouterr().out


def test_a_full_disk_in_the_middle_is_one_line_and_what_was_finished_stays(tmp_path, root):
    for name in ("one", "two", "three"):
        write_video(tmp_path / f"{name}.mp4", 24)
    rows = [{"video": f"{name}.mp4", "domain": "yoga", "choices": ["a", "b"]} for name in ("one", "two", "three")]
    write_manifest(tmp_path / "mine.jsonl", rows)
    command = [sys.executable, str(root / "process_data.py"), "--dataset", str(tmp_path / "mine.jsonl"), "--output",
               str(tmp_path / "out.npy"), "--image_size", "48"]

    def fill():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))  # two clips of 166 kB fit

    full = subprocess.run(command, preexec_fn=fill, capture_output=True, text=True, check=False)
    assert full.returncode == 1
    assert "File too large" in full.stderr.splitlines()[-1]
    assert "Traceback" not in full.stderr
    kept = (tmp_path / "out.json.partial").read_text().count("\n") - 1
    assert kept == 2
    rerun = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "1 clips processed (24 frames" in rerun.stdout
    assert [item["id"] for item in read_array(tmp_path / "out.npy", "frames").items] == ["one", "two", "three"]
