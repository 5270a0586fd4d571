"""Files that survive crashes: JSON in one step, journals whose torn end does not count, outputs held by one run."""

import fcntl
import json
import os
import resource
import signal
from pathlib import Path

import orjson
import pytest
from crashes import in_child
from refusals import refusal

from actalign import files
from actalign.files import Journal, lock, read_json, reason_of, write_json


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# JSON


@pytest.mark.parametrize("content", [None, 0.1, "née 技", [], {"a": [1, 2.5, None, True], "b": {"c": "\n"}}, 10**18])
@pytest.mark.parametrize("indent", [False, True])
def test_json_comes_back(tmp_path, content, indent):
    write_json(tmp_path / "a.json", content, indent)
    assert read_json(tmp_path / "a.json") == content
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("content", [{"a": {1}}, {1: 2}, [object()], "\ud83d"])
def test_json_that_cannot_be_written_leaves_the_old_file_and_nothing_else(tmp_path, content):
    path = tmp_path / "a.json"
    write_json(path, {"old": "x" * 10_000})
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_json(path, ["x" * 100_000, content])  # more than a buffer, so that a part would be written
    assert path.read_bytes() == before
    assert names(tmp_path) == ["a.json"]


def test_interrupted_json_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, "old")

    def interrupt(*_):
        raise KeyboardInterrupt

    for function in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, function, interrupt)
            with pytest.raises(KeyboardInterrupt):
                write_json(path, "new")
        assert read_json(path) == "old"
        assert names(tmp_path) == ["a.json"]


def test_json_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    synced, replace = [], os.replace

    def watched_replace(source, target):
        assert os.stat(source).st_ino in synced
        assert read_json(source) == "new"
        replace(source, target)

    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_ino))
    monkeypatch.setattr(os, "replace", watched_replace)
    write_json(tmp_path / "a.json", "new")
    assert synced == [(tmp_path / "a.json").stat().st_ino, tmp_path.stat().st_ino]  # and then the folder has it


def test_json_of_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, "old")

    def write_on_full_disk():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        with pytest.raises(OSError, match="File too large"):
            write_json(path, "x" * 1000)

    assert in_child(write_on_full_disk) == 0
    assert read_json(path) == "old"
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("raw", [
    b"", b" \n\t ", b"{", b'{"a": 1', b'{"a": 1}}', b"[1,]", b"text", b"\xff\xfe[]", b'"\xe9"', b"\0" * 100,
    b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5000,
], ids=["empty", "blank", "brace", "cut", "too much", "comma", "text", "utf-16", "latin-1", "zeros", "deep lists",
        "deep objects", "endless number"])
def test_json_that_is_none_is_refused(tmp_path, raw):
    path = tmp_path / "a.json"
    path.write_bytes(raw)
    refusal(lambda: read_json(path, "list of samples"), str(path))


def nested(levels):
    return "[" * levels + "]" * levels


@pytest.mark.parametrize(("text", "value"), [
    (nested(250), None), ('{"a": [' + nested(248) + "]}", None), (str(2**64 - 1), 2**64 - 1), (str(-2**63), -2**63),
    ("[1e308, -0.0, 1e-320]", [1e308, -0.0, 1e-320]), ('"\\ud83d\\udc4d"', "\U0001f44d"),
])
def test_json_within_bounds_is_read(tmp_path, text, value):
    (tmp_path / "a.json").write_text(text)
    found = read_json(tmp_path / "a.json")
    assert value is None or found == value
    write_json(tmp_path / "a.json", found)
    assert read_json(tmp_path / "a.json") == found


@pytest.mark.parametrize(("text", "part"), [
    (nested(1025), "depth"), ('{"a": ' * 1025 + "1" + "}" * 1025, "depth"), ("9" * 400, "infinity"),
    ("[NaN]", "unexpected character"), ("[-Infinity]", "char"), ("[1e999]", "infinity"),
    ('"\\ud83d"', "surrogate"), ('{"\\uDC4D": 1}', "surrogate"),
])
def test_json_beyond_bounds_is_refused(tmp_path, text, part):
    (tmp_path / "a.json").write_text(text)
    refusal(lambda: read_json(tmp_path / "a.json"), part)
    (tmp_path / "j.partial").write_text(text + "\n")
    refusal(Journal(tmp_path / "j.partial").read, part)


def test_what_nests_too_deep_to_be_written_again_is_refused(tmp_path):
    (tmp_path / "a.json").write_text(nested(300))
    content = read_json(tmp_path / "a.json")
    refusal(lambda: write_json(tmp_path / "b.json", content), "254 levels")
    refusal(lambda: Journal(tmp_path / "j.partial").append(content), "254 levels")
    assert read_json(tmp_path / "a.json") == content


def test_a_file_too_large_to_be_json_of_ours_is_not_read(tmp_path):
    with open(tmp_path / "a.json", "wb") as file:
        file.truncate(files.MOST_JSON_BYTES + 1)  # of zeros that take no room
    refusal(lambda: read_json(tmp_path / "a.json"), "a.json", "bytes")
    refusal(Journal(tmp_path / "a.json").read, "a.json", "bytes")


def test_a_temporary_file_has_a_name_of_its_own_and_the_mode_that_the_user_wants(tmp_path):
    path, seen = tmp_path / "a.json", set()
    before = os.umask(0o026)
    try:
        for _ in range(9):
            with files.replacing(path, binary=True):
                seen.update(names(tmp_path))
    finally:
        os.umask(before)
    assert len(seen - {path.name}) == 9
    assert path.stat().st_mode & 0o777 == 0o640


def test_what_a_killed_run_left_of_a_file_goes_and_nothing_else(tmp_path):
    def write_and_die():
        with files.replacing(tmp_path / "a[1].json"):
            os.kill(os.getpid(), signal.SIGKILL)

    for other in ("a[1].json.notes.tmp", "b.a[1].json.0123abcd.tmp", "a1.json.0123abcd.tmp", "a[1].json.0123abcd"):
        (tmp_path / other).touch()
    before = names(tmp_path)
    assert in_child(write_and_die) == -signal.SIGKILL
    assert len(names(tmp_path)) == len(before) + 1
    write_json(tmp_path / "a[1].json", "new")
    assert names(tmp_path) == sorted([*before, "a[1].json"])


@pytest.mark.parametrize("exists", [True, False])
def test_where_a_link_leads_is_replaced_and_the_link_stays(tmp_path, exists):
    (tmp_path / "store").mkdir()
    link, target = tmp_path / "a.json", tmp_path / "store" / "b.json"
    link.symlink_to(target)
    if exists:
        write_json(target, "old")
    write_json(link, "new")
    assert link.is_symlink()
    assert read_json(target) == "new"
    assert names(target.parent) == ["b.json"]


def test_a_file_for_which_the_fast_parser_lacks_memory_is_read(tmp_path):
    path = tmp_path / "a.json"
    content = [{"id": f"{n}", "text": "née " * 5000} for n in range(1500)]
    write_json(path, content)

    def read_with_little_memory():
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + 8 * path.stat().st_size, resource.RLIM_INFINITY))
        with pytest.raises(ValueError, match="memory"):
            orjson.loads(path.read_bytes())
        assert read_json(path) == content
        path.write_bytes(b"[NaN," + path.read_bytes()[1:])
        refusal(lambda: read_json(path), "NaN")

    assert in_child(read_with_little_memory) == 0


def test_a_fingerprint_of_a_file_that_is_gone_is_one_line(tmp_path):
    refusal(lambda: files.fingerprint(tmp_path / "a.json"), "a.json", "another run")


def test_a_fingerprint_tells_contents_apart(tmp_path):
    for name, text in (("a", "x"), ("b", "x"), ("c", "y")):
        (tmp_path / name).write_text(text)
    found = [files.fingerprint(tmp_path / name) for name in "abc"]
    assert found[0] == found[1] != found[2]


def test_missing_json_and_folders_are_refused(tmp_path):
    refusal(lambda: read_json(tmp_path / "a.json", "list of samples"), "a.json", "no such file", "list of samples")
    refusal(lambda: read_json(tmp_path, "list of samples"), str(tmp_path), "list of samples")
    (tmp_path / "a.txt").write_text("x")
    refusal(lambda: read_json(tmp_path / "a.txt" / "b.json"), "b.json")


def test_reason_is_one_line_and_never_empty():
    assert reason_of(ValueError("two\n  lines")) == "two lines"
    assert reason_of(EOFError()) == "EOFError"


# Journals


@pytest.fixture
def journal(tmp_path):
    """A journal with two committed lines, closed."""
    journal = Journal(tmp_path / "a.partial")
    journal.append({"n": 1})
    journal.append({"n": 2, "text": "two\nlines\r\u2028née"})
    journal.close()
    return journal


LINES = [{"n": 1}, {"n": 2, "text": "two\nlines\r\u2028née"}]


def test_journal_comes_back_and_grows(journal):
    assert journal.read() == LINES
    journal.append([3])
    assert journal.read() == [*LINES, [3]]
    assert Journal(journal.path).read() == [*LINES, [3]]


def test_every_appended_line_is_in_the_file_when_append_returns(tmp_path):
    journal = Journal(tmp_path / "a.partial")
    for n in range(3):
        journal.append(n)
        assert [json.loads(line) for line in journal.path.read_text().splitlines()] == list(range(n + 1))


def test_journal_that_is_not_there_is_empty(tmp_path):
    journal = Journal(tmp_path / "a.partial")
    assert journal.read() == []
    journal.remove()
    assert names(tmp_path) == []


@pytest.mark.parametrize("torn", [b'{"n": 3', b'{"n": 3, "long": "' + b"x" * 1000, b"\xff", b"\0" * 20, b" ", b"7"])
def test_torn_last_line_is_ignored_and_the_next_append_replaces_it(journal, torn):
    with open(journal.path, "ab") as file:
        file.write(torn)
    assert journal.read() == LINES
    journal.append({"n": 4})
    journal.append({"n": 5})
    journal.close()
    assert journal.read() == [*LINES, {"n": 4}, {"n": 5}]
    assert torn not in journal.path.read_bytes() or torn in (b" ", b"7")


def test_every_cut_of_a_journal_leaves_its_whole_lines(journal):
    whole = journal.path.read_bytes()
    for length in range(len(whole)):
        journal.path.write_bytes(whole[:length])
        kept = LINES[:whole[:length].count(b"\n")]
        assert journal.read() == kept
        journal.append("next")
        journal.close()
        assert journal.read() == [*kept, "next"]


@pytest.mark.parametrize("damaged", [b'{"n": 1', b"", b"\xff", b"\0" * 20, b"[" * 100_000, b"1" * 5000])
def test_damage_in_the_middle_is_refused_and_not_appended_to(journal, damaged):
    journal.path.write_bytes(b'{"n": 1}\n' + damaged + b'\n{"n": 3}\n')
    before = journal.path.read_bytes()
    refusal(journal.read, str(journal.path), "line 2", "--overwrite")
    refusal(lambda: journal.append(4), "line 2")
    assert journal.path.read_bytes() == before


@pytest.mark.parametrize("damaged", [b'{"n": 3', b"\0" * 20, b"\xff", b"", b"[NaN]"])
def test_a_damaged_last_line_is_all_that_is_lost(journal, damaged):
    with open(journal.path, "ab") as file:
        file.write(damaged + b"\n")
    assert journal.read() == LINES
    journal.append(4)
    journal.close()
    assert journal.read() == [*LINES, 4]
    assert journal.path.read_bytes().count(b"\n") == 3


def test_line_that_is_no_json_is_not_appended(journal):
    with pytest.raises(TypeError):
        journal.append({"n": {1}})
    journal.append(4)
    assert journal.read() == [*LINES, 4]


@pytest.mark.parametrize("torn", [b"", b'{"n": 3, "long": "' + b"x" * 5000])
def test_append_on_a_full_disk_commits_nothing_and_a_later_one_does(journal, torn):
    with open(journal.path, "ab") as file:
        file.write(torn)

    def append_on_full_disk():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (journal.path.stat().st_size + 10, 6000))
        with pytest.raises(OSError, match="File too large"):
            journal.append("x" * 5800)
        assert journal.read() == LINES
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))
        journal.append("room again")

    assert in_child(append_on_full_disk) == 0
    assert journal.read() == [*LINES, "room again"]


@pytest.mark.parametrize("torn", [b"", b"x" * 100], ids=["whole", "torn"])
@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()], ids=repr)
def test_line_that_did_not_reach_the_disk_is_not_committed(journal, monkeypatch, torn, error):
    with open(journal.path, "ab") as file:
        file.write(torn)

    def fail(_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(type(error)):
            journal.append(3)
    assert journal.read() == LINES
    journal.append(4)
    assert journal.read() == [*LINES, 4]


def test_replaced_journal_holds_the_new_lines_and_grows(journal):
    journal.append(3)
    journal.replace(["a", "b"])
    assert journal.read() == ["a", "b"]
    journal.append("c")
    assert journal.read() == ["a", "b", "c"]
    journal.remove()
    assert names(journal.path.parent) == []


def test_failed_replacement_leaves_the_old_journal_and_nothing_else(journal):
    with pytest.raises(TypeError):
        journal.replace(["a", {1}])
    assert journal.read() == LINES
    assert names(journal.path.parent) == [journal.path.name]


# Locking an output


def test_output_is_locked_by_one_run_until_it_releases_it(tmp_path):
    path = tmp_path / "a.npy"
    held = lock(path)
    refusal(lambda: lock(path), str(path), "another run")
    assert in_child(lambda: refusal(lambda: lock(path), "another run")) == 0
    lock(tmp_path / "b.npy").close()
    held.close()
    assert names(tmp_path) == []
    lock(path).close()
    held.close()  # once more does no harm
    assert names(tmp_path) == []


def test_outputs_are_locked_together_or_not_at_all(tmp_path):
    first, second = tmp_path / "a.npy", tmp_path / "b.npy"
    with lock(second):
        refusal(lambda: lock(first, second), str(second), "another run")
        lock(first).close()
    with lock(first, second):
        for path in (first, second):
            refusal(lambda path=path: lock(path), "another run")
    assert names(tmp_path) == []


def test_a_link_is_locked_where_it_leads(tmp_path):
    link, target = tmp_path / "a.json", tmp_path / "b.json"
    link.symlink_to(target)
    for held, wanted in ((link, target), (target, link)):
        with lock(held):
            refusal(lambda wanted=wanted: lock(wanted), str(wanted), "another run")
    assert names(tmp_path) == ["a.json"]


def test_lock_ends_with_the_process_however_it_ends(tmp_path):
    path = tmp_path / "a.npy"

    def lock_and_die():
        held = lock(path)
        os.kill(os.getpid(), signal.SIGKILL)
        held.close()

    assert in_child(lock_and_die) == -signal.SIGKILL
    held = lock(path)
    refusal(lambda: lock(path), "another run")
    held.close()
    assert names(tmp_path) == []


def test_released_lock_does_not_let_two_runs_in(tmp_path, monkeypatch):
    """The run before removes the lock file after the next one opened it, and before that one locks it."""
    path = tmp_path / "a.npy"
    before = lock(path)
    flock = fcntl.flock

    def lock_after_release(file, flags):
        monkeypatch.setattr(fcntl, "flock", flock)
        before.close()
        flock(file, flags)

    monkeypatch.setattr(fcntl, "flock", lock_after_release)
    held = lock(path)
    refusal(lambda: lock(path), "another run")
    held.close()


def test_files_can_be_written_where_there_are_no_locks(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(95, "Operation not supported")

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", no_locks)
        lock(tmp_path / "a.npy").close()
    assert names(tmp_path) == []
