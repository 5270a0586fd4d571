"""encode_videos.py: every frame becomes the embedding it has alone, in order, whatever stops the run."""

import dataclasses
import hashlib
import json
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import CLIPS
from held_runs import stop_after

import encode_videos
import process_data
from actalign import artifacts, cores
from actalign.artifacts.writer import ArrayWriter
from actalign.checkpoint import find_checkpoint
from actalign.console import InputError
from actalign.siglip import load_siglip

LENGTHS = {"a": 7, "b": 1, "c": 12, "d": 3, "e": 9}  # borders in the middle of batches, at their ends, two in one


def write_frames(path, lengths=LENGTHS, size=48, seed=0, **settings):
    """Write an artifact of random frames: {id: T}. A clip's frames depend on its id and the seed alone."""
    with ArrayWriter(path, "frames", {"image_size": size, "fps": None} | settings) as writer:
        for id, T in lengths.items():
            if id not in writer:
                frames = np.random.default_rng([seed, *id.encode()]).integers(0, 256, (T, size, size, 3), np.uint8)
                writer.append(id, frames, domain="yoga", fps=25.0, timestamps=[t / 25 for t in range(T)],
                              cleaned_options=["x", "y"])
    return path


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """An artifact of five clips. Not to be changed."""
    return write_frames(tmp_path_factory.mktemp("frames") / "processed.npy")


@pytest.fixture
def encode(checkpoint, frames):
    """encode(output, *flags, input=..., model=...): main() on the CPU."""
    def run(output, *flags, input=frames, model=checkpoint):
        return encode_videos.main(["--input", str(input), "--output", str(output), "--model", str(model),
                                   "--device", "cpu", *map(str, flags)])
    return run


@pytest.fixture
def encoder(checkpoint):
    """encoder(batch_size): the tiny checkpoint on the CPU."""
    import torch

    return lambda batch_size: load_siglip(find_checkpoint(str(checkpoint)), torch.device("cpu"), batch_size, "float32")


@pytest.fixture
def use_threads():
    """use_threads(n): have torch use so many threads until the test ends."""
    import torch

    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


# How many threads share the work decides whether a frame's place in its batch shows in the last bits.
BATCHES = pytest.mark.parametrize(("batch_size", "threads"), [(5, 2), (16, 1), (16, 5)])


def content(path):
    """Hashes of an artifact's two files."""
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in (path, path.with_suffix(".json"))]


def files_of(path):
    """Names of all files that belong to an output."""
    return sorted(file.name for file in path.parent.iterdir() if file.name.startswith(path.stem + "."))


def rows(path):
    """{id: its embeddings}"""
    embeddings = artifacts.read_array(path, "video_embeddings")
    return {item["id"]: embeddings.rows(item["id"]) for item in embeddings.items}


def error_line(capsys):
    """The only line on stderr."""
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    assert ": error: " in lines[0]
    return lines[0]


# What is written


def test_every_clip_has_an_embedding_of_every_frame(encode, encoder, frames, tmp_path):
    path = tmp_path / "v.npy"
    assert encode(path, "--batch_size", 4) == 0
    found = rows(path)
    assert {id: len(embeddings) for id, embeddings in found.items()} == LENGTHS
    assert list(found) == list(LENGTHS)
    siglip, clips = encoder(4), artifacts.read_array(frames, "frames")
    for id, embeddings in found.items():
        alone = np.concatenate([siglip.encode_frames(frame[None]) for frame in clips.rows(id)])
        assert embeddings.dtype == np.float32
        assert embeddings == pytest.approx(alone, rel=1e-4, abs=1e-5)
        assert not np.allclose(np.linalg.norm(embeddings, axis=1), 1)


def test_the_index_holds_what_later_stages_need(encode, frames, checkpoint, tmp_path):
    path = tmp_path / "v.npy"
    assert encode(path) == 0
    embeddings = artifacts.read_array(path, "video_embeddings")
    stored = find_checkpoint(str(checkpoint))
    assert embeddings.meta == {"checkpoint": stored.fingerprint, "logit_scale": stored.logit_scale,
                               "logit_bias": stored.logit_bias, "dtype": "float32", "model": str(checkpoint),
                               "image_size": 48, "resample": None, "fps": None}
    for item, clip in zip(embeddings.items, artifacts.read_array(frames, "frames").items, strict=True):
        assert item["frames_checksum"] == clip["checksum"]
        for name in ("id", "domain", "fps", "timestamps"):
            assert item[name] == clip[name]
    assert files_of(path) == ["v.json", "v.npy"]


def test_real_clips_go_from_file_to_embedding(encode, encoder, videos, tmp_path, capfd):
    processed, path = tmp_path / "processed.npy", tmp_path / "v.npy"
    assert process_data.main(["--output", str(processed), "--dataset", str(videos / "manifest.jsonl"),
                              "--image_size", "48", "--workers", "2"]) == 0
    capfd.readouterr()
    assert encode(path, input=processed) == 0
    captured = capfd.readouterr()
    assert captured.err == ""
    total = sum(map(len, CLIPS.values()))
    assert captured.out.startswith(f"6 clips encoded ({total} frames, ")
    assert str(path) in captured.out
    found = rows(path)
    assert {id: len(embeddings) for id, embeddings in found.items()} == {id: len(CLIPS[id]) for id in CLIPS}
    clip = artifacts.read_array(processed, "frames").rows("middle")
    assert found["middle"] == pytest.approx(encoder(16).encode_frames(clip), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("batch_size", [3, 5, 16])
def test_a_clip_gets_what_it_gets_alone(encode, tmp_path, batch_size):
    path = tmp_path / "all.npy"
    assert encode(path, "--batch_size", batch_size) == 0
    for id, embeddings in rows(path).items():
        alone = write_frames(tmp_path / f"{id}.npy", {id: LENGTHS[id]})
        assert encode(tmp_path / f"{id}-alone.npy", "--batch_size", batch_size, input=alone) == 0
        assert np.array_equal(rows(tmp_path / f"{id}-alone.npy")[id], embeddings), id


def test_a_forward_pass_never_has_more_frames_than_the_batch_size(encode, encoder, tmp_path, monkeypatch):
    sizes = []
    embed = load_siglip

    def load(*args):
        siglip = embed(*args)
        forward = siglip._image_features

        def counting(batch):
            sizes.append(len(batch))
            return forward(batch)

        siglip._image_features = counting
        return siglip

    monkeypatch.setattr("actalign.siglip.load_siglip", load)
    assert encode(tmp_path / "v.npy", "--batch_size", 5) == 0
    assert set(sizes) == {8}  # a core's part of five, in a multiple of eight
    assert len(sizes) == -(-sum(LENGTHS.values()) // 5)
    assert len(sizes) <= sum(LENGTHS.values()) / 5 + len(LENGTHS)


def test_frames_of_another_size_are_resized_with_one_warning(encode, tmp_path, capsys):
    small = write_frames(tmp_path / "small.npy", size=32)
    assert encode(tmp_path / "v.npy", "--batch_size", 4, input=small) == 0
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 1
    assert "warning" in warnings[0]
    assert "--image_size 48" in warnings[0]
    assert {id: embeddings.shape for id, embeddings in rows(tmp_path / "v.npy").items()} == {
        id: (T, 64) for id, T in LENGTHS.items()}


# Running again


def test_a_rerun_does_nothing_and_loads_no_model(encode, tmp_path, capsys, monkeypatch):
    path = tmp_path / "v.npy"
    assert encode(path) == 0
    before, written = content(path), path.stat().st_mtime_ns
    capsys.readouterr()
    monkeypatch.setattr("actalign.siglip.load_siglip", lambda *args: pytest.fail("the model was loaded again"))
    assert encode(path) == 0
    assert content(path) == before
    assert path.stat().st_mtime_ns == written
    assert capsys.readouterr().out.startswith("0 clips encoded")


@BATCHES
def test_clips_that_were_added_since_are_encoded_as_if_they_had_been_there(encode, tmp_path, capsys, use_threads,
                                                                           batch_size, threads):
    use_threads(threads)
    own, path, whole = tmp_path / "own.npy", tmp_path / "v.npy", tmp_path / "whole.npy"
    write_frames(own, dict(list(LENGTHS.items())[:2]))
    assert encode(path, "--batch_size", batch_size, input=own) == 0
    write_frames(own)
    capsys.readouterr()
    assert encode(path, "--batch_size", batch_size, input=own) == 0
    assert capsys.readouterr().out.startswith("3 clips encoded (24 frames")
    assert encode(whole, "--batch_size", batch_size, input=own) == 0
    assert content(path) == content(whole)


def remade(path, lengths=LENGTHS, others=(), **fields):
    """Write the frames of `write_frames` anew; the clips in `others` have other frames, all have these fields."""
    with ArrayWriter(path, "frames", {"image_size": 48, "fps": None}, overwrite=True) as writer:
        for id, T in lengths.items():
            rng = np.random.default_rng([int(id in others), *id.encode()])
            said = {"domain": "yoga", "fps": 25.0, "timestamps": [t / 25 for t in range(T)],
                    "cleaned_options": ["x", "y"], **fields}
            writer.append(id, rng.integers(0, 256, (T, 48, 48, 3), np.uint8), **said)
    return path


def test_clips_whose_frames_changed_are_encoded_again_and_gone_ones_dropped(encode, tmp_path, capsys):
    own, path, fresh = write_frames(tmp_path / "own.npy"), tmp_path / "v.npy", tmp_path / "fresh.npy"
    assert encode(path, input=own) == 0
    before = rows(path)
    remade(own, {"new": 4, "e": 9, "c": 12, "a": 7}, others=["c"])
    capsys.readouterr()
    assert encode(path, input=own) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("2 clips encoded (16 frames")
    assert "follows what changed: 2 samples gone (b, d), 1 samples to be made again (c)" in captured.err
    assert encode(fresh, input=own) == 0
    after = rows(path)
    assert list(after) == list(rows(fresh)) == ["new", "e", "c", "a"]
    for id, embeddings in rows(fresh).items():
        assert after[id] == pytest.approx(embeddings, rel=1e-4, abs=1e-5)
        assert np.array_equal(after[id], before.get(id)) == (id in ("a", "e"))


def test_labels_and_times_that_changed_are_taken_over_without_encoding(encode, tmp_path, capsys, monkeypatch):
    own, path = write_frames(tmp_path / "own.npy"), tmp_path / "v.npy"
    assert encode(path, input=own) == 0
    written, words = path.stat().st_mtime_ns, {"domain": "judo", "cleaned_options": ["y", "z"], "fps": 5.0,
                                               "correct_answer_index": 1, "start_timestamp": 2.5}
    remade(own, dict(reversed(LENGTHS.items())), **words)
    capsys.readouterr()
    monkeypatch.setattr("actalign.siglip.load_siglip", lambda *args: pytest.fail("the model was loaded again"))
    assert encode(path, input=own) == 0
    assert "5 samples with other metadata" in capsys.readouterr().err
    assert path.stat().st_mtime_ns == written
    embeddings = artifacts.read_array(path, "video_embeddings")
    assert list(embeddings) == list(LENGTHS)[::-1]
    assert all({name: item[name] for name in words} == words for item in embeddings.items)


def test_frames_of_other_clips_are_refused(encode, tmp_path, capsys):
    own, path = write_frames(tmp_path / "own.npy"), tmp_path / "v.npy"
    assert encode(path, input=own) == 0
    before = content(path)
    remade(own, {"new": 4})
    capsys.readouterr()
    assert encode(path, input=own) == 2
    assert "has none of these samples, but a, b, c and 2 more" in error_line(capsys)
    assert content(path) == before


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_one_damaged_byte_anywhere_in_the_frames_is_refused(encode, tmp_path, capsys, batch_size):
    own, path = tmp_path / "own.npy", tmp_path / "v.npy"
    write_frames(own)
    raw, frame = own.read_bytes(), 48 * 48 * 3
    for id, position in (("a", 128), ("b", 128 + 7 * frame), ("c", 128 + 8 * frame), ("e", len(raw) - 1)):
        own.write_bytes(raw[:position] + bytes([raw[position] ^ 1]) + raw[position + 1:])
        assert encode(path, "--batch_size", batch_size, input=own) == 2
        assert f"the rows of sample {id} are not those that were written" in error_line(capsys)
        assert not path.exists()
    own.write_bytes(raw)
    assert encode(path, "--batch_size", batch_size, input=own) == 0
    assert encode(tmp_path / "whole.npy", "--batch_size", batch_size, input=own) == 0
    assert content(path) == content(tmp_path / "whole.npy")


def test_another_checkpoint_is_refused_and_the_same_under_another_path_is_not(encode, checkpoint, make_checkpoint,
                                                                              tmp_path, capsys):
    path = tmp_path / "v.npy"
    assert encode(path) == 0
    before = content(path)
    other = make_checkpoint(tmp_path / "other", seed=1)
    capsys.readouterr()
    assert encode(path, model=other) == 2
    error = error_line(capsys)
    assert "checkpoint" in error
    assert "--overwrite" in error
    assert content(path) == before
    moved = shutil.copytree(checkpoint, tmp_path / "moved")
    assert encode(path, model=moved) == 0
    assert content(path) == before


@pytest.mark.parametrize(("fps", "device", "said"), [
    (30, "cpu", "--fps 8 where frames are made takes 27 min"), (8, "cpu", "; a smaller --model"), (None, "cpu", "GPU"),
    (30, "cuda", None)])
def test_a_long_run_on_a_cpu_says_once_how_long_it_takes(capsys, monkeypatch, fps, device, said):
    monkeypatch.setattr(encode_videos.cores, "count", lambda: 2)
    encoder = SimpleNamespace(part_size=8, device=torch.device(device))
    plan = encode_videos.Plan(1200, fps, encoder)
    plan._stopwatch = SimpleNamespace(seconds=80.0, rate=lambda n: f"{n / 80:.3g}")
    assert plan.told(8) == 8
    assert capsys.readouterr().err == ""
    plan.told(8)
    err = capsys.readouterr().err
    assert (said in err and "1200 frames take about 100 min on this CPU, at 0.2 frames/s" in err) if said else not err
    plan.told(8)
    assert capsys.readouterr().err == ""


def test_a_short_run_says_nothing(capsys):
    encode_videos.Plan(100, 30, SimpleNamespace(part_size=8, device=torch.device("cpu"))).told(100)
    assert capsys.readouterr().err == ""


def test_another_dtype_is_refused(encode, tmp_path, capsys):
    path = tmp_path / "v.npy"
    assert encode(path, "--dtype", "auto") == 0
    assert encode(path, "--dtype", "float32") == 0  # what auto is on a CPU
    capsys.readouterr()
    assert encode(path, "--dtype", "bfloat16") == 2
    error = error_line(capsys)
    assert "float32" in error
    assert "bfloat16" in error


@BATCHES
def test_a_run_that_fails_half_way_goes_on_to_the_same_bytes(encode, tmp_path, capsys, monkeypatch, use_threads,
                                                             batch_size, threads):
    use_threads(threads)
    path, whole = tmp_path / "v.npy", tmp_path / "whole.npy"
    assert encode(whole, "--batch_size", batch_size) == 0
    append = ArrayWriter.append

    def fail_at_the_third(writer, id, *args, **fields):
        if id == "c":
            raise KeyboardInterrupt
        append(writer, id, *args, **fields)

    monkeypatch.setattr(ArrayWriter, "append", fail_at_the_third)
    capsys.readouterr()
    assert encode(path, "--batch_size", batch_size) == 130
    assert "run the same command again" in error_line(capsys)
    assert files_of(path) == ["v.json.partial", "v.npy.partial"]
    monkeypatch.undo()
    assert encode(path, "--batch_size", batch_size) == 0
    assert capsys.readouterr().out.startswith("3 clips encoded (24 frames")
    assert content(path) == content(whole)


def test_a_killed_run_goes_on_to_the_same_bytes(encode, root, checkpoint, tmp_path, capsys, use_threads):
    use_threads(1)  # many small forward passes on busy cores mostly wait for one another otherwise
    path, whole, journal = tmp_path / "v.npy", tmp_path / "whole.npy", tmp_path / "v.json.partial"
    many = write_frames(tmp_path / "many.npy", {f"clip-{number}": 25 for number in range(16)})
    arguments = ["--input", many, "--output", path, "--model", checkpoint, "--device", "cpu", "--batch_size", "1"]
    code, _ = stop_after(5, arguments, root, signal.SIGKILL, "encode_videos")
    assert code == -signal.SIGKILL
    committed = journal.read_bytes().count(b"\n") - 1  # the first line is the header
    assert committed == 5
    assert not path.exists()
    with pytest.raises(InputError, match="not finished"):
        artifacts.read_array(path, "video_embeddings")

    assert encode(path, "--batch_size", 1, input=many) == 0
    assert capsys.readouterr().out.startswith(f"{16 - committed} clips encoded")
    assert encode(whole, "--batch_size", 1, input=many) == 0
    assert content(path) == content(whole)
    assert files_of(path) == ["v.json", "v.npy"]


# Bad usage and input


def test_bad_usage_is_one_line_and_exit_2(encode, tmp_path, capsys):
    (tmp_path / "folder.npy").mkdir()
    for output, flags in [
        (tmp_path / "absent" / "v.npy", ()),
        (tmp_path / "folder.npy", ()),
        (tmp_path / "v.txt", ()),
        (tmp_path / "v.npy", ("--device", "cuda:99")),
        (tmp_path / "v.npy", ("--device", "abacus")),
        (tmp_path / "v.npy", ("--model", tmp_path / "absent")),
        (tmp_path / "v.npy", ("--model", "nobody/nothing")),
    ]:
        assert encode(output, *flags) == 2, (output, flags)
        error_line(capsys)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["folder.npy"]


def test_auto_is_the_default_batch_size(encode, checkpoint, tmp_path):
    tiny, cpu = find_checkpoint(str(checkpoint)), torch.device("cpu")
    large = dataclasses.replace(tiny, patches=729)
    assert tiny.patches == 36
    assert encode_videos.auto_batch_size(cpu, large) == 8 * cores.count()
    assert encode_videos.auto_batch_size(cpu, dataclasses.replace(tiny, patches=4096)) == 8 * cores.count()
    assert encode_videos.auto_batch_size(torch.device("cuda:1"), large) == encode_videos.BATCH_SIZE
    auto = encode_videos.auto_batch_size(cpu, tiny)
    assert auto == 32 * cores.count()
    for name, flags in (("a", ()), ("b", ("--batch_size", "auto")), ("c", ("--batch_size", auto))):
        assert encode(tmp_path / f"{name}.npy", *flags) == 0
    assert content(tmp_path / "a.npy") == content(tmp_path / "b.npy") == content(tmp_path / "c.npy")


@pytest.mark.parametrize("flags", [("--batch_size", "0"), ("--batch_size", "x"), ("--dtype", "int8")])
def test_flags_out_of_range_are_usage_errors(encode, tmp_path, flags):
    with pytest.raises(SystemExit) as exit:
        encode(tmp_path / "v.npy", *flags)
    assert exit.value.code == 2


def spoil_missing(path):
    path.unlink()
    path.with_suffix(".json").unlink()


def spoil_truncated(path):
    path.write_bytes(path.read_bytes()[:-1])


def spoil_foreign(path):
    np.save(path, np.zeros((3, 4)))
    path.with_suffix(".json").unlink()


def spoil_pickle(path):
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)


def spoil_index(path):
    path.with_suffix(".json").write_text(path.with_suffix(".json").read_text()[:-50])


def spoil_kind(path):
    index = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(index | {"kind": "subaction_embeddings"}))


def spoil_unfinished(path):
    for file in (path, path.with_suffix(".json")):
        file.rename(file.with_name(file.name + ".partial"))


@pytest.mark.parametrize("spoil", [spoil_missing, spoil_truncated, spoil_foreign, spoil_pickle, spoil_index,
                                   spoil_kind, spoil_unfinished])
def test_bad_frames_are_one_line_and_exit_2(encode, tmp_path, capsys, spoil):
    own = write_frames(tmp_path / "own.npy")
    spoil(own)
    assert encode(tmp_path / "v.npy", input=own) == 2
    assert "own." in error_line(capsys)
    assert files_of(tmp_path / "v.npy") == []


def test_the_frames_are_never_overwritten(encode, tmp_path, capsys):
    own = write_frames(tmp_path / "own.npy")
    before = content(own)
    for flags in ((), ("--overwrite",)):
        assert encode(own, *flags, input=own) == 2
        error_line(capsys)
        assert content(own) == before


def test_a_checkpoint_that_gives_nan_exits_1_with_one_line_and_writes_nothing(encode, checkpoint, tmp_path, capsys):
    from safetensors.torch import load_file, save_file

    own = shutil.copytree(checkpoint, tmp_path / "own")
    tensors = load_file(own / "model.safetensors")
    tensors["vision_model.head.layernorm.bias"].fill_(float("nan"))
    save_file(tensors, own / "model.safetensors", metadata={"format": "pt"})
    assert encode(tmp_path / "v.npy", model=own) == 1
    assert "NaN" in error_line(capsys)
    assert files_of(tmp_path / "v.npy") == []


def test_a_checkpoint_whose_scale_is_no_number_exits_2_with_one_line(encode, checkpoint, tmp_path, capsys):
    from safetensors.torch import load_file, save_file

    own = shutil.copytree(checkpoint, tmp_path / "own")
    tensors = load_file(own / "model.safetensors")
    tensors["logit_scale"].fill_(float("nan"))
    save_file(tensors, own / "model.safetensors", metadata={"format": "pt"})
    assert encode(tmp_path / "v.npy", model=own) == 2
    assert "logit_scale" in error_line(capsys)
    assert files_of(tmp_path / "v.npy") == []


def test_embeddings_that_do_not_say_what_they_were_made_from_are_refused(encode, checkpoint, tmp_path, capsys):
    path = tmp_path / "v.npy"
    settings = find_checkpoint(str(checkpoint)).settings("float32")
    with ArrayWriter(path, "video_embeddings", settings) as writer:
        writer.append("a", np.ones((7, 64), np.float32))
    before = content(path)
    assert encode(path) == 2
    assert "does not say which frames a were encoded from" in error_line(capsys)
    assert content(path) == before
