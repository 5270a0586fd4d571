"""A hundred damaged files of every kind; `make fuzz` reads 2,000 of each."""

import re
import subprocess
import sys

import fuzz
import pytest


def test_damaged_files_are_read_right_or_refused_in_one_line(root):
    ran = subprocess.run([sys.executable, "tests/fuzz.py", "--cases", "100"], cwd=root, capture_output=True, text=True,
                         check=False)
    print(ran.stdout)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert [int(cases) for cases in re.findall(r": (\d+) cases,", ran.stdout)] == [100] * len(fuzz.READERS)
    assert ran.stdout.endswith(" 0 failures\n")


def broken(read, check=None):
    """A Reader of a text file with this `read(text)`."""
    class Broken(fuzz.Reader):
        def prepare(self, folder):
            (folder / "a.txt").write_text("whole")
            return [folder / "a.txt"]

        def read(self, folder):
            return read((folder / "a.txt").read_text(encoding="latin-1"))

        def check(self, whole, found):
            if check:
                check(found)

    return Broken()


def refuse_in_two_lines(text):
    if text != "whole":
        raise fuzz.Refusal("one\ntwo")


def fail(text):
    if text != "whole":
        raise KeyError(text)


def want_memory(text):
    if text != "whole":
        bytearray(2 * fuzz.BYTES)


def warn_of_it(text):
    if text != "whole":
        fuzz.warnings.warn("strange", stacklevel=1)


def hang(text):
    while text != "whole":
        pass


def require_whole(text):
    if text != "whole":
        raise fuzz.Wrong(text)


@pytest.mark.parametrize(("reader", "reason"), [
    (broken(fail), "KeyError"), (broken(refuse_in_two_lines), "not in one line"), (broken(want_memory), "MemoryError"),
    (broken(warn_of_it), "UserWarning"), (broken(hang), "takes more than"), (broken(lambda text: text, require_whole),
                                                                             "Wrong"),
], ids=["exception", "two lines", "memory", "warning", "hang", "wrong result"])
def test_the_harness_notices_what_is_neither_read_right_nor_refused(monkeypatch, reader, reason):
    monkeypatch.setattr(fuzz, "SECONDS", 1)
    outcomes, failures = fuzz.fuzz("broken", reader, 1 if reason == "takes more than" else 5)
    assert outcomes["failed"] == outcomes.total() > 0
    assert all(reason in failure for failure in failures)
