"""Shards: any number of runs make what one would have made, and readers take them for it."""

import json
import shutil
import signal

import numpy as np
import pytest
from conftest import write_manifest
from held_runs import stop_after
from made_artifacts import make_entries, write_entries
from refusals import refusal

import encode_subactions
import encode_videos
import process_data
from actalign import artifacts
from actalign.artifacts import merging, shards
from actalign.artifacts.writer import ArrayWriter

SIZE = "48"
KINDS = {"p.npy": "frames", "v.npy": "video_embeddings", "u.npy": "subaction_embeddings"}
N = 3


@pytest.fixture(scope="module")
def folder(videos, tmp_path_factory):
    """The folder of `videos` with two clips that are not there, and sub-actions of all. Not to be changed."""
    folder = shutil.copytree(videos, tmp_path_factory.mktemp("clips") / "videos")
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    rows[1:1] = [{**rows[0], "id": name, "video": f"{name}.mp4"} for name in ("lost", "gone")]
    write_manifest(folder / "manifest.jsonl", rows)
    entries = make_entries({row["id"]: [f"{row['id']} a", "b"] for row in rows})
    for entry in entries[::2]:  # have a second script
        entry["more_subactions"] = [{key: [f"{text} too" for text in texts[1:]]
                                     for key, texts in entry["subactions"].items()}]
    write_entries(folder / "generated.json", entries)
    return folder


@pytest.fixture(scope="module")
def stage(folder, checkpoint):
    """stage(name, out, *flags): run what makes p.npy, v.npy or u.npy into the folder `out`; returns the exit code."""
    model = ["--model", str(checkpoint), "--device", "cpu"]
    dataset = ["--dataset", str(folder / "manifest.jsonl"), "--image_size", SIZE]
    mains = {"p.npy": (process_data, dataset), "v.npy": (encode_videos, dataset + model),
             "u.npy": (encode_subactions, ["--subactions", str(folder / "generated.json"), *model])}

    def run(name, out, *flags):
        module, arguments = mains[name]
        return module.main([*arguments, "--output", str(out / name), *map(str, flags)])

    return run


@pytest.fixture(scope="module")
def whole(stage, tmp_path_factory):
    """The folder of what one run makes of each. Not to be changed."""
    out = tmp_path_factory.mktemp("whole")
    for name in KINDS:
        assert stage(name, out) == 0
    return out


@pytest.fixture(scope="module")
def sharded(stage, tmp_path_factory):
    """The folder of what N runs make of each. Not to be changed."""
    out = tmp_path_factory.mktemp("shards")
    for name in KINDS:
        for number in range(N):
            assert stage(name, out, "--shard", f"{number}/{N}") == 0
    return out


@pytest.fixture
def own(sharded, tmp_path):
    """A copy of it."""
    return shutil.copytree(sharded, tmp_path / "own")


def path_of(folder, name, number, count=N):
    return shards.shard_path(folder / name, (number, count))


def missing(path):
    return sorted((entry["id"], entry["reason"]) for entry in artifacts.MissingItems(path))


def require_same(a, b, kind):
    """Two artifacts are one to every reader: in their order, to the bit and in all that is said of them."""
    a, b = (artifacts.read_array(path, kind) for path in (a, b))
    assert a.fingerprint == b.fingerprint
    assert (list(a), a.meta, a.shape, a.dtype) == (list(b), b.meta, b.shape, b.dtype)
    for one, other in zip(a.items, b.items, strict=True):
        assert np.array_equal(a.rows(one["id"]), b.rows(other["id"]))
        one, other = (json.loads(json.dumps(item)) for item in (one, other))
        for item in (one, other):
            start = item["start"]
            for part in (item, *item.get("options", ()), *item.get("more_options", ())):
                part.update(start=part["start"] - start, stop=part["stop"] - start)
        assert one == other


# What they are to readers


@pytest.mark.parametrize(("name", "kind"), KINDS.items())
def test_shards_read_and_merged_are_what_one_run_makes(whole, own, name, kind, capsys):
    require_same(whole / name, own / name, kind)
    assert not (own / name).exists()
    assert merging.main(["merge", str(own / name)]) == 0
    assert f"samples of {N} shards are merged" in capsys.readouterr().out
    require_same(whole / name, own / name, kind)
    assert (own / name).read_bytes() == (whole / name).read_bytes()
    assert json.loads((own / name).with_suffix(".json").read_text()) == \
        json.loads((whole / name).with_suffix(".json").read_text())
    assert missing(own / name) == missing(whole / name)


def test_a_shard_is_an_array_with_its_index(sharded):
    path = path_of(sharded, "v.npy", 1)
    assert path.name == "v-00001-of-00003.npy"
    index = json.loads(path.with_suffix(".json").read_text())
    assert len(np.load(path)) == index["items"][-1]["stop"]
    assert [item["position"] % N for item in index["items"]] == [1] * len(index["items"])


def test_index_and_samples_are_those_of_the_whole(whole, sharded):
    for name in ("p.npy", "v.npy"):
        ours, theirs = (artifacts.read_samples(folder / name) for folder in (sharded, whole))
        assert ours[0] == theirs[0]
        assert len(ours[1]["fingerprint"]) == len(theirs[1]["fingerprint"])


def test_rows_across_the_borders_of_shards_are_read(sharded):
    frames = artifacts.read_array(sharded / "p.npy", "frames")
    every = np.concatenate([np.load(path_of(sharded, "p.npy", number)) for number in range(N)])
    assert np.array_equal(frames.read(0, len(every)), every)
    assert np.array_equal(frames.read(60, len(every) - 3), every[60:-3])


def test_the_whole_is_read_where_it_is_there(whole, own):
    (own / "v.npy").write_bytes((whole / "v.npy").read_bytes())
    (own / "v.json").write_bytes((whole / "v.json").read_bytes())
    path_of(own, "v.npy", 1).unlink()
    require_same(whole / "v.npy", own / "v.npy", "video_embeddings")


@pytest.mark.parametrize("of_whole", [True, False])
def test_stage_2_takes_its_shard_of_frames_or_its_share_of_all(whole, own, folder, checkpoint, tmp_path, of_whole):
    source = whole if of_whole else own
    for number in range(N):
        if not of_whole and number < N - 1:  # of which no other is needed
            path_of(own, "p.npy", number).with_suffix(".json").rename(own / f"{number}.json")
            assert encode_videos.main(["--input", str(own / "p.npy"), "--output", str(tmp_path / "w.npy"), "--model",
                                       str(checkpoint), "--device", "cpu", "--shard", f"{number}/{N}"]) == 2
            (own / f"{number}.json").rename(path_of(own, "p.npy", number).with_suffix(".json"))
        assert encode_videos.main(["--input", str(source / "p.npy"), "--output", str(tmp_path / "w.npy"), "--model",
                                   str(checkpoint), "--device", "cpu", "--shard", f"{number}/{N}"]) == 0
    found, expected = (artifacts.read_array(path, "video_embeddings")
                       for path in (tmp_path / "w.npy", whole / "v.npy"))
    assert found.fingerprint == expected.fingerprint


def test_more_shards_than_samples_and_shards_whose_clips_all_failed_are_whole_all_the_same(stage, whole, tmp_path,
                                                                                         capsys):
    for number in range(10):
        assert stage("v.npy", tmp_path, "--shard", f"{number}/10") == 0
        assert stage("v.npy", tmp_path, "--shard", f"{number}/10") == 0  # and again
    assert "0 clips encoded (0 frames, 0 frames/s on cpu), 0 were there already, 1 failed" in capsys.readouterr().out
    require_same(whole / "v.npy", tmp_path / "v.npy", "video_embeddings")
    refusal(lambda: artifacts.read_array(path_of(tmp_path, "v.npy", 1, 10).with_name("no.npy"), "frames"), "no such")


def test_a_clip_that_failed_in_an_empty_shard_is_added_when_it_is_there(stage, folder, checkpoint, tmp_path):
    own = shutil.copytree(folder, tmp_path / "own")
    arguments = ["--dataset", str(own / "manifest.jsonl"), "--image_size", SIZE, "--output", str(tmp_path / "p.npy")]
    for number in range(8):
        assert process_data.main([*arguments, "--shard", f"{number}/8"]) == 0
    shutil.copy(own / "plain.mp4", own / "lost.mp4")
    assert process_data.main([*arguments, "--shard", "1/8"]) == 0
    assert list(artifacts.read_array(tmp_path / "p.npy", "frames"))[:2] == ["plain", "lost"]


def test_only_the_first_samples_of_the_whole(stage, tmp_path):
    for number in range(N):
        assert stage("p.npy", tmp_path, "--shard", f"{number}/{N}", "--limit", 5) == 0
    assert list(artifacts.read_array(tmp_path / "p.npy", "frames")) == ["plain", "vp9", "middle"]


# Runs that stop, and the disk


@pytest.mark.parametrize("script", ["process_data", "encode_videos"])
def test_a_killed_shard_goes_on_to_the_same_bytes(sharded, folder, checkpoint, root, tmp_path, stage, script):
    name = {"process_data": "p.npy", "encode_videos": "v.npy"}[script]
    arguments = ["--dataset", folder / "manifest.jsonl", "--image_size", SIZE, "--output", tmp_path / name,
                 "--shard", f"0/{N}", *(["--model", checkpoint, "--device", "cpu"] if script != "process_data" else [])]
    code, _ = stop_after(1, arguments, root, signal.SIGKILL, script)
    assert code == -signal.SIGKILL
    refusal(lambda: artifacts.read_array(tmp_path / name, KINDS[name]), "no such file")
    assert stage(name, tmp_path, "--shard", f"0/{N}") == 0
    for suffix in (".npy", ".json"):
        assert path_of(tmp_path, name, 0).with_suffix(suffix).read_bytes() == \
            path_of(sharded, name, 0).with_suffix(suffix).read_bytes()


def test_one_run_at_a_time_writes_a_shard_and_others_go_on_beside_it(stage, tmp_path, capsys):
    with ArrayWriter(path_of(tmp_path, "p.npy", 0), "frames", {}) as writer:
        assert stage("p.npy", tmp_path, "--shard", f"0/{N}") == 2
        assert "another run is writing it" in capsys.readouterr().err
        assert stage("p.npy", tmp_path, "--shard", f"1/{N}") == 0
        writer.leave_unfinished()


# Bad usage and input


@pytest.mark.parametrize("shard", ["4/4", "-1/4", "1/0", "0/0", "x/4", "1", "1/2/3", "0/100000"])
@pytest.mark.parametrize("module", [process_data, encode_videos, encode_subactions])
def test_shards_that_there_are_not_are_usage_errors(module, shard, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit:
        module.parse_args(["--output", "x.npy", "--subactions", "g.json", f"--shard={shard}"]
                          if module is encode_subactions else ["--output", "x.npy", f"--shard={shard}"])
    assert exit.value.code == 2
    assert "count from 0" in capsys.readouterr().err


def test_a_shard_of_what_is_there_is_refused(stage, whole, capsys):
    assert stage("v.npy", whole, "--shard", f"0/{N}") == 2
    assert "v.npy: is there and is read instead of shards; move it away" in capsys.readouterr().err


def remove(own, stage):
    for suffix in (".npy", ".json"):
        path_of(own, "v.npy", 1).with_suffix(suffix).unlink()


def leave_unfinished(own, stage):
    for suffix in (".npy", ".json"):
        path = path_of(own, "v.npy", 1).with_suffix(suffix)
        path.rename(path.with_name(path.name + ".partial"))


def cut_short(own, stage):
    path = path_of(own, "v.npy", 1)
    path.write_bytes(path.read_bytes()[:-1])


def mix_two_runs(own, stage):
    assert stage("v.npy", own, "--shard", "1/4") == 0


def take_other_settings(own, stage):
    assert stage("v.npy", own, "--shard", f"1/{N}", "--fps", 5, "--overwrite") == 0


def swap(own, stage):
    for suffix in (".npy", ".json"):
        a, b = (path_of(own, "v.npy", number).with_suffix(suffix) for number in (0, 1))
        content = a.read_bytes()
        a.write_bytes(b.read_bytes())
        b.write_bytes(content)


def number_it_too_high(own, stage):
    shutil.copy(path_of(own, "v.npy", 1).with_suffix(".json"), own / "v-00003-of-00003.json")


@pytest.mark.parametrize(("spoil", "parts"), [
    (remove, ["1 shards of 3 are not there or not finished; run encode_videos.py --shard 1/3"]),
    (leave_unfinished, ["1 shards of 3 are not there or not finished; run encode_videos.py --shard 1/3"]),
    (cut_short, ["v-00001-of-00003.npy: is not a whole plain .npy array"]),
    (mix_two_runs, ["there are shards of 3 and of 4"]),
    (take_other_settings, ["v-00001-of-00003.npy: does not belong to v-00000-of-00003.npy, its fps is 5.0, there it "
                           "is None"]),
    (swap, ["v-00000-of-00003.npy: sample", "is not one of this shard"]),
    (number_it_too_high, ["there is a shard 3 of 3, which count from 0"]),
], ids=lambda value: getattr(value, "__name__", ""))
def test_shards_that_do_not_make_a_whole_are_named_in_one_line(own, stage, spoil, parts, capsys):
    spoil(own, stage)
    refusal(lambda: artifacts.read_array(own / "v.npy", "video_embeddings"), *parts)
    capsys.readouterr()
    assert merging.main(["merge", str(own / "v.npy")]) == 2
    assert parts[0].partition("; ")[0] in capsys.readouterr().err
    assert not (own / "v.npy").exists()


def test_a_shard_of_another_dataset_is_named_and_followed_when_its_stage_runs_again(stage, folder, checkpoint,
                                                                                    tmp_path):
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    write_manifest(folder / "fewer.jsonl", rows[:-1])
    arguments = ["--image_size", SIZE, "--output", str(tmp_path / "p.npy")]
    for number, name in ((0, "fewer"), (1, "manifest"), (2, "manifest")):
        assert process_data.main(["--dataset", str(folder / f"{name}.jsonl"), *arguments, "--shard",
                                  f"{number}/{N}"]) == 0
    refusal(lambda: artifacts.read_array(tmp_path / "p.npy", "frames"), "p-00001-of-00003.npy: does not belong to",
            "it was made from another list of samples")
    before = path_of(tmp_path, "p.npy", 0).stat().st_mtime_ns
    assert process_data.main(["--dataset", str(folder / "manifest.jsonl"), *arguments, "--shard", f"0/{N}"]) == 0
    assert path_of(tmp_path, "p.npy", 0).stat().st_mtime_ns == before  # its samples are the same
    assert len(artifacts.read_array(tmp_path / "p.npy", "frames").items) == 6


def test_what_is_there_is_merged_over_only_when_told(whole, own, capsys):
    shutil.copy(whole / "v.npy", own / "v.npy")
    assert merging.main(["merge", str(own / "v.npy")]) == 2
    assert "is there already" in capsys.readouterr().err
    assert merging.main(["merge", str(own / "v.npy"), "--overwrite"]) == 0
    assert merging.main(["merge", str(own / "none.npy")]) == 2
    assert "has no shards none-*.npy" in capsys.readouterr().err


def test_rows_that_were_changed_are_not_merged(own, capsys):
    path = path_of(own, "v.npy", 2)
    raw = path.read_bytes()
    path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    assert merging.main(["merge", str(own / "v.npy")]) == 2
    assert "are not those that were written" in capsys.readouterr().err
    assert not (own / "v.npy").exists()
