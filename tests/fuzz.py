"""Damages every kind of file that is read, and requires that it is read right or refused in one line.

    python tests/fuzz.py --cases 2000              every reader (make fuzz)
    python tests/fuzz.py --cases 2000 videos       one of them

A case is a whole file with bytes changed, put in, taken out, repeated or cut off, or with values of its JSON replaced.
Hypothesis draws the cases from a fixed seed. Anything but a result or one line of refusal is a failure: an exception, a
warning, a result that a whole file does not give, more than SECONDS, or more than BYTES of memory.
"""

import argparse
import contextlib
import copy
import faulthandler
import io
import json
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

import numpy as np

TESTS = Path(__file__).resolve().parent
SECONDS = 10  # a case, on a busy machine; they take thousandths
BYTES = 1 << 30  # of memory beyond what is in use when the cases begin
LONGEST_LINE = 2000  # characters of a refusal


class Wrong(Exception):
    """A case was neither read right nor refused in one line."""


class Reader:
    """What reads one kind of file.

    Each of them has

    prepare(folder), which makes whole files and returns those that are damaged, one in every case
    read(folder), which reads them: a result, or an exception; what `check` does not raise at is right
    """

    is_json = False

    def check(self, whole, found):
        """Raise Wrong if `found` is not right; `whole` is what the whole files gave."""


def run(main, *arguments):
    """Run a script's main; raises Refused with its one line unless it ends with 0."""
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(said):
        code = main([str(argument) for argument in arguments])
    if unfit := [line for line in (out.getvalue() + said.getvalue()).split("\n") if not line.isprintable()]:
        raise Wrong(f"steers the terminal: {unfit[0]!r:.300}")
    if code == 0:
        return out.getvalue()
    errors = [line for line in said.getvalue().splitlines() if "error: " in line]
    if len(errors) != 1 or code not in (1, 2):
        raise Wrong(f"ends with {code} and says {said.getvalue()!r}")
    raise Refusal(errors[0])


class Refusal(Exception):
    """A script refused in one line."""


class Alignment(Reader):
    """The last stage, with one of its files damaged: scores of whole samples must not change."""

    def __init__(self, target, is_json=True):
        self._target, self.is_json = target, is_json

    def prepare(self, folder):
        from made_artifacts import make_entries, write_entries, write_subaction_embeddings, write_video_embeddings

        entries = make_entries(OPTIONS, dict.fromkeys(OPTIONS, 0), phases=2)
        write_entries(folder / "generated.json", entries)
        write_video_embeddings(folder, {"a": 5, "b": 3, "c": 4})
        write_subaction_embeddings(folder, entries)
        return [folder / self._target]

    def read(self, folder):
        import seq_alignment
        from actalign.predictions import read_predictions

        output = folder / "predictions.json"
        output.unlink(missing_ok=True)
        run(seq_alignment.main, "--subactions", folder / "generated.json", "--video_embeddings",
            folder / "video_embeddings.npy", "--subaction_embeddings", folder / "encoded_subactions.npy",
            "--smooth", "2", "--output", output)
        return {prediction.sample.id: (prediction.sample.options, prediction.scores.tolist())
                for prediction in read_predictions(output)[1]}

    def check(self, whole, found):
        for id, (options, scores) in found.items():
            right = dict(zip(*whole.get(id, ((), ())), strict=True))
            if any(score != right.get(option, score) for option, score in zip(options, scores, strict=True)):
                raise Wrong(f"other scores of {id}: {scores} instead of {right}")
            if not np.isfinite(scores).all():
                raise Wrong(f"scores {scores}")


OPTIONS = {"a": ["hook shot", "jump shot"], "b": ["dunk", "lay-up"], "c": ["dunk"]}


class Report(Reader):
    """What a report shows: indexes of frames and embeddings, and predictions of another method."""

    is_json = True

    def prepare(self, folder):
        from report_runs import make_run, write_other_predictions

        make_run(folder, {"a": 3, "b": 2}, frame_size=(4, 4), without_frames=("b",))
        return [folder / "videos.json", folder / "frames.json", folder / "texts.json",
                Path(write_other_predictions(folder / "other.json", folder))]

    def read(self, folder):
        import seq_alignment

        run(seq_alignment.main, "--subactions", folder / "generated.json", "--video_embeddings", folder / "videos.npy",
            "--subaction_embeddings", folder / "texts.npy", "--frames", folder / "frames.npy", "--compare",
            folder / "other.json", "--report", folder / "r.html", "--output", folder / "p.json")
        return (folder / "r.html").read_text(encoding="utf-8")

    def check(self, whole, found):
        if not found.endswith("</html>") or found.count("<script") != found.count("</script>"):
            raise Wrong(f"page {found[-300:]}")


class PublishedEmbeddings(Reader):
    """Old embeddings, which have no checksums: what is read has as many rows as the sub-actions ask for."""

    def __init__(self, kind):
        self._kind = kind

    def prepare(self, folder):
        from made_artifacts import make_entries, random_rows, write_entries

        entries = make_entries(OPTIONS, dict.fromkeys(OPTIONS, 0), phases=2)
        write_entries(folder / "generated.json", entries)
        array = np.empty(3, object)
        array[:] = [random_rows(5, "a video", 0), None, random_rows(4, "c video", 0)] \
            if self._kind == "video_embeddings" else [
                [np.concatenate([random_rows(1, text, 0) for text in phrases])
                 for phrases in entry["subactions"].values()] for entry in entries]
        np.save(folder / "old.npy", array, allow_pickle=True)
        self._checkpoint = checkpoint()
        return [folder / "old.npy"]

    def read(self, folder):
        from actalign import published
        from actalign.artifacts import read_array

        for left in folder.glob("new.*"):
            left.unlink()
        run(published.main, "convert", folder / "old.npy", folder / "new.npy", "--kind", self._kind, "--subactions",
            folder / "generated.json", "--model", self._checkpoint)
        artifact = read_array(folder / "new.npy", self._kind)
        return {id: len(artifact.rows(id)) for id in artifact}

    def check(self, whole, found):
        if self._kind == "subaction_embeddings" and found != whole:
            raise Wrong(f"rows {found}")


class FramesIndex(Reader):
    """The index of a dataset's frames, for the stages that read nothing else of it."""

    is_json = True

    def prepare(self, folder):
        from made_artifacts import make_entries, write_frames_index

        return [write_frames_index(folder, make_entries({"a": ["dunk", "lay-up"], "b": ["dunk"]})).with_suffix(".json")]

    def read(self, folder):
        import generate_subactions
        from actalign.artifacts import read_array

        path = folder / "processed_dataset.npy"
        run(generate_subactions.main, "--input", path, "--output", folder / "s.json", "--dry_run")
        frames = read_array(path, "frames")
        return [frames.rows(item["id"]).shape for item in frames.items]

    def check(self, whole, found):
        if sum(shape[0] for shape in found) != 4:
            raise Wrong(f"frames {found}")


class Journals(Reader):
    """What a killed stage left, rows and journal; the next run goes on with it, by its name or by a link to it."""

    def __init__(self, target, is_json, name="v.npy"):
        self._target, self.is_json, self._name = target, is_json, name

    def prepare(self, folder):
        from made_artifacts import CHECKPOINT, random_rows

        from actalign.artifacts.writer import ArrayWriter

        with contextlib.suppress(KeyboardInterrupt), \
                ArrayWriter(folder / "v.npy", "video_embeddings", CHECKPOINT) as writer:
            for id in "abc":
                writer.append(id, random_rows(3, id, 0), fps=25.0)
            raise KeyboardInterrupt
        (folder / "link.npy").symlink_to("v.npy")
        return [folder / self._target]

    def read(self, folder):
        from made_artifacts import CHECKPOINT, random_rows

        from actalign.artifacts import read_array
        from actalign.artifacts.writer import ArrayWriter

        with ArrayWriter(folder / self._name, "video_embeddings", CHECKPOINT) as writer:
            for id in "abcd":
                if id not in writer:
                    writer.append(id, random_rows(3, id, 0))
        artifact = read_array(folder / self._name, "video_embeddings")
        return {item["id"]: artifact.embeddings(item["id"]) for item in artifact.items}

    def check(self, whole, found):
        for id, rows in whole.items():
            if id not in found or not np.array_equal(found[id], rows):
                raise Wrong(f"other rows of {id}")


class PublishedDataset(Reader):
    """An old processed_dataset.npy."""

    def prepare(self, folder):
        from actalign.published import COLUMNS

        array = np.empty((3, len(COLUMNS)), object)
        for n in range(3):
            frames = None if n == 1 else np.full((2, 3, 4, 4), n, np.uint8)
            array[n] = [f"y{n}", n, "Dunk", "sport", "What?", 1, "1. Dunk\n2. Lay-up", {"1": "x"}, f"{n}.mp4", None]
            array[n, -1] = frames
        np.save(folder / "old.npy", array, allow_pickle=True)
        return [folder / "old.npy"]

    def read(self, folder):
        from actalign import published

        return run(published.main, "convert", folder / "old.npy", folder / "new.npy", "--image_size", "4")


class Dataset(Reader):
    """A dataset file of a user's."""

    def __init__(self, suffix):
        self._name, self.is_json = "d" + suffix, suffix.startswith(".json")

    def prepare(self, folder):
        path = folder / self._name
        mask = [{"description": "A", "bounding_poly": {"vertices": [[0, 0], [5, 5]]}}]
        rows = [{"id": str(n), "video": f"{n}.mp4", "domain": "yoga", "choices": ["crow pose", "tree pose"],
                 "answer": "1", "start_timestamp": 0.5, "end_timestamp": 2.5, "frames_to_blur": {"1": mask},
                 "extra": [n]} for n in range(3)]
        if path.suffix == ".json":
            path.write_text(json.dumps(rows))
        elif path.suffix == ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        elif path.suffix == ".parquet":
            import pyarrow
            from pyarrow import parquet

            parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        else:
            path.write_text("id,video,domain,choices,answer\n" + "".join(
                f"""{n},{n}.mp4,yoga,"['crow pose', 'tree pose']",1\n{n}x,y.mp4,yoga,"1. crow\n2. tree",tree\n"""
                for n in range(2)))
        return [path]

    def read(self, folder):
        from actalign.dataset import load_samples
        from actalign.files import write_json
        from actalign.masks import blur

        samples = load_samples(str(folder / self._name), "test")
        for sample in samples:
            blur(np.zeros((9, 9, 3), np.uint8), sample.masks, 1)
        # What is read must be fit to be kept.
        write_json(folder / "kept.json", [{**sample.record(), "labels": sample.labels, "video": sample.video,
                                           "extra": sample.extra, "start": sample.start} for sample in samples])
        return samples

    def check(self, whole, found):
        for sample in found:
            if not sample.options or (sample.answer is not None and not 0 <= sample.answer < len(sample.options)):
                raise Wrong(f"sample {sample}")


class BatchResults(Reader):
    """Answers of a language model in a batch result file."""

    is_json = True

    def prepare(self, folder):
        from made_artifacts import make_entries, write_frames_index

        import generate_subactions

        options = {"a": ["dunk", "lay-up"], "b": ["hook shot"]}
        frames = write_frames_index(folder, make_entries(options))
        batch = folder / "batch.jsonl"
        run(generate_subactions.main, "--input", frames, "--output", folder / "s.json", "--batch", batch)
        asked = [json.loads(line)["custom_id"] for line in batch.read_text().splitlines()]
        lines = []
        for custom_id, names in zip(asked, options.values(), strict=True):
            reply = json.dumps({"actions": [{"action": name, "subactions": [f"{name} {m}" for m in range(10)]}
                                            for name in names]})
            body = {"choices": [{"message": {"content": reply}}]}
            lines.append({"custom_id": custom_id, "response": {"status_code": 200, "body": body}})
        (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return [folder / "results.jsonl"]

    def read(self, folder):
        import generate_subactions
        from actalign.subactions import read_subactions

        output = folder / "s.json"
        run(generate_subactions.main, "--input", folder / "processed_dataset.npy", "--output", output,
            "--batch_results", folder / "results.jsonl")
        return {script.sample.id: script for script in read_subactions(output)} if output.exists() else {}

    def check(self, whole, found):
        for id, script in found.items():
            if script.sample != whole[id].sample:
                raise Wrong(f"another sample {id}")


class Replies(Reader):
    """What a language model says."""

    is_json = True

    def prepare(self, folder):
        (folder / "reply.txt").write_text('Well:\n{"actions": [{"action": "Dunk", "subactions": ["up", "down"]}, '
                                          '{"action": "lay-up", "subactions": ["one", "two", "three"]}]}')
        return [folder / "reply.txt"]

    def read(self, folder):
        from actalign.replies import parse_reply

        reply = (folder / "reply.txt").read_text(encoding="utf-8", errors="surrogateescape")
        return parse_reply(reply, ["dunk", "lay-up"], "sport", 2)

    def check(self, whole, found):
        texts, problems = found
        if set(texts) | set(problems) != {"dunk", "lay-up"} or set(texts) & set(problems):
            raise Wrong(f"reply {found}")
        json.dumps(list(texts.values()), ensure_ascii=False).encode()


class HalfAnswered(Reader):
    """generated_subactions.json and the journal beside it, for the stage that goes on with them."""

    is_json = True

    def prepare(self, folder):
        from made_artifacts import make_entries, write_entries, write_frames_index

        entries = make_entries({"a": ["dunk", "lay-up"], "b": ["hook shot"], "c": ["dunk"]})
        write_frames_index(folder, entries)
        write_entries(folder / "s.json", entries[:2])
        (folder / "s.json.partial").write_text(json.dumps(entries[1]) + "\n" + json.dumps(entries[2]) + "\n")
        (folder / "none.jsonl").write_text(json.dumps({"custom_id": "of another run"}))
        return [folder / "s.json.partial", folder / "s.json"]

    def read(self, folder):
        import generate_subactions
        from actalign.subactions import read_subactions

        run(generate_subactions.main, "--input", folder / "processed_dataset.npy", "--output", folder / "s.json",
            "--batch_results", folder / "none.jsonl", "--min_subactions", "1")
        return read_subactions(folder / "s.json")


class Predictions(Reader):
    """Results, for whatever compares them."""

    is_json = True

    def prepare(self, folder):
        from actalign.dataset import Sample
        from actalign.evaluation import Prediction
        from actalign.predictions import write_predictions

        predictions = [Prediction(Sample(id, "sport", ("dunk", "lay-up"), answer=1), np.array([0.25, 0.5]),
                                  [np.array([[0, 0], [1, 1]])] * 2) for id in "abc"]
        write_predictions(folder / "p.json", {"name": "dtw"}, {}, predictions, {"d": "lost"})
        return [folder / "p.json"]

    def read(self, folder):
        from actalign import evaluation
        from actalign.predictions import read_predictions

        predictions = read_predictions(folder / "p.json")[1]
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.print_results("dtw", predictions, {})
        return predictions


class MissingList(Reader):
    """NAME.missing.json."""

    is_json = True

    def prepare(self, folder):
        entries = [{"id": id, "reason": "is cut short", "retry": True} for id in "ab"]
        (folder / "v.missing.json").write_text(json.dumps(entries))
        (folder / "v.missing.json.partial").write_text("".join(json.dumps(entry) + "\n" for entry in entries[::-1]))
        return [folder / "v.missing.json", folder / "v.missing.json.partial"]

    def read(self, folder):
        from actalign.artifacts import MissingItems

        missing = MissingItems(folder / "v.npy", {"b"})
        missing.is_final("a")
        missing.add("c", "lost", retry=False)
        missing.drop("a")
        missing.save()
        return json.loads((folder / "v.missing.json").read_text())


class Checkpoint(Reader):
    """A SigLIP checkpoint's configuration and weights."""

    def __init__(self, target, is_json):
        self._target, self.is_json = target, is_json

    def prepare(self, folder):
        shutil.copytree(checkpoint(), folder, dirs_exist_ok=True)
        return [folder / self._target]

    def read(self, folder):
        from actalign.checkpoint import find_checkpoint

        return find_checkpoint(str(folder))

    def check(self, whole, found):
        if not np.isfinite([found.logit_scale, found.logit_bias]).all():
            raise Wrong(f"checkpoint {found}")


class Videos(Reader):
    """Video files of the common containers and codecs, whole and in segments."""

    def prepare(self, folder):
        from drawn_videos import write_video

        self._number = 0
        kinds = {"a.mp4": "libx264", "b.webm": "libvpx-vp9", "c.mkv": "libx264", "d.avi": "mpeg4", "e.mov": "libx264",
                 "f.ts": "libx264"}
        for name, codec in kinds.items():
            write_video(folder / name, 12, codec=codec, size=(64, 48), gop=4)
        return [folder / name for name in kinds]

    def read(self, folder):
        from actalign.video import read_frames

        self._number += 1
        start, end = ((None, None), (0.1, 0.4), (0.25, None))[self._number % 3]
        return {path.name: [(t, image.shape, image.dtype) for t, image in read_frames(path, start, end)]
                for path in folder.iterdir() if path.suffix != ".json"}

    def check(self, whole, found):
        for frames in found.values():
            times = [t for t, _, _ in frames]
            if not all(len(shape) == 3 and shape[2] == 3 and dtype == np.uint8 for _, shape, dtype in frames) \
                    or not np.isfinite(times).all() or not frames:
                raise Wrong(f"frames {frames[:3]}")


READERS = {
    "video index": Alignment("video_embeddings.json"),
    "sub-action index": Alignment("encoded_subactions.json"),
    "frames index": FramesIndex(),
    "video array": Alignment("video_embeddings.npy", is_json=False),
    "sub-action array": Alignment("encoded_subactions.npy", is_json=False),
    "published videos": PublishedEmbeddings("video_embeddings"),
    "published sub-actions": PublishedEmbeddings("subaction_embeddings"),
    "published dataset": PublishedDataset(),
    "journal": Journals("v.json.partial", is_json=True),
    "unfinished rows": Journals("v.npy.partial", is_json=False),
    "journal behind a link": Journals("v.json.partial", is_json=True, name="link.npy"),
    "missing list": MissingList(),
    "report": Report(),
    "sub-actions": Alignment("generated.json"),
    "half-answered sub-actions": HalfAnswered(),
    "batch results": BatchResults(),
    "replies": Replies(),
    "dataset json": Dataset(".json"),
    "dataset jsonl": Dataset(".jsonl"),
    "dataset csv": Dataset(".csv"),
    "dataset parquet": Dataset(".parquet"),
    "predictions": Predictions(),
    "checkpoint configuration": Checkpoint("config.json", is_json=True),
    "checkpoint weights": Checkpoint("model.safetensors", is_json=False),
    "videos": Videos(),
}


def checkpoint():
    """The folder of a tiny SigLIP, made once."""
    from conftest import save_checkpoint

    if not hasattr(checkpoint, "folder"):
        checkpoint.folder = str(Path(tempfile.mkdtemp()) / "tiny")
        save_checkpoint(checkpoint.folder)
    return checkpoint.folder


# Damage


def cases(is_json, is_text):
    """The strategy of a case: which of the files, and a list of edits of its bytes, or of its JSON."""
    from hypothesis import strategies as st

    place = st.integers(0, 2**32 - 1)
    some = st.binary(min_size=1, max_size=9)
    if is_text:  # else most of the damage would be that it is no text
        some |= st.text(SYNTAX, min_size=1, max_size=9).map(str.encode)
    edit = st.tuples(st.sampled_from(sorted(BYTE_EDITS)), st.booleans(), place, some)
    damage = st.lists(edit, min_size=1, max_size=3).map(lambda edits: ("bytes", edits))
    if is_json:
        plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20)
        strange = st.sampled_from(STRANGE) | plain | st.lists(plain, max_size=3) | st.dictionaries(
            st.text(max_size=5), plain, max_size=3)
        change = st.tuples(st.sampled_from(("replace", "remove", "repeat")), place, strange)
        damage |= st.lists(change, min_size=1, max_size=2).map(lambda edits: ("json", edits))
    return st.tuples(place, damage)


SYNTAX = "[]{}()<>,:;\"'\\/.-+0123456789eEunN \n\rabc"
BYTE_EDITS = {
    "flip": lambda raw, at, some: raw[:at] + bytes(byte ^ some[0] for byte in raw[at:at + 1]) + raw[at + 1:],
    "set": lambda raw, at, some: raw[:at] + some + raw[at + len(some):],
    "insert": lambda raw, at, some: raw[:at] + some + raw[at:],
    "remove": lambda raw, at, some: raw[:at] + raw[at + some[0] + 1:],
    "repeat": lambda raw, at, some: raw[:at] + raw[at:at + some[0] + 1] * 2 + raw[at + some[0] + 1:],
    "cut": lambda raw, at, some: raw[:at],
    "ones": lambda raw, at, some: raw[:at] + b"\xff" * len(some) + raw[at + len(some):],
}

DEEP = []
for _ in range(500):
    DEEP = [DEEP]
STRANGE = [10**30, -10**30, 2**63, -1, 0, 1, 2**31, 1e308, 5e-324, float("nan"), float("inf"), "\ud83d", "\0", "", " ",
           "x" * 10_000, "a\nb", {}, [], [[]], [None], {"a": None}, True, "nan", "1e999", "../../x", "a", "b", DEEP]


def damaged(raw, damage):
    """The bytes of a file after the edits of a case."""
    kind, edits = damage
    if kind == "json":
        return damaged_json(raw, edits)
    for name, early, place, some in edits:
        at = place % (min(len(raw), 250) + 1 if early else len(raw) + 1)  # what is early often says what follows
        raw = BYTE_EDITS[name](raw, at, some)
    return raw


def damaged_json(raw, edits):
    """JSON, or JSON lines, or text around JSON, with parts replaced, removed or repeated."""
    lines, number = [raw.decode()], 0
    try:
        value = json.loads(lines[0])
    except ValueError:
        lines = lines[0].splitlines()
        number = edits[0][1] % len(lines)
        try:
            value = json.loads(lines[number])
        except ValueError:
            return raw[:edits[0][1] % (len(raw) + 1)]
    for kind, place, strange in edits:
        value = edited(value, kind, place, strange)
    lines[number] = json.dumps(value, ensure_ascii=edits[0][1] % 2 == 0 or "\\ud" in json.dumps(value))
    return ("\n".join(lines) + "\n" if len(lines) > 1 else lines[0]).encode("utf-8", "surrogatepass")


def edited(value, kind, place, strange):
    """A copy of a JSON value with one of its parts edited."""
    value = copy.deepcopy(value) if value is not DEEP else []
    places = []

    def visit(part, levels=40):
        if part is DEEP or not levels:
            return
        for key in list(part) if isinstance(part, dict) else range(len(part)) if isinstance(part, list) else ():
            places.append((part, key))
            visit(part[key], levels - 1)

    visit(value)
    if not places or place % (len(places) + 1) == len(places):
        return strange if kind == "replace" else value
    part, key = places[place % (len(places) + 1)]
    if kind == "replace":
        part[key] = strange
    elif kind == "remove":
        del part[key]
    elif isinstance(part, list):
        part.append(copy.deepcopy(part[key]) if part[key] is not DEEP else [])
    else:
        part[str(strange)[:20]] = part[key]
    return value


# Running


def fuzz(name, reader, count):
    """Run so many cases of one reader; returns (Counter of outcomes, messages of failures)."""
    import hypothesis

    outcomes, failures = Counter(), []
    with tempfile.TemporaryDirectory() as folder:
        template, folder = Path(folder) / "whole", Path(folder) / "case"
        template.mkdir()
        targets = [path.name for path in reader.prepare(template)]

        def renew():
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(template, folder, symlinks=True)

        renew()
        whole = reader.read(folder)

        @hypothesis.settings(max_examples=count, derandomize=True, database=None, deadline=None,
                             phases=[hypothesis.Phase.generate], suppress_health_check=list(hypothesis.HealthCheck))
        @hypothesis.given(cases(reader.is_json, reader.is_json or targets[0].endswith(".csv")))
        def one(case):
            if outcomes.total() >= count:
                return
            place, damage = case
            renew()
            target = folder / targets[place % len(targets)]
            target.write_bytes(damaged(target.read_bytes(), damage))
            outcome = attempt(reader, folder, whole)
            outcomes["read" if outcome is None else "refused" if outcome is True else "failed"] += 1
            if outcome not in (None, True):
                failures.append(f"{target.name} {damage!r:.300}\n{outcome}")

        with limited_memory():
            one()
    return outcomes, failures


def attempt(reader, folder, whole):
    """None if a case was read right, True if it was refused in one line, else what went wrong."""
    from actalign.console import InputError, StageError
    from actalign.video import VideoError

    def late(*_):
        raise Wrong(f"takes more than {SECONDS} s")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    faulthandler.dump_traceback_later(3 * SECONDS, exit=True)  # where no signal gets through
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", ResourceWarning)  # indexes stay open until nobody has them
            found = reader.read(folder)
        reader.check(whole, found)
        return None
    except (InputError, StageError, VideoError, Refusal) as error:
        if "\n" in str(error) or not str(error).strip() or len(str(error)) > LONGEST_LINE:
            return f"refused, but not in one line: {str(error)!r:.400}"
        return True
    except BaseException:
        return traceback.format_exc(limit=-6)
    finally:
        signal.alarm(0)
        faulthandler.cancel_dump_traceback_later()


@contextlib.contextmanager
def limited_memory():
    """Memory that grows by at most BYTES; beyond that there is a MemoryError."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    size = int(re.search(r"VmSize:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) << 10
    resource.setrlimit(resource.RLIMIT_AS, (size + BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("readers", nargs="*", default=list(READERS), metavar="READER", help=f"of {', '.join(READERS)}")
    parser.add_argument("--cases", type=int, default=2000, help="of each reader (default: %(default)s)")
    args = parser.parse_args(argv)
    sys.path[:0] = [str(TESTS.parent), str(TESTS)]
    import conftest  # noqa: F401 - its settings of the environment
    from hypothesis.errors import NonInteractiveExampleWarning  # noqa: F401 - loaded before warnings are errors

    os.environ["OPENAI_API_KEY"] = "none"
    total = Counter()
    for name in args.readers:
        began = time.monotonic()
        outcomes, failures = fuzz(name, READERS[name], args.cases)
        total += outcomes
        print(f"{name}: {outcomes.total()} cases, {outcomes['read']} read, {outcomes['refused']} refused, "
              f"{outcomes['failed']} failed ({time.monotonic() - began:.1f} s)", flush=True)
        for failure in failures[:3]:
            print("  " + failure.strip().replace("\n", "\n  "), flush=True)
    print(f"{len(args.readers)} readers, {total.total()} cases, {total['failed']} failures")
    return 1 if total["failed"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
