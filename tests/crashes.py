"""Stops every stage wherever it changes files, runs it again, and compares with what an unbroken run leaves.

    python tests/crashes.py                 every stage at every point (make crashes)
    python tests/crashes.py --most 30       at no more than so many points a stage, spread evenly

A point is a call that opens a file for writing, writes (before it and halfway through), flushes to the disk, truncates,
renames or removes. At each, a child process is killed (SIGKILL), finds the disk full from there on, or meets a reader.
Further children meet a folder that they may not write to, a limit on the size of files, another run on the same
output, and a run that changes what they read between any two of their looks.
"""

import argparse
import builtins
import contextlib
import errno
import faulthandler
import functools
import io
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

TESTS = Path(__file__).resolve().parent
SECONDS = 30  # a run of a stage on a busy machine; they take tenths
NOBODY = 65534  # a user without rights
WRITES = ("open", "write", "half a write")


class Points:
    """Counts the calls that change files below a folder while it is entered, and does something at one of them.

    number, act  at the so manieth call, act() is done before it, or after it with `after`
    full_from    from this call on, opening and writing raise that the disk is full
    kinds        what the calls were, in order; `taken` is their number
    """

    def __init__(self, folder, number=None, act=None, after=False, full_from=None):
        self._folder = Path(folder).resolve()
        self._number, self._act, self._after, self._full_from = number, act, after, full_from
        self.kinds = []

    @property
    def taken(self):
        return len(self.kinds)

    def call(self, kind, function, *args, **kwargs):
        """Make a call that is a point."""
        self.kinds.append(kind)
        here = self.taken == self._number
        if here and not self._after:
            self._act()
        if self._full_from is not None and self.taken >= self._full_from and kind in WRITES:
            raise OSError(errno.ENOSPC, "No space left on device", str(self._folder))
        result = function(*args, **kwargs)
        if here and self._after:
            self._act()
        return result

    @property
    def acts_next(self):
        """Whether something happens at the next point."""
        return self.taken + 1 in (self._number, self._full_from)

    def __enter__(self):
        self._patch = pytest.MonkeyPatch()
        for name in ("fsync", "replace", "truncate"):
            self._patch.setattr(os, name, functools.partial(self.call, name, getattr(os, name)))
        unlink, points = Path.unlink, self
        self._patch.setattr(Path, "unlink", lambda path, *args, **kwargs:
                            points.call("unlink", unlink, path, *args, **kwargs))
        for module in (builtins, io):
            self._patch.setattr(module, "open", functools.partial(self._open, open))
        return self

    def __exit__(self, *_):
        self._patch.undo()

    def _open(self, plain_open, file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, **more):
        if isinstance(file, int) or not set(mode) & set("wa+x") or self._folder not in Path(file).absolute().parents:
            return plain_open(file, mode, buffering, encoding, errors, newline, **more)
        raw = self.call("open", _WatchedFile, file, mode.replace("b", "").replace("t", ""))
        raw.points = self
        if buffering == 0:
            return raw
        buffer = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffer if "b" in mode else io.TextIOWrapper(buffer, encoding, errors, newline)


class Looks:
    """Counts the calls that look at files below a folder while it is entered, and does something before one of them."""

    def __init__(self, folder, number=None, act=None):
        self._folder, self._number, self._act = Path(folder).resolve(), number, act
        self.taken = 0

    def __enter__(self):
        self._patch = pytest.MonkeyPatch()
        for owner, name in ((builtins, "open"), (Path, "exists"), (np, "fromfile")):
            self._patch.setattr(owner, name, self._watched(getattr(owner, name)))
        return self

    def __exit__(self, *_):
        self._patch.undo()

    def _watched(self, look):
        def watched(file, *args, **kwargs):
            if not isinstance(file, int) and self._folder in Path(file).absolute().parents:
                self.taken += 1
                if self.taken == self._number:
                    self._act()
            return look(file, *args, **kwargs)
        return watched


class _WatchedFile(io.FileIO):
    """A file whose writes are points, as they reach the system, after all buffers."""

    def write(self, content):
        content = memoryview(content).cast("B")
        self.points.call("write", lambda: None)
        half = len(content) // 2 if self.points.acts_next else 0
        if half:
            super().write(content[:half])
        return half + self.points.call("half a write", super().write, content[half:])

    def truncate(self, size=None):
        return self.points.call("truncate", super().truncate, size)


def in_child(work):
    """The status of a process that does `work`: 0, minus a signal, or 1 if it raised."""
    def checked():
        try:
            work()
            return 0
        except BaseException:
            traceback.print_exc()
            return 1
    child = os.fork()
    if child == 0:
        os._exit(checked())
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def contents(folder):
    """{name: bytes} of all files in a folder: nothing may be left over."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def copy_tree(source, target):
    """Copy a folder, where links stay links and names of one file stay names of one file."""
    shutil.copytree(source, target, symlinks=True)
    first_names = {}
    for path in sorted(source.rglob("*")):
        if path.is_file() and not path.is_symlink():
            copy = target / path.relative_to(source)
            first = first_names.setdefault(path.stat().st_ino, copy)
            if first != copy:
                copy.unlink()
                os.link(first, copy)


def look_at(folder):
    """Read what a stage has left in a folder, as the next stage does: a whole file, or a refusal."""
    from actalign.artifacts import MAKERS, read_array
    from actalign.console import InputError
    from actalign.predictions import read_predictions
    from actalign.subactions import read_subactions

    for path in folder.glob("*.npy"):
        for kind in MAKERS:
            with contextlib.suppress(InputError):
                array = read_array(path, kind)
                for item in array.items:
                    array.rows(item["id"]) if kind == "frames" else array.embeddings(item["id"])
    for path in folder.glob("*.json"):
        for read in (read_predictions, read_subactions):
            with contextlib.suppress(InputError):
                read(path)


def kill_here():
    os.kill(os.getpid(), signal.SIGKILL)


def stop_here():
    """Wait for SIGCONT."""
    os.kill(os.getpid(), signal.SIGSTOP)


# Stages: functions of a folder with inputs that return (run, prepare). run(out) is one run of the script, its exit
# code; prepare(out) makes what was there before.


def nothing_before(out):
    pass


def process_data_stage(folder):
    from conftest import write_manifest
    from drawn_videos import write_video

    import process_data

    for number in range(4):
        write_video(folder / f"{number}.mp4", 3 + number, size=(64, 48), first=number)
    write_manifest(folder / "clips.jsonl", [{"video": f"{name}.mp4", "domain": "yoga", "choices": ["a", "b"]}
                                            for name in (0, 1, "lost", 2, 3)])

    def run(out, *more):
        return process_data.main(["--dataset", str(folder / "clips.jsonl"), "--output", str(out / "frames.npy"),
                                  "--image_size", "48", "--workers", "1", *more])

    return run, nothing_before


def process_data_extended_stage(folder):
    run, _ = process_data_stage(folder)
    return run, lambda out: run(out, "--limit", "2")


def process_data_changed_stage(folder):
    from conftest import write_manifest

    run, _ = process_data_stage(folder)

    def prepare(out):
        manifest = folder / "clips.jsonl"
        changed = manifest.read_bytes()
        gone, *rows = [{"video": f"{name}.mp4", "domain": "yoga", "choices": ["a", "b"]} for name in (0, 3, 1, 2)]
        rows[0]["start_timestamp"], rows[1]["choices"] = 0.05, ["b", "a"]
        write_manifest(manifest, [{**gone, "id": "gone"}, *rows])
        run(out)
        manifest.write_bytes(changed)

    return run, prepare


def _frames(folder, count=4, options=("dunk", "lay-up"), lengthen=0):
    """Frames of so many clips; with `lengthen` another state of the same: the first ones are gone, the last longer."""
    from made_artifacts import make_entries

    from actalign.artifacts.writer import ArrayWriter

    entries = make_entries({f"clip-{n}": options for n in range(lengthen, count + lengthen)})
    with ArrayWriter(folder / "frames.npy", "frames", {"image_size": 48, "fps": None}, overwrite=True) as writer:
        for number, entry in enumerate(entries[::-1] if lengthen else entries):
            fields = {key: value for key, value in entry.items() if key not in ("id", "subactions")}
            fields["question"] = "Which of these is it? " * 500  # results that repeat it take some writes
            frames = np.random.default_rng(number).integers(0, 256, (3 + number, 48, 48, 3), dtype=np.uint8)
            writer.append(entry["id"], frames, fps=25.0, timestamps=[t / 25 for t in range(len(frames))], **fields)
    return folder / "frames.npy", entries


def _checkpoint(folder):
    from conftest import save_checkpoint

    return str(save_checkpoint(folder / "checkpoint"))


def encode_videos_stage(folder):
    import encode_videos

    frames, _ = _frames(folder)
    arguments = ["--input", str(frames), "--model", _checkpoint(folder), "--device", "cpu", "--batch_size", "8"]
    return lambda out, *more: encode_videos.main([*arguments, "--output", str(out / "videos.npy"), *more]), \
        nothing_before


def encode_videos_changed_stage(folder):
    run, _ = encode_videos_stage(folder)

    def prepare(out):
        run(out)
        _frames(folder, options=("dunk", "pass"), lengthen=1)

    return run, prepare


def encode_videos_overwriting_stage(folder):
    run, _ = encode_videos_stage(folder)
    return lambda out: run(out, "--overwrite"), run


def _fused_stage(folder, *more):
    import encode_videos

    process_data_stage(folder)
    arguments = ["--dataset", str(folder / "clips.jsonl"), "--image_size", "48", "--workers", "1", "--model",
                 _checkpoint(folder), "--device", "cpu", "--batch_size", "8", *more]
    return lambda out, *more: encode_videos.main([*arguments, "--output", str(out / "videos.npy"), *more]), \
        nothing_before


def without_frames_stage(folder):
    return _fused_stage(folder)


def shard_stage(folder):
    return _fused_stage(folder, "--shard", "1/2")


def empty_shard_stage(folder):
    run, prepare = process_data_stage(folder)
    return lambda out: run(out, "--shard", "2/5"), prepare  # of the clip that is lost


def merge_stage(folder):
    from actalign.artifacts import merging

    run, _ = process_data_stage(folder)

    def prepare(out):
        for number in range(2):
            run(out, "--shard", f"{number}/2")

    return lambda out: merging.main(["merge", str(out / "frames.npy"), "--overwrite"]), prepare


def generate_subactions_stage(folder):
    import generate_subactions

    frames, entries = _frames(folder)
    for number, entry in enumerate(entries):  # else their questions are one
        entry["domain"] = f"sport {number}"
    url = _serve_answers()

    def run(out, *more):
        return generate_subactions.main(["--input", str(frames), "--output", str(out / "generated.json"),
                                         "--base_url", url, "--workers", "1", "--min_subactions", "2", *more])

    return run, nothing_before


def generate_subactions_changed_stage(folder):
    run, _ = generate_subactions_stage(folder)

    def prepare(out):
        run(out)
        _frames(folder, options=("dunk", "pass"), lengthen=1)

    return run, prepare


def generate_subactions_repaired_stage(folder):
    run, _ = generate_subactions_stage(folder)
    return lambda out: run(out, "--scripts", "2") or run(out, "--repair"), nothing_before


def _serve_answers():
    """The address of a chat server, in a process of its own that ends with this one."""
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            prompt = request["messages"][0]["content"]
            said = f"{request.get('seed')} limb" if "An earlier" in prompt else request.get("seed", "")
            phrases = {line[2:]: [f"{'' if 'limb' in str(said) else line[2:]} {said} {m} " + "x" * 300
                                  for m in range(20)] for line in prompt.splitlines() if line.startswith("- ")}
            message = {"role": "assistant", "content": json.dumps(phrases)}
            body = json.dumps({"id": "1", "object": "chat.completion", "created": 0, "model": request["model"],
                               "choices": [{"index": 0, "finish_reason": "stop", "message": message}]}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    parent = os.getpid()
    if os.fork() == 0:
        server.timeout = 1  # s between two looks at whether the parent is there
        while os.getppid() == parent:
            server.handle_request()
        os._exit(0)
    server.server_close()
    return f"http://127.0.0.1:{server.server_address[1]}/v1"


def encode_subactions_stage(folder):
    from made_artifacts import make_entries, write_entries

    import encode_subactions

    entries = make_entries({f"clip-{n}": [f"dunk {n}", "lay-up"] for n in range(4)})
    del entries[3]["subactions"]
    write_entries(folder / "generated.json", entries)
    arguments = ["--subactions", str(folder / "generated.json"), "--model", _checkpoint(folder), "--device", "cpu",
                 "--batch_size", "4"]
    return lambda out: encode_subactions.main([*arguments, "--output", str(out / "texts.npy")]), nothing_before


def encode_subactions_edited_stage(folder):
    from made_artifacts import write_entries

    run, _ = encode_subactions_stage(folder)
    path = folder / "generated.json"
    entries = json.loads(path.read_text())

    def prepare(out):
        edited = path.read_bytes()
        write_entries(path, [{**entry, "subactions": {
            key: texts[:2] for key, texts in entry.get("subactions", {}).items()}} for entry in entries])
        run(out)
        path.write_bytes(edited)

    return run, prepare


def _embeddings(folder):
    from made_artifacts import make_entries, write_entries, write_subaction_embeddings, write_video_embeddings

    options = {f"clip-{n}": ["dunk", "lay-up", "hook shot"] for n in range(16)}
    entries = make_entries(options, dict.fromkeys(options, 1), phases=5)
    write_entries(folder / "generated.json", entries)
    write_video_embeddings(folder, dict.fromkeys(options, 200))
    write_subaction_embeddings(folder, entries)


def seq_alignment_stage(folder):
    import seq_alignment

    _embeddings(folder)
    arguments = ["--subactions", str(folder / "generated.json"), "--video_embeddings",
                 str(folder / "video_embeddings.npy"), "--subaction_embeddings", str(folder / "encoded_subactions.npy")]
    return lambda out: seq_alignment.main([*arguments, "--output", str(out / "predictions.json")]), nothing_before


def seq_alignment_again_stage(folder):
    run, _ = seq_alignment_stage(folder)

    def prepare(out):
        run(out)
        path = out / "predictions.json"
        path.write_text(path.read_text().replace('"smooth":1', '"smooth":2'))

    return run, prepare


def report_stage(folder):
    """With its outputs behind links, of which the folder of figures does not exist yet."""
    import seq_alignment

    _embeddings(folder)
    arguments = ["--subactions", str(folder / "generated.json"), "--video_embeddings",
                 str(folder / "video_embeddings.npy"), "--subaction_embeddings", str(folder / "encoded_subactions.npy"),
                 "--samples", "clip-3"]

    def run(out):
        return seq_alignment.main([*arguments, "--output", str(out / "predictions.json"), "--report",
                                   str(out / "report.html"), "--figures", str(out / "figures")])

    def prepare(out):
        (out / "store").mkdir()
        for name in ("predictions.json", "report.html", "figures"):
            (out / name).symlink_to(Path("store") / name)

    return run, prepare


def linked_stage(folder):
    """An array behind a link that is started over."""
    run, _ = encode_videos_stage(folder)

    def prepare(out):
        (out / "store").mkdir()
        (out / "videos.npy").symlink_to(Path("store") / "array.npy")
        run(out)

    def run_and_look(out):
        code = run(out, "--overwrite")
        if not (out / "videos.npy").is_symlink():
            raise AssertionError("a link was replaced")
        return code

    return run_and_look, prepare


def hard_linked_stage(folder):
    """Frames whose files have other names as well, which keep what they held while clips are added."""
    run, prepare_half = process_data_extended_stage(folder)
    kept = {}

    def prepare(out):
        prepare_half(out)
        (out / "backup").mkdir()
        for path in [*out.glob("frames.*")]:
            os.link(path, out / "backup" / path.name)
        kept.update(contents(out / "backup"))

    def run_and_compare(out):
        code = run(out)
        if contents(out / "backup") != kept:
            raise AssertionError("a file was changed under its other name")
        return code

    return run_and_compare, prepare


def baseline_stage(folder):
    from made_artifacts import write_video_embeddings

    import baseline
    from actalign.checkpoint import find_checkpoint

    frames, _ = _frames(folder, 16)
    checkpoint = _checkpoint(folder)
    items = json.loads(frames.with_suffix(".json").read_text())["items"]
    path = write_video_embeddings(folder, {item["id"]: item["stop"] - item["start"] for item in items}, features=64,
                                  settings=find_checkpoint(checkpoint).settings("float32"))
    arguments = ["--input_dataset", str(frames), "--video_embeddings", str(path), "--model", checkpoint]
    return lambda out: baseline.main([*arguments, "--device", "cpu", "--output", str(out / "predictions.json")]), \
        nothing_before


def convert_stage(folder):
    from made_artifacts import make_entries, random_rows, write_entries

    from actalign import published

    options = {f"clip-{n}": ["dunk", "lay-up"] for n in range(5)}
    write_entries(folder / "generated.json", make_entries(options))
    rows = np.empty(5, object)
    rows[:] = [None if id == "clip-1" else random_rows(4, id, 0) for id in options]
    np.save(folder / "old.npy", rows, allow_pickle=True)
    return lambda out: published.main(["convert", str(folder / "old.npy"), str(out / "videos.npy"), "--subactions",
                                       str(folder / "generated.json"), "--model", _cached_checkpoint(folder)]), \
        nothing_before


@functools.cache
def _cached_checkpoint(folder):
    return _checkpoint(folder)


STAGES = {
    "process_data": process_data_stage, "process_data, more clips": process_data_extended_stage,
    "process_data, changed": process_data_changed_stage,
    "encode_videos": encode_videos_stage, "encode_videos --overwrite": encode_videos_overwriting_stage,
    "encode_videos, changed": encode_videos_changed_stage,
    "encode_videos --dataset": without_frames_stage, "encode_videos --dataset --shard": shard_stage,
    "process_data --shard, empty": empty_shard_stage, "merge": merge_stage,
    "generate_subactions": generate_subactions_stage,
    "generate_subactions, changed": generate_subactions_changed_stage,
    "generate_subactions --scripts, --repair": generate_subactions_repaired_stage,
    "encode_subactions": encode_subactions_stage, "encode_subactions, edited": encode_subactions_edited_stage,
    "baseline": baseline_stage, "seq_alignment": seq_alignment_stage, "seq_alignment, again": seq_alignment_again_stage,
    "convert": convert_stage, "seq_alignment --report --figures, links": report_stage,
    "encode_videos --overwrite, link": linked_stage, "process_data, hard links": hard_linked_stage,
}


class Harness:
    """One stage, run again and again in children of this process, which has loaded everything before."""

    def __init__(self, name, folder, most):
        faulthandler.cancel_dump_traceback_later()  # pytest's: children would wait for its thread, which they lack
        self.name, self._most, self._folder = name, most, folder
        (folder / "in").mkdir(parents=True)
        self._run, prepare = STAGES[name](folder / "in")
        self._before, self._out = folder / "before", folder / "out"
        self._before.mkdir()
        with quiet():
            prepare(self._before)
        self._log = folder / "log"
        self._log.touch()
        self._log.chmod(0o666)
        self.failures = []
        self._renew()
        status, log = self._here()  # in this process, so that the children find everything loaded
        self.whole = contents(self._out)
        self._require(status == 0 and self.whole and not any(name.endswith((".partial", ".lock", ".tmp"))
                                                          for name in self.whole), "an unbroken run is not whole", log)
        self._renew()
        self._require(self._child()[0] == 0 and contents(self._out) == self.whole, "a second run leaves something else")
        self._renew()
        with Points(self._out) as points:
            self._here()
        self.kinds = points.kinds

    def _require(self, fact, message, log=""):
        if not fact:
            self.failures.append(f"{message}: {log}" if log else message)

    def _renew(self):
        shutil.rmtree(self._out, ignore_errors=True)
        copy_tree(self._before, self._out)

    def _here(self):
        """(status, what it said) of one run in this process."""
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            try:
                status = self._run(self._out)
            except BaseException:
                status = 99
                traceback.print_exc()
        time.sleep(0.1)  # its threads end: a fork while one frees its memory in MKL gives a child that hangs there
        return status, said.getvalue()

    def _child(self, number=None, act=None, before=lambda: None, full_from=None, wait=True, work=None):
        """(status, what it said) of one run, or of other `work`, in a child; the child itself without `wait`."""
        child = os.fork()
        if child == 0:
            code = 99
            try:
                log = os.open(self._log, os.O_WRONLY | os.O_TRUNC)
                os.dup2(log, 1)
                os.dup2(log, 2)
                faulthandler.dump_traceback_later(SECONDS, exit=True)  # a child that hangs is a failure, and says where
                before()
                with Points(self._out, number, act, full_from=full_from):
                    code = work() if work else self._run(self._out)
                sys.stdout.flush()
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        if not wait:
            return child
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), self._log.read_text()

    def _chosen(self, numbers):
        if self._most is None or len(numbers) <= self._most:
            return numbers
        return [numbers[i * len(numbers) // self._most] for i in range(self._most)]

    def _rerun(self, after):
        status, log = self._child()
        self._require(status == 0, f"run after {after} ends with {status}", log)
        left = contents(self._out)
        different = sorted(name for name in {*left, *self.whole} if left.get(name) != self.whole.get(name))
        self._require(not different, f"run after {after} leaves another {', '.join(different)}")

    def killed(self):
        """Kill a run at its points; returns at how many."""
        chosen = self._chosen(range(1, len(self.kinds) + 1))
        for number in chosen:
            self._renew()
            where = f"a kill at point {number} of {len(self.kinds)}, {self.kinds[number - 1]}"
            status, log = self._child(number, kill_here)
            self._require(status == -signal.SIGKILL, f"{where}, did not end the run ({status})", log)
            self._require_readable(where)
            self._rerun(where)
        return len(chosen)

    def _require_readable(self, where):
        """A reader meets a whole artifact or a refusal, and files that are replaced are whole."""
        look_at(self._out)
        for path in filter(Path.is_file, [*self._out.rglob("*.json"), *self._out.rglob("*.html")]):
            try:
                (json.loads if path.suffix == ".json" else whole_page)(path.read_text())
            except ValueError as error:
                self._require(False, f"{where} leaves {path.name} damaged: {error}")

    def with_readers(self):
        """Have a reader look at a run at its points, and runs, whole or killed, between its looks; tell how often."""
        step = 1 if self._most is None else 2
        chosen = self._chosen(range(1, len(self.kinds) + 1))[::step]
        for number in chosen:
            self._renew()
            status, log = self._child(number, lambda: look_at(self._out))
            self._require(status == 0 and contents(self._out) == self.whole, f"a reader at point {number}", log)
        self._renew()
        with Looks(self._out) as looks:
            look_at(self._out)
        between = self._chosen(range(1, looks.taken + 1))[::step]
        for number in between:
            self._renew()

            def look(number=number):
                with Looks(self._out, number, stop_here):
                    look_at(self._out)
                return 0

            reader = self._child(work=look, wait=False)
            os.waitpid(reader, os.WUNTRACED)
            self._child(*(len(self.kinds) // 2, kill_here) * (number % 2))
            os.kill(reader, signal.SIGCONT)
            status = os.waitstatus_to_exitcode(os.waitpid(reader, 0)[1])
            self._require(status == 0, f"a run before a reader's look {number}", self._log.read_text())
            self._rerun(f"a reader's look {number}")
        return len(chosen) + len(between)

    def on_full_disk(self):
        """Let the disk be full from a point on; returns from how many."""
        chosen = self._chosen([n for n, kind in enumerate(self.kinds, start=1) if kind in WRITES])
        for number in chosen:
            self._renew()
            where = f"a disk that is full from point {number} of {len(self.kinds)} on, {self.kinds[number - 1]}"
            status, log = self._child(full_from=number)
            self._require_one_line(status, log, 1, "No space left", where)
            self._rerun(where)
        return len(chosen)

    def with_limited_files(self):
        """Limit how large files may be; returns how often."""
        sizes = sorted({len(content) for content in self.whole.values()})
        limits = sorted({size * part // 4 for size in sizes[-1:] for part in (0, 1, 2, 3)})
        for limit in limits:
            self._renew()
            self._log.write_text("")

            def limited(limit=limit):
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                log = os.open(os.devnull, os.O_WRONLY)
                os.dup2(log, 1)
                os.dup2(log, 2)
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

            status, _ = self._child(before=limited)
            self._require(status == 1, f"files of at most {limit} bytes: ends with {status}")
            self._rerun(f"a limit of {limit} bytes")
        return len(limits)

    def in_read_only_folder(self):
        """Take the right to write from the run."""
        self._renew()
        left = contents(self._out)

        def without_rights():
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)

        self._out.chmod(0o555)
        self._require_one_line(*self._child(before=without_rights), 1, "Permission denied", "a read-only folder")
        self._out.chmod(0o755)
        self._require(contents(self._out) == left, "a read-only folder was changed")
        self._rerun("a read-only folder")

    def two_at_once(self):
        """Stop a run halfway, let another try, and then go on."""
        self._renew()
        first = self._child(len(self.kinds) // 2, stop_here, wait=False)
        _, status = os.waitpid(first, os.WUNTRACED)
        self._require(os.WIFSTOPPED(status), "a run that should wait has ended")
        left = contents(self._out)
        self._require_one_line(*self._child(), 2, "another run is writing it", "a second run on one output")
        self._require(contents(self._out) == left, "a second run on one output changed files")
        os.kill(first, signal.SIGCONT)
        status = os.waitstatus_to_exitcode(os.waitpid(first, 0)[1])
        self._require(status == 0 and contents(self._out) == self.whole,
                      f"a run that met a second one ends with {status} and leaves {', '.join(contents(self._out))}")

    def _require_one_line(self, status, log, expected, part, where):
        errors = [line for line in log.splitlines() if "error: " in line]
        self._require(status == expected and len(errors) == 1 and part in errors[0] and "Traceback" not in log,
                      f"{where}: ends with {status}", log)


def whole_page(text):
    """Raise ValueError if a page is cut short or of two runs."""
    if not text.endswith("</html>") or text.count("<html") != 1:
        raise ValueError("is no whole page")


@contextlib.contextmanager
def quiet():
    """Nothing on stdout and stderr."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield


def load_once():
    """Have the stages read checkpoints once and draw nothing: what is tested is what they do to files."""
    import transformers

    import baseline
    import encode_subactions
    import encode_videos
    from actalign import checkpoint, cores, published
    from actalign.report import figures, page

    cores.count = lambda: 1  # after a fork, two threads that begin to use MKL at once can hang
    find = functools.cache(checkpoint.find_checkpoint)
    for module in (baseline, encode_subactions, encode_videos, published):
        module.find_checkpoint = find
    for kind in (transformers.AutoModel, transformers.AutoProcessor):
        kind.from_pretrained = staticmethod(by_name(kind.from_pretrained))
    page.get_plotlyjs = lambda: "plotly"
    figures.draw = lambda *_: SimpleNamespace(savefig=lambda file, **how: file.write(how["format"].encode() * 9000))


def by_name(load):
    """A function that loads what has a name once, whatever else it is given."""
    loaded = {}

    def load_once(name, **options):
        if name not in loaded:
            loaded[name] = load(name, **options)
        return loaded[name]

    return load_once


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("stages", nargs="*", default=list(STAGES), metavar="STAGE", help=f"of {', '.join(STAGES)}")
    parser.add_argument("--most", type=int, help="points a stage (default: all)")
    args = parser.parse_args(argv)
    sys.path[:0] = [str(TESTS.parent), str(TESTS)]
    import conftest  # noqa: F401 - its settings of the environment
    import torch

    torch.set_num_threads(1)  # threads do not survive a fork
    load_once()
    os.umask(0o022)
    points = failures = 0
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        for number, name in enumerate(args.stages):
            began = time.monotonic()
            harness = Harness(name, Path(folder) / str(number), args.most)
            killed, full = harness.killed(), harness.on_full_disk()
            limited = harness.with_limited_files()
            readers = harness.with_readers()
            harness.in_read_only_folder()
            harness.two_at_once()
            print(f"{name}: killed at {killed} of {len(harness.kinds)} points, disk full at {full}, files limited "
                  f"{limited} times, readers at {readers}, read-only, two at once: {len(harness.failures)} differences "
                  f"({time.monotonic() - began:.1f} s)", flush=True)
            print("".join(f"  {failure}\n" for failure in harness.failures[:5]), end="", flush=True)
            points, failures = points + killed, failures + len(harness.failures)
    print(f"{len(args.stages)} stages, {points} kills, {failures} differences")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
