"""encode_videos.py --dataset: what stages 1 and 2 make in two steps, without frames on disk, whatever stops it."""

import json
import resource
import shutil
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from conftest import CLIPS, write_manifest
from drawn_videos import write_video
from held_runs import LIMIT, stop_after, wait_until
from refusals import refusal
from video_server import VideoServer

import baseline
import encode_videos
import generate_subactions
import process_data
from actalign import artifacts, clips, download

SIZE = "48"


@pytest.fixture(scope="module")
def folder(videos, tmp_path_factory):
    """The folder of `videos` with a clip that is damaged, one that is not there, and masks. Not to be changed."""
    folder = shutil.copytree(videos, tmp_path_factory.mktemp("clips") / "videos")
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    (folder / "short.mp4").write_bytes((folder / "plain.mp4").read_bytes()[:3000])
    box = {"vertices": [[2, 2], [2, 30], [30, 30], [30, 2]]}
    rows[1]["frames_to_blur"] = {"3": [{"description": "word", "bounding_poly": box}]}
    rows[1:1] = [{**rows[0], "id": name, "video": f"{name}.mp4"} for name in ("short", "lost")]
    write_manifest(folder / "manifest.jsonl", rows)
    return folder


@pytest.fixture
def encode(checkpoint):
    """encode(output, *flags): main() on the CPU."""
    return lambda output, *flags: encode_videos.main(
        ["--output", str(output), "--model", str(checkpoint), "--device", "cpu", *map(str, flags)])


@pytest.fixture
def decode_and_encode(folder, encode):
    """decode_and_encode(output, *flags): main() over the manifest."""
    return lambda output, *flags: encode(output, "--dataset", folder / "manifest.jsonl", "--image_size", SIZE, *flags)


@pytest.fixture(scope="module")
def stages(folder, checkpoint, tmp_path_factory):
    """What the two stages leave of the manifest: processed.npy and v.npy. Not to be changed."""
    out = tmp_path_factory.mktemp("stages")
    frames = str(out / "processed.npy")
    assert process_data.main(["--dataset", str(folder / "manifest.jsonl"), "--output", frames, "--image_size",
                              SIZE]) == 0
    assert encode_videos.main(["--input", frames, "--output", str(out / "v.npy"), "--model", str(checkpoint),
                               "--device", "cpu"]) == 0
    return out


def items(path):
    return artifacts.read_array(path, "video_embeddings").items


def require_equal(path, stages):
    """The artifact is that of the two stages: all rows to the bit, all that its index and missing.json say."""
    assert np.array_equal(np.load(path), np.load(stages / "v.npy"))
    assert json.loads(path.with_suffix(".json").read_text()) == json.loads((stages / "v.json").read_text())
    missing = json.loads(path.with_suffix(".missing.json").read_text())
    assert missing == json.loads((stages / "processed.missing.json").read_text())
    assert [entry["id"] for entry in missing] == ["short", "lost"]


# What is written


def test_the_artifact_is_that_of_the_two_stages_and_nothing_else_is_on_the_disk(decode_and_encode, stages, tmp_path,
                                                                                capsys):
    path = tmp_path / "v.npy"
    assert decode_and_encode(path) == 0
    require_equal(path, stages)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["v.json", "v.missing.json", "v.npy"]
    printed = capsys.readouterr().out
    assert f"2 clips failed, see {tmp_path / 'v.missing.json'}" in printed
    assert f"6 clips encoded ({sum(map(len, CLIPS.values()))} frames, " in printed


def test_fewer_frames_a_second_are_those_of_stage_1(decode_and_encode, encode, folder, tmp_path):
    assert decode_and_encode(tmp_path / "v.npy", "--fps", 5, "--workers", 1) == 0
    assert process_data.main(["--dataset", str(folder / "manifest.jsonl"), "--output", str(tmp_path / "p.npy"),
                              "--image_size", SIZE, "--fps", "5"]) == 0
    assert encode(tmp_path / "w.npy", "--input", tmp_path / "p.npy") == 0
    assert np.array_equal(np.load(tmp_path / "v.npy"), np.load(tmp_path / "w.npy"))
    assert items(tmp_path / "v.npy") == items(tmp_path / "w.npy")


@pytest.mark.parametrize("batch_size", [3, 16])
def test_what_fails_beside_a_clip_does_not_show_in_its_bits(decode_and_encode, encode, folder, tmp_path, batch_size):
    """As frames that do not lie on one grid would, if their place in a batch decided the last bits."""
    assert decode_and_encode(tmp_path / "all.npy", "--batch_size", batch_size) == 0
    write_manifest(folder / "one.jsonl", [json.loads((folder / "manifest.jsonl").read_text().splitlines()[-1])])
    assert encode(tmp_path / "one.npy", "--dataset", folder / "one.jsonl", "--image_size", SIZE, "--batch_size",
                  batch_size) == 0
    every, one = (artifacts.read_array(tmp_path / name, "video_embeddings") for name in ("all.npy", "one.npy"))
    assert np.array_equal(every.rows("end"), one.rows("end"))


# Running again


@pytest.mark.parametrize("first", ["frames", "videos"])
def test_a_run_that_was_begun_one_way_goes_on_the_other(decode_and_encode, encode, stages, folder, tmp_path, first,
                                                        capsys):
    path, part = tmp_path / "v.npy", tmp_path / "part.npy"
    if first == "frames":
        assert process_data.main(["--dataset", str(folder / "manifest.jsonl"), "--output", str(part), "--image_size",
                                  SIZE, "--limit", "4"]) == 0
        assert encode(path, "--input", part) == 0
        assert decode_and_encode(path) == 0
        assert "4 clips encoded" in capsys.readouterr().out
        require_equal(path, stages)
    else:
        assert decode_and_encode(path, "--limit", 4) == 0
        assert encode(path, "--input", stages / "processed.npy") == 0
        assert "4 clips encoded" in capsys.readouterr().out
        assert np.array_equal(np.load(path), np.load(stages / "v.npy"))
        assert items(path) == items(stages / "v.npy")


def test_a_rerun_does_nothing_and_loads_no_model(decode_and_encode, stages, tmp_path, monkeypatch, capsys):
    path = tmp_path / "v.npy"
    assert decode_and_encode(path) == 0
    monkeypatch.setattr("actalign.siglip.load_siglip", lambda *args: pytest.fail("the model was loaded again"))
    monkeypatch.setattr("actalign.video.read_frames", lambda *args: pytest.fail("a clip was decoded again"))
    for entry in (entries := json.loads(path.with_suffix(".missing.json").read_text())):
        entry["retry"] = False
    path.with_suffix(".missing.json").write_text(json.dumps(entries))
    capsys.readouterr()
    assert decode_and_encode(path) == 0
    assert "0 clips encoded (0 frames, " in capsys.readouterr().out
    assert np.array_equal(np.load(path), np.load(stages / "v.npy"))


def test_what_changed_in_the_dataset_is_followed(encode, folder, checkpoint, tmp_path, capsys):
    own, path = shutil.copytree(folder, tmp_path / "own"), tmp_path / "v.npy"
    assert encode(path, "--dataset", own / "manifest.jsonl", "--image_size", SIZE) == 0
    rows = [json.loads(line) for line in (own / "manifest.jsonl").read_text().splitlines()]
    rows = {row["id"]: row for row in rows}
    rows["plain"]["answer"], rows["middle"]["end_timestamp"] = 3, 1.4
    write_manifest(own / "manifest.jsonl", [rows[id] for id in ("middle", "plain", "vp9", "uneven", "ten-bit")])
    capsys.readouterr()
    assert encode(path, "--dataset", own / "manifest.jsonl", "--image_size", SIZE) == 0
    captured = capsys.readouterr()
    assert "1 samples gone (end), 1 samples to be made again (middle)" in captured.err
    assert "1 samples with other metadata (plain)" in captured.err
    assert "1 clips encoded" in captured.out
    embeddings = artifacts.read_array(path, "video_embeddings")
    assert embeddings.item("plain")["correct_answer_index"] == 2
    assert list(embeddings) == ["middle", "plain", "vp9", "uneven", "ten-bit"]
    assert not path.with_suffix(".missing.json").exists()


@pytest.mark.parametrize("flags", [("--fps", "5"), ("--image_size", "32"), ("--resample", "bilinear")])
def test_other_frames_than_it_was_begun_with_are_refused(decode_and_encode, tmp_path, flags, capsys):
    path = tmp_path / "v.npy"
    assert decode_and_encode(path, "--limit", 1) == 0
    capsys.readouterr()
    assert decode_and_encode(path, *flags) == 2
    assert f"was begun with {flags[0][2:]} " in capsys.readouterr().err


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_run_goes_on_to_the_same_artifact(decode_and_encode, stages, folder, checkpoint, root, tmp_path,
                                                    sign):
    path = tmp_path / "v.npy"
    arguments = ["--dataset", folder / "manifest.jsonl", "--output", path, "--model", checkpoint, "--device", "cpu",
                 "--image_size", SIZE]
    code, _ = stop_after(3, arguments, root, sign, "encode_videos")
    assert code == (130 if sign == signal.SIGINT else -sign)
    assert not path.exists()
    assert decode_and_encode(path) == 0
    require_equal(path, stages)


# Videos from the web


def test_videos_from_the_web_are_fetched_and_removed_as_stage_1_does(encode, tmp_path):
    web, mine = tmp_path / "web", tmp_path / "mine"
    web.mkdir()
    mine.mkdir()
    for number in range(4):
        write_video(web / f"{number}.mp4", 8, first=number)
    server = VideoServer(web)
    write_manifest(mine / "mine.jsonl", [
        {"id": str(number), "video": f"{server.url}/{number // 2}.mp4", "domain": "yoga", "choices": ["a", "b"]}
        for number in range(8)])
    try:
        assert encode(mine / "v.npy", "--dataset", mine / "mine.jsonl", "--image_size", SIZE, "--workers", 1) == 0
    finally:
        server.close()
    assert [item["id"] for item in items(mine / "v.npy")] == [str(number) for number in range(8)]
    assert sorted(file.name for file in mine.iterdir()) == ["mine.jsonl", "v.json", "v.npy"]


# encode_videos.py, whose downloads wait for a byte for longer than any test.
PATIENT = """import sys
from actalign import download
download.SOCKET_TIMEOUT = 36000
import encode_videos
sys.exit(encode_videos.main())"""


def test_an_interrupted_download_ends_the_run_at_once(tmp_path, checkpoint, root):
    write_video(tmp_path / "far.mp4", 10)
    server, asked, released = VideoServer(tmp_path), threading.Event(), threading.Event()

    def hold(name, handler, content, count):
        asked.set()
        released.wait()
        return True

    server.behave = hold
    write_manifest(tmp_path / "mine.jsonl", [{"video": f"{server.url}/far.mp4", "domain": "x", "choices": ["a", "b"]}])
    command = [sys.executable, "-c", PATIENT, "--dataset", str(tmp_path / "mine.jsonl"), "--output",
               str(tmp_path / "v.npy"), "--model", str(checkpoint), "--image_size", SIZE, "--device", "cpu"]
    run = subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(asked.is_set)
        run.send_signal(signal.SIGINT)
        _, stderr = run.communicate(timeout=LIMIT)
        assert run.returncode == 130
        assert "Traceback" not in stderr
    finally:
        run.kill()
        released.set()
        server.close()


def test_a_server_that_wants_no_more_requests_ends_the_run_and_what_was_encoded_is_kept(encode, tmp_path, monkeypatch,
                                                                                        capsys):
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    write_video(tmp_path / "near.mp4", 8)
    write_manifest(tmp_path / "mine.jsonl", [
        {"id": name, "video": video, "domain": "x", "choices": ["a", "b"]}
        for name, video in (("near", "near.mp4"), ("far", "http://127.0.0.1:9/far.mp4"))])

    def refuse(*_, **__):
        raise download.Refusal("HTTP Error 429: Too Many Requests")

    monkeypatch.setattr(download, "download", refuse)
    flags = ("--dataset", tmp_path / "mine.jsonl", "--image_size", SIZE, "--workers", 1)
    assert encode(tmp_path / "v.npy", *flags) == 1
    assert "takes no more requests" in capsys.readouterr().err
    assert (tmp_path / "v.json.partial").read_text().count("\n") == 2


# Bad usage and faults


@pytest.mark.parametrize("flags", [("--fps", "5"), ("--limit", "3"), ("--videos_dir", "."),
                                   ("--dataset", "d.csv", "--input", "p.npy")])
def test_flags_that_do_not_go_together_are_usage_errors(tmp_path, flags):
    with pytest.raises(SystemExit) as exit:
        encode_videos.parse_args(["--output", str(tmp_path / "v.npy"), *flags])
    assert exit.value.code == 2


def test_a_full_disk_is_one_line_and_the_same_command_ends_the_run(decode_and_encode, stages, folder, checkpoint, root,
                                                                   tmp_path):
    path = tmp_path / "v.npy"
    command = [sys.executable, str(root / "encode_videos.py"), "--dataset", str(folder / "manifest.jsonl"), "--output",
               str(path), "--model", str(checkpoint), "--image_size", SIZE, "--device", "cpu"]

    def fill():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))  # frames of 256 bytes

    full = subprocess.run(command, preexec_fn=fill, capture_output=True, text=True, check=False)
    assert full.returncode == 1
    assert "File too large" in full.stderr.splitlines()[-1]
    assert "Traceback" not in full.stderr
    assert decode_and_encode(path) == 0
    require_equal(path, stages)


def test_a_bug_in_one_clip_ends_that_clip_alone(decode_and_encode, tmp_path, monkeypatch, capsys):
    resize = clips.np.stack

    def fail_at_vp9(frames, *rest):
        if len(frames) == len(CLIPS["vp9"]):
            raise ZeroDivisionError("a bug")
        return resize(frames, *rest)

    monkeypatch.setattr(clips, "np", type("numpy", (), {"stack": staticmethod(fail_at_vp9)}))
    assert decode_and_encode(tmp_path / "v.npy") == 1
    assert "1 clips met such a bug of this program" in capsys.readouterr().err
    assert len(items(tmp_path / "v.npy")) == 5


# The stages after it


@pytest.fixture(scope="module")
def embeddings(folder, checkpoint, tmp_path_factory):
    """video_embeddings.npy without its frames. Not to be changed."""
    path = tmp_path_factory.mktemp("embeddings") / "v.npy"
    assert encode_videos.main(["--dataset", str(folder / "manifest.jsonl"), "--output", str(path), "--model",
                               str(checkpoint), "--image_size", SIZE, "--device", "cpu"]) == 0
    return path


def test_the_index_that_is_left_stands_for_that_of_the_frames(embeddings, stages, folder):
    ours, source, state = artifacts.read_samples(embeddings)
    theirs, _, frames = artifacts.read_samples(stages / "processed.npy")
    assert ours == theirs
    assert [[item[name] for name in artifacts.STATE] for item in state] == \
        [[item[name] for name in artifacts.STATE] for item in frames]
    assert source["path"] == str(embeddings)
    every, source, _ = artifacts.read_samples(folder / "manifest.jsonl")
    assert [sample.record() for sample in every if sample.id in CLIPS] == [sample.record() for sample in ours]
    assert len(every) == len(CLIPS) + 2
    assert len(source["fingerprint"]) == 16


def test_the_baseline_scores_the_same_by_index_and_dataset(embeddings, folder, stages, tmp_path, capsys):
    scores = []
    for source in (stages / "processed.npy", embeddings, folder / "manifest.jsonl"):
        assert baseline.main(["--input_dataset", str(source), "--video_embeddings", str(embeddings), "--device", "cpu",
                              "--output", str(tmp_path / "p.json")]) == 0
        scores.append([sample["scores"] for sample in json.loads((tmp_path / "p.json").read_text())["samples"]])
    assert scores[0] == scores[1] == scores[2]
    assert "not in v.npy" in capsys.readouterr().out


def test_a_dataset_with_other_answers_than_the_embeddings_is_refused_by_the_baseline(embeddings, folder, tmp_path,
                                                                                     capsys):
    rows = [json.loads(line) | {"answer": 1} for line in (folder / "manifest.jsonl").read_text().splitlines()]
    write_manifest(tmp_path / "other.jsonl", rows)
    assert baseline.main(["--input_dataset", str(tmp_path / "other.jsonl"), "--video_embeddings", str(embeddings),
                          "--device", "cpu"]) == 2
    assert "has another answer in" in capsys.readouterr().err


def test_sub_actions_are_asked_by_index_and_dataset_alike(embeddings, folder, tmp_path, capsys):
    said = []
    for source in (embeddings, folder / "manifest.jsonl"):
        assert generate_subactions.main(["--input", str(source), "--output", str(tmp_path / "g.json"), "--dry_run",
                                         "--apikey", "x"]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1].replace("8 samples", "6 samples")


def test_pictures_are_decoded_from_the_videos(embeddings, folder, stages, tmp_path):
    video, frames = artifacts.read_array(embeddings, "video_embeddings"), artifacts.read_array(
        stages / "processed.npy", "frames")
    samples, *_ = artifacts.read_samples(folder / "manifest.jsonl")
    decoded = clips.DecodedFrames("manifest.jsonl", samples, video, download.Videos(folder, tmp_path, ()))
    assert "lost" not in decoded
    for id in ("end", "vp9"):
        assert id in decoded
        start, T = decoded.item(id)["start"], decoded.length(id)
        found = np.concatenate([decoded.read(start + t, start + t + 1) for t in range(T)])
        assert np.array_equal(found, frames.rows(id))


def test_pictures_of_another_clip_are_refused(embeddings, folder, tmp_path):
    video, own = artifacts.read_array(embeddings, "video_embeddings"), shutil.copytree(folder, tmp_path / "own")
    samples, *_ = artifacts.read_samples(folder / "manifest.jsonl")
    shutil.copy(own / "uneven.mp4", own / "plain.mp4")
    (own / "vp9.webm").write_bytes(b"no video")
    decoded = clips.DecodedFrames("manifest.jsonl", samples, video, download.Videos(own, tmp_path, ()))
    for id, why in (("plain", "it has other frames"), ("vp9", "cannot be decoded")):
        start = decoded.item(id)["start"]
        refusal(lambda start=start: decoded.read(start, start + 1), f"the clip of {id} is not the one", why)
