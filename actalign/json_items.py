"""Lists in JSON files read item by item, so that memory does not grow with their length."""

import codecs
import json
import threading
from array import array
from pathlib import Path

from actalign.console import InputError
from actalign.files import (
    DECODER,
    MOST_JSON_BYTES,
    parse_artifact,
    reason_of,
    require_shallow,
    require_whole_characters,
)

CHUNK = 1 << 16  # bytes read at once
LONGEST_ERROR = 32  # characters before the end of a chunk where an error may come of its end, as of "tru" or "\\u00"
LONGEST_JOINT = len("e+0")  # characters that a number may lack to go on, as "1e+" is read as 1


class JsonItems:
    """The items of a JSON file that holds a list, or an object with a list under `key`.

        items = JsonItems(path, "list of samples")
        for item in items: ...      # from the file, one at a time
        items[7]                    # from the file, once an iteration has come to the end
        items.header                # the other values of the object, then; None where the file holds no object

    is_list tells, then, whether the list was there. The file stays open, so that it may be replaced meanwhile.
    Raises InputError if the file is missing, empty, cut short or not JSON.
    """

    def __init__(self, path, what, key=None):
        self.path = Path(path)
        self.header = None
        self.is_list = False
        self._what = what
        self._key = key
        self._offsets = array("q")  # of the items' first bytes
        self._sizes = array("q")
        self._reading = threading.Lock()
        try:
            self._file = open(path, "rb")
        except FileNotFoundError:
            raise InputError(f"{path}: no such file; give the path of the {what}, "
                             "or run the stage that writes it") from None
        except OSError as error:
            raise self._unreadable(error) from None

    def __len__(self):
        return len(self._offsets)

    def __getitem__(self, number):
        with self._reading:
            self._file.seek(self._offsets[number])
            raw = self._file.read(self._sizes[number])
        return parse_artifact(raw.decode())

    def __iter__(self):
        self._offsets, self._sizes = array("q"), array("q")
        self.header, self.is_list = None, False
        try:
            yield from self._items(_Text(self._blocks()))
        except (OSError, UnicodeDecodeError) as error:
            raise self._unreadable(error) from None
        except (ValueError, RecursionError) as error:
            raise InputError(f"{self.path}: is not valid JSON ({reason_of(error)}); it may be cut short: restore a "
                             "copy, or remove it and run the stage that writes it again") from None

    def _items(self, text):
        first = text.peek()
        if not first:
            raise InputError(f"{self.path}: is empty, expected {self._what}; remove it and run the stage that writes "
                             "it again")
        if first == "[" and self._key is None:
            yield from self._list(text)
        elif first == "{" and self._key is not None:
            yield from self._object(text)
        else:
            text.value()
        if text.peek():
            raise ValueError(f"more text after its end, at byte {text.byte}")

    def _object(self, text):
        self.header = {}
        for name in text.members():
            if name == self._key and text.peek() == "[":
                yield from self._list(text)
            else:
                self.header[name] = text.value()

    def _list(self, text):
        self._offsets, self._sizes = array("q"), array("q")  # of a key that is there twice the last one counts
        self.is_list = True
        for _ in text.elements():
            first = text.byte
            value = text.value()
            self._offsets.append(first)
            self._sizes.append(text.byte - first)
            yield value

    def _blocks(self):
        """The file's text, in blocks; each iteration reads with a position of its own."""
        decoder = codecs.getincrementaldecoder("utf-8")()
        at = 0
        while True:
            with self._reading:
                self._file.seek(at)
                raw = self._file.read(CHUNK)
            at += len(raw)
            yield decoder.decode(raw, final=not raw)
            if not raw:
                return

    def _unreadable(self, error):
        return InputError(f"{self.path}: cannot be read as {self._what} ({reason_of(error)}); "
                          "give the path of another file")


class _Text:
    """JSON text that comes in blocks, of which only what is not yet parsed is kept.

    byte  where in the file's UTF-8 the next character to be parsed lies
    """

    def __init__(self, blocks):
        self.byte = 0
        self._blocks = blocks
        self._text = ""
        self._at = 0
        self._decode = DECODER.raw_decode

    def peek(self):
        """The next character that is no white space; "" at the end."""
        while True:
            rest = len(self._text)
            at = self._at
            while at < rest and self._text[at] in " \t\n\r":
                at += 1
            self._skip_to(at)
            if at < rest:
                return self._text[at]
            if not self._more():
                return ""

    def take(self, *characters):
        """The next character, which must be one of these."""
        found = self.peek()
        if found not in characters or not found:
            raise ValueError(f"expected {' or '.join(characters)} at byte {self.byte}")
        self._skip_to(self._at + 1)
        return found

    def value(self):
        """The value that begins here. Raises ValueError if there is none."""
        self.peek()
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated string") or error.pos > len(self._text) - LONGEST_ERROR
                if cut and self._more(len(self._text) - self._at):
                    if len(self._text) > MOST_JSON_BYTES:
                        raise ValueError(f"a value of more than {MOST_JSON_BYTES} characters") from None
                    continue
                raise ValueError(f"{error.msg} after byte {self.byte}") from None
            if end > len(self._text) - LONGEST_JOINT and self._more():  # a number may go on
                continue
            require_shallow(value)
            require_whole_characters(value, self._text[self._at:end])
            self._skip_to(end)
            return value

    def elements(self):
        """Yields where each element of a list begins; its value is to be taken before the next."""
        self.take("[")
        if self.peek() == "]":
            self.take("]")
            return
        while True:
            yield
            if self.take(",", "]") == "]":
                return

    def members(self):
        """Yields the name of each member of an object; its value is to be taken before the next."""
        self.take("{")
        if self.peek() == "}":
            self.take("}")
            return
        while True:
            if self.peek() != '"':
                raise ValueError(f"expected a name in double quotes at byte {self.byte}")
            name = self.value()
            self.take(":")
            yield name
            if self.take(",", "}") == "}":
                return

    def _skip_to(self, at):
        self.byte += len(self._text[self._at:at].encode())
        self._at = at

    def _more(self, at_least=1):
        """Take in at least so many more characters, letting go of what was parsed; False if the text has ended."""
        blocks, count = [], 0
        for block in self._blocks:
            blocks.append(block)
            count += len(block)
            if count >= at_least:
                break
        if count:
            self._text, self._at = self._text[self._at:] + "".join(blocks), 0
        return count > 0
