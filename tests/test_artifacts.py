"""Array artifacts: what is written is read back, whatever stopped the writing; what is damaged is refused."""

import contextlib
import itertools
import json
import os
import resource
import shutil
import signal
import zipfile
from pathlib import Path

import numpy as np
import pytest
from crashes import Points, contents, in_child, kill_here
from made_artifacts import make_entries, write_frames_index, write_subaction_embeddings, write_video_embeddings
from refusals import refusal

from actalign import artifacts, files
from actalign.artifacts import MissingItems, read_array, read_index, require_same_checkpoint
from actalign.artifacts.writer import ArrayWriter
from actalign.console import InputError

KIND = "video_embeddings"
D = 2500  # features: a row of 10 kB does not wait in a buffer, so that a kill leaves torn items on the disk
ROWS = {f"clip-{n}": np.random.default_rng(n).normal(size=(2 + n, D)).astype(np.float32) for n in range(5)}
OTHER_ROWS = {id: rows + 10 for id, rows in ROWS.items()}
SETTINGS, OTHER_SETTINGS = {"checkpoint": "one", "image_size": 384}, {"checkpoint": "two", "image_size": 384}
ROWS_OF = {"one": ROWS, "two": OTHER_ROWS}  # by the checkpoint that an artifact's meta names
STRANGE_VALUES = [None, True, 0, -1, 1.5, "x", "", [], {}, [None], [[]], {"a": 1}, 10**30, float("nan")]


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """What survives a process that is killed does not depend on fsync, which takes long on a busy disk."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def write(path, ids, settings=SETTINGS, overwrite=False, failing=(), source=None):
    """A stage: write the rows of `ids` one by one; `failing` ones cannot be made.

    source: {id: fields} to follow; rows are made from the field "clip".
    """
    with ArrayWriter(path, KIND, settings, {"model": "tiny"}, overwrite) as writer:
        if source is not None:
            again = {id for id, item in writer.items.items()
                     if id in source and item.get("clip", 1) != source[id]["clip"]}
            writer.follow(source, again, ["clip"])
        for id in ids:
            if id in failing:
                writer.missing.add(id, "cannot be decoded", retry=True)
            elif id not in writer:
                with writer.item(id) as item:
                    for row in ROWS_OF[settings["checkpoint"]][id]:
                        item.write(row[None])
                    item.fields["fps"] = 25.0


def write_and_die(path, ids):
    """A run that is killed after it has committed the rows of `ids`."""
    def run():
        with ArrayWriter(path, KIND, SETTINGS, {"model": "tiny"}) as writer:
            for id in ids:
                if id not in writer:
                    writer.append(id, ROWS[id], fps=25.0)
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(run) == -signal.SIGKILL


def assert_holds(path, ids):
    """The artifact at `path` holds the rows of these ids, in this order."""
    artifact = read_array(path, KIND)
    assert [item["id"] for item in artifact.items] == list(ids)
    for id in ids:
        np.testing.assert_array_equal(artifact.rows(id), ROWS_OF[artifact.meta["checkpoint"]][id])


# Stopping a run


def interrupt_here():
    raise KeyboardInterrupt


def source_of(ids, **fields):
    """A source of samples that all say the same."""
    return {id: {"clip": 1, "label": "old", **fields} for id in ids}


def leave_unfinished(path, ids):
    """A run that stops after it wrote these."""
    with contextlib.suppress(RuntimeError), ArrayWriter(path, KIND, SETTINGS, {"model": "tiny"}) as writer:
        writer.follow(source_of(ids))
        for id in ids:
            writer.append(id, ROWS[id], fps=25.0)
        raise RuntimeError


# What was there before, and the run that is stopped and then run again.
FIRST, ALL = ["clip-0", "clip-1"], ["clip-0", "clip-1", "clip-2", "clip-3"]
RUNS = {
    "fresh": (lambda path: None, {"ids": [*FIRST, "clip-2"]}),
    "extension": (lambda path: write(path, FIRST), {"ids": ALL}),
    "overwrite": (lambda path: write(path, ALL), {"ids": ["clip-2", "clip-1"], "settings": OTHER_SETTINGS,
                                                  "overwrite": True}),
    "extension beside rows of a killed overwrite": (
        lambda path: (write(path, FIRST), write(path.with_name("b.npy"), ALL, OTHER_SETTINGS),
                      path.with_name("b.npy").rename(path.with_name("a.npy.partial")),
                      path.with_name("b.json").unlink()),
        {"ids": ALL}),
    "another try": (lambda path: write(path, FIRST, failing=["clip-1"]), {"ids": [*FIRST, "clip-2"]}),
    "nothing to do": (lambda path: write(path, FIRST), {"ids": FIRST}),
    "other labels": (lambda path: write(path, ALL, source=source_of(ALL)), {"ids": ALL, "source": source_of(
        ALL, label="new")}),
    "another order": (lambda path: write(path, ALL, source=source_of(ALL)),
                      {"ids": ALL, "source": source_of(ALL[::-1])}),
    "one gone": (lambda path: write(path, ALL), {"ids": [], "source": source_of(["clip-0", "clip-2", "clip-3"])}),
    "the last one gone": (lambda path: write(path, ALL), {"ids": [], "source": source_of(ALL[:3])}),
    "one made again and one added": (
        lambda path: write(path, FIRST, source=source_of(FIRST)),
        {"ids": [*FIRST, "clip-2"], "source": {"clip-2": {"clip": 1}, "clip-0": {"clip": 2}, "clip-1": {"clip": 1}}}),
    "all made again": (lambda path: write(path, FIRST, source=source_of(FIRST)),
                       {"ids": FIRST, "source": source_of(FIRST, clip=2)}),
    "all made again, of an unfinished run": (lambda path: leave_unfinished(path, FIRST),
                                             {"ids": FIRST, "source": source_of(FIRST, clip=2)}),
    "one gone and one added, of an unfinished run": (
        lambda path: leave_unfinished(path, ALL),
        {"ids": ["clip-4"], "source": source_of(["clip-4", "clip-0", "clip-2"])}),
    "one gone, of an unfinished run": (lambda path: leave_unfinished(path, ALL),
                                       {"ids": [], "source": source_of(ALL[:3])}),
}


@pytest.fixture(params=RUNS)
def stopped_runs(request, tmp_path):
    """(new_folder, run, steps, whole): a function that makes a folder as it was before the run, the run's arguments,
    at how many points it changes files, and what it leaves when nothing stops it."""
    prepare, run = RUNS[request.param]
    template, whole = tmp_path / "template", tmp_path / "whole"
    template.mkdir()
    prepare(template / "a.npy")
    shutil.copytree(template, whole)
    with Points(whole) as points:
        write(whole / "a.npy", **run)

    def new_folder():
        folder = tmp_path / "stopped"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(template, folder)
        return folder

    assert points.taken > 1
    return new_folder, run, points.taken, contents(whole)


def test_run_killed_anywhere_and_run_again_leaves_what_an_unbroken_run_does(stopped_runs):
    new_folder, run, steps, whole = stopped_runs
    for number in range(1, steps + 1):
        path = new_folder() / "a.npy"
        with Points(path.parent, number, kill_here):
            assert in_child(lambda path=path: write(path, **run)) == -signal.SIGKILL
        with contextlib.suppress(InputError):  # a reader meets a whole artifact or a refusal
            assert_holds(path, [item["id"] for item in read_array(path, KIND).items])
        write(path, **run)
        assert contents(path.parent) == whole, f"killed at point {number} of {steps}"


@pytest.mark.parametrize("after", [False, True])
def test_run_interrupted_anywhere_and_run_again_leaves_what_an_unbroken_run_does(stopped_runs, after):
    new_folder, run, steps, whole = stopped_runs
    for number in range(1, steps + 1):
        path = new_folder() / "a.npy"
        with Points(path.parent, number, interrupt_here, after), contextlib.suppress(KeyboardInterrupt):
            write(path, **run)
        write(path, **run)
        assert contents(path.parent) == whole, f"interrupted at point {number} of {steps}"


@pytest.mark.parametrize("ids", [FIRST, ALL], ids=["nothing to add", "more to add"])
def test_killed_overwrite_spoils_nothing_for_a_run_without_overwrite(tmp_path, ids):
    path = tmp_path / "a.npy"
    write(path, FIRST)
    with Points(tmp_path) as points:
        write(path, FIRST, overwrite=True)
    for number in range(1, points.taken + 1):
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()
        write(path, FIRST)
        with Points(tmp_path, number, kill_here):
            assert in_child(lambda: write(path, FIRST, overwrite=True)) == -signal.SIGKILL
        with ArrayWriter(path, KIND, SETTINGS) as writer:
            for id, item in writer.items.items():
                np.testing.assert_array_equal(writer.read(item["start"], item["stop"]), ROWS[id], f"point {number}")
            for id in ids:
                if id not in writer:
                    writer.append(id, ROWS[id])
        assert sorted(contents(tmp_path)) == ["a.json", "a.npy"], f"point {number}"
        assert_holds(path, ids)


def test_old_array_is_never_taken_for_rows_that_were_deleted(tmp_path):
    path = tmp_path / "a.npy"
    write(path, FIRST)
    with contextlib.suppress(RuntimeError), ArrayWriter(path, KIND, OTHER_SETTINGS, overwrite=True) as writer:
        for id in FIRST:
            writer.append(id, OTHER_ROWS[id])
        raise RuntimeError
    (tmp_path / "a.npy.partial").unlink()  # say, to make room; what it held is as long as the old array
    with contextlib.suppress(InputError):
        write(path, FIRST, OTHER_SETTINGS)
    assert_holds(path, FIRST)


def test_old_array_with_more_rows_is_whole_after_rows_were_deleted(tmp_path):
    path = tmp_path / "a.npy"
    write(path, ALL)
    with contextlib.suppress(RuntimeError), ArrayWriter(path, KIND, SETTINGS, overwrite=True) as writer:
        for id in FIRST:
            writer.append(id, ROWS[id])
        raise RuntimeError
    (tmp_path / "a.npy.partial").unlink()
    write(path, FIRST)
    assert_holds(path, ALL)


@pytest.mark.parametrize("before", [[], ["clip-0"]])
def test_full_disk_keeps_what_is_committed_and_a_rerun_completes(tmp_path, before):
    whole, path = tmp_path / "whole" / "a.npy", tmp_path / "full" / "a.npy"
    whole.parent.mkdir()
    write(whole, ALL)
    kept = []
    size = whole.stat().st_size
    for most_bytes in [0, 50, 200, 400, 700, *range(10_000, size, 15_001)]:
        shutil.rmtree(path.parent, ignore_errors=True)
        path.parent.mkdir()
        if before:
            write(path, before)

        def write_on_full_disk(most_bytes=most_bytes):
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
            with pytest.raises(OSError, match="File too large"):
                write(path, ALL)

        assert in_child(write_on_full_disk) == 0
        with ArrayWriter(path, KIND, SETTINGS, {"model": "tiny"}) as writer:
            kept.append(len(writer.items))
            assert list(writer.items) == ALL[:kept[-1]]
        write(path, ALL)
        assert contents(path.parent) == contents(whole.parent), f"{most_bytes} bytes"
    assert kept == sorted(kept)
    assert kept[0] == len(before)
    assert kept[-1] == len(ALL) - 1


# Writing


def test_written_rows_come_back(tmp_path):
    path = tmp_path / "a.npy"
    write(path, ALL)
    mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    np.testing.assert_array_equal(mapped, np.concatenate([ROWS[id] for id in ALL]))
    artifact = read_array(path, KIND)
    assert (artifact.shape, artifact.dtype) == (mapped.shape, mapped.dtype)
    assert artifact.meta == {**SETTINGS, "model": "tiny"}
    assert (artifact.item("clip-1")["start"], artifact.item("clip-1")["stop"]) == (2, 5)
    assert artifact.item("clip-1")["fps"] == 25.0
    assert "clip-1" in artifact
    assert "clip-4" not in artifact
    np.testing.assert_array_equal(artifact.embeddings("clip-3"), ROWS["clip-3"])
    np.testing.assert_array_equal(artifact.read(4, 9), mapped[4:9])
    assert_holds(path, ALL)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_every_float_type_comes_back(tmp_path, dtype):
    rows = np.arange(12).reshape(3, 4).astype(dtype)
    with ArrayWriter(tmp_path / "a.npy", KIND, SETTINGS) as writer:
        writer.append("x", rows)
    back = read_array(tmp_path / "a.npy", KIND).rows("x")
    assert back.dtype == rows.dtype
    np.testing.assert_array_equal(back, rows)


def test_frames_come_back(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (5, 6, 6, 3), dtype=np.uint8)
    with ArrayWriter(tmp_path / "a.npy", "frames", {}) as writer:
        writer.append("x", frames[:, ::-1])  # a view that is not contiguous
    np.testing.assert_array_equal(read_array(tmp_path / "a.npy", "frames").rows("x"), frames[:, ::-1])


def test_rows_in_chunks_give_the_same_files_as_rows_at_once(tmp_path):
    for name, sizes in {"chunks": [1, 3, 2], "at-once": [6], "with-empty-chunk": [0, 6, 0]}.items():
        (tmp_path / name).mkdir()
        with ArrayWriter(tmp_path / name / "a.npy", KIND, SETTINGS) as writer, writer.item("clip-4") as item:
            for chunk in np.split(ROWS["clip-4"], np.cumsum(sizes)):
                item.write(chunk)
    assert contents(tmp_path / "chunks") == contents(tmp_path / "at-once") == contents(tmp_path / "with-empty-chunk")


def test_rows_are_on_the_disk_before_the_line_that_commits_them(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append((os.fstat(file).st_ino, os.fstat(file).st_size)))
    with ArrayWriter(tmp_path / "a.npy", KIND, SETTINGS) as writer:
        for number in (1, 2):
            with writer.item(f"x{number}") as item:
                item.write(np.ones((3, 4), np.float32))  # few enough to wait in a buffer
                synced.clear()
            rows, journal = (tmp_path / "a.npy.partial").stat(), (tmp_path / "a.json.partial").stat()
            assert synced == [(rows.st_ino, rows.st_size), (journal.st_ino, journal.st_size)]
            assert rows.st_size == 128 + number * 3 * 4 * 4


def test_array_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    path, synced, replace = tmp_path / "a.npy", [], os.replace

    def watched_replace(source, target):
        if Path(target) == path:
            assert os.stat(source).st_ino in synced
            assert np.load(source).shape == (len(ROWS["clip-0"]), D)
        replace(source, target)

    with ArrayWriter(path, KIND, SETTINGS) as writer:
        writer.append("clip-0", ROWS["clip-0"])
        monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_ino))
        monkeypatch.setattr(os, "replace", watched_replace)
    assert_holds(path, ["clip-0"])
    folder = tmp_path.stat().st_ino
    assert synced == [path.stat().st_ino, folder, path.with_suffix(".json").stat().st_ino, folder]  # with the names


def test_exception_in_an_item_forgets_that_item_only(tmp_path):
    path = tmp_path / "a.npy"
    with ArrayWriter(path, KIND, SETTINGS) as writer:
        for id in ALL:
            with contextlib.suppress(RuntimeError), writer.item(id) as item:
                item.write(ROWS[id])
                if id in ("clip-0", "clip-2"):
                    raise RuntimeError("cannot be decoded")
        assert list(writer.items) == ["clip-1", "clip-3"]
    assert_holds(path, ["clip-1", "clip-3"])
    write(path, ALL)
    assert_holds(path, ["clip-1", "clip-3", "clip-0", "clip-2"])


def test_item_whose_fields_are_no_json_is_forgotten(tmp_path):
    path = tmp_path / "a.npy"
    with ArrayWriter(path, KIND, SETTINGS) as writer:
        writer.append("clip-0", ROWS["clip-0"])
        with pytest.raises(TypeError):
            writer.append("clip-2", ROWS["clip-2"], fps={1})
        writer.append("clip-3", ROWS["clip-3"])
    assert_holds(path, ["clip-0", "clip-3"])


def test_item_without_rows_is_an_error(tmp_path):
    with ArrayWriter(tmp_path / "a.npy", KIND, SETTINGS) as writer:
        with pytest.raises(ValueError, match="no rows"):
            writer.append("x", ROWS["clip-0"][:0])
        with pytest.raises(ValueError, match="no rows"), writer.item("y"):
            pass
        writer.append("clip-0", ROWS["clip-0"])
        with pytest.raises(ValueError, match="committed already"):
            writer.append("clip-0", ROWS["clip-0"])
    assert_holds(tmp_path / "a.npy", ["clip-0"])


def test_rows_of_another_shape_or_type_are_refused_and_forgotten(tmp_path):
    path = tmp_path / "a.npy"
    write(path, FIRST)
    for rows in (np.ones((2, 7), np.float32), np.ones((2, D), np.float64)):
        with ArrayWriter(path, KIND, SETTINGS) as writer:
            refusal(lambda rows=rows, writer=writer: writer.append("x", rows), "a.npy", "--overwrite")
        assert_holds(path, FIRST)


def test_run_that_commits_nothing_writes_nothing(tmp_path):
    write(tmp_path / "a.npy", [])
    with contextlib.suppress(RuntimeError), ArrayWriter(tmp_path / "b.npy", KIND, SETTINGS) as writer, \
            writer.item("x") as item:
        item.write(ROWS["clip-0"])
        raise RuntimeError
    with ArrayWriter(tmp_path / "b.npy", KIND, SETTINGS):
        pass
    assert contents(tmp_path) == {}


def test_extension_keeps_old_rows_and_appends_new_ones(tmp_path):
    path = tmp_path / "a.npy"
    write(path, FIRST)
    old = np.load(path)
    write(path, ["clip-3", *FIRST])
    assert_holds(path, [*FIRST, "clip-3"])
    np.testing.assert_array_equal(np.load(path)[:len(old)], old)


def test_run_with_nothing_to_add_does_not_touch_the_files(tmp_path):
    path = tmp_path / "a.npy"
    write(path, ALL)
    before = {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in tmp_path.iterdir()}
    write(path, FIRST)
    assert {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("added", [[], ["clip-2"]])
def test_extension_that_fails_is_finished_with_what_there_is(tmp_path, error, added):
    path = tmp_path / "a.npy"
    write(path, FIRST)
    with contextlib.suppress(error), ArrayWriter(path, KIND, SETTINGS) as writer:
        for id in added:
            writer.append(id, ROWS[id])
        with writer.item("clip-3") as item:
            item.write(ROWS["clip-3"][:2])
            raise error
    assert_holds(path, FIRST + added)
    assert sorted(contents(tmp_path)) == ["a.json", "a.npy"]


def test_failed_run_is_gone_on_with_and_committed_items_are_not_written_again(tmp_path):
    path = tmp_path / "a.npy"
    with contextlib.suppress(RuntimeError), ArrayWriter(path, KIND, SETTINGS) as writer:
        writer.append("clip-0", ROWS["clip-0"])
        with writer.item("clip-1") as item:
            item.write(ROWS["clip-1"])
            raise RuntimeError
    assert sorted(contents(tmp_path)) == ["a.json.partial", "a.npy.partial"]
    with ArrayWriter(path, KIND, SETTINGS) as writer:
        assert list(writer.items) == ["clip-0"]
        np.testing.assert_array_equal(writer.read(0, 2), ROWS["clip-0"])
        writer.append("clip-1", ROWS["clip-1"])
        np.testing.assert_array_equal(writer.read(1, 4), np.concatenate([ROWS["clip-0"][1:], ROWS["clip-1"][:2]]))
    assert_holds(path, FIRST)


def test_committed_items_whose_rows_are_gone_are_made_again(tmp_path):
    path, partial = tmp_path / "a.npy", tmp_path / "a.npy.partial"
    with contextlib.suppress(RuntimeError), ArrayWriter(path, KIND, SETTINGS, {"model": "tiny"}) as writer:
        for id in FIRST:
            writer.append(id, ROWS[id], fps=25.0)
        raise RuntimeError
    os.truncate(partial, partial.stat().st_size - 1)
    with contextlib.suppress(RuntimeError), ArrayWriter(path, KIND, SETTINGS) as writer:
        assert list(writer.items) == ["clip-0"]
        assert writer.row_count == len(ROWS["clip-0"])
        raise RuntimeError
    with contextlib.suppress(RuntimeError), ArrayWriter(path, KIND, SETTINGS) as writer:
        writer.append("clip-1", ROWS["clip-1"])
        raise RuntimeError
    with ArrayWriter(path, KIND, SETTINGS) as writer:
        assert list(writer.items) == FIRST
    assert_holds(path, FIRST)


@pytest.mark.parametrize("finished", [True, False])
def test_other_settings_are_refused_by_name(tmp_path, finished):
    path = tmp_path / "a.npy"
    with contextlib.suppress(RuntimeError), ArrayWriter(path, KIND, SETTINGS, {"model": "tiny"}) as writer:
        writer.append("clip-0", ROWS["clip-0"])
        if not finished:
            raise RuntimeError
    before = contents(tmp_path)
    refusal(lambda: write(path, ALL, {**SETTINGS, "image_size": 224}), "a.npy", "image_size 384", "224", "--overwrite")
    refusal(lambda: write(path, ALL, {**SETTINGS, "fps": 5}), "fps None", "5", "--overwrite")
    assert contents(tmp_path) == before
    write(path, ALL)
    assert_holds(path, ALL)


# Following a source


def test_a_source_that_changed_is_followed_and_only_what_it_decides_is_written_again(tmp_path, monkeypatch, caplog):
    path = tmp_path / "a.npy"
    write(path, ALL, source=source_of(ALL))
    rows = np.load(path)
    source = {"clip-4": {"clip": 1}, "clip-3": {"clip": 1, "label": "new"}, "clip-0": {"clip": 1, "label": "old"},
              "clip-1": {"clip": 2, "label": "old"}}
    written = []
    write_rows = ArrayWriter.write_rows
    monkeypatch.setattr(ArrayWriter, "write_rows",
                        lambda self, rows: written.append(len(rows)) or write_rows(self, rows))
    write(path, ["clip-4", "clip-1", "clip-0", "clip-3"], source=source)
    assert sum(written) == len(ROWS["clip-4"]) + len(ROWS["clip-1"])
    assert_holds(path, source)
    artifact = read_array(path, KIND)
    assert [artifact.item(id).get("label") for id in source] == [None, "new", "old", "old"]
    np.testing.assert_array_equal(np.load(path)[:len(rows)], rows)
    index = json.loads(path.with_suffix(".json").read_text())
    assert index["gaps"] == len(ROWS["clip-1"]) + len(ROWS["clip-2"])
    assert caplog.messages[-1].endswith("follows what changed: 1 samples gone (clip-2), 1 samples to be made again "
                                        "(clip-1), 1 samples with other metadata (clip-3)")
    write(path, ALL, overwrite=True)
    assert "gaps" not in json.loads(path.with_suffix(".json").read_text())


def test_other_labels_replace_the_index_and_leave_the_array_alone(tmp_path):
    path = tmp_path / "a.npy"
    write(path, ALL, source=source_of(ALL))
    before = path.stat()
    write(path, ALL, source=source_of(ALL[::-1], label="new"))
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert_holds(path, ALL[::-1])
    assert {item["label"] for item in read_array(path, KIND).items} == {"new"}
    assert sorted(contents(tmp_path)) == ["a.json", "a.npy"]


def test_a_source_that_says_what_is_there_changes_nothing(tmp_path, caplog):
    path = tmp_path / "a.npy"
    write(path, ALL, source=source_of(ALL))
    before = {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in tmp_path.iterdir()}
    write(path, ALL, source=source_of(ALL))
    assert {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in tmp_path.iterdir()} == before
    assert caplog.messages == []


def test_a_source_of_other_samples_is_refused(tmp_path):
    path = tmp_path / "a.npy"
    write(path, FIRST)
    before = contents(tmp_path)
    refusal(lambda: write(path, ["clip-4"], source=source_of(["clip-4"])), "a.npy", "none of these samples", "--output")
    assert contents(tmp_path) == before


def test_what_failed_is_forgotten_when_it_is_gone_or_would_be_made_from_something_else(tmp_path):
    path, missing = tmp_path / "a.npy", tmp_path / "a.missing.json"
    write(path, ALL, failing=ALL[1:], source=source_of(ALL))
    with ArrayWriter(path, KIND, SETTINGS) as writer:
        for id in ALL[1:]:
            writer.missing.add(id, "gone", retry=False)
    write(path, [], source=source_of(ALL[:3]))
    assert [entry["id"] for entry in json.loads(missing.read_text())] == ["clip-1", "clip-2"]
    write(path, ["clip-1"], failing=["clip-1"], source=source_of(ALL[:3]))
    with ArrayWriter(path, KIND, SETTINGS) as writer:
        writer.follow({**source_of(ALL[:3]), "clip-1": {"clip": 2}}, made_from=["clip"])
        writer.missing.add("clip-2", "gone", retry=False)
        assert not writer.missing.is_final("clip-1")
        assert writer.missing.is_final("clip-2")
    assert json.loads(missing.read_text()) == [
        {"id": "clip-2", "reason": "gone", "retry": False, "made_from": {"clip": 1}}]


def test_other_notes_are_no_other_settings(tmp_path):
    path = tmp_path / "a.npy"
    write(path, FIRST)
    with ArrayWriter(path, KIND, SETTINGS, {"model": "/the/same/elsewhere"}) as writer:
        writer.append("clip-2", ROWS["clip-2"])
    assert_holds(path, [*FIRST, "clip-2"])


def test_overwrite_keeps_the_old_artifact_until_the_new_one_is_finished(tmp_path):
    path = tmp_path / "a.npy"
    write(path, ALL)
    with ArrayWriter(path, KIND, OTHER_SETTINGS, overwrite=True) as writer:
        assert not writer.items
        writer.append("clip-1", OTHER_ROWS["clip-1"])
        assert_holds(path, ALL)
    assert_holds(path, ["clip-1"])
    assert read_array(path, KIND).meta["checkpoint"] == "two"


def test_overwrite_that_fails_or_makes_nothing_keeps_the_old_artifact(tmp_path):
    path = tmp_path / "a.npy"
    write(path, ALL)
    with ArrayWriter(path, KIND, OTHER_SETTINGS, overwrite=True) as writer, contextlib.suppress(RuntimeError), \
            writer.item("clip-1") as item:
        item.write(OTHER_ROWS["clip-1"])
        raise RuntimeError
    assert_holds(path, ALL)
    with contextlib.suppress(RuntimeError), ArrayWriter(path, KIND, OTHER_SETTINGS, overwrite=True) as writer:
        writer.append("clip-1", OTHER_ROWS["clip-1"])
        raise RuntimeError
    assert_holds(path, ALL)
    write(path, ["clip-1", "clip-2"], OTHER_SETTINGS)  # goes on with the overwrite that was begun
    assert_holds(path, ["clip-1", "clip-2"])


@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize("foreign", ['{"mine": 1}', "[]", "null", "", "cut {", '{"format": "other"}', '"text"', "\xff"])
def test_foreign_json_where_the_index_would_go_is_never_replaced(tmp_path, foreign, overwrite):
    index = tmp_path / "a.json"
    index.write_text(foreign, encoding="latin-1")
    refusal(lambda: write(tmp_path / "a.npy", FIRST, overwrite=overwrite), str(index))
    assert contents(tmp_path) == {"a.json": foreign.encode("latin-1")}


@pytest.mark.parametrize("overwrite", [True, False])
def test_artifact_of_another_kind_is_never_replaced(tmp_path, overwrite):
    path = tmp_path / "a.npy"
    with ArrayWriter(path, "frames", {}) as writer:
        writer.append("x", np.ones((1, 2, 2, 3), np.uint8))
    before = contents(tmp_path)
    refusal(lambda: write(path, FIRST, overwrite=overwrite), str(path.with_suffix(".json")), KIND)
    assert contents(tmp_path) == before


def test_foreign_array_is_not_extended(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, ROWS["clip-0"])
    before = contents(tmp_path)
    refusal(lambda: write(path, FIRST), str(path), "--overwrite")
    assert contents(tmp_path) == before
    write(path, FIRST, overwrite=True)
    assert_holds(path, FIRST)


@pytest.mark.parametrize("left", [["a.json"], ["a.npy"], ["a.npy", "a.json.partial", "a.npy.partial"],
                                  ["a.json", "a.json.partial", "a.npy.partial"]])
def test_files_without_their_partners_are_no_dead_end(tmp_path, left):
    """As when frames were deleted to make room, or runs were killed between two renames, one after the other."""
    path = tmp_path / "a.npy"
    write(path, FIRST)
    if "a.npy.partial" in left:  # of an overwrite that was killed before its first item
        with contextlib.suppress(RuntimeError), ArrayWriter(path, KIND, SETTINGS, overwrite=True) as writer, \
                writer.item("clip-0") as item:
            item.write(ROWS["clip-0"])
            raise RuntimeError
    for name in contents(tmp_path):
        if name not in left:
            (tmp_path / name).unlink()
    try:
        write(path, ALL)
    except InputError:
        refusal(lambda: write(path, ALL), "--overwrite")
        write(path, ALL, overwrite=True)
    assert sorted(contents(tmp_path)) == ["a.json", "a.npy"]
    assert_holds(path, ALL)


def test_array_that_another_program_saved_anew_is_refused_or_extended_rightly(tmp_path):
    path = tmp_path / "a.npy"
    write(path, FIRST)
    np.save(path, np.load(path).astype(">f4"))  # the same numbers in the other byte order
    with contextlib.suppress(InputError):
        write(path, ALL)
        assert_holds(path, ALL)


def test_two_writers_on_one_output_the_second_refuses(tmp_path):
    path = tmp_path / "a.npy"
    with ArrayWriter(path, KIND, SETTINGS) as writer:
        for overwrite in (False, True):
            refusal(lambda overwrite=overwrite: write(path, FIRST, overwrite=overwrite), str(path), "another run")
        assert in_child(lambda: refusal(lambda: write(path, FIRST), "another run")) == 0
        writer.append("clip-0", ROWS["clip-0"])
    assert_holds(path, ["clip-0"])
    write(path, FIRST)
    assert_holds(path, FIRST)


def test_refused_writer_lets_go_of_the_output(tmp_path):
    path = tmp_path / "a.npy"
    write(path, FIRST)
    for _ in range(2):
        refusal(lambda: write(path, FIRST, OTHER_SETTINGS), "checkpoint")
    write(path, ALL)
    assert_holds(path, ALL)


@pytest.mark.parametrize("lines", ['{"format": "other"}\n', "[]\n", '"x"\n', "cut {\n", "\xff\n", "5\n[]\n", "{}\n"])
def test_damaged_or_foreign_journal_is_refused_and_kept(tmp_path, lines):
    journal = tmp_path / "a.json.partial"
    journal.write_text(lines, encoding="latin-1")
    refusal(lambda: write(tmp_path / "a.npy", FIRST), str(journal), "--overwrite")
    assert contents(tmp_path) == {journal.name: lines.encode("latin-1")}
    write(tmp_path / "a.npy", FIRST, overwrite=True)
    assert_holds(tmp_path / "a.npy", FIRST)


# Links


@pytest.mark.parametrize("there", ["nothing", "array", "both"])
def test_the_target_of_a_link_is_the_artifact(tmp_path, there):
    store = tmp_path / "store"
    store.mkdir()
    link, target = tmp_path / "a.npy", store / "b.npy"
    link.symlink_to(target)
    if there != "nothing":
        write(target, FIRST)
    if there == "both":
        target.with_suffix(".json").rename(tmp_path / "a.json")  # as beside an array that was moved elsewhere
    with ArrayWriter(link, KIND, SETTINGS) as writer:
        refusal(lambda: write(target, FIRST), "another run")
        for id in ALL:
            if id not in writer:
                writer.append(id, ROWS[id])
    assert link.is_symlink()
    assert not target.is_symlink()
    assert_holds(link, ALL)
    if there != "both":
        assert_holds(target, ALL)
    names = ["a.json", "a.npy", "b.npy"] if there == "both" else ["a.npy", "b.json", "b.npy"]
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == names


@pytest.mark.parametrize("state", ["finished", "killed", "all committed"])
def test_a_file_with_other_hard_links_is_copied_and_not_changed_in_place(tmp_path, state):
    path, copies = tmp_path / "a.npy", tmp_path / "backup"
    copies.mkdir()
    if state == "finished":
        write(path, FIRST)
    else:
        write_and_die(path, FIRST if state == "killed" else ALL)
    for file in [path for path in tmp_path.iterdir() if path.is_file()]:
        os.link(file, copies / file.name)  # as cp --link or rsync --link-dest do
    before = contents(copies)
    write(path, ALL)
    assert contents(copies) == before
    assert_holds(path, ALL)


def test_output_must_end_in_npy(tmp_path):
    for name in ("a", "a.json", "a.NPZ"):
        refusal(lambda name=name: write(tmp_path / name, FIRST), name, ".npy")
        refusal(lambda name=name: read_array(tmp_path / name, KIND), name, ".npy")
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("finished", [False, True])
def test_writer_left_unfinished_changes_nothing(tmp_path, finished, overwrite):
    path = tmp_path / "a.npy"
    if finished:
        write(path, FIRST)
    with contextlib.suppress(RuntimeError), ArrayWriter(path, KIND, SETTINGS, overwrite=finished) as writer:
        writer.append("clip-0", ROWS["clip-0"])
        raise RuntimeError
    before = contents(tmp_path)
    with ArrayWriter(path, KIND, SETTINGS, overwrite=overwrite) as writer:
        writer.leave_unfinished()
    assert contents(tmp_path) == before
    write(path, FIRST)
    assert_holds(path, FIRST)


# Missing items


def test_missing_items_are_named_and_dropped_when_they_succeed(tmp_path):
    path, missing = tmp_path / "a.npy", tmp_path / "a.missing.json"
    write(path, ALL, failing=["clip-1", "clip-2"])
    assert json.loads(missing.read_text()) == [
        {"id": id, "reason": "cannot be decoded", "retry": True} for id in ("clip-1", "clip-2")]
    assert_holds(path, ["clip-0", "clip-3"])
    with ArrayWriter(path, KIND, SETTINGS) as writer:
        assert not writer.missing.is_final("clip-1")
        writer.missing.add("clip-1", ValueError("gone"), retry=False)
        assert writer.missing.is_final("clip-1")
        assert not writer.missing.is_final("clip-0")
        writer.append("clip-2", ROWS["clip-2"])
    assert json.loads(missing.read_text()) == [{"id": "clip-1", "reason": "gone", "retry": False}]
    write(path, ALL)
    assert not missing.exists()


def test_item_that_is_there_is_not_named_missing_after_a_kill(tmp_path):
    path, missing = tmp_path / "a.npy", tmp_path / "a.missing.json"
    write(path, FIRST)
    missing.write_text('[{"id": "clip-1", "reason": "killed before it was dropped", "retry": true}]')
    write(path, FIRST)
    assert not missing.exists()


def test_naming_a_missing_item_does_not_write_the_others_again(tmp_path, monkeypatch):
    written = []
    dump = files.dump_json
    monkeypatch.setattr(files, "dump_json", lambda content, *more: written.append(
        len(content) if isinstance(content, list) else 1) or dump(content, *more))
    missing = MissingItems(tmp_path / "a.npy")
    for n in range(300):
        missing.add(f"clip-{n}", "is gone", retry=False)
    missing.save()
    assert sum(written) <= 2 * 300
    assert len(json.loads(missing.path.read_text())) == 300
    assert sorted(contents(tmp_path)) == ["a.missing.json"]


def test_a_kill_loses_no_missing_item(tmp_path):
    path = tmp_path / "a.npy"

    def name_and_die():
        with ArrayWriter(path, KIND, SETTINGS) as writer:
            for n in range(3):
                writer.missing.add(f"clip-{n}", f"reason {n}", retry=False)
            writer.append("clip-1", ROWS["clip-1"])
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(name_and_die) == -signal.SIGKILL
    with ArrayWriter(path, KIND, SETTINGS) as writer:
        assert [writer.missing.is_final(f"clip-{n}") for n in range(4)] == [True, False, True, False]
    assert [entry["id"] for entry in json.loads((tmp_path / "a.missing.json").read_text())] == ["clip-0", "clip-2"]
    assert sorted(contents(tmp_path)) == ["a.json", "a.missing.json", "a.npy"]


def test_what_is_missing_is_told_after_an_interrupt(tmp_path):
    with contextlib.suppress(KeyboardInterrupt), ArrayWriter(tmp_path / "a.npy", KIND, SETTINGS) as writer:
        writer.missing.add("clip-0", "is gone", retry=False)
        raise KeyboardInterrupt
    assert [entry["id"] for entry in json.loads((tmp_path / "a.missing.json").read_text())] == ["clip-0"]


@pytest.mark.parametrize("text", ["{}", "5", '"x"', "[5]", "[[]]", "[{}]", "", "cut [",
                                  '[{"id": [], "reason": "x", "retry": true}]',
                                  '[{"id": 5, "reason": "x", "retry": true}]',
                                  '[{"id": null, "reason": "x", "retry": true}]'])
def test_foreign_or_damaged_missing_list_is_refused(tmp_path, text):
    missing = tmp_path / "a.missing.json"
    missing.write_text(text)
    refusal(lambda: MissingItems(tmp_path / "a.npy"), str(missing))
    refusal(lambda: write(tmp_path / "a.npy", FIRST), str(missing))
    assert contents(tmp_path) == {missing.name: text.encode()}


# Reading


@pytest.fixture
def finished(tmp_path):
    """The path of a finished artifact of three clips."""
    path = tmp_path / "a.npy"
    write(path, [*FIRST, "clip-2"])
    return path


def test_missing_array_is_refused(tmp_path):
    for read in (read_array, read_index):
        refusal(lambda read=read: read(tmp_path / "a.npy", KIND), str(tmp_path / "a.npy"), "run encode_videos.py")
        refusal(lambda read=read: read(tmp_path / "no" / "a.npy", "frames"), "a.npy", "run process_data.py")


def test_path_without_a_name_is_refused():
    for path in ("", ".", "/"):
        refusal(lambda path=path: read_array(path, KIND), ".npy")


def test_index_is_read_without_its_array_and_the_array_is_not(finished):
    finished.unlink()
    assert [item["id"] for item in read_index(finished, KIND)["items"]] == [*FIRST, "clip-2"]
    refusal(lambda: read_array(finished, KIND), str(finished), "only its index", "run encode_videos.py")


def extend(path):
    write(path, [*FIRST, "clip-2", "clip-3"])


def extend_halfway(path):
    write_and_die(path, ALL)


def start_over_with_less(path):
    write(path, ["clip-3"], overwrite=True)


@pytest.mark.parametrize("go_on", [extend, extend_halfway, start_over_with_less])
def test_a_reader_while_the_writer_goes_on_meets_right_rows_or_one_line(finished, go_on):
    artifact = read_array(finished, KIND)
    go_on(finished)
    for id in [*FIRST, "clip-2"]:
        with contextlib.suppress(InputError):
            np.testing.assert_array_equal(artifact.embeddings(id), ROWS[id])
        with contextlib.suppress(InputError):
            artifact.rows(id)


@pytest.mark.parametrize("file", ["a.npy", "a.json"])
def test_a_file_that_goes_between_a_readers_two_looks_is_one_line(finished, monkeypatch, file):
    """The index was there, was read, and is gone; the array was there, and is gone before it is opened."""
    name = "read_npy_header" if file == "a.npy" else "items_problem"
    look = getattr(artifacts, name)

    def gone_after(*args):
        finished.with_name(file).unlink()
        return look(*args)

    monkeypatch.setattr(artifacts, name, gone_after)
    if file == "a.npy":
        refusal(lambda: read_array(finished, KIND), "a.npy")
    else:
        monkeypatch.setattr(artifacts, "sample_from_record", lambda *_: None)
        monkeypatch.setattr(artifacts, "header_problem", lambda *_: None)
        refusal(lambda: artifacts.read_samples(finished), "a.json", "another run")


def test_array_without_its_index_is_refused(finished):
    finished.with_suffix(".json").unlink()
    refusal(lambda: read_array(finished, KIND), str(finished), "a.json", "together")


def test_unfinished_array_is_refused(tmp_path):
    path = tmp_path / "a.npy"
    with contextlib.suppress(RuntimeError), ArrayWriter(path, KIND, SETTINGS) as writer:
        writer.append("clip-0", ROWS["clip-0"])
        raise RuntimeError
    refusal(lambda: read_array(path, KIND), str(path), "not finished", "run encode_videos.py again")


def save_fortran(path):
    np.save(path, np.asfortranarray(np.load(path)))


def save_pickled(path):
    array = np.empty(9, dtype=object)
    array[:] = [{"frames": n} for n in range(9)]
    np.save(path, array, allow_pickle=True)


def save_npz(path):
    with open(path, "wb") as file:
        np.savez(file, ROWS["clip-0"])


def save_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", b"text")


def replace_by_folder(path):
    path.unlink()
    path.mkdir()


SPOILT_ARRAYS = {
    "empty": lambda path: path.write_bytes(b""),
    "one byte short": lambda path: os.truncate(path, path.stat().st_size - 1),
    "header only": lambda path: os.truncate(path, 128),
    "half a header": lambda path: os.truncate(path, 60),
    "magic only": lambda path: os.truncate(path, 6),
    "text": lambda path: path.write_text("frames of all clips\n" * 20),
    "pickled objects": save_pickled,
    "Fortran order": save_fortran,
    "npz": save_npz,
    "zip": save_zip,
    "zip cut short": lambda path: (save_zip(path), os.truncate(path, 40)),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "folder": replace_by_folder,
    "one row less": lambda path: np.save(path, np.load(path)[:-1]),
    "another row length": lambda path: np.save(path, np.load(path)[:, :-1]),
    "another type": lambda path: np.save(path, np.load(path).astype(np.float64)),
    "one dimension": lambda path: np.save(path, np.load(path).ravel()),
    "no dimension": lambda path: np.save(path, np.float32(1)),
    "structured": lambda path: np.save(path, np.zeros(9, dtype=[("a", "f4")])),
}


@pytest.mark.parametrize("spoil", SPOILT_ARRAYS.values(), ids=SPOILT_ARRAYS)
def test_spoilt_array_is_refused(finished, spoil):
    spoil(finished)
    refusal(lambda: read_array(finished, KIND), str(finished), "encode_videos.py")


@pytest.mark.filterwarnings("ignore")  # of numpy and of Python's parser, which numpy gives the header to
def test_array_with_a_damaged_header_is_refused_in_one_line_or_read(finished):
    whole = finished.read_bytes()
    for position, byte in itertools.product(range(128), b"\0 ',0({}\\#\n\xff"):
        with open(finished, "r+b") as file:
            file.write(whole[:position] + bytes([byte]) + whole[position + 1:128])
        with contextlib.suppress(InputError):
            assert read_array(finished, KIND).shape == (9, D)


@pytest.mark.parametrize(("kind", "rows"), [
    ("frames", np.ones((2, 4, 4), np.uint8)),
    ("frames", np.ones((2, 4, 4, 4), np.uint8)),
    ("frames", np.ones((2, 4, 4, 3), np.float32)),
    (KIND, np.ones((2, 4), np.uint8)),
    (KIND, np.ones((2, 4, 4), np.float32)),
    (KIND, np.ones(2, np.float32)),
])
def test_array_of_a_shape_that_its_kind_never_has_is_refused(tmp_path, kind, rows):
    path = tmp_path / "a.npy"
    with ArrayWriter(path, kind, {}) as writer:
        writer.append("x", rows)
    refusal(lambda: read_array(path, kind), str(path.with_suffix(".json")), "has no proper")


def changed(index, *path, to):
    """A copy of an index with the value at `path` replaced."""
    index = json.loads(json.dumps(index))
    *way, last = path
    part = index
    for key in way:
        part = part[key]
    part[last] = to
    return index


SPOILT_INDICES = {
    "no object": lambda index: [index],
    "another format": lambda index: changed(index, "format", to="numpy"),
    "no format": lambda index: {key: value for key, value in index.items() if key != "format"},
    "the first version": lambda index: changed(index, "version", to=1),
    "another kind": lambda index: changed(index, "kind", to="subaction_embeddings"),
    "another number of rows": lambda index: changed(index, "shape", to=[10, D]),
    "another row length": lambda index: changed(index, "shape", to=[9, D + 1]),
    "no shape": lambda index: changed(index, "shape", to=[]),
    "a negative shape": lambda index: changed(index, "shape", to=[9, -D]),
    "a shape of texts": lambda index: changed(index, "shape", to=["9", D]),
    "another type": lambda index: changed(index, "dtype", to="float64"),
    "an unknown type": lambda index: changed(index, "dtype", to="int7"),
    "no meta": lambda index: changed(index, "meta", to=None),
    "no items": lambda index: changed(index, "items", to=[]),
    "items that are no list": lambda index: changed(index, "items", to={"clip-0": [0, 2]}),
    "an item that is no object": lambda index: changed(index, "items", 1, to="clip-1"),
    "a gap": lambda index: changed(index, "items", 1, "start", to=3),
    "an overlap": lambda index: changed(index, "items", 1, "start", to=1),
    "an item without rows": lambda index: changed(index, "items", 0, "stop", to=0),
    "rows backwards": lambda index: changed(index, "items", 0, "stop", to=-2),
    "rows after the end": lambda index: changed(index, "items", 2, "stop", to=10),
    "an item without rows at the end": lambda index: changed(
        index, "items", to=[*index["items"], {"id": "x", "start": 9, "stop": 9, "checksum": "x"}]),
    "rows left over": lambda index: changed(index, "items", 2, "stop", to=8),
    "an id twice": lambda index: changed(index, "items", 2, "id", to="clip-0"),
    "an id that is no text": lambda index: changed(index, "items", 2, "id", to=5),
    "no id": lambda index: changed(index, "items", 2, to={"start": 5, "stop": 9, "checksum": "x"}),
    "a start that is no whole number": lambda index: changed(index, "items", 0, "start", to=0.0),
    "a start that is true": lambda index: changed(index, "items", 0, "start", to=False),
    "a checksum that is no text": lambda index: changed(index, "items", 0, "checksum", to=None),
}


def as_version_2(index):
    """An index as it was before items had a checksum of what they say."""
    items = [{key: value for key, value in item.items() if key != "metadata_checksum"} for item in index["items"]]
    return {**index, "version": 2, "items": items}


@pytest.mark.parametrize("form", [dict, as_version_2], ids=["version 3", "version 2"])
@pytest.mark.parametrize("spoil", SPOILT_INDICES.values(), ids=SPOILT_INDICES)
def test_index_that_contradicts_itself_or_its_array_is_refused(finished, spoil, form):
    index = finished.with_suffix(".json")
    index.write_text(json.dumps(spoil(form(json.loads(index.read_text())))))
    refusal(lambda: read_array(finished, KIND), "a.json", "encode_videos.py")
    before = contents(finished.parent)
    refusal(lambda: write(finished, ALL), str(finished.with_suffix("")))
    assert contents(finished.parent) == before


@pytest.mark.parametrize("text", ["", "  \n", "{", "[" * 100_000, "\xff\xfe", "1" * 5000])
def test_index_that_is_no_json_is_refused(finished, text):
    finished.with_suffix(".json").write_text(text, encoding="latin-1")
    refusal(lambda: read_array(finished, KIND), "a.json")


def places(part, path=()):
    """The paths to all parts of a JSON value."""
    yield path
    for key in part if isinstance(part, dict) else range(len(part)) if isinstance(part, list) else ():
        yield from places(part[key], (*path, key))


def test_strange_value_anywhere_in_an_index_is_refused_in_one_line_or_harmless(finished):
    index = finished.with_suffix(".json")
    whole = json.loads(index.read_text())
    for path, value in itertools.product(places(whole), STRANGE_VALUES):
        index.write_text(json.dumps(changed(whole, *path, to=value) if path else value))
        try:
            artifact = read_array(finished, KIND)
            assert [len(artifact.rows(item["id"])) for item in artifact.items] == [2, 3, 4], (path, value)
        except InputError:
            refusal(lambda: read_array(finished, KIND), "a.json")


def test_an_index_of_version_1_is_refused_with_the_stage_to_run_again(finished):
    index = finished.with_suffix(".json")
    index.write_text(json.dumps(changed(json.loads(index.read_text()), "version", to=1)))
    refusal(lambda: read_array(finished, KIND), "format version 1", "this program reads 2 and 3", "encode_videos.py",
            "--overwrite")


# What items say


def rotate_ids(items):
    ids = [item["id"] for item in items]
    for item, id in zip(items, [*ids[1:], ids[0]], strict=True):
        item["id"] = id


def swap_keys(items):
    first, second, *_ = items[1]["options"]
    first["key"], second["key"] = second["key"], first["key"]


def swap_texts(items):
    first, second, *_ = items[0]["options"]
    first["texts"], second["texts"] = second["texts"], first["texts"]


def edit_label(items):
    items[0]["correct_answer_index"] = 1


def forget_checksum(items):
    del items[1]["metadata_checksum"]


EDITED = [
    ("frames", edit_label), ("frames", rotate_ids), ("subaction_embeddings", swap_keys),
    ("subaction_embeddings", swap_texts), ("subaction_embeddings", rotate_ids), (KIND, rotate_ids),
    (KIND, forget_checksum), (KIND, lambda items: items[0].update(fps=50.0)),
]


@pytest.mark.parametrize("is_finished", [True, False])
@pytest.mark.parametrize(("kind", "edit"), EDITED)
def test_items_that_say_what_was_not_written_are_refused(tmp_path, kind, edit, is_finished):
    entries = make_entries({id: ["hook shot", "jump shot"] for id in ALL})
    paths = {"frames": lambda: write_frames_index(tmp_path, entries),
             "subaction_embeddings": lambda: write_subaction_embeddings(tmp_path, entries),
             KIND: lambda: write_video_embeddings(tmp_path, dict.fromkeys(ALL, 3))}
    path = paths[kind]()
    index = path.with_suffix(".json")
    content = json.loads(index.read_text())
    edit(content["items"])
    if is_finished:
        index.write_text(json.dumps(content))
        refusal(lambda: read_array(path, kind), str(index), "what was not written", artifacts.MAKERS[kind])
    else:
        index.unlink()
        path.rename(path.with_name(path.name + ".partial"))
        header = {key: value for key, value in content.items() if key != "items"}
        index.with_name(index.name + ".partial").write_text(
            "".join(json.dumps(line) + "\n" for line in [header, *content["items"]]))
    before = contents(tmp_path)
    refusal(lambda: ArrayWriter(path, kind, content["meta"]), "what was not written", "--overwrite")
    assert contents(tmp_path) == before


def test_an_index_that_another_program_saved_again_is_the_same(finished):
    index = finished.with_suffix(".json")
    index.write_text(json.dumps(json.loads(index.read_text()), indent=4, ensure_ascii=True))
    assert_holds(finished, [*FIRST, "clip-2"])


@pytest.mark.parametrize("is_finished", [True, False])
def test_an_artifact_of_version_2_is_read_and_extended(tmp_path, is_finished):
    path, index, journal = tmp_path / "a.npy", tmp_path / "a.json", tmp_path / "a.json.partial"
    with contextlib.suppress(RuntimeError), ArrayWriter(path, KIND, SETTINGS, {"model": "tiny"}) as writer:
        for id in FIRST:
            writer.append(id, ROWS[id], fps=25.0)
        if not is_finished:
            raise RuntimeError
    if is_finished:
        index.write_text(json.dumps(as_version_2(json.loads(index.read_text()))))
        assert_holds(path, FIRST)
    else:
        header, *items = map(json.loads, journal.read_text().splitlines())
        old = as_version_2({**header, "items": items})
        journal.write_text("".join(json.dumps(line) + "\n" for line in [{**header, "version": 2}, *old["items"]]))
    write(path, ALL)
    assert_holds(path, ALL)
    content = json.loads(index.read_text())
    assert content["version"] == 3
    assert all(item["metadata_checksum"] for item in content["items"])


# Embeddings


@pytest.mark.parametrize(("value", "problem"), [(np.nan, "NaN"), (np.inf, "infinite"), (-np.inf, "infinite"),
                                                (0, "all-zero")])
def test_embeddings_without_a_direction_are_refused_by_name(tmp_path, value, problem):
    spoilt = ROWS["clip-1"].copy()
    spoilt[1] = value
    with ArrayWriter(tmp_path / "a.npy", KIND, SETTINGS) as writer:
        writer.append("good", ROWS["clip-0"])
        writer.append("bad", spoilt)
    artifact = read_array(tmp_path / "a.npy", KIND)
    np.testing.assert_array_equal(artifact.embeddings("good"), ROWS["clip-0"])
    refusal(lambda: artifact.embeddings("bad"), "a.npy", problem, "bad", "encode_videos.py")


@pytest.mark.parametrize(("scale", "is_fine"), [(1e20, True), (1e-30, True), (1e200, False), (1e-200, False)])
def test_embeddings_beyond_float64_are_refused_by_name(tmp_path, scale, is_fine):
    rows = ROWS["clip-1"].astype(np.float32 if is_fine else np.float64) * scale
    with ArrayWriter(tmp_path / "a.npy", KIND, SETTINGS) as writer:
        writer.append("x", rows)
    artifact = read_array(tmp_path / "a.npy", KIND)
    if is_fine:
        np.testing.assert_array_equal(artifact.embeddings("x"), rows)
    else:
        refusal(lambda: artifact.embeddings("x"), "a.npy", "too large or too small", "sample x", "encode_videos.py")


def test_one_nan_among_good_values_is_refused(tmp_path):
    spoilt = ROWS["clip-1"].copy()
    spoilt[2, D - 1] = np.nan
    with ArrayWriter(tmp_path / "a.npy", KIND, SETTINGS) as writer:
        writer.append("bad", spoilt)
    refusal(lambda: read_array(tmp_path / "a.npy", KIND).embeddings("bad"), "NaN")


def test_embeddings_of_one_checkpoint_are_required(tmp_path):
    def artifact(name, rows, **meta):
        with ArrayWriter(tmp_path / f"{name}.npy", KIND,
                         {"checkpoint": "one", "logit_scale": 4.7, "logit_bias": -12.9, **meta}) as writer:
            writer.append("x", rows)
        return read_array(tmp_path / f"{name}.npy", KIND)

    rows = np.ones((2, 4), np.float32)
    video = artifact("video", rows, model="tiny", dtype="float32")
    require_same_checkpoint(video, artifact("same", rows, model="/elsewhere/tiny", dtype="bfloat16"))
    for key, value in {"checkpoint": "two", "logit_scale": 4.8, "logit_bias": -12.0}.items():
        other = artifact(f"other-{key}", rows, model="big", **{key: value})
        refusal(lambda other=other: require_same_checkpoint(video, other), "video.npy", other.path.name, "tiny", "big",
                key, "--model")
    wider = artifact("wider", np.ones((2, 5), np.float32), model="tiny")
    refusal(lambda: require_same_checkpoint(video, wider), "video.npy", "wider.npy", "4", "5")


def test_fingerprint_tells_contents_apart_and_nothing_else(tmp_path):
    def fingerprint(name, rows_by_id):
        with ArrayWriter(tmp_path / f"{name}.npy", KIND, {"name": name}) as writer:
            for id, rows in rows_by_id.items():
                writer.append(id, rows, note=name)
        return read_array(tmp_path / f"{name}.npy", KIND).fingerprint

    a, b = ROWS["clip-0"], ROWS["clip-1"]
    first = fingerprint("first", {"x": a, "y": b})
    assert fingerprint("same", {"x": a, "y": b}) == first
    others = [{"x": b, "y": a}, {"y": b, "x": a}, {"x": a}, {"x": a, "z": b}, {"x": a, "y": b + 1}]
    found = {first, *(fingerprint(f"other-{n}", rows_by_id) for n, rows_by_id in enumerate(others))}
    assert len(found) == 1 + len(others)


def test_default_makers_name_scripts_that_are_there():
    root = Path(artifacts.__file__).parent.parent.parent
    assert all((root / script).is_file() for script in artifacts.MAKERS.values())
