"""How a script meets its user: one-line errors, exit codes, log lines, progress, devices.

Results go to stdout; everything said on the way (progress, warnings, errors) goes to stderr.
"""

import argparse
import errno
import functools
import logging
import os
import signal
import sys
import time
import unicodedata
from pathlib import Path

import actalign

EXIT_DONE = 0
EXIT_FAILED = 1  # the input was fine, the run was not: nothing could be decoded, the disk is full
EXIT_BAD_INPUT = 2  # the user can mend it: a flag, a file, a device; argparse uses 2 as well
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it

# The disk, its quota or its permissions: not the program's fault, and the user can mend it.
OUTSIDE_CAUSES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG,
                  errno.EIO, errno.ELOOP)

LONGEST_LINE = 1500  # characters of a message
LOG_INTERVAL = 30  # seconds between two progress lines where stderr is a file


class OneLine(Exception):
    """An error whose message is one printable line, whatever a stranger's file put into it."""

    exit_code = EXIT_FAILED

    def __init__(self, message):
        super().__init__(one_line(message))


class InputError(OneLine):
    """A bad flag, file or value: one line that says what, which and the next step. Exit code 2."""

    exit_code = EXIT_BAD_INPUT


class StageError(OneLine):
    """The stage could not do its work although its input was in order. Exit code 1."""


def one_line(message):
    """A message without line breaks and control characters, and with its middle left out where it is very long."""
    line = " ".join(printable(str(message)).split())
    half = LONGEST_LINE // 2
    return line if len(line) <= LONGEST_LINE else f"{line[:half]} ... {line[-half:]}"


def printable(text):
    """A text without what steers a terminal. Whatever is said on stdout and stderr passes through here."""
    return text if text.isprintable() else "".join(
        c if c.isprintable() else " " if c.isspace() else "" if unicodedata.category(c) == "Cf" else "\ufffd"
        for c in text)


def say(*lines):
    """Print results, a line each, on stdout. Where nobody reads on, as behind `head`, the run goes on all the same."""
    try:
        print(*map(printable, lines), sep="\n", flush=True)
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")


def script(main):
    """Decorate a script's `main(argv=None)`: what a user can cause becomes one line on stderr and an exit code.

    Anything else is a bug and keeps its traceback.
    """
    @functools.wraps(main)
    def run(argv=None):
        sys.stdout, sys.stderr = (stream or open(os.devnull, "w") for stream in (sys.stdout, sys.stderr))  # if closed
        getattr(sys.stdout, "reconfigure", dict)(errors="backslashreplace")  # a notebook's has no such method
        try:
            if signal.getsignal(signal.SIGINT) is actalign.end_at_once:
                signal.signal(signal.SIGINT, signal.default_int_handler)
            code = main(argv) or EXIT_DONE
            sys.stdout.flush()
            return code
        except OneLine as error:
            log.error(error)
            return error.exit_code
        except KeyboardInterrupt:
            log.error("interrupted; what was finished is kept, run the same command again to go on")
            return EXIT_INTERRUPTED
        except OSError as error:
            if error.errno not in (*OUTSIDE_CAUSES, errno.EPIPE):
                raise
            try:
                sys.stdout.flush()
            except (OSError, ValueError):  # so that the interpreter's last flush does not fail as well
                sys.stdout = open(os.devnull, "w")
            if error.errno != errno.EPIPE:  # else `| head` has read enough
                log.error(f"{error.filename or 'output'}: {error.strerror}; what was finished is kept, mend that and "
                          "run the same command again to go on")
            return EXIT_FAILED

    return run


class _StderrHandler(logging.Handler):
    """Writes log lines on stderr, above a progress bar if there is one."""

    def emit(self, record):
        from tqdm import tqdm

        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        line = f"{Path(sys.argv[0]).stem}: {level}{one_line(record.getMessage())}"
        if sys.stderr.isatty():
            tqdm.write(line, file=sys.stderr)
        else:  # where a bar would be written anew
            sys.stderr.write(f"{line}\n")


log = logging.getLogger("actalign")
log.setLevel(logging.INFO)
log.propagate = False  # these lines are a script's own, whatever the libraries around it log
log.addHandler(_StderrHandler())


def some_of(names, most=3):
    """The first few of many names as text."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def progress(total, unit, **options):
    """A tqdm bar on stderr with rate and remaining time; a line now and then when stderr is not a terminal."""
    from tqdm import tqdm

    if not sys.stderr.isatty():
        options = {"mininterval": LOG_INTERVAL, "maxinterval": LOG_INTERVAL, "delay": LOG_INTERVAL, **options}
    return tqdm(total=total, unit=f" {unit}", file=sys.stderr, dynamic_ncols=True, **options)


def parser(doc):
    """An ArgumentParser whose help begins with a script's docstring, which says what it does and gives an example."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def add_device_argument(parser, default="the best one there is"):
    """Add the --device flag that four stages share; `default` says what is taken without it."""
    parser.add_argument("--device", help=f"torch device such as cuda:0, mps or cpu (default: {default})")


def pick_device(name=None):
    """The torch.device called `name`, or the best one of this machine: cuda, else mps, else cpu.

    Raises InputError if there is no such device.
    """
    import torch

    there = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    there += ["mps", "cpu"] if torch.backends.mps.is_available() else ["cpu"]
    name = there[0] if name is None else name
    if name not in {*there, *(f"{device}:0" for device in there), *(device.partition(":")[0] for device in there)}:
        raise InputError(f"--device {name}: no such device; this machine has {', '.join(there)}")
    return torch.device(name)


def require_folder_of(path, is_file=True):
    """Raise InputError unless the folder that `path` is to be written into exists, or if a file would be a folder."""
    path, folder = Path(path), Path(os.path.realpath(path)).parent  # of a link, its target's
    if not folder.is_dir():
        raise InputError(f"{path}: the folder {folder} does not exist; create it or choose another")
    if is_file and path.is_dir():
        raise InputError(f"{path}: is a folder; give the name of a file")


def add_overwrite_argument(parser):
    """Add the --overwrite flag of the stages that resume."""
    parser.add_argument("--overwrite", action="store_true",
                        help="start over instead of going on from what is there; the old output stays until the new "
                             "one is finished")


def number(kind, least, most, **words):
    """An argparse type: an int or a float (the `kind`) from `least` to `most`, or what one of `words` stands for."""
    def in_range(text):
        if text in words:
            return words[text]
        value = kind(text)
        if not least <= value <= most:
            raise ValueError(text)
        return value

    in_range.__name__ = " or ".join([*words, f"number from {least:g} to {most:g}"])  # as argparse says what is none
    return in_range


positive_int, positive_float = number(int, 1, 10**9), number(float, 1e-9, 1e9)
batch_size = number(int, 1, 10_000, auto=None)  # frames or texts at once
pixels = number(int, 1, 4096)
seconds = number(float, 0.001, 1e6)  # to wait; the system takes less than 2**31 milliseconds
temperature = number(float, 0, 100)
workers = number(int, 1, 1000)


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self):
        self._start = time.monotonic()

    @property
    def seconds(self):
        return time.monotonic() - self._start

    def rate(self, count):
        """`count` things a second as text."""
        return f"{count / max(self.seconds, 1e-9):.3g}" if count else "0"
