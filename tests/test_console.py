"""How scripts meet their user: exit codes, one-line messages, devices, flags."""

import argparse
import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from held_runs import LIMIT
from refusals import refusal

from actalign import console
from actalign.console import InputError, StageError, pick_device, require_folder_of, script, some_of

ROOT = Path(console.__file__).parent.parent


@pytest.fixture(autouse=True)
def script_name(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/encode_videos.py", "--output", "x.npy"])


def raising(error):
    """A script whose main raises."""
    @script
    def main(argv=None):
        raise error
    return main


# Exit codes


@pytest.mark.parametrize(("error", "code", "part"), [
    (InputError("a.npy: no such file; run process_data.py first"), 2, "a.npy: no such file; run process_data.py first"),
    (StageError("no clip could be processed"), 1, "no clip could be processed"),
    (InputError("two\nlines  and \t more"), 2, "two lines and more"),
    (KeyboardInterrupt(), 130, "run the same command again"),
    (OSError(errno.ENOSPC, "No space left on device", "a.npy"), 1, "a.npy: No space left on device"),
    (OSError(errno.ENOSPC, "No space left on device"), 1, "No space left on device"),
    (OSError(errno.EDQUOT, "Disk quota exceeded", Path("a.npy")), 1, "a.npy: Disk quota exceeded"),
    (OSError(errno.EFBIG, "File too large", "a.npy"), 1, "a.npy: File too large"),
    (OSError(errno.EIO, "Input/output error", "a.npy"), 1, "a.npy: Input/output error"),
    (OSError(errno.EROFS, "Read-only file system", "a.npy"), 1, "a.npy: Read-only file system"),
    (PermissionError(errno.EACCES, "Permission denied", "a.npy"), 1, "a.npy: Permission denied"),
])
def test_what_a_user_can_cause_is_one_line_and_an_exit_code(capsys, error, code, part):
    assert raising(error)([]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("encode_videos: error: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert part in err


@pytest.mark.parametrize("error", [ZeroDivisionError(), ValueError("bug"), KeyError("bug"), FileNotFoundError(2, "bug"),
                                   OSError(errno.EBADF, "bug"), MemoryError()])
def test_bug_keeps_its_traceback(capsys, error):
    with pytest.raises(type(error)) as caught:
        raising(error)([])
    assert caught.value is error
    assert any(entry.name == "main" for entry in caught.traceback)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (1, 1)])
def test_script_that_ends_gives_its_own_code(returned, code):
    @script
    def main(argv=None):
        """Encode."""
        return returned

    assert main() == code
    assert (main.__name__, main.__doc__) == ("main", "Encode.")


def test_arguments_are_handed_on_and_bad_usage_is_2():
    @script
    def main(argv=None):
        parser = argparse.ArgumentParser()
        parser.add_argument("--n", type=console.positive_int)
        return parser.parse_args(argv).n

    assert main(["--n", "7"]) == 7
    with pytest.raises(SystemExit) as caught:
        main(["--n", "0"])
    assert caught.value.code == 2


# A script in a process of its own that prints three lines, fewer than a buffer holds.
PRINTING = """
from actalign import console

@console.script
def main(argv=None):
    for line in range(3):
        print("line", line)

raise SystemExit(main())
"""


def run_printing(**options):
    """(exit code, stderr) of the printing script; its output is buffered, as it is where it is no terminal."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    done = subprocess.run([sys.executable, "-c", PRINTING], cwd=ROOT, env=environment, stderr=subprocess.PIPE,
                          text=True, timeout=LIMIT, check=False, **options)
    return done.returncode, done.stderr


def test_output_into_a_pipe_that_nobody_reads_is_no_traceback():
    read, write = os.pipe()
    os.close(read)
    try:
        assert run_printing(stdout=write) == (1, "")
    finally:
        os.close(write)


def test_output_onto_a_full_disk_is_one_line_and_1(tmp_path):
    def fill():
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    with open(tmp_path / "out.txt", "w") as file:
        code, err = run_printing(stdout=file, preexec_fn=fill)
    assert code == 1
    assert err.count("\n") == 1
    assert "error: " in err
    assert "File too large" in err


def test_closed_pipe_while_printing_is_no_traceback(capsys):
    assert raising(BrokenPipeError(errno.EPIPE, "Broken pipe"))([]) == 1
    assert capsys.readouterr() == ("", "")


def test_full_disk_elsewhere_leaves_stdout_to_its_owner(tmp_path, monkeypatch):
    """A notebook or a script of scripts calls main and goes on printing."""
    @script
    def main(argv=None):
        print("this script")
        raise OSError(errno.ENOSPC, "No space left on device", "a.npy")

    with open(tmp_path / "out.txt", "w") as file:
        monkeypatch.setattr(sys, "stdout", file)
        assert main([]) == 1
        print("the next script")
    assert (tmp_path / "out.txt").read_text() == "this script\nthe next script\n"


# Messages


def test_log_lines_go_to_stderr_in_one_line_each(capsys):
    console.log.info("two\nlines")
    console.log.warning(ValueError("careful"))
    assert capsys.readouterr() == ("", "encode_videos: two lines\nencode_videos: warning: careful\n")


def test_progress_in_a_file_is_silent_at_first_and_keeps_stdout_clean(capsys):
    with console.progress(3, "clips") as bar:
        bar.update(3)
    assert capsys.readouterr() == ("", "")


def test_some_of_many_names():
    assert some_of([]) == ""
    assert some_of(["a", "b", "c"]) == "a, b, c"
    assert some_of(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"
    assert some_of(["a", "b"], most=1) == "a and 1 more"


def test_stopwatch_gives_rates():
    watch = console.Stopwatch()
    assert 0 <= watch.seconds < 60
    assert watch.rate(0) == "0"
    assert float(watch.rate(10)) > 0


# Devices


@pytest.fixture
def machine(monkeypatch):
    """A function that makes torch report so many CUDA devices, and MPS or not."""
    torch = pytest.importorskip("torch")

    def report(cuda, mps):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return report


@pytest.mark.parametrize(("cuda", "mps", "best"), [(2, False, "cuda:0"), (1, True, "cuda:0"), (0, True, "mps"),
                                                   (0, False, "cpu")])
def test_best_device_is_cuda_then_mps_then_cpu(machine, cuda, mps, best):
    machine(cuda, mps)
    assert str(pick_device()) == best


@pytest.mark.parametrize(("cuda", "mps", "names"), [
    (2, False, ["cuda", "cuda:0", "cuda:1", "cpu", "cpu:0"]), (0, True, ["mps", "mps:0", "cpu"]), (0, False, ["cpu"]),
])
def test_device_that_is_there_is_taken(machine, cuda, mps, names):
    machine(cuda, mps)
    assert [str(pick_device(name)) for name in names] == names


@pytest.mark.parametrize(("cuda", "mps", "names"), [
    (2, False, ["cuda:2", "cuda:99", "mps", "mps:0", "cpu:1"]),
    (0, True, ["cuda", "cuda:0", "mps:1"]),
    (0, False, ["cuda", "cuda:0", "cuda:99", "mps", "mps:0", "xpu", "meta", "nonsense", "", "cuda:x", "cuda:-1", "gpu",
                "cpu,cpu", "CUDA"]),
])
def test_device_that_is_not_there_is_refused_with_those_that_are(machine, cuda, mps, names):
    machine(cuda, mps)
    there = [f"cuda:{n}" for n in range(cuda)] + ["mps"] * mps + ["cpu"]
    for name in names:
        refusal(lambda name=name: pick_device(name), f"--device {name}", ", ".join(there))


# Paths and flags


def test_folder_of_an_output_must_be_there(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("x")
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / "a.npy", "a.npy", "./a.npy", tmp_path / "a.txt"):
        require_folder_of(path)
    for path in (tmp_path / "no" / "a.npy", "no/a.npy", tmp_path / "a.txt" / "a.npy"):
        refusal(lambda path=path: require_folder_of(path), str(path), "folder")
    for path in (tmp_path, ".", "", "/"):
        refusal(lambda path=path: require_folder_of(path), "is a folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt"]


def test_output_with_an_endless_name_is_one_line(tmp_path, capsys):
    @script
    def main(argv=None):
        require_folder_of(tmp_path / ("x" * 300 + ".npy"))

    assert main() in (1, 2)
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(("kind", "good", "bad"), [
    (console.positive_int, {"1": 1, "384": 384}, ["0", "-1", "1.5", "x", ""]),
    (console.positive_float, {"1": 1.0, "0.5": 0.5, "1e3": 1000.0}, ["0", "-1", "nan", "inf", "x", ""]),
])
def test_numbers_of_flags(kind, good, bad):
    parser = argparse.ArgumentParser()
    parser.add_argument("--n", type=kind)
    assert {text: parser.parse_args([f"--n={text}"]).n for text in good} == good
    for text in bad:
        with pytest.raises(SystemExit) as caught:
            parser.parse_args([f"--n={text}"])
        assert caught.value.code == 2


@pytest.mark.parametrize("error", [InputError, StageError])
def test_an_error_is_one_printable_line_whatever_a_file_put_into_it(error):
    message = str(error("id 'a\n b\x1b[2J\0': " + "x" * 10_000 + "; mend it"))
    assert message.startswith("id 'a b\ufffd[2J\ufffd': xxx")
    assert message.endswith("xxx; mend it")
    assert len(message) < 1600
    assert str(error("née 技: short")) == "née 技: short"
