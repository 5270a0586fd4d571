"""Files that survive crashes: JSON and tables replaced in one step, journals that only grow, locked outputs.

What is read may come from strangers, so that its size and form are checked where it enters, here.
"""

import contextlib
import csv
import errno
import gc
import glob
import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import orjson
import xxhash
from filelock import FileLock, Timeout

from actalign.console import InputError

WITHOUT_LOCKS = (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS)  # file systems; two runs are then the user's to avoid
LOCK_SECONDS = 0.2  # in which a run that has just ended lets go of its output
MOST_JSON_BYTES = 1 << 32  # of one file; an index of 100,000 clips has some hundred millions, most of it timestamps


def parse_json(text):
    """The value of a JSON text or its bytes.

    Raises ValueError if it is no JSON: NaN, infinities and halves of characters are none, nor is what nests deeper than
    1,024 levels.
    """
    was_enabled = gc.isenabled()
    gc.disable()  # looking for cycles among what is being made takes longer than making it
    try:
        return orjson.loads(text)
    except ValueError as error:
        if "memory" not in str(error):
            raise
        return json.loads(text, parse_constant=int)  # slower, in a twelfth of the memory; NaN is no whole number
    finally:
        if was_enabled:
            gc.enable()


def dump_json(content, options=0):
    """JSON bytes of a value, which may hold numpy arrays and numbers. Raises InputError if it nests too deep."""
    try:
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY | options)
    except orjson.JSONEncodeError as error:
        if "ecursion" not in str(error):
            raise
        raise InputError("lists and objects nest deeper than the 254 levels that can be written; take them out of the "
                         "file that they come from") from None


def json_checksum(content):
    """By which a JSON value, such as all that an item of an index says, is told from others."""
    return xxhash.xxh3_64_hexdigest(dump_json(content))


def read_bytes(path):
    """All of a file that is to be parsed. Raises OSError if it is too large to be what it should be."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > MOST_JSON_BYTES:
            raise OSError(f"has {size} bytes, more than the {MOST_JSON_BYTES} that are read")
        return file.read()


def fingerprint(path):
    """A short hash of a file's bytes, so that a result can be traced to it; `b2sum -l 64` gives the same."""
    try:
        return hashlib.blake2b(read_bytes(path), digest_size=8).hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read any more ({reason_of(error)}); is another run writing it?") from None


def read_json(path, what="JSON", lines=False):
    """The content of a JSON file; with `lines` a list of those of its lines.

    Raises InputError if it is missing, empty, cut short or not JSON.
    """
    try:
        content = read_bytes(path)
        return [parse_json(line) for line in content.splitlines() if line.strip()] if lines else parse_json(content)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; give the {what}, or run the stage that writes it") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read as {what} ({reason_of(error)}); give another file") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not valid JSON ({reason_of(error)}); it may be cut short: restore a copy, "
                         "or remove it and run the stage that writes it again") from None


def write_json(path, content, indent=False):
    """Replace `path` by `content` in one step: a reader sees the old file or the new one, never a part."""
    with replacing(path, binary=True) as file:
        file.write(dump_json(content, orjson.OPT_INDENT_2 if indent else 0) + b"\n")


def write_json_items(path, header, key, items):
    """`write_json` of {**header, key: [items]} that holds one item at a time; an item a line."""
    with replacing(path, binary=True) as file:
        file.write(dump_json(header)[:-1] + b"," + dump_json(key) + b":[")
        for number, item in enumerate(items):
            file.write((b",\n" if number else b"\n") + dump_json(item))
        file.write(b"]}\n")


@contextlib.contextmanager
def csv_writer(path, columns):
    """The csv.DictWriter of a table that takes the place of `path` when the block ends; a row may lack columns."""
    with replacing(path) as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        yield writer


def write_csv(path, columns, rows):
    """Replace `path` by a table of dicts, in one step."""
    with csv_writer(path, columns) as writer:
        writer.writerows(rows)


def begins_with(path, pattern):
    """Whether the first bytes of a file match a pattern, which tells files of a kind; False for what is no file."""
    try:
        with open(path, "rb") as file:
            return re.match(pattern, file.read(1000).decode(errors="replace")) is not None
    except OSError:
        return False


@contextlib.contextmanager
def replacing(path, binary=False):
    """A file that takes the place of `path`, or of a link's target, when the block ends; of none if it raises."""
    path = Path(os.path.realpath(path))
    _remove_temporaries(path)
    temporary = path.with_name(f"{path.name}.{os.urandom(4).hex()}.tmp")
    try:
        with open(temporary, "xb" if binary else "x", encoding=None if binary else "utf-8") as file:
            yield file
            sync(file)
        rename(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _remove_temporaries(path):
    """Remove what killed runs left of what was to replace `path`; other runs are locked out."""
    for left in glob.glob(f"{glob.escape(str(path))}.{'[0-9a-f]' * 8}.tmp"):
        os.unlink(left)


def rename(source, target):
    """Have a file take the place of another in one step that outlasts a power cut."""
    os.replace(source, target)
    with contextlib.suppress(OSError), contextlib.ExitStack() as closing:  # some systems do not open or sync folders
        folder = os.open(Path(target).parent, os.O_RDONLY)
        closing.callback(os.close, folder)
        os.fsync(folder)


def unshare(path):
    """Put a copy in the place of a file that has other hard links, before it is changed."""
    if os.path.exists(path) and os.stat(path).st_nlink > 1:
        with open(path, "rb") as file, replacing(path, binary=True) as copy:
            shutil.copyfileobj(file, copy)


def reason_of(error):
    """What an exception says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def sync(file):
    """Have what was written to an open file on the disk."""
    file.flush()
    os.fsync(file.fileno())


class Journal:
    """A file of JSON lines that only grows; every appended line is on the disk when `append` returns.

    A last line that a crash cut short or damaged was never committed: reading ignores it, the next append replaces it.
    """

    def __init__(self, path, advice="remove the file or start over with --overwrite"):
        self.path = Path(path)
        self._advice = advice
        self._file = None

    def read(self):
        """All committed lines; an empty list if there is no such file. Raises InputError if a line is damaged."""
        lines = []
        for number, line in enumerate(self._committed().splitlines(), start=1):
            try:
                lines.append(parse_json(line))
            except ValueError as error:
                raise InputError(f"{self.path}: line {number} is damaged ({reason_of(error)}); "
                                 f"{self._advice}") from None
        return lines

    def append(self, content):
        """Commit one line."""
        if self._file is None:
            self.read()  # nothing is added to a damaged journal
            committed = len(self._committed())
            unshare(self.path)
            self._file = open(self.path, "ab")
            self._file.truncate(committed)
            self._file.seek(committed)
        end = self._file.tell()
        try:
            self._file.write(dump_json(content) + b"\n")
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

    def _committed(self):
        """The bytes up to the end of the last whole line, or to its beginning if it is damaged and not the only one."""
        try:
            raw = read_bytes(self.path)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({reason_of(error)}); move it away, or choose another "
                             "--output") from None
        raw = raw[:raw.rfind(b"\n") + 1]
        last = raw.rfind(b"\n", 0, -1) + 1
        with contextlib.suppress(ValueError):
            parse_json(raw[last:])
            return raw
        return raw[:last] or raw

    def replace(self, contents):
        """Replace all lines in one step."""
        self.close()
        with replacing(self.path, binary=True) as file:
            file.writelines(dump_json(content) + b"\n" for content in contents)

    def remove(self):
        """Remove the file, if it is there."""
        self.close()
        self.path.unlink(missing_ok=True)
        _remove_temporaries(self.path)


def lock(*paths):
    """Keep outputs to this run, until it closes the ExitStack that this returns or the process ends, however it ends.

    Raises InputError if another run has one of them.
    """
    with contextlib.ExitStack() as held:  # lets go of all where one cannot be had
        for path in paths:
            own = FileLock(f"{os.path.realpath(path)}.lock", timeout=LOCK_SECONDS)
            try:
                own.acquire()
            except Timeout:
                raise InputError(f"{path}: another run is writing it; wait for it, or choose another name") from None
            except OSError as error:
                if error.errno not in WITHOUT_LOCKS:
                    raise
                Path(own.lock_file).unlink(missing_ok=True)
            else:
                held.callback(own.release)
                held.callback(Path(own.lock_file).unlink, missing_ok=True)  # first; whoever waits sees that it is gone
        return held.pop_all()
