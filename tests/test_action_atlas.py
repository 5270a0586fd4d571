"""ActionAtlas end to end: a parquet file with its schema, videos from a server, cut, blurred and written."""

import json
import signal
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from drawn_videos import OPTIONS, draw_number, read_number, write_images
from held_runs import stop_after
from video_server import VideoServer, drop_halfway, trickle

import process_data
from actalign import download
from actalign.artifacts import read_array

IMAGE_SIZE = 192
BOX = (700, 420, 1260, 700)  # of the masks, in a picture of 1280 x 720: outside of one of 640 x 360
FRAMES = 40
CONSTANT = [Fraction(i, 20) for i in range(FRAMES)]
VARIABLE = [time - (Fraction(1, 50) if i % 3 == 2 else 0) for i, time in enumerate(CONSTANT)]


def frame(number, size):
    """Left the number, right fine stripes that a blur makes grey."""
    width, height = size
    stripe = np.where(np.arange(width // 2) // (width // 80) % 2, 235, 16).astype(np.uint8)
    stripes = np.broadcast_to(stripe[None, :, None], (height, width // 2, 3))
    return np.concatenate([draw_number(number, (width // 2, height)), stripes], axis=1)


def write_clip(path, times, size, first=0):
    """A video of numbered, striped frames."""
    write_images(path, [frame(first + i, size) for i in range(len(times))], times,
                 options=OPTIONS["libx264"](10, 2) | {"crf": "18"})


def is_blurred(image):
    """Whether the stripes inside of the box are gone; those outside of it must be there."""
    sides = (1280, 720) * 2
    left, top, right, bottom = (round(edge * IMAGE_SIZE / side) for edge, side in zip(BOX, sides, strict=True))
    margin = 6
    inside = image[top + margin:bottom - margin, left + margin:right - margin].std()
    above = image[:top - margin, IMAGE_SIZE // 2 + margin:].std()
    assert above > 40
    return inside < above / 2


def atlas_row(id, youtube_id, start, end, masked=(), description="a name"):
    vertices = [[BOX[0], BOX[1]], [BOX[2], BOX[1]], [BOX[2], BOX[3]], [BOX[0], BOX[3]]]
    return {
        "youtube_id": youtube_id, "id": id, "action": "dunk", "domain": "basketball", "question": "Which one?",
        "answer": 2, "choices_str": "1. 360 flip\n2. Dunk\n3. Hook shot", "choice_descriptions": "",
        "start_timestamp": start, "end_timestamp": end,
        "frames_to_obfuscate": {str(number): [{"description": description,
                                               "bounding_poly": {"vertices": vertices}}] for number in masked},
    }


def write_parquet(path, rows):
    """As the hub stores it: the masks become a struct of all rows' frame numbers, absent ones None."""
    pa.parquet.write_table(pa.Table.from_pylist(rows), path)
    struct = pa.parquet.read_table(path).to_pylist()[0]["frames_to_obfuscate"]
    assert None in struct.values()
    return path


@pytest.fixture(scope="module")
def web_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("web")
    write_clip(folder / "constant720.mp4", CONSTANT, (1280, 720), first=100)
    write_clip(folder / "variable720.mp4", VARIABLE, (1280, 720), first=200)
    write_clip(folder / "constant360.mp4", CONSTANT, (640, 360), first=300)
    write_clip(folder / "variable360.mp4", VARIABLE, (640, 360), first=400)
    return folder


@pytest.fixture
def web(web_folder):
    server = VideoServer(web_folder)
    yield server
    server.close()


@pytest.fixture
def quick(monkeypatch):
    """No pauses between requests and attempts; yields the list of the pauses that were asked for."""
    pauses = []
    monkeypatch.setattr(download.time, "sleep", pauses.append)
    monkeypatch.setattr(download, "REQUEST_PAUSE", 0)
    return pauses


def arguments(folder, web, *more):
    return ["--dataset", str(folder / "atlas.parquet"), "--output", str(folder / "out.npy"), "--image_size",
            str(IMAGE_SIZE), "--video_url", web.url + "/{youtube_id}.mp4", "--workers", "2", *more]


MASKED = range(3, 8)
NAMES = ("constant720", "variable720", "constant360", "variable360")


def write_atlas(folder):
    rows = []
    for name in NAMES:
        rows.append(atlas_row(f"{name}-a", name, 0.52, 1.34, MASKED))  # is cut at 0.5 and 1.3
        rows.append(atlas_row(f"{name}-b", name, 1.3, 1.9, [2], description="12:34"))
    return write_parquet(folder / "atlas.parquet", rows)


def test_frames_are_cut_and_blurred_as_the_benchmark_does(tmp_path, web, quick, capsys):
    write_atlas(tmp_path)
    assert process_data.main(arguments(tmp_path, web)) == 0
    assert "8 of 8 samples have masks" not in capsys.readouterr().err  # four have none with a letter
    artifact = read_array(tmp_path / "out.npy", "frames")
    assert [item["id"] for item in artifact.items] == [f"{name}-{part}" for name in NAMES for part in "ab"]
    for base, name in zip((100, 200, 300, 400), NAMES, strict=True):
        times = CONSTANT if name.startswith("constant") else VARIABLE
        for part, start, end, masked in (("a", 0.5, 1.3, MASKED), ("b", 1.3, 1.9, ())):
            images = artifact.rows(f"{name}-{part}")
            expected = [i for i, t in enumerate(times) if Fraction(str(start)) <= t < Fraction(str(end))]
            assert [read_number(image[:, :IMAGE_SIZE // 2]) for image in images] == [base + i for i in expected]
            assert [number for number, image in enumerate(images, start=1) if is_blurred(image)] == list(masked)
            item = artifact.item(f"{name}-{part}")
            assert item["timestamps"] == pytest.approx([float(times[i]) for i in expected], abs=1e-4)
            assert item["cleaned_options"] == ["360 flip", "dunk", "hook shot"]
            assert item["correct_answer_index"] == 1


def test_two_rows_of_one_video_share_one_download_and_it_is_removed(tmp_path, web, quick):
    write_atlas(tmp_path)
    assert process_data.main(arguments(tmp_path, web)) == 0
    # yt-dlp looks at the file first and then downloads it.
    assert sorted(name for name, _ in web.requests) == sorted(f"{name}.mp4" for name in NAMES * 2)
    assert not (tmp_path / "out.videos").exists()


def test_downloads_are_kept_when_asked_and_used_again(tmp_path, web, quick):
    write_atlas(tmp_path)
    assert process_data.main(arguments(tmp_path, web, "--keep_videos")) == 0
    assert {path.name for path in (tmp_path / "out.videos").iterdir()} == {f"{name}.mp4" for name in NAMES}
    web.requests.clear()
    assert process_data.main(arguments(tmp_path, web, "--overwrite")) == 0
    assert web.requests == []


def test_videos_that_are_there_are_not_downloaded_and_never_removed(tmp_path, web, web_folder, quick):
    write_atlas(tmp_path)
    assert process_data.main(arguments(tmp_path, web, "--videos_dir", str(web_folder))) == 0
    assert web.requests == []
    assert len(list(web_folder.iterdir())) == 4


def test_a_row_that_names_a_file_beside_its_youtube_id_is_made_from_it(tmp_path, web, web_folder, quick):
    write_parquet(tmp_path / "atlas.parquet", [
        {**atlas_row("one", "variable720", 0, 1, [1]), "video": "constant360.mp4"},
        {**atlas_row("two", "variable360", 0, 1, [2]), "video": None}])
    assert process_data.main(arguments(tmp_path, web, "--videos_dir", str(web_folder))) == 0
    assert web.requests == []
    frames = read_array(tmp_path / "out.npy", "frames")
    assert [read_number(frames.rows(id)[0][:, :IMAGE_SIZE // 2]) for id in ("one", "two")] == [300, 400]


def one_row(folder, youtube_id="constant360"):
    return write_parquet(folder / "atlas.parquet", [atlas_row("one", youtube_id, 0, 1, [1]),
                                                    atlas_row("two", "variable360", 0, 1, [2])])


def missing_of(folder):
    path = folder / "out.missing.json"
    return {entry["id"]: entry for entry in json.loads(path.read_text())} if path.exists() else {}


def test_a_removed_video_is_recorded_and_not_asked_for_again(tmp_path, web, quick):
    one_row(tmp_path, "removed")
    assert process_data.main(arguments(tmp_path, web)) == 0
    entry = missing_of(tmp_path)["one"]
    assert "404" in entry["reason"]
    assert entry["retry"] is False
    web.requests.clear()
    assert process_data.main(arguments(tmp_path, web)) == 0
    assert web.requests == []
    assert process_data.main(arguments(tmp_path, web, "--retry_missing")) == 0
    assert web.requests == [("removed.mp4", 0)]


def test_a_server_that_asks_to_wait_is_waited_for(tmp_path, web, quick):
    def busy(name, handler, content, count):
        if name == "constant360.mp4" and count <= 2:
            handler.refuse(429, Retry_After="7")
            return True
        return False

    one_row(tmp_path)
    web.behave = busy
    assert process_data.main(arguments(tmp_path, web)) == 0
    assert quick.count(7) == 2
    assert missing_of(tmp_path) == {}


def test_a_server_that_takes_no_more_requests_stops_the_run_with_advice(tmp_path, web, quick, capsys):
    def busy(name, handler, content, count):
        if name == "variable360.mp4":
            handler.refuse(429)
            return True
        return False

    one_row(tmp_path)
    web.behave = busy
    assert process_data.main(arguments(tmp_path, web, "--workers", "1")) == 1
    assert "--cookies" in capsys.readouterr().err
    assert missing_of(tmp_path) == {}
    web.behave = None
    web.requests.clear()
    assert process_data.main(arguments(tmp_path, web)) == 0
    assert {name for name, _ in web.requests} == {"variable360.mp4"}
    assert len(read_array(tmp_path / "out.npy", "frames").items) == 2


@pytest.mark.parametrize("behave", [drop_halfway, trickle])
def test_a_dropped_connection_and_a_slow_server_are_lived_through(tmp_path, web, quick, behave):
    one_row(tmp_path)
    assert process_data.main(arguments(tmp_path, web)) == 0
    expected = (tmp_path / "out.npy").read_bytes()
    (tmp_path / "out.npy").unlink()
    (tmp_path / "out.json").unlink()
    web.requests.clear()
    web.behave = behave
    assert process_data.main(arguments(tmp_path, web)) == 0
    assert (tmp_path / "out.npy").read_bytes() == expected
    if behave is drop_halfway:
        assert any(start > 0 for _, start in web.requests)  # what had come was not fetched again


def test_killed_in_the_middle_and_run_again_is_byte_identical_and_fetches_nothing_twice(tmp_path, web, root):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
        write_atlas(folder)
    command = [sys.executable, str(root / "process_data.py")]
    subprocess.run([*command, *arguments(whole, web)], check=True, capture_output=True)
    web.requests.clear()
    code, _ = stop_after(3, arguments(killed, web, "--workers", "1"), root, signal.SIGKILL)
    assert code == -signal.SIGKILL
    journal = killed / "out.json.partial"
    fetched = {name for name, _ in web.requests}
    done = [json.loads(line)["youtube_id"] + ".mp4" for line in journal.read_text().splitlines()[1:]]
    assert len(done) == 3
    subprocess.run([*command, *arguments(killed, web)], check=True, capture_output=True)
    for name in ("out.npy", "out.json"):
        ours, theirs = (folder.joinpath(name).read_bytes() for folder in (killed, whole))
        assert ours.replace(str(killed).encode(), b"") == theirs.replace(str(whole).encode(), b"")
    finished = {name for name in done if done.count(name) == 2}
    assert finished <= fetched
    assert all(sum(asked == name for asked, _ in web.requests) == 2 for name in finished)
    assert not (killed / "out.videos").exists()


def test_ids_that_are_paths_or_options_stay_ids(tmp_path, web, quick):
    write_parquet(tmp_path / "atlas.parquet", [
        atlas_row("../../up; rm -rf $(HOME)", "variable360", 0, 1, [1]),
        atlas_row("--output", "../variable360", 0, 1, [2]),
        atlas_row("three", "--exec=touch", 0, 1)])
    before = sorted(path.name for path in tmp_path.parent.iterdir())
    assert process_data.main(arguments(tmp_path, web)) == 0
    assert sorted(path.name for path in tmp_path.parent.iterdir()) == before
    assert [item["id"] for item in read_array(tmp_path / "out.npy", "frames").items] == ["../../up; rm -rf $(HOME)"]
    missing = missing_of(tmp_path)
    assert "is no YouTube id" in missing["--output"]["reason"]
    assert "is no YouTube id" in missing["three"]["reason"]


def test_masks_for_frames_that_do_not_exist_fail_the_clip(tmp_path, web, quick):
    write_parquet(tmp_path / "atlas.parquet", [atlas_row("one", "constant360", 0, 1, [60]),
                                               atlas_row("two", "variable360", 0, 1, [2])])
    assert process_data.main(arguments(tmp_path, web)) == 0
    assert "masks go up to frame 60" in missing_of(tmp_path)["one"]["reason"]


def test_frames_that_fps_leaves_out_still_count_for_the_masks(tmp_path, web, quick):
    write_parquet(tmp_path / "atlas.parquet", [atlas_row("one", "constant720", 0, 1.9, [1, 21, 38]),
                                               atlas_row("two", "variable360", 0, 1, [2])])
    assert process_data.main(arguments(tmp_path, web, "--fps", "2")) == 0
    assert missing_of(tmp_path) == {}
    images = read_array(tmp_path / "out.npy", "frames").rows("one")
    assert [read_number(image[:, :IMAGE_SIZE // 2]) for image in images] == [100, 110, 120, 130]
    assert [is_blurred(image) for image in images] == [True, False, True, False]


def test_a_dry_run_fetches_and_writes_nothing(tmp_path, web, quick, capsys):
    write_atlas(tmp_path)
    assert process_data.main(arguments(tmp_path, web, "--dry_run")) == 0
    printed = capsys.readouterr().out
    assert "8 clips to process, 8 of them from videos that are not on this machine" in printed
    assert "about 179 frames" in printed  # 5.6 s
    assert web.requests == []
    assert [path.name for path in tmp_path.iterdir()] == ["atlas.parquet"]


def test_a_cookie_file_is_copied_and_a_missing_one_refused(tmp_path, web, quick, capsys):
    one_row(tmp_path)
    cookies = tmp_path / "cookies.txt"
    assert process_data.main(arguments(tmp_path, web, "--cookies", str(cookies))) == 2
    assert "no such file" in capsys.readouterr().err
    cookies.write_text("# Netscape HTTP Cookie File\n")
    assert process_data.main(arguments(tmp_path, web, "--cookies", str(cookies))) == 0
    assert cookies.read_text() == "# Netscape HTTP Cookie File\n"
