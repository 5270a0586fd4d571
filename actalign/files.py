"""Files that survive crashes: JSON replaced in one step, journals that only grow, and outputs held by one run.

What is read may come from strangers: sizes, nesting and numbers are bounded before anyone relies on them.
"""

import contextlib
import hashlib
import json
import math
import os
from pathlib import Path

from actalign.console import InputError

try:
    import fcntl
except ImportError:  # Windows has no flock: two runs on one output are then the user's to avoid
    fcntl = None

MOST_JSON_BYTES = 1 << 29  # of one file; the predictions of ten times ActionAtlas, with all paths, have a fifth
MOST_LEVELS = 64  # of lists and objects in one another; artifacts have six, and what a dataset brought along
MOST_DIGITS = 20  # of a whole number: 64 bits


def parse_json(text, levels=MOST_LEVELS):
    """The value of a JSON text; NaN and infinities, which JSON does not know, become None.

    Raises ValueError if it is no JSON, nests deeper than so many levels or holds a whole number beyond 64 bits.
    """
    try:
        value = DECODER.decode(text)
    except RecursionError:
        raise ValueError("lists and objects nest too deep") from None
    require_shallow(value, levels)
    return value


def parse_artifact(text):
    """`parse_json` of what this project writes: also refuses halves of characters, which could not be written again."""
    value = parse_json(text)
    require_whole_characters(value, text)
    return value


def require_shallow(value, levels=MOST_LEVELS):
    """Raise ValueError if lists and objects nest deeper than so many levels."""
    level = [[value]]
    for _ in range(levels + 1):
        level = [part for outer in level for part in (outer.values() if type(outer) is dict else outer)
                 if type(part) in (dict, list)]
        if not level:
            return
    raise ValueError(f"lists and objects nest deeper than {levels} levels")


def require_whole_characters(value, text):
    """Raise ValueError if a value, whose JSON is `text`, holds halves of characters."""
    if "\\ud" in text.lower():
        json.dumps(value, ensure_ascii=False).encode()


def _whole_number(digits):
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _finite(digits):
    value = float(digits)
    return value if math.isfinite(value) else None


DECODER = json.JSONDecoder(parse_int=_whole_number, parse_float=_finite, parse_constant=lambda name: None)


def read_bytes(path):
    """All of a file that is to be parsed. Raises OSError if it is too large to be what it should be."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > MOST_JSON_BYTES:
            raise OSError(f"has {size} bytes, more than the {MOST_JSON_BYTES} that are read")
        return file.read()


def fingerprint(path):
    """A short hash of a file's bytes, so that a result can be traced to it; `b2sum -l 64` gives the same."""
    with open(path, "rb") as file:
        state = hashlib.blake2b(digest_size=8)
        while part := file.read(1 << 20):
            state.update(part)
        return state.hexdigest()


def read_json(path, what="JSON"):
    """The content of a JSON file.

    Raises InputError if it is missing, empty, cut short or not JSON.
    """
    text = _read_text(path, what)
    try:
        return parse_artifact(text)
    except ValueError as error:
        raise InputError(f"{path}: is not valid JSON ({reason_of(error)}); it may be cut short: restore a copy, "
                         "or remove it and run the stage that writes it again") from None


def read_json_lines(path, what="JSON"):
    """The contents of a file with one JSON value a line, blank lines aside.

    Raises InputError if it is missing, empty, or a line is not JSON.
    """
    values = []
    for number, line in enumerate(_read_text(path, what).split("\n"), start=1):
        try:
            values += [parse_artifact(line)] if line.strip() else []
        except ValueError as error:
            raise InputError(f"{path}: line {number} is not valid JSON ({reason_of(error)}); it may be cut short: "
                             f"give the whole {what}") from None
    return values


def _read_text(path, what):
    path = Path(path)
    try:
        text = read_bytes(path).decode()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; give the path of the {what}, "
                         "or run the stage that writes it") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as {what} ({reason_of(error)}); "
                         "give the path of another file") from None
    if not text.strip():
        raise InputError(f"{path}: is empty, expected {what}; remove it and run the stage that writes it again")
    return text


def write_json(path, content, indent=None):
    """Replace `path` by `content` in one step: a reader sees the old file or the new one, never a part.

    Numbers that JSON does not know (NaN, infinities) raise ValueError.
    """
    separators = (",", ":") if indent is None else None
    with replacing(path) as file:
        json.dump(content, file, ensure_ascii=False, allow_nan=False, indent=indent, separators=separators)
        file.write("\n")


def write_json_items(path, header, key, items):
    """`write_json` of {**header, key: [items]} that holds one item at a time; an item a line."""
    with replacing(path) as file:
        file.write(_line(header)[:-2] + f',"{key}":[')
        for number, item in enumerate(items):
            file.write((",\n" if number else "\n") + _line(item).rstrip("\n"))
        file.write("]}\n")


@contextlib.contextmanager
def replacing(path, binary=False):
    """A file that takes the place of `path` when the block ends, and leaves nothing behind if it raises."""
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb" if binary else "w", encoding=None if binary else "utf-8") as file:
            yield file
            sync(file)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def reason_of(error):
    """What an exception says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def sync(file):
    """Have what was written to an open file on the disk."""
    file.flush()
    os.fsync(file.fileno())


class Journal:
    """A file of JSON lines that only grows; every appended line is on the disk when `append` returns.

    A last line that a crash cut short was never committed: reading ignores it, the next append replaces it.
    """

    def __init__(self, path, advice="remove the file or start over with --overwrite"):
        self.path = Path(path)
        self._advice = advice
        self._file = None

    def read(self):
        """All committed lines; an empty list if there is no such file. Raises InputError if a line is damaged."""
        lines, _ = self._scan()
        return lines

    def append(self, content):
        """Commit one line."""
        if self._file is None:
            _, committed = self._scan()
            self._file = open(self.path, "ab")
            self._file.truncate(committed)
            self._file.seek(committed)
        end = self._file.tell()
        try:
            self._file.write(_line(content).encode())
            sync(self._file)
        except BaseException:
            with contextlib.suppress(OSError):  # a full disk does not take buffered bytes
                self._file.close()
            self._file = None
            with contextlib.suppress(OSError):
                os.truncate(self.path, end)
            raise

    def close(self):
        """Close the file; the journal can still be read and appended to."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _scan(self):
        try:
            raw = read_bytes(self.path)
        except FileNotFoundError:
            return [], 0
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({reason_of(error)}); move it away, or choose another "
                             "--output") from None
        committed = raw.rfind(b"\n") + 1
        lines = []
        for number, line in enumerate(raw[:committed].splitlines(), start=1):
            try:
                lines.append(parse_artifact(line.decode()))
            except ValueError as error:
                raise InputError(f"{self.path}: line {number} is damaged ({reason_of(error)}); "
                                 f"{self._advice}") from None
        return lines, committed

    def replace(self, contents):
        """Replace all lines in one step."""
        self.close()
        with replacing(self.path) as file:
            for content in contents:
                file.write(_line(content))

    def remove(self):
        """Remove the file, if it is there."""
        self.close()
        self.path.unlink(missing_ok=True)
        self.path.with_name(self.path.name + ".tmp").unlink(missing_ok=True)


def _line(content):
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"


class Lock:
    """Keeps an output to one run. The system lets go of it when the process ends, however it ends.

    Raises InputError if another run holds it.
    """

    def __init__(self, path):
        self._path = Path(path).with_name(Path(path).name + ".lock")
        self._file = None
        while fcntl is not None and self._file is None:
            self._file = self._try(path)

    def release(self):
        """Let go of the output."""
        if self._file is not None:
            self._path.unlink(missing_ok=True)
            self._file.close()
            self._file = None

    def _try(self, path):
        file = open(self._path, "w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise InputError(f"{path}: another run is writing it; wait for it to end, "
                             "or choose another --output") from None
        except OSError:  # a file system without locks
            return file
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(self._path)):
                return file
        file.close()  # the run before removed the file between our opening and our locking it
        return None
