"""Arrays of the published scripts: converted from every shape that numpy collapsed them to, and never run."""

import ast
import json
import os
import pickle
import random
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from held_runs import LIMIT
from made_artifacts import (
    D,
    make_entries,
    random_rows,
    write_entries,
    write_frames_index,
    write_subaction_embeddings,
    write_video_embeddings,
)
from refusals import refusal

import encode_subactions
import generate_subactions
import seq_alignment
from actalign import published
from actalign.artifacts import read_array, read_index
from actalign.checkpoint import find_checkpoint
from actalign.console import InputError
from actalign.files import write_json
from actalign.unpickle import unpickle

OPTIONS = {"a": ["hook shot", "jump shot", "dunk"], "b": ["dunk", "lay-up", "hook shot"],
           "c": ["jump shot", "dunk", "hook shot"]}
FEWER_OPTIONS = {"a": ["hook shot", "jump shot"], "b": ["dunk", "lay-up", "hook shot"], "c": ["dunk", "hook shot"]}


def collapsed(rows, dtype=object):
    """What np.array made of a list of rows; numpy refuses some ragged ones, which then were filled in one by one."""
    try:
        return np.array(rows, dtype=dtype)
    except ValueError:
        array = np.empty(len(rows), object)
        array[:] = rows
        return array


def save(path, array, protocol=None):
    """np.save with pickles, or with a pickle of another protocol as other numpy versions write it."""
    if protocol is None:
        np.save(path, array, allow_pickle=True)
    else:
        with open(path, "wb") as file:
            np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
            pickle.dump(array, file, protocol=protocol)
    return path


def video_rows(lengths):
    return [None if T is None else random_rows(T, f"{id} video", 0) for id, T in lengths.items()]


def text_rows(entries):
    return [[np.concatenate([random_rows(1, text, 0) for text in texts]) for texts in entry["subactions"].values()]
            for entry in entries]


def phases_of(entries, counts):
    """Entries whose options have different numbers of sub-actions, taken in turn from `counts`."""
    counts = iter(counts)
    for entry in entries:
        entry["subactions"] = {key: [f"{key} {m}" for m in range(next(counts))] for key in entry["subactions"]}
    return entries


# (options, T of each clip or None, M of each option or None for 3, dtype of the arrays that numpy made)
SHAPES = {
    "all equal, as floats": (OPTIONS, [20, 20, 20], None, None),
    "all equal, as objects": (OPTIONS, [20, 20, 20], None, object),
    "clips of different lengths": (OPTIONS, [20, 7, 31], None, object),
    "a clip that failed": (OPTIONS, [20, None, 31], None, object),
    "a clip that failed among equal ones": (OPTIONS, [20, None, 20], None, object),
    "different numbers of sub-actions": (OPTIONS, [20, 7, 31], [3, 4, 5, 2, 6, 3, 4, 4, 1], object),
    "equal numbers in one sample only": (OPTIONS, [20, 7, 31], [3, 3, 3, 2, 6, 3, 4, 4, 1], object),
    "equal numbers in every sample": (OPTIONS, [20, 7, 31], [3, 3, 3, 2, 2, 2, 4, 4, 4], object),
    "different numbers of options": (FEWER_OPTIONS, [20, 7, 31], None, object),
    "different numbers of both": (FEWER_OPTIONS, [20, 7, 31], [3, 4, 5, 2, 6, 3, 4], object),
    "a single sample": ({"a": OPTIONS["a"]}, [20], None, object),
    "a single option": ({"a": ["dunk"], "b": ["dunk"]}, [5, 5], None, object),
    "a single frame and sub-action": ({"a": ["dunk"], "b": ["dunk", "lay-up"]}, [1, 1], [1, 1, 1], object),
}


@pytest.fixture
def both(tmp_path, checkpoint):
    """A function that writes the artifacts of one run in both formats and returns what runs the script on either."""
    def make(options, lengths, counts=None, dtype=object, protocol=None):
        lengths = dict(zip(options, lengths, strict=True))
        entries = make_entries(options, {id: number % len(options[id]) for number, id in enumerate(options)})
        entries = entries if counts is None else phases_of(entries, counts)
        old, new = tmp_path / "old", tmp_path / "new"
        for folder in (old, new):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            write_entries(folder / "generated_subactions.json", entries)
        save(old / "video_embeddings.npy", collapsed(video_rows(lengths), dtype), protocol)
        save(old / "encoded_subactions.npy", collapsed(text_rows(entries), dtype), protocol)
        settings = find_checkpoint(str(checkpoint)).settings("float32")
        write_video_embeddings(new, {id: T for id, T in lengths.items() if T}, settings=settings)
        write_subaction_embeddings(new, entries, settings=settings)

        def convert(*more):
            """Make artifacts of the old arrays, in a folder of their own; (exit code, folder)."""
            folder = tmp_path / "converted"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            shutil.copy(old / "generated_subactions.json", folder)
            for name in ("video_embeddings", "encoded_subactions"):
                kind = name.replace("encoded_subactions", "subaction_embeddings")
                code = published.main(["convert", str(old / f"{name}.npy"), str(folder / f"{name}.npy"), "--subactions",
                                       str(old / "generated_subactions.json"), "--kind", kind, "--model",
                                       str(checkpoint), *more])
                if code:
                    return code, folder
            return 0, folder

        def run(folder, *more, **replaced):
            if folder == old:
                code, folder = convert()
                if code:
                    return code, {}, {}, {}
            files = {"subactions": "generated_subactions.json", "video_embeddings": "video_embeddings.npy",
                     "subaction_embeddings": "encoded_subactions.npy", **replaced}
            inputs = [part for flag, name in files.items() for part in (f"--{flag}", str(folder / name))]
            output = tmp_path / "predictions.json"
            output.unlink(missing_ok=True)
            code = seq_alignment.main([*inputs, "--smooth", "3", "--output", str(output), *more])
            content = json.loads(output.read_text()) if output.exists() else {"samples": [], "not_scored": []}
            return (code, {sample["id"]: sample["scores"] for sample in content["samples"]},
                    {entry["id"]: entry["reason"] for entry in content["not_scored"]}, content)

        run.old, run.new, run.entries, run.model = old, new, entries, ["--model", str(checkpoint)]
        return run
    return make


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_old_arrays_of_every_shape_give_our_scores(both, shape):
    run = both(*shape)
    code, expected, missing, _ = run(run.new)
    assert code == 0
    code, scores, old_missing, content = run(run.old)
    assert code == 0
    assert list(scores) == list(expected)
    for id in scores:
        assert scores[id] == pytest.approx(expected[id], rel=1e-6, abs=1e-6)
    assert old_missing == missing
    assert content["sources"]["video_embeddings"]["made_by"] == "the published scripts"
    assert content["sources"]["subaction_embeddings"]["template"] == published.TEMPLATE


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_of_every_protocol_that_numpy_ever_used_are_read(both, protocol):
    run = both(OPTIONS, [20, None, 31], [3, 4, 5, 2, 6, 3, 4, 4, 1], protocol=protocol)
    if protocol == 2:  # the bytes of its arrays are texts in disguise, which only Python 2 needed
        assert run(run.old)[0] == 2
        return
    assert run(run.old)[1] == run(run.new)[1]


def test_pickles_of_numpy_1_are_read(both):
    run = both(OPTIONS, [20, 7, 31])
    for name in ("video_embeddings.npy", "encoded_subactions.npy"):
        raw = (run.old / name).read_bytes()
        assert b"\x16numpy._core.multiarray" in raw or b"\x15numpy.core.multiarray" in raw
        (run.old / name).write_bytes(raw.replace(b"\x16numpy._core.multiarray", b"\x15numpy.core.multiarray"))
    assert run(run.old)[1] == run(run.new)[1]


def test_a_row_without_embeddings_changes_no_other_score(both):
    whole = both(OPTIONS, [20, 7, 31])
    _, everything, _, _ = whole(whole.old)
    for number, id in enumerate(OPTIONS):
        lengths = [None if i == number else T for i, T in enumerate([20, 7, 31])]
        run = both(OPTIONS, lengths)
        _, scores, missing, _ = run(run.old)
        assert scores == {other: everything[other] for other in OPTIONS if other != id}
        assert missing == {id: "not in video_embeddings.npy"}


def test_stages_name_the_conversion_when_they_meet_an_old_array(both, capsys):
    run = both(OPTIONS, [20, 7, 31])
    for name in ("video_embeddings", "encoded_subactions"):
        (run.new / f"{name}.json").unlink()
        shutil.copy(run.old / f"{name}.npy", run.new / f"{name}.npy")
        assert run(run.new)[0] == 2
        error = capsys.readouterr().err
        assert f"convert {run.new / name}.npy NEW.npy" in error
        assert error.count("\n") == 1
        run = both(OPTIONS, [20, 7, 31])


def test_another_checkpoint_than_that_of_our_arrays_is_refused(both, tmp_path, make_checkpoint, capsys):
    other = make_checkpoint(tmp_path / "other", seed=3)
    run = both(OPTIONS, [20, 7, 31])
    assert run(run.new, "--model", str(other))[0] == 2
    assert "was made with another checkpoint" in capsys.readouterr().err
    assert run(run.new, *run.model)[0] == 0


def test_without_the_checkpoint_one_line_says_which_one_is_wanted(both, capsys):
    run = both(OPTIONS, [20, 7, 31])
    command = ["convert", str(run.old / "video_embeddings.npy"), str(run.new / "c.npy"), "--subactions",
               str(run.old / "generated_subactions.json")]
    assert published.main(command) == 2
    error = capsys.readouterr().err
    assert "--model google/siglip-so400m-patch14-384" in error
    assert error.count("\n") == 1


# Counts that do not fit


@pytest.mark.parametrize(("spoil", "parts"), [
    (lambda entries, videos, texts: videos.pop(), ["has 2 rows", "has 3 samples", "of one run"]),
    (lambda entries, videos, texts: entries.pop(), ["has 3 rows", "has 2 samples"]),
    (lambda entries, videos, texts: texts.pop(0), ["has 2 rows", "has 3 samples"]),
    (lambda entries, videos, texts: texts.insert(0, texts.pop()), ["row 0, sample a", "do not fit"]),
    (lambda entries, videos, texts: texts[1].pop(), ["row 1, sample b", "[2, 6] embeddings for [2, 6, 3]"]),
    (lambda entries, videos, texts: texts.__setitem__(2, None), ["row 2, sample c", "[] embeddings for [4, 4, 1]"]),
    (lambda entries, videos, texts: texts[0].__setitem__(1, texts[0][1][:-1]), ["row 0", "[3, 3, 5] embedd"]),
    (lambda entries, videos, texts: videos.__setitem__(1, videos[1][:, :-1]), ["different numbers of features"]),
    (lambda entries, videos, texts: videos.__setitem__(1, videos[1].astype(int)), ["row 1", "float rows"]),
    (lambda entries, videos, texts: videos.__setitem__(1, "lost"), ["row 1", "sample b"]),
    (lambda entries, videos, texts: videos.__setitem__(slice(None), [None] * 3), ["holds no embeddings"]),
], ids=["video left out", "sample left out", "texts left out", "texts shifted", "option left out", "texts lost",
        "sub-action left out", "features left out", "whole numbers", "a text", "nothing"])
def test_arrays_that_do_not_fit_the_subactions_are_explained(both, capsys, spoil, parts):
    run = both(OPTIONS, [20, 7, 31], [3, 4, 5, 2, 6, 3, 4, 4, 1])
    entries, videos, texts = run.entries, video_rows(dict(zip(OPTIONS, [20, 7, 31], strict=True))), \
        text_rows(run.entries)
    spoil(entries, videos, texts)
    write_entries(run.old / "generated_subactions.json", entries)
    save(run.old / "video_embeddings.npy", collapsed(videos))
    save(run.old / "encoded_subactions.npy", collapsed(texts))
    assert run(run.old)[0] == 2
    captured = capsys.readouterr()
    assert "Top-1" not in captured.out
    assert captured.err.count("\n") == 1
    for part in parts:
        assert part in captured.err


# What the published scripts really wrote


def as_published(entries):
    """The rows of encoded_subactions.npy: in the order of cleaned_options, of the keys that are there to the letter."""
    rows = []
    for entry in entries:
        by_key = entry["subactions"] if isinstance(entry["subactions"], dict) else {}
        listed = [by_key.get(f"{option} in {entry['domain']}", []) for option in entry["cleaned_options"]]
        rows.append([np.concatenate([random_rows(1, text, 0) for text in texts]) for texts in listed if texts])
    return rows


def reorder(entry):
    entry["subactions"] = dict(reversed(entry["subactions"].items()))


def capitals(entry):
    entry["subactions"] = {key.title() if key.startswith("dunk") else key: texts
                           for key, texts in entry["subactions"].items()}


def without_json(entry):
    entry["subactions"] = "I am sorry, but which sport is this?"


def empty_phrase(entry):
    entry["subactions"]["dunk in sport"][1] = " "


REALLY_WRITTEN = {"another order": (reorder, None),
                  "a key in capitals": (capitals, "not in encoded_subactions.npy"),
                  "a reply without JSON": (without_json, "no sub-actions for dunk, lay-up, hook shot"),
                  "an empty phrase": (empty_phrase, "no sub-actions for dunk")}


@pytest.mark.parametrize("counts", [None, [3, 4, 5, 2, 6, 3, 4, 4, 1]], ids=["equal", "different"])
@pytest.mark.parametrize(("change", "reason"), REALLY_WRITTEN.values(), ids=REALLY_WRITTEN)
def test_a_sample_as_the_published_scripts_really_wrote_it_refuses_nothing(both, change, reason, counts, tmp_path):
    run = both(OPTIONS, [20, 7, 31], counts)
    _, expected, _, _ = run(run.new)
    change(run.entries[1])  # which is b
    write_entries(run.old / "generated_subactions.json", run.entries)
    save(run.old / "encoded_subactions.npy", collapsed(as_published(run.entries)))
    code, scores, missing, _ = run(run.old)
    assert code == 0
    assert list(scores) == [id for id in OPTIONS if not reason or id != "b"]
    for id in scores:
        assert scores[id] == pytest.approx(expected[id], rel=1e-6, abs=1e-6)
    assert missing == ({"b": reason} if reason else {})
    told = tmp_path / "converted" / "encoded_subactions.missing.json"
    assert told.exists() == (change in (capitals, without_json))


def test_files_of_the_published_script_are_checked_and_completed(tmp_path, capsys):
    write_frames_index(tmp_path, make_entries(OPTIONS))
    for change in (capitals, without_json, empty_phrase):
        entries = make_entries(OPTIONS)
        change(entries[1])
        path = write_entries(tmp_path / "generated_subactions.json", entries)
        assert generate_subactions.main(["--check", str(path), "--min_subactions", "3"]) == 0
        lacking = [line for line in capsys.readouterr().out.splitlines() if "0 phrases, at least 3 are needed" in line]
        options = {capitals: [], without_json: OPTIONS["b"], empty_phrase: ["dunk"]}[change]
        assert [line.split(":")[0] for line in lacking] == [f"b, {option} in sport" for option in options]
        assert generate_subactions.main(["--input", str(tmp_path / "processed_dataset.npy"), "--output", str(path),
                                         "--dry_run", "--min_subactions", "3"]) == 0
        asked = capsys.readouterr().out
        assert asked.startswith(f"{bool(options):d} requests for {bool(options):d} samples")
        assert all(f"- {option}\n" in asked for option in options)


def test_converted_texts_are_not_mixed_with_those_of_another_template(both, capsys):
    run = both(OPTIONS, [20, 7, 31])
    assert run(run.old)[0] == 0
    converted = run.old.parent / "converted" / "encoded_subactions.npy"
    assert encode_subactions.main(["--subactions", str(run.old / "generated_subactions.json"), "--output",
                                   str(converted), "--device", "cpu", *run.model]) == 2
    assert f"was begun with template {published.TEMPLATE}, this run has {{subaction}}" in capsys.readouterr().err


def test_subactions_that_this_project_wrote_give_old_arrays_no_ids(both, capsys):
    run = both(OPTIONS, [20, 7, 31])
    entries = json.loads((run.old / "generated_subactions.json").read_text())
    write_entries(run.old / "generated_subactions.json", [{**entry, "generated_with": {}} for entry in entries])
    assert run(run.old)[0] == 2
    assert "was written by this project, not by the array's run" in capsys.readouterr().err


def test_an_old_array_without_its_subactions_tells_of_the_conversion(both):
    run = both(OPTIONS, [20, 7, 31])
    refusal(lambda: read_array(run.old / "video_embeddings.npy", "video_embeddings"),
            "python -m actalign.artifacts convert")


# Datasets and conversion


def dataset_rows(sizes, entries):
    """Rows of an old processed_dataset.npy: {id: (T, H, W) or None}."""
    rows = []
    for number, entry in enumerate(entries):
        shape = sizes[entry["id"]]
        rng = np.random.default_rng(number)
        frames = None if shape is None else rng.integers(0, 256, (shape[0], 3, *shape[1:]), dtype=np.uint8)
        choices = "\n".join(f"{k}. {option.title()}" for k, option in enumerate(entry["cleaned_options"], start=1))
        rows.append([f"yt{number}", entry["id"], "Dunk", "sport", "What is it?", entry["correct_answer_index"] + 1,
                     choices, {"1": "up", "2": ["down"]}, f"videos/yt{number}.mp4", frames])
    return rows


def save_dataset(path, rows):
    array = np.empty((len(rows), len(published.COLUMNS)), object)
    for number, row in enumerate(rows):
        for column, cell in enumerate(row):
            array[number, column] = cell
    return save(path, array)


def test_old_frames_become_ours(tmp_path):
    entries = make_entries(OPTIONS, {"a": 1, "b": 0, "c": 2})
    rows = dataset_rows({"a": (40, 48, 48), "b": None, "c": (5, 20, 30)}, entries)
    save_dataset(tmp_path / "old.npy", rows)
    new = tmp_path / "frames.npy"
    command = ["convert", str(tmp_path / "old.npy"), str(new), "--image_size", "48"]
    assert published.main(command) == 0
    frames = read_array(new, "frames")
    assert frames.shape == (45, 48, 48, 3)
    np.testing.assert_array_equal(frames.rows("a"), rows[0][-1].transpose(0, 2, 3, 1))
    assert frames.item("a")["cleaned_options"] == OPTIONS["a"]
    assert frames.item("a")["correct_answer_index"] == 1
    assert frames.item("c")["extra"]["choice_descriptions"] == {"1": "up", "2": ["down"]}
    assert [entry["id"] for entry in json.loads((tmp_path / "frames.missing.json").read_text())] == ["b"]
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert published.main(command) == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert generate_subactions.main(["--input", str(new), "--output", str(tmp_path / "s.json"), "--dry_run"]) == 0


@pytest.fixture
def order(both, tmp_path, checkpoint):
    """A run of the published scripts with processed_dataset.npy, and a function that converts its videos by a file."""
    run = both(OPTIONS, [20, 7, 31])
    rows = dataset_rows({"a": (20, 400, 300), "b": (7, 20, 30), "c": (31, 8, 8)}, run.entries)  # 7 MB, 13 kB, 6 kB
    dataset = save_dataset(run.old / "processed_dataset.npy", rows)

    def convert(same_run, *more):
        new = tmp_path / "by_order.npy"
        code = published.main(["convert", str(run.old / "video_embeddings.npy"), str(new), "--subactions",
                               str(same_run), "--model", str(checkpoint), *more])
        return code, read_array(new, "video_embeddings") if new.exists() else None

    convert.run, convert.dataset, convert.json = run, dataset, run.old / "generated_subactions.json"
    return convert


def test_videos_are_converted_by_the_dataset_that_they_follow(order, tmp_path):
    converted = tmp_path / "frames.npy"
    assert published.main(["convert", str(order.dataset), str(converted), "--image_size", "8"]) == 0
    write_entries(order.json, order.run.entries[1:])  # the language model failed on the first sample
    for same_run in (order.dataset, converted):
        code, videos = order(same_run, "--overwrite")
        assert code == 0
        for id, T in zip(OPTIONS, (20, 7, 31), strict=True):
            np.testing.assert_array_equal(videos.embeddings(id), random_rows(T, f"{id} video", 0))


@pytest.mark.parametrize("beside", ["array", "sub-actions"])
def test_subactions_in_another_order_than_the_dataset_beside_give_videos_no_ids(order, tmp_path, capsys, beside):
    path = order.json
    if beside == "array":
        path = tmp_path / "elsewhere.json"
    else:
        order.run.old = Path(shutil.move(order.run.old / "video_embeddings.npy", tmp_path)).parent
    assert order(write_entries(path, order.run.entries))[0] == 0
    (tmp_path / "by_order.npy").unlink()
    (tmp_path / "by_order.json").unlink()
    write_entries(path, [order.run.entries[1], order.run.entries[2], order.run.entries[0]])  # a failed, and was resumed
    assert order(path)[0] == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert f"give --subactions {order.dataset}" in captured.err


def test_a_dataset_with_other_numbers_of_frames_than_the_videos_is_refused(order, capsys):
    rows = dataset_rows({"a": (20, 8, 8), "b": (31, 8, 8), "c": (7, 8, 8)}, order.run.entries)
    save_dataset(order.dataset, rows)
    for same_run in (order.dataset, order.json):
        assert order(same_run)[0] == 2
        assert "row 1, sample b: it has 7 embeddings for 31 frames" in capsys.readouterr().err


def test_a_dataset_gives_texts_no_ids_and_ours_gives_none(order, tmp_path, capsys):
    assert published.main(["convert", str(order.run.old / "encoded_subactions.npy"), str(tmp_path / "t.npy"),
                           "--subactions", str(order.dataset), *order.run.model]) == 2
    assert "tells no sub-actions; give the generated_subactions.json" in capsys.readouterr().err
    ours = write_frames_index(tmp_path, order.run.entries)
    assert order(ours)[0] == 2
    assert "was written by this project" in capsys.readouterr().err


def test_large_arrays_are_passed_over_where_only_their_shape_is_wanted(order):
    a, b, c = unpickle(order.dataset, 128, 100_000)[:, -1]
    assert (a.size, a.told_shape) == (0, (20, 3, 400, 300))
    assert (b.told_shape, b.shape, c.shape) == (None, (7, 3, 20, 30), (31, 3, 8, 8))
    raw = order.dataset.read_bytes()
    for size in (1_000_000, len(raw) - 1):
        order.dataset.write_bytes(raw[:size])
        with pytest.raises(ValueError, match="damaged"):
            unpickle(order.dataset, 128, 100_000)


def test_stages_that_take_frames_tell_of_the_conversion_of_old_ones(tmp_path, capsys):
    save_dataset(tmp_path / "old.npy", dataset_rows({"a": None}, make_entries({"a": ["dunk"]}, {"a": 0})))
    refusal(lambda: read_array(tmp_path / "old.npy", "frames"), "python -m actalign.artifacts convert")
    assert generate_subactions.main(["--input", str(tmp_path / "old.npy"), "--output", str(tmp_path / "s.json"),
                                     "--dry_run"]) == 2
    assert "python -m actalign.artifacts convert" in capsys.readouterr().err


def test_a_conversion_that_is_run_again_changes_nothing_and_other_embeddings_are_refused(both, capsys):
    run = both(OPTIONS, [20, None, 31], [3, 4, 5, 2, 6, 3, 4, 4, 1])
    assert run(run.old)[0] == 0
    folder = run.old.parent / "converted"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name in ("video_embeddings.npy", "encoded_subactions.npy"):
        command = ["convert", str(run.old / name), str(folder / name), *run.model, "--subactions",
                   str(run.old / "generated_subactions.json")]
        assert published.main(command) == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    others = [random_rows(20, "other", 0), None, random_rows(31, "c video", 0)]
    save(run.old / "video_embeddings.npy", collapsed(others))
    command = ["convert", str(run.old / "video_embeddings.npy"), str(folder / "video_embeddings.npy"), *run.model,
               "--subactions", str(run.old / "generated_subactions.json")]
    assert published.main(command) == 2
    assert "sample a is there with other embeddings" in capsys.readouterr().err


def test_the_command_line_converts_and_refuses_in_one_line(both, root):
    run = both(OPTIONS, [20, 7, 31])
    command = [sys.executable, "-m", "actalign.artifacts", "convert", str(run.old / "video_embeddings.npy")]
    more = ["--subactions", str(run.old / "generated_subactions.json"), *run.model]

    def run_with(*arguments):
        return subprocess.run([*command, *arguments], cwd=root, capture_output=True, text=True, check=False)

    ran = run_with(str(run.new / "c.npy"), *more)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "3 samples are converted (video_embeddings)" in ran.stdout
    for arguments in ([str(run.new / "d.npy")], [str(run.old / "video_embeddings.npy"), *more],
                      [str(run.new / "no such" / "d.npy"), *more]):
        ran = run_with(*arguments)
        assert ran.returncode == 2
        assert ran.stderr.count("\n") == 1


def test_the_documented_conversions_parse(root):
    page = (root / "docs/artifacts.md").read_text()
    commands = re.findall(r"^python -m actalign.artifacts (.*)$", page, flags=re.MULTILINE)
    assert len(commands) == 4
    assert {published.parse_args(shlex.split(command)).command for command in commands} == {"convert"}


def test_kinds_are_told_apart(tmp_path, both):
    for number, shape in enumerate(SHAPES.values()):
        run = both(*shape)
        assert published.kind_of(run.old / "video_embeddings.npy") == "video_embeddings", number
        assert published.kind_of(run.old / "encoded_subactions.npy") == "subaction_embeddings", number
    entries = make_entries(OPTIONS, dict.fromkeys(OPTIONS, 0))
    save_dataset(tmp_path / "d.npy", dataset_rows(dict.fromkeys(OPTIONS), entries))
    assert published.kind_of(tmp_path / "d.npy") == "frames"
    save(tmp_path / "x.npy", np.array([{"frames": 1}], dtype=object))
    refusal(lambda: published.kind_of(tmp_path / "x.npy"), "none of the arrays")


# What strangers send


def in_interpreter(code):
    """What a fresh interpreter prints that runs `code` after numpy; it can ask for `memory()`, its peak in MB."""
    setup = "import re, time, numpy\n" \
            "def memory(): return int(re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1]) / 1024\n"
    ran = subprocess.run([sys.executable, "-c", setup + code], cwd=Path(published.__file__).parent.parent,
                         capture_output=True, text=True, check=False, timeout=LIMIT)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


class Runs:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def header_of(shape, descr="<f4"):
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"
    return b"\x93NUMPY\x01\x00" + (len(text) + 1).to_bytes(2, "little") + text.encode() + b"\n"


def pickled(raw, shape="(1,)"):
    return header_of(shape, "|O") + raw


def array_of(shape, code, content):
    """The pickle of an array whose state says something else than numpy would."""
    def part(value):  # without the two bytes of the protocol and the full stop
        return pickle.dumps(value, 3)[2:-1].replace(b"q\x00", b"")

    return b"\x80\x04cnumpy\nndarray\n)R(K\x01" + part(ast.literal_eval(shape)) + b"cnumpy\ndtype\n" + part(code) \
        + b"\x85R\x89" + part(content) + b"tb."


def write_index(path, **changes):
    item = {"id": "a", "start": 0, "stop": 2, "checksum": "x", **changes}
    write_json(path.with_suffix(".json"), {
        "format": "actalign-array", "version": 2, "kind": "video_embeddings", "dtype": "float32", "shape": [2, 4],
        "meta": {}, "items": [item]})
    np.save(path, np.zeros((2, 4), np.float32))


def save_object(path, content):
    array = np.empty(1, object)
    array[0] = content
    save(path, array)


PICKLES = {
    "a module": b"\x80\x04\x8c\x04this\x8c\x01s\x93.",
    "an old name": b"cos\nsystem\n(S'touch it-was-run'\ntR.",
    "a text of 4 GB": b"\x80\x04X\xff\xff\xff\xff.",
    "bytes of 8 EB": b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f.",
    "a bytearray of 1 TB": b"\x80\x05\x96" + (10**12).to_bytes(8, "little") + b".",
    "a memo of 32 GB": b"\x80\x04Nr\xff\xff\xff\xff.",
    "a memo of 2 GB": b"\x80\x04Nr\xff\xff\xff\x0f.",
    "a text of 1 TB": b"\x80\x04\x8d" + (10**12).to_bytes(8, "little") + b".",
    "bytes of 3 GB": b"\x80\x04B" + (3 * 10**9).to_bytes(4, "little") + b".",
    "a bytearray of 3 GB": b"\x80\x05\x96" + (3 * 10**9).to_bytes(8, "little") + b".",
    "a frame of 8 EB": b"\x80\x04\x95" + b"\xff" * 7 + b"\x7fN.",
    "an object of a class": b"(cos\nsystem\no.",
    "an instance": b"(ios\nsystem\n.",
    "a new object": b"\x80\x04cnumpy\nndarray\n)\x81.",
    "an extension": b"\x80\x04\x82\x01.",
    "a persistent id": b"\x80\x04Pid\n.",
    "a dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0fndarray.__new__\x93.",
    "a call of a text": b"\x80\x04\x8c\x01x)R.",
    "a call with a list": b"\x80\x04cnumpy\ndtype\n]R.",
    "a dtype of nothing": b"\x80\x04cnumpy\ndtype\nN\x85R.",
    "a state of a text": b"\x80\x04\x8c\x01xNb.",
    "a state that is none": b"\x80\x04cnumpy\nndarray\n)RNb.",
    "a set": b"\x80\x04\x8f(N\x90.",
    "a state of a class": b"\x80\x04cnumpy\nndarray\nN}\x8c\x0c__setstate__Ns\x86b.",
    "a state of a class's function": b"\x80\x04cnumpy.core.numeric\n_frombuffer\nN}\x8c\x0c__defaults__)s\x86b.",
    "a state of a dict": b"\x80\x04}N}\x8c\x09__class__Ns\x86b.",
    "entries of an array": b"\x80\x04cnumpy\nndarray\n)RN](NNes.",
    "bytes of objects": array_of("(1,)", "O8", bytes(8)),
    "a list of numbers": array_of("(1,)", "f8", [1.0]),
    "too few numbers": array_of("(2, 2)", "f8", bytes(24)),
    "too many objects": array_of("(1,)", "O8", [None, None]),
    "a negative shape": array_of("(-1, -1)", "f8", bytes(8)),
    "a shape beyond 64 bits": array_of(f"(0, {2**70})", "f8", b""),
    "rows of nothing without end": array_of(f"({2**62}, 0)", "O8", []),
    "axes without end": array_of(f"({'1, ' * 100})", "f8", bytes(8)),
    "texts without characters": array_of(f"({2**40},)", "S0", b""),
    "a dtype that numpy does not know": array_of("(1,)", "i16", bytes(16)),
    "a frame that ends in an opcode": b"\x80\x04\x95\x03" + bytes(7) + b"\x8c\x05abcdeX.",
    "bytes of 1 EB": b"\x80\x04\x8e" + (2**60).to_bytes(8, "little") + b".",
    "a bytearray of 1 EB": b"\x80\x05\x96" + (2**60).to_bytes(8, "little") + b".",
    "a memo at 4 billion without end": b"\x80\x04(" + b"Nr\xff\xff\xff\xff" * 1000 + b"l.",
    "bytes named again and again": b"\x80\x04](B" + (10**6).to_bytes(4, "little") + bytes(10**6) + b"\x94"
                                   + b"h\x00" * 10_000 + b"e.",
    "a list in itself": b"\x80\x04]\x94h\x00a.",
    "tuples that share tuples": b"\x80\x04}N\x85\x94" + b"".join(b"h" + bytes([n]) + b"h" + bytes([n]) + b"\x86\x94"
                                                             for n in range(100)) + b"Ns.",
    "arrays in arrays": b"\x80\x04(cnumpy\nndarray\n\x94cnumpy\ndtype\n\x8c\x01O\x85R\x94"
                        + b"h\x00)R(K\x01K\x01\x85h\x01\x89]" * 20_000 + b"N" + b"atb" * 20_000 + b".",
    "an array of 8 EB": b"\x80\x04cnumpy\nndarray\n)R(K\x01\x8a\x08" + b"\xff" * 7 + b"\x7f\x85cnumpy\ndtype\n"
                        b"\x8c\x02f8\x85R\x89C\x00tb.",
    "a number without end": b"\x80\x04\x8b\xff\xff\xff\x7f" + b"9" * 1000 + b".",
    "tuples in tuples": b"\x80\x04}N" + b"\x85" * 100_000 + b"Ns.",
    "lists in lists": b"\x80\x04" + b"](" * 50_000 + b"e" * 50_000 + b".",
    "lists that share lists": b"\x80\x04]\x94" + b"".join(
        b"](" + (b"h" + bytes([n])) * 1000 + b"e\x94" for n in range(9)) + b".",
}
HEADERS = {
    "a header of 4 TB": ("(1000000000000,)", "<f4"),
    "a header of many bytes a value": ("(9,)", "<U999999999"),
    "a header of code": ("(open('it-was-run', 'w'),)", "<f4"),
    "a header of objects without end": ("(1000000000000,)", "|O"),
}
JSON = {
    "an index of deep lists": "[" * 10_000 + "]" * 10_000,
    "an index of deep objects": '{"a":' * 10_000 + "1" + "}" * 10_000,
    "an index of an endless number": '{"format": ' + "9" * 1_000_000 + "}",
}
STRANGE = {
    "os.system": lambda path: save_object(path, Runs(os.system, "touch it-was-run")),
    "eval": lambda path: save_object(path, Runs(eval, "open('it-was-run', 'w')")),
    "a class": lambda path: save_object(path, pytest.approx(1)),
    "an index with stop before start": lambda path: write_index(path, start=2, stop=0),
    "an index far beyond its rows": lambda path: write_index(path, stop=10**15),
} | {name: lambda path, raw=raw: path.write_bytes(pickled(raw)) for name, raw in PICKLES.items()
} | {name: lambda path, header=header: path.write_bytes(header_of(*header) + bytes(64))
     for name, header in HEADERS.items()
} | {f"{name}, with an index": lambda path, header=header: (
         write_index(path), path.write_bytes(header_of(*header) + bytes(64))) for name, header in HEADERS.items()
} | {name: lambda path, text=text: (write_index(path), path.with_suffix(".json").write_text(text))
     for name, text in JSON.items()}


@pytest.mark.parametrize("make", STRANGE.values(), ids=STRANGE)
def test_what_strangers_send_is_refused_in_one_line_and_not_run(tmp_path, make):
    path = tmp_path / "video_embeddings.npy"
    make(path)
    write_entries(tmp_path / "s.json", make_entries({"a": ["dunk"]}))
    printed = in_interpreter(f"""
import os, sys
from actalign import artifacts, published
from actalign.console import InputError
os.chdir({str(tmp_path)!r})
modules = set(sys.modules)
try:
    if os.path.exists({str(path.with_suffix(".json"))!r}):
        artifacts.read_array({str(path)!r}, "video_embeddings")
    else:
        published.read_embeddings({str(path)!r}, "video_embeddings", {str(tmp_path / "s.json")!r})
except InputError as error:
    assert "\\n" not in str(error) and ";" in str(error), error
    assert not {{"this", "antigravity"}} & set(sys.modules)
    print(f"{{memory():.0f}} {{error}}")
""")
    megabytes, message = printed.split(maxsplit=1)
    assert float(megabytes) < 300
    assert str(path) in message or str(path.with_suffix(".json")) in message
    assert not (tmp_path / "it-was-run").exists()


@pytest.mark.parametrize(("content", "name"), [
    (Runs(os.system, "true"), "posix.system"), (Runs(time.sleep, 60), "time.sleep"), (Runs(exec, ""), "builtins.exec"),
    (InputError, "actalign.console.InputError"), (np.ma.array([1]), "numpy.ma"), (np.memmap, "numpy.memmap"),
    (np.load, "numpy.load"), (np.fromfile, "fromfile"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_whatever_is_no_array_is_refused_by_name(tmp_path, content, name):
    save_object(tmp_path / "a.npy", content)
    with pytest.raises(ValueError, match=name):
        unpickle(tmp_path / "a.npy", 128)


def test_every_plain_value_comes_back(tmp_path):
    values = [None, True, False, 0, 255, 65_535, -1, 2**40, -2**60, 0.5, "née", "x" * 300, (), (1,), (1, 2), (1, 2, 3),
              (1, 2, 3, 4), [], [1], [1, 2], {}, {"a": 1, 2: [3]}, np.float32(0.5), np.int64(7), np.str_("née")]
    array = np.empty(len(values), object)
    array[:] = values
    for protocol in (4, 5):
        save(tmp_path / "a.npy", array, protocol)
        found = unpickle(tmp_path / "a.npy", 128).tolist()
        assert found == values
        for value, expected in zip(found[:-3], values[:-3], strict=True):
            assert isinstance(value, type(expected))


@pytest.mark.parametrize("array", [
    np.arange(24, dtype=">f4").reshape(2, 3, 4), np.arange(24, dtype=np.uint8).reshape(2, 3, 4).T, np.ones((2, 0, 3)),
    np.array(["née", "x"]), np.array([True, False]), np.arange(6, dtype=np.float16)[::2],
    np.array([1 + 2j]), np.asfortranarray(np.arange(6.0).reshape(2, 3)),
], ids=["big end", "transposed", "empty", "texts", "truths", "strided", "complex", "Fortran"])
@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_arrays_in_arrays_come_back(tmp_path, array, protocol):
    outer = np.empty(2, object)
    outer[:] = [array, None]
    save(tmp_path / "a.npy", outer, protocol)
    found = unpickle(tmp_path / "a.npy", 128)[0]
    assert found.dtype.newbyteorder("=") == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("order", ["C", "F"])
def test_object_arrays_come_back_in_either_order(tmp_path, order):
    array = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], dtype=object, order=order)
    save(tmp_path / "a.npy", array)
    assert unpickle(tmp_path / "a.npy", 128).tolist() == [[1, 2, 3], [4, 5, 6]]


def test_a_pickle_cut_or_changed_anywhere_is_refused_or_read(tmp_path):
    path = save(tmp_path / "a.npy", collapsed([random_rows(2, "a", 0), None, random_rows(3, "b", 0)]))
    raw, chance = path.read_bytes(), random.Random(0)
    for position in range(128, len(raw)):
        path.write_bytes(raw[:position])
        with pytest.raises(ValueError, match="damaged or no array"):
            unpickle(path, 128)
    for _ in range(1000):
        changed = bytearray(raw)
        for _ in range(chance.randint(1, 3)):
            changed[chance.randrange(128, len(raw))] = chance.randrange(256)
        path.write_bytes(changed)
        try:
            assert type(unpickle(path, 128)) is np.ndarray
        except ValueError as error:
            assert "\n" not in str(error)  # noqa: PT017 - some are read


def test_rows_named_again_and_again_do_not_fill_the_memory(tmp_path):
    rows = [random_rows(1, "a", 0)[0].repeat(2000)] * 100_000  # 3 MB in the file, 6 GB in memory
    save_object(tmp_path / "video_embeddings.npy", rows)
    write_entries(tmp_path / "s.json", make_entries({"a": ["dunk"]}))
    refusal(lambda: published.read_embeddings(tmp_path / "video_embeddings.npy", "video_embeddings",
                                              tmp_path / "s.json"), "one and the same Array in two places")


def test_samples_whose_options_have_no_subactions_are_missing(tmp_path):
    entries = make_entries({"a": ["dunk", "lay-up"], "b": ["dunk"]})
    entries[0]["subactions"] = {}
    write_entries(tmp_path / "s.json", entries)
    for nothing in (None, [], [None, None], np.empty((2, 0, D), np.float32)):
        path = save(tmp_path / "t.npy", collapsed([nothing, text_rows(entries[1:])[0]]))
        found = published.read_embeddings(path, "subaction_embeddings", tmp_path / "s.json")
        assert [rows is None for _, rows in found] == [True, False]


def test_d_of_the_made_up_artifacts_is_what_these_tests_rely_on():
    assert D == 8
    with pytest.raises(InputError):
        read_index("no such.npy", "video_embeddings")
