"""process_data.py: clips become rows and metadata, in order, whatever fails, stops or is run again."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import av
import numpy as np
import pytest
from conftest import CLIPS, write_manifest
from drawn_videos import numbers_of, write_video
from held_runs import stop_after, wait_until

import process_data
from actalign import artifacts, clips, video
from actalign.console import InputError
from actalign.video import VideoError, read_frames, resize

SIZE = 48


def run(folder, output, *flags, manifest="manifest.jsonl"):
    """main() on the manifest of a folder."""
    return process_data.main(["--output", str(output), "--dataset", str(folder / manifest), "--image_size", str(SIZE),
                              "--workers", "2", *map(str, flags)])


def numbers(path):
    """{id: the numbers of its frames}"""
    frames = artifacts.read_array(path, "frames")
    return {item["id"]: numbers_of(frames.rows(item["id"])) for item in frames.items}


def content(path):
    """Hashes of an artifact's two files."""
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in (path, path.with_suffix(".json"))]


def files_of(path):
    """Names of all files that belong to an output."""
    return sorted(file.name for file in path.parent.iterdir() if file.name.startswith(path.stem + "."))


def missing(path):
    """{id: entry} of NAME.missing.json."""
    return {entry["id"]: entry for entry in json.loads(artifacts.missing_path(path).read_text())}


def assert_one_line(stderr):
    """One error line, no traceback; other lines may warn."""
    assert "Traceback" not in stderr
    assert len([line for line in stderr.splitlines() if "error:" in line]) == 1, stderr
    assert stderr.splitlines()[-1].startswith(f"{sys.argv[0].rpartition('/')[2].removesuffix('.py')}: error: ")


@pytest.fixture
def own_videos(videos, tmp_path):
    """A copy of `videos` that a test may spoil."""
    return shutil.copytree(videos, tmp_path / "videos")


@pytest.fixture(scope="module")
def done(videos, tmp_path_factory):
    """The artifact of an undisturbed run. Not to be changed."""
    path = tmp_path_factory.mktemp("done") / "processed.npy"
    assert run(videos, path) == 0
    return path


# What is written


def test_every_clip_has_its_own_frames_in_the_datasets_order(done):
    assert numbers(done) == CLIPS
    assert list(numbers(done)) == list(CLIPS)


def test_frames_are_the_videos_frames_resized(done, videos):
    frames = artifacts.read_array(done, "frames")
    assert frames.shape == (sum(map(len, CLIPS.values())), SIZE, SIZE, 3)
    expected = [resize(image, SIZE) for _, image in read_frames(videos / "long.mp4", 1.0, 1.5)]
    assert np.array_equal(frames.rows("middle"), expected)


def test_the_index_holds_all_that_is_known_of_a_clip(done):
    item = artifacts.read_array(done, "frames").item("middle")
    expected = {"domain": "yoga", "cleaned_options": ["sun salutation", "360 flip", "crow pose"],
                "choices": ["Sun Salutation", "360 flip", "Crow pose"], "correct_answer_index": 2,
                "video": "long.mp4", "start_timestamp": 1.0, "end_timestamp": 1.5, "youtube_id": None, "action": None,
                "question": None, "fps": 24.0}
    assert {key: item[key] for key in expected} == expected
    assert item["timestamps"] == pytest.approx([1 + i / 24 for i in range(12)], abs=1e-5)
    long = artifacts.read_array(done, "frames").item("plain")
    assert long["timestamps"] == pytest.approx([i / 24 for i in range(70)], abs=1e-5)
    assert len(CLIPS["plain"]) > 2 * clips.CHUNK_FRAMES


def test_a_rows_own_fields_are_kept(videos, tmp_path):
    write_manifest(tmp_path / "manifest.jsonl", [
        {"id": "007", "video": "plain.mp4", "domain": "judo", "choices": "1. Uchi Mata\n2. O Goshi", "answer": 2,
         "action": "O Goshi", "question": "Which throw?", "camera": {"left": [1, 2]}, "note": "ünïcödé"}])
    assert run(tmp_path, tmp_path / "p.npy", "--videos_dir", videos) == 0
    item = artifacts.read_array(tmp_path / "p.npy", "frames").item("007")
    assert item["action"] == "O Goshi"
    assert item["question"] == "Which throw?"
    assert item["correct_answer_index"] == 1
    assert item["extra"] == {"camera": {"left": [1, 2]}}
    assert item["note"] == "ünïcödé"


def test_timestamps_say_when_frames_of_an_uneven_clip_are_shown(done):
    item = artifacts.read_array(done, "frames").item("uneven")
    assert item["timestamps"] == pytest.approx([0.15, 0.5, 0.6, 0.65, 0.7], abs=1e-4)
    assert item["fps"] == pytest.approx(4 / 0.55, abs=0.01)


def test_a_plain_load_reads_the_frames(done):
    array = np.load(done, mmap_mode="r", allow_pickle=False)
    assert array.dtype == np.uint8
    assert array.flags.c_contiguous
    assert numbers_of(array[:len(CLIPS["plain"])]) == CLIPS["plain"]


def test_fps_thins_every_clip(videos, tmp_path):
    assert run(videos, tmp_path / "p.npy", "--fps", "12") == 0
    found = numbers(tmp_path / "p.npy")
    assert found["plain"] == CLIPS["plain"][::2]
    assert found["middle"] == CLIPS["middle"][::2]
    assert artifacts.read_array(tmp_path / "p.npy", "frames").item("plain")["fps"] == pytest.approx(12)


@pytest.mark.parametrize("workers", [1, 3])
def test_the_result_does_not_depend_on_the_number_of_workers(done, videos, tmp_path, workers):
    path = tmp_path / "p.npy"
    assert run(videos, path, "--workers", workers) == 0
    assert content(path) == content(done)


def test_nothing_but_array_and_index_is_left_and_the_videos_are_untouched(own_videos, tmp_path):
    before = {file.name: file.read_bytes() for file in own_videos.iterdir()}
    assert run(own_videos, tmp_path / "p.npy") == 0
    assert files_of(tmp_path / "p.npy") == ["p.json", "p.npy"]
    assert {file.name: file.read_bytes() for file in own_videos.iterdir()} == before


def test_the_summary_goes_to_stdout(videos, tmp_path, capsys):
    path = tmp_path / "p.npy"
    assert run(videos, path) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1].startswith("6 clips processed")
    assert "0 failed" in captured.out
    assert str(path) in captured.out
    assert "error" not in captured.err


# Clips that fail


def test_failing_clips_are_named_and_the_others_are_done(own_videos, tmp_path, capsys):
    path = tmp_path / "p.npy"
    (own_videos / "vp9.webm").unlink()
    whole = (own_videos / "plain.mp4").read_bytes()
    (own_videos / "plain.mp4").write_bytes(whole[:len(whole) // 2])
    (own_videos / "ten_bit.mkv").write_bytes(b"")
    assert run(own_videos, path) == 0
    assert numbers(path) == {id: CLIPS[id] for id in ("middle", "uneven", "end")}
    assert sorted(missing(path)) == ["plain", "ten-bit", "vp9"]
    for entry in missing(path).values():
        assert entry["reason"]
        assert "\n" not in entry["reason"]
        assert isinstance(entry["retry"], bool)
    assert "plain.mp4" in missing(path)["plain"]["reason"]
    captured = capsys.readouterr()
    assert "3 clips processed" in captured.out
    assert "3 failed" in captured.out
    assert "p.missing.json" in captured.out
    assert "Traceback" not in captured.err


def test_segments_that_the_video_does_not_have_fail_alone(videos, tmp_path):
    path = tmp_path / "p.npy"
    rows = [{"id": "good"}, {"id": "past", "start_timestamp": 3.0, "end_timestamp": 9.0},
            {"id": "backwards", "start_timestamp": 2.0, "end_timestamp": 1.0}]
    write_manifest(tmp_path / "manifest.jsonl", [
        {**row, "video": "long.mp4", "domain": "yoga", "choices": ["a", "b"]} for row in rows])
    assert run(tmp_path, path, "--videos_dir", videos) == 0
    assert list(numbers(path)) == ["good"]
    assert sorted(missing(path)) == ["backwards", "past"]


def test_a_clip_that_breaks_off_half_way_leaves_no_rows(own_videos, tmp_path):
    path = tmp_path / "p.npy"
    write_video(own_videos / "vp9.webm", 120, codec="libvpx-vp9", first=100)
    whole = (own_videos / "vp9.webm").read_bytes()
    (own_videos / "vp9.webm").write_bytes(whole[:int(len(whole) * 0.8)])
    assert len(list(decoded_until_error(own_videos / "vp9.webm"))) > clips.CHUNK_FRAMES
    assert run(own_videos, path) == 0
    assert numbers(path) == {id: CLIPS[id] for id in CLIPS if id != "vp9"}
    assert list(missing(path)) == ["vp9"]


def decoded_until_error(path):
    """The frames that come before a file is found to be damaged."""
    try:
        yield from read_frames(path)
    except VideoError:
        return


def test_a_run_in_which_all_fail_writes_no_artifact_and_exits_1(own_videos, tmp_path, capsys):
    path = tmp_path / "p.npy"
    for file in own_videos.iterdir():
        if file.suffix != ".jsonl":
            file.write_text("no video")
    assert run(own_videos, path) == 1
    assert_one_line(capsys.readouterr().err)
    assert files_of(path) == ["p.missing.json"]
    assert sorted(missing(path)) == sorted(CLIPS)


@pytest.fixture
def twenty_one(tmp_path):
    """A folder with a manifest of 20 good clips and, in the middle, the clip "odd", whose pictures are larger."""
    folder = tmp_path / "twenty_one"
    folder.mkdir()
    ids = [*map(str, range(10)), "odd", *map(str, range(10, 20))]
    for number, id in enumerate(ids):
        write_video(folder / f"{id}.mp4", 5, first=5 * number, size=(256, 192) if id == "odd" else (128, 96))
    write_manifest(folder / "manifest.jsonl", [
        {"id": id, "video": f"{id}.mp4", "domain": "yoga", "choices": ["a", "b"]} for id in ids])
    return folder


def failing_at(width, function, fail):
    """`function(image or frame, ...)`, and `fail()` where the picture is so wide."""
    def call(picture, *rest):
        wide = picture.shape[1] if isinstance(picture, np.ndarray) else picture.width
        return fail() if wide == width else function(picture, *rest)

    return call


def test_what_pyav_raises_at_one_clip_ends_that_clip_alone(twenty_one, tmp_path, monkeypatch, capsys):
    path = tmp_path / "p.npy"
    monkeypatch.setattr(video, "_display_matrix",
                        failing_at(256, video._display_matrix, lambda: av.VideoFormat("unheard of")))
    assert run(twenty_one, path) == 0
    assert sorted(numbers(path), key=int) == [str(number) for number in range(20)]
    assert list(missing(path)) == ["odd"]
    assert "odd.mp4: cannot be decoded: ValueError at format.py:" in missing(path)["odd"]["reason"]
    assert "20 clips processed" in capsys.readouterr().out
    assert run(twenty_one, path) == 0


def test_a_bug_at_one_clip_is_named_with_its_place_and_the_others_are_done(twenty_one, tmp_path, monkeypatch, capsys):
    path = tmp_path / "p.npy"
    with monkeypatch.context() as patch:
        patch.setattr(video, "resize", failing_at(256, video.resize, lambda: 1 / 0))
        assert run(twenty_one, path) == 1
    assert len(numbers(path)) == 20
    assert missing(path)["odd"]["retry"]
    assert "ZeroDivisionError at test_process_data.py:" in missing(path)["odd"]["reason"]
    captured = capsys.readouterr()
    assert "20 clips processed" in captured.out
    assert_one_line(captured.err)
    assert "ZeroDivisionError" in captured.err
    assert run(twenty_one, path) == 0
    assert len(numbers(path)) == 21


def test_a_folder_given_as_a_video_is_called_a_folder(videos, tmp_path):
    (tmp_path / "frames").mkdir()
    shutil.copy(videos / "plain.mp4", tmp_path)
    write_manifest(tmp_path / "manifest.jsonl", [
        {"id": name, "video": name, "domain": "yoga", "choices": ["a", "b"]} for name in ("frames", "plain.mp4")])
    assert run(tmp_path, tmp_path / "p.npy") == 0
    assert "is a folder" in missing(tmp_path / "p.npy")["frames"]["reason"]
    assert not missing(tmp_path / "p.npy")["frames"]["retry"]


def test_names_and_places_that_cannot_be_opened_fail_alone(videos, tmp_path, monkeypatch):
    path, stat = tmp_path / "p.npy", os.stat

    def closed(name, *args, **options):
        if "closed" in str(name):
            raise PermissionError(errno.EACCES, "Permission denied", name)
        return stat(name, *args, **options)

    shutil.copy(videos / "plain.mp4", tmp_path)
    os.mkfifo(tmp_path / "pipe.mp4")
    rows = [{"id": "long", "video": "n" * 300 + ".mp4"}, {"id": "closed", "video": "closed/a.mp4"},
            {"id": "pipe", "video": "pipe.mp4"}, {"id": "null", "video": "a\0.mp4"},
            {"id": "late", "video": "plain.mp4", "start_timestamp": 1e18}, {"id": "good", "video": "plain.mp4"}]
    write_manifest(tmp_path / "manifest.jsonl", [{**row, "domain": "yoga", "choices": ["a", "b"]} for row in rows])
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", closed)
        assert run(tmp_path, path, "--dry_run") == 0
        assert run(tmp_path, path) == 0
    assert list(numbers(path)) == ["good"]
    reasons = {id: entry["reason"] for id, entry in missing(path).items()}
    assert "File name too long" in reasons["long"]
    assert "Permission denied" in reasons["closed"]
    assert "a folder or a device" in reasons["pipe"]
    assert "no such file" in reasons["null"]
    assert "no frame in this segment" in reasons["late"]


def test_a_clip_whose_frames_share_one_time_has_no_rate(videos, tmp_path):
    write_video(tmp_path / "two.mkv", timestamps=[0, 0.0001], b_frames=0)
    write_manifest(tmp_path / "manifest.jsonl", [{"id": "two", "video": "two.mkv", "domain": "yoga", "choices": ["a"]}])
    assert run(tmp_path, tmp_path / "p.npy") == 0
    item = artifacts.read_array(tmp_path / "p.npy", "frames").item("two")
    assert (item["timestamps"], item["fps"]) == ([0, 0], None)


# Running again


def test_a_rerun_does_nothing(videos, tmp_path, capsys, monkeypatch):
    path = tmp_path / "p.npy"
    assert run(videos, path) == 0
    before, written = content(path), path.stat().st_mtime_ns
    capsys.readouterr()
    monkeypatch.setattr(video, "read_frames", lambda *args: pytest.fail("a clip was decoded again"))
    assert run(videos, path) == 0
    assert content(path) == before
    assert path.stat().st_mtime_ns == written
    assert "0 clips processed" in capsys.readouterr().out


def test_a_raised_limit_extends(done, videos, tmp_path, capsys):
    path = tmp_path / "p.npy"
    assert run(videos, path, "--limit", 2) == 0
    assert list(numbers(path)) == ["plain", "vp9"]
    assert run(videos, path, "--limit", 5) == 0
    assert "3 clips processed" in capsys.readouterr().out
    assert list(numbers(path)) == ["plain", "vp9", "middle", "ten-bit", "uneven"]
    assert run(videos, path) == 0
    assert content(path) == content(done)
    assert files_of(path) == ["p.json", "p.npy"]


def test_a_lowered_limit_takes_nothing_away(videos, tmp_path):
    path = tmp_path / "p.npy"
    assert run(videos, path, "--limit", 3) == 0
    before = content(path)
    assert run(videos, path, "--limit", 1) == 0
    assert content(path) == before


def test_a_failed_clip_is_added_once_its_file_is_mended(own_videos, videos, tmp_path):
    path = tmp_path / "p.npy"
    whole = (own_videos / "vp9.webm").read_bytes()
    (own_videos / "vp9.webm").write_bytes(whole[:600])
    (own_videos / "ten_bit.mkv").unlink()
    assert run(own_videos, path) == 0
    assert sorted(missing(path)) == ["ten-bit", "vp9"]
    (own_videos / "vp9.webm").write_bytes(whole)
    assert run(own_videos, path) == 0
    assert list(missing(path)) == ["ten-bit"]
    shutil.copy(videos / "ten_bit.mkv", own_videos)
    assert run(own_videos, path) == 0
    assert numbers(path) == CLIPS
    assert files_of(path) == ["p.json", "p.npy"]


def test_clips_that_fail_again_leave_the_artifact_alone(own_videos, tmp_path):
    path = tmp_path / "p.npy"
    (own_videos / "vp9.webm").unlink()
    assert run(own_videos, path) == 0
    before = content(path)
    assert run(own_videos, path) == 0
    assert content(path) == before
    assert list(missing(path)) == ["vp9"]


@pytest.mark.parametrize(("flag", "value", "setting"), [("--image_size", "64", "image_size 48"), ("--fps", "5", "fps")])
def test_other_settings_are_refused_and_overwrite_is_named(done, videos, tmp_path, capsys, flag, value, setting):
    path = tmp_path / "processed.npy"
    for file in (done, done.with_suffix(".json")):
        shutil.copy(file, tmp_path)
    assert run(videos, path, flag, value) == 2
    error = capsys.readouterr().err
    assert_one_line(error)
    assert setting in error
    assert value in error
    assert "--overwrite" in error
    assert content(path) == content(done)
    assert run(videos, path, flag, value, "--overwrite") == 0
    assert content(path) != content(done)


# Following a dataset that changed


@pytest.fixture
def decoded_again(monkeypatch):
    """A list of the videos that are decoded from here on."""
    paths, read = [], video.read_frames
    monkeypatch.setattr(video, "read_frames", lambda path, *rest: paths.append(path.name) or read(path, *rest))
    return paths


def rows_of(folder):
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def words(path):
    """{id: what an item says, but for where its rows are}"""
    return {item["id"]: {key: value for key, value in item.items() if key not in ("start", "stop")}
            for item in artifacts.read_array(path, "frames").items}


@pytest.mark.parametrize("change", [{"answer": 2}, {"choices": ["a", "b", "c"]}, {"domain": "judo"}, {"answer": None},
                                    {"question": "Which?", "note": [1.5, {"deep": None}]}])
def test_labels_that_changed_are_taken_over_and_nothing_is_decoded(own_videos, tmp_path, decoded_again, capsys, change):
    path, fresh = tmp_path / "p.npy", tmp_path / "fresh.npy"
    assert run(own_videos, path) == 0
    written = path.stat().st_mtime_ns
    first, *others = rows_of(own_videos)
    write_manifest(own_videos / "manifest.jsonl", [first | change, *others])
    decoded_again.clear()
    capsys.readouterr()
    assert run(own_videos, path) == 0
    assert "follows what changed: 1 samples with other metadata (plain)" in capsys.readouterr().err
    assert (decoded_again, path.stat().st_mtime_ns) == ([], written)
    assert run(own_videos, fresh) == 0
    assert content(path) == content(fresh)


def replace_video(folder, row):
    (folder / "plain.mp4").unlink()
    write_video(folder / "plain.mp4", 40, first=500)
    return row


def add_masks(folder, row):
    box = [{"description": "text", "bounding_poly": {"vertices": [[2, 2], [20, 2], [20, 20], [2, 20]]}}]
    return row | {"frames_to_obfuscate": {"1": box}}


@pytest.mark.parametrize("change", [
    lambda folder, row: row | {"start_timestamp": 0.5}, lambda folder, row: row | {"start_timestamp": 0.0},
    lambda folder, row: row | {"video": "long.mp4"}, replace_video, add_masks])
def test_a_clip_of_another_segment_or_video_or_masks_is_decoded_again_alone(own_videos, tmp_path, decoded_again, capsys,
                                                                           change):
    path, fresh = tmp_path / "p.npy", tmp_path / "fresh.npy"
    assert run(own_videos, path) == 0
    first, *others = rows_of(own_videos)
    write_manifest(own_videos / "manifest.jsonl", [change(own_videos, first), *others])
    decoded_again.clear()
    capsys.readouterr()
    assert run(own_videos, path) == 0
    assert "follows what changed: 1 samples to be made again (plain)" in capsys.readouterr().err
    assert len(decoded_again) == 1
    assert run(own_videos, fresh) == 0
    assert words(path) == words(fresh)
    assert list(words(path)) == list(words(fresh))
    assert np.array_equal(artifacts.read_array(path, "frames").rows("plain"),
                          artifacts.read_array(fresh, "frames").rows("plain"))


def test_rows_that_left_leave_the_artifact_and_the_missing_list_and_new_ones_stand_in_order(own_videos, tmp_path,
                                                                                          decoded_again):
    path, fresh = tmp_path / "p.npy", tmp_path / "fresh.npy"
    rows = rows_of(own_videos)
    lost = {**rows[0], "id": "lost", "video": "lost.mp4"}
    write_manifest(own_videos / "manifest.jsonl", [lost, *rows[:4]])
    assert run(own_videos, path) == 0
    assert list(missing(path)) == ["lost"]
    write_manifest(own_videos / "manifest.jsonl", [rows[5], rows[3], rows[0]])
    decoded_again.clear()
    assert run(own_videos, path) == 0
    assert decoded_again == ["long.mp4"]
    assert run(own_videos, fresh) == 0
    assert words(path) == words(fresh)
    assert numbers(path) == {id: CLIPS[id] for id in ("end", "ten-bit", "plain")}
    assert list(numbers(path)) == ["end", "ten-bit", "plain"]
    assert files_of(path) == ["p.json", "p.npy"]


def test_a_row_that_is_given_up_is_tried_again_once_it_is_corrected(own_videos, tmp_path):
    path = tmp_path / "p.npy"
    rows = rows_of(own_videos)
    write_manifest(own_videos / "manifest.jsonl", [{**rows[0], "video": None, "youtube_id": "no/id"}, rows[1]])
    assert run(own_videos, path) == 0
    assert missing(path)["plain"]["retry"] is False
    assert missing(path)["plain"]["made_from"]["youtube_id"] == "no/id"
    write_manifest(own_videos / "manifest.jsonl", rows[:2])
    assert run(own_videos, path) == 0
    assert list(numbers(path)) == ["plain", "vp9"]


def test_a_video_that_is_no_longer_there_keeps_its_clip(own_videos, tmp_path):
    path = tmp_path / "p.npy"
    assert run(own_videos, path) == 0
    before = content(path)
    (own_videos / "plain.mp4").unlink()
    assert run(own_videos, path) == 0
    assert content(path) == before


def test_a_dry_run_follows_nothing(own_videos, tmp_path, capsys):
    path = tmp_path / "p.npy"
    assert run(own_videos, path) == 0
    before = content(path)
    first, *others = rows_of(own_videos)
    write_manifest(own_videos / "manifest.jsonl", [first | {"start_timestamp": 1.0}, *others[:-1]])
    assert run(own_videos, path, "--dry_run") == 0
    assert "1 clips to process" in capsys.readouterr().out
    assert content(path) == before


def test_another_dataset_is_refused(own_videos, tmp_path, capsys):
    path = tmp_path / "p.npy"
    assert run(own_videos, path, "--limit", 1) == 0
    before = content(path)
    write_manifest(own_videos / "manifest.jsonl", [{**row, "id": f"other-{row['id']}"} for row in rows_of(own_videos)])
    assert run(own_videos, path) == 2
    error = capsys.readouterr().err
    assert_one_line(error)
    assert "has none of these samples, but plain;" in error
    assert content(path) == before


# Bad usage


def test_bad_usage_is_one_line_and_exit_2(videos, tmp_path, capsys):
    (tmp_path / "folder.npy").mkdir()
    (tmp_path / "foreign.json").write_text('{"mine": 1}')
    (tmp_path / "bad.jsonl").write_text('{"video": "plain.mp4"}\n')
    (tmp_path / "torn.jsonl").write_text('{"video": ')
    (tmp_path / "empty.jsonl").touch()
    for output, flags, manifest in [
        (tmp_path / "absent" / "p.npy", (), None),
        (tmp_path / "folder.npy", (), None),
        (tmp_path / "p.txt", (), None),
        (tmp_path / "foreign.npy", (), None),
        (tmp_path / "p.npy", ("--videos_dir", tmp_path / "absent"), None),
        (tmp_path / "p.npy", (), tmp_path / "absent.jsonl"),
        (tmp_path / "p.npy", (), tmp_path / "bad.jsonl"),
        (tmp_path / "p.npy", (), tmp_path / "torn.jsonl"),
        (tmp_path / "p.npy", (), tmp_path / "empty.jsonl"),
    ]:
        assert run(videos, output, *flags, manifest=manifest or "manifest.jsonl") == 2, (output, flags, manifest)
        assert_one_line(capsys.readouterr().err)
    assert (tmp_path / "foreign.json").read_text() == '{"mine": 1}'
    assert not list(tmp_path.glob("*.partial"))
    assert not list(tmp_path.glob("*.lock"))


@pytest.mark.parametrize("flags", [("--image_size", "0"), ("--workers", "-1"), ("--fps", "nan"), ("--limit", "x")])
def test_flags_out_of_range_are_usage_errors(videos, tmp_path, flags):
    with pytest.raises(SystemExit) as exit:
        run(videos, tmp_path / "p.npy", *flags)
    assert exit.value.code == 2


# Stopped half way, and memory: in processes of their own


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A folder with 40.jsonl and 10.jsonl, manifests of so many clips of 30 frames, for results of any size."""
    folder = tmp_path_factory.mktemp("many")
    for part in range(4):
        write_video(folder / f"{part}.mp4", 300, gop=30, first=300 * part)
    rows = [{"id": f"clip-{number}", "video": f"{number % 4}.mp4", "domain": "yoga", "choices": ["a", "b"],
             "start_timestamp": number // 4 * 30 / 24, "end_timestamp": (number // 4 + 1) * 30 / 24}
            for number in range(40)]
    write_manifest(folder / "40.jsonl", rows)
    write_manifest(folder / "10.jsonl", rows[:10])
    yield folder
    for result in folder.glob("*.npy*"):  # hundreds of megabytes
        result.unlink()


# The peak of a process started from a large one begins at that one's size, so a small process stands between.
MEASURE = """import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)"""


def command(root, folder, output, clips=40):
    """The command line of a run on `many`."""
    return [sys.executable, root / "process_data.py", "--output", output, "--dataset", folder / f"{clips}.jsonl",
            "--image_size", "192", "--workers", "2"]


def measured(root, folder, output, clips):
    """Run in a process of its own; returns its peak memory."""
    finished = subprocess.run([sys.executable, "-c", MEASURE, *command(root, folder, output, clips)],
                              capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return int(finished.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def forty(root, many):
    """(artifact, peak memory) of an undisturbed run of 40 clips."""
    return many / "forty.npy", measured(root, many, many / "forty.npy", 40)


def test_peak_memory_does_not_grow_with_the_number_of_clips(root, many, forty):
    # The peak differs by a tenth from run to run, more often down than up: the larger of two tells it better.
    of_ten = max(measured(root, many, many / f"ten-{number}.npy", 10) for number in range(2))
    assert forty[1] / of_ten < 1.2


def committed(journal):
    """The number of items in a journal, whose first line is the header."""
    return journal.read_bytes().count(b"\n") - 1


def test_an_interrupted_and_a_killed_run_go_on_to_the_same_bytes(root, many, forty):
    path, journal = many / "stopped.npy", many / "stopped.json.partial"
    _, _, *arguments = command(root, many, path)

    code, stderr = stop_after(3, arguments, root, signal.SIGINT)
    assert code == 130
    # On a busy machine a line of progress stands before it.
    assert stderr.endswith("process_data: error: interrupted; what was finished is kept, "
                           "run the same command again to go on\n")
    assert "Traceback" not in stderr
    assert committed(journal) == 3

    code, _ = stop_after(4, arguments, root, signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert committed(journal) == 7
    assert not path.exists()
    with pytest.raises(InputError, match="not finished"):
        artifacts.read_array(path, "frames")

    finished = subprocess.run(command(root, many, path), capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert "33 clips processed" in finished.stdout
    assert content(path) == content(forty[0])
    assert files_of(path) == ["stopped.json", "stopped.npy"]


# Decoding in threads


def decoded(*args):
    """`decoded_clips`, to be closed at the end of a block."""
    return contextlib.closing(clips.decoded_clips(*args))


def test_decoded_clips_come_in_order_however_long_each_takes():
    def decode(sample):
        time.sleep(0.002 * (7 - sample % 8))
        yield [sample], "first"
        yield [sample], "second"

    with decoded(range(40), decode, 4, 1) as found_clips:
        found = [(sample, list(chunks)) for sample, chunks in found_clips]
    assert found == [(n, [([n], "first"), ([n], "second")]) for n in range(40)]


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("length", [2, 20])
def test_decoded_clips_wait_in_bounded_number(workers, length):
    begun, made, ahead = [], [], 3

    def decode(sample):
        begun.append(sample)
        for chunk in range(length):
            made.append((sample, chunk))
            yield chunk

    with decoded(range(50), decode, workers, ahead) as clips:
        for taken, (_, chunks) in enumerate(clips):
            if taken == 0:  # as far as the threads come while nobody takes anything
                most = workers * (ahead + 1) if length > ahead else (workers + 1) * length
                wait_until(lambda most=most: len(made) == most)
                time.sleep(0.1)
                assert len(made) == most
            assert list(chunks) == list(range(length))
            assert len(begun) <= taken + workers + 1
            assert len(made) <= taken * length + (workers + 1) * (ahead + 1) + length
    assert sorted(made) == [(sample, chunk) for sample in range(50) for chunk in range(length)]


def test_an_error_in_one_clip_is_raised_at_its_turn_and_the_next_goes_on():
    def decode(sample):
        yield sample
        if sample % 3 == 1:
            raise VideoError(f"clip {sample} is damaged")
        yield -sample

    found = []
    with decoded(range(9), decode, 3, 5) as clips:
        for sample, chunks in clips:
            assert next(chunks) == sample
            try:
                found.append(list(chunks))
            except VideoError as error:
                found.append(str(error))
    assert found == [f"clip {n} is damaged" if n % 3 == 1 else [-n] for n in range(9)]


def test_an_error_before_the_first_chunk_is_raised_at_its_clips_turn():
    def decode(sample):
        if sample == 2:
            raise VideoError("no such file")
        return iter([sample])

    with decoded(range(4), decode, 2, 2) as clips:
        for sample, chunks in clips:
            if sample == 2:
                with pytest.raises(VideoError, match="no such file"):
                    list(chunks)
            else:
                assert list(chunks) == [sample]


@pytest.mark.parametrize("ahead", [1, 2])
def test_stopping_early_ends_the_threads(ahead):
    before = set(threading.enumerate())
    made = []

    def decode(sample):
        for chunk in range(1000):
            made.append(chunk)
            yield chunk

    def stop_early():
        with decoded(range(100), decode, 4, ahead) as clips:
            for _, chunks in clips:
                next(chunks)
                raise KeyboardInterrupt

    for _ in range(20):  # wherever the threads are
        made.clear()
        with pytest.raises(KeyboardInterrupt):
            stop_early()
        assert set(threading.enumerate()) <= before
        assert len(made) <= 4 * (ahead + 2) + 1  # a clip in hand is left, not finished


def test_a_run_that_ends_by_itself_ends_the_threads():
    before = set(threading.enumerate())
    found = clips.decoded_clips(range(5), lambda sample: iter([sample]), 3, 2)
    assert [list(chunks) for _, chunks in found] == [[n] for n in range(5)]
    assert set(threading.enumerate()) <= before


def test_no_clips_are_no_work():
    assert list(clips.decoded_clips([], None, 2, 1)) == []
