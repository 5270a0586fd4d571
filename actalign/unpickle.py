"""Pickled numpy arrays, read without running anything that the file says.

Python's unpickler imports and calls what a file names. Here it is given stand-ins for numpy's arrays, dtypes and
scalars, which compare what is claimed with what is there, and everything else is refused by name.
"""

import math
import mmap
import pickle
import re

import numpy as np

MOST_AXES = 32  # of an array, numpy's limit before its version 2
MOST_TEXT = 200  # characters of a name in a message
MOST_OPCODES = 1 << 25  # each makes at most a hundred bytes; an object array of floats has one a number


class Refused(ValueError):
    """Why a pickle is not read, in one line."""


class Array:
    """An array of a pickle: numbers is a numpy array, or else objects is the flat list of what it holds."""

    def __init__(self, *_):
        self.shape = self.numbers = self.objects = None

    def __setstate__(self, state):
        if type(state) is not tuple or len(state) != 5:
            raise Refused("it sets the state of an array in a way that numpy does not")
        _, shape, dtype, fortran_order, content = state
        self.fill(shape, dtype, "F" if fortran_order is True else "C", content)

    def fill(self, shape, dtype, order, content):
        """Take what the array holds, if it is as much as it claims to be."""
        if type(shape) is not tuple or len(shape) > MOST_AXES or not all(type(n) is int and n >= 0 for n in shape) \
                or not isinstance(dtype, Dtype):
            raise Refused("it holds an array without a proper shape")
        is_objects = dtype.code[0] == "O"
        if type(content) not in ((list,) if is_objects else (bytes, bytearray)) \
                or len(content) != math.prod(shape) * (1 if is_objects else dtype.size):
            raise Refused(f"an array claims the shape {str(shape)[:MOST_TEXT]}, it holds something else")
        self.shape, self.objects = shape, content if is_objects else None
        if not is_objects:
            numbers = np.frombuffer(content, dtype.order + dtype.code) if content else np.empty(0, dtype.code)
            self.numbers = numbers.reshape(shape, order=order)

    def parts(self):
        """What the array holds along its first axis: numpy arrays, Arrays, or at the last axis the objects."""
        if self.numbers is not None:
            return list(self.numbers)
        if len(self.shape) == 1:
            return self.objects
        step = math.prod(self.shape[1:])
        parts = []
        for first in range(0, step * self.shape[0], step) if step else ():
            part = Array()
            part.shape, part.objects = self.shape[1:], self.objects[first:first + step]
            parts.append(part)
        return parts


class Dtype:
    """A dtype of numbers, truths, texts or objects: its code, such as f4, and its byte order."""

    def __init__(self, code, *_):
        if not isinstance(code, str) or not re.fullmatch(r"[biufc](1|2|4|8|16)|[SU][0-9]{1,7}|O8?", code):
            raise Refused(f"it has the dtype {ascii(code)[:50]}, which is none of numbers, texts or objects")
        try:
            self.size = np.dtype(code).itemsize
        except TypeError:  # i16 is none
            raise Refused(f"it has the dtype {ascii(code)[:50]}, which numpy does not know") from None
        self.code, self.order = code, "="

    def __setstate__(self, state):
        if type(state) is not tuple or len(state) not in (8, 9) or state[1] not in ("<", ">", "=", "|") \
                or any(part is not None for part in state[2:5]):
            raise Refused("it holds an array of records")
        self.order = state[1]


def _scalar(dtype, raw):
    array = Array()
    array.fill((1,), dtype, "C", raw)
    if array.numbers is None:
        raise Refused("it holds a number that does not fit its dtype")
    return array.numbers[0].item()


def _from_buffer(raw, dtype, shape, order, axes=None):
    if axes is not None:
        raise Refused("it holds an array with its axes in another order")
    array = Array()
    array.fill(shape, dtype, order if order == "F" else "C", raw)
    return array


# What a pickle of arrays names: numpy 1 and 2 keep the same things in two places.
STAND_INS = {("numpy", "ndarray"): Array, ("numpy", "dtype"): Dtype} | {
    (f"{core}.{module}", name): stand_in for core in ("numpy.core", "numpy._core")
    for module, name, stand_in in (("multiarray", "_reconstruct", Array), ("multiarray", "scalar", _scalar),
                                   ("numeric", "_frombuffer", _from_buffer))}
OPCODES = """PROTO FRAME MARK POP POP_MARK STOP NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT
    SHORT_BINUNICODE BINUNICODE BINUNICODE8 SHORT_BINBYTES BINBYTES BINBYTES8 BYTEARRAY8 BINPUT LONG_BINPUT MEMOIZE
    BINGET LONG_BINGET EMPTY_LIST APPEND APPENDS EMPTY_TUPLE TUPLE1 TUPLE2 TUPLE3 TUPLE EMPTY_DICT SETITEM SETITEMS
    EMPTY_SET ADDITEMS GLOBAL STACK_GLOBAL REDUCE BUILD"""


class _Opcodes(dict):
    """{opcode: function} of what is taken, which counts."""

    left = MOST_OPCODES

    def __getitem__(self, opcode):
        self.left -= 1
        if self.left < 0:
            raise Refused(f"it has more than {MOST_OPCODES} operations, and its objects would fill the memory")
        if opcode not in self:
            raise Refused(f"it has the opcode {bytes([opcode])!r}, which arrays do not need")
        return super().__getitem__(opcode)


class _Unpickler(pickle._Unpickler):
    """The unpickler in Python, because that in C makes a memo as large as a few bytes ask for, and takes all opcodes.

    What the file claims is read only as far as the file goes, so that memory is bounded by its size.
    """

    def __init__(self, file):
        super().__init__(file)
        self.dispatch = _Opcodes()
        for name in OPCODES.split():
            opcode = getattr(pickle, name)[0]
            own = getattr(type(self), f"load_{name.lower()}", None)  # some are called otherwise there
            self.dispatch[opcode] = own if own in vars(_Unpickler).values() else pickle._Unpickler.dispatch[opcode]

    def find_class(self, module, name):
        """The stand-in for one of numpy's names; nothing is imported."""
        if (module, name) not in STAND_INS:
            raise Refused(f"it names {f'{module}.{name}'[:MOST_TEXT]!a}, which is neither a numpy array nor a plain "
                          "value; nothing of it was run")
        return STAND_INS[module, name]

    def load_reduce(self):
        """Call a stand-in: what else could be called is an object that was made before."""
        arguments, function = self.stack[-1], self.stack[-2]
        if function not in STAND_INS.values() or type(arguments) is not tuple:
            raise Refused("it calls what is no part of a numpy array")
        pickle._Unpickler.load_reduce(self)

    def load_build(self):
        """Set the state of a stand-in."""
        if type(self.stack[-2]) not in (Array, Dtype):
            raise Refused("it sets the state of what is no part of a numpy array")
        pickle._Unpickler.load_build(self)

    def load_setitems(self):
        """Fill a dict; tuples in tuples without end would end Python when they are hashed."""
        for key in self.stack[::2]:
            _require_plain(key)
        pickle._Unpickler.load_setitems(self)

    def load_setitem(self):
        """Fill a dict with one entry."""
        _require_plain(self.stack[-2])
        pickle._Unpickler.load_setitem(self)

    def load_additems(self):
        """Fill a set."""
        for member in self.stack:
            _require_plain(member)
        pickle._Unpickler.load_additems(self)

    def load_bytearray8(self):
        """Bytes of a length that is compared with the file before they are made."""
        pickle._Unpickler.load_binbytes8(self)


def _require_plain(key):
    if key is not None and type(key) not in (str, int, float, bool):
        raise Refused("it has a dict or set of other things than texts and numbers")


def unpickle(path, offset):
    """The Array that is pickled in a file from `offset` on. Raises Refused, or OSError as usual."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        content.seek(offset)
        try:
            value = _Unpickler(content).load()
        except (Refused, OSError):
            raise
        except Exception as error:  # a damaged pickle makes it raise errors of every kind
            what = " ".join(str(error).split())[:MOST_TEXT] or type(error).__name__
            raise Refused(f"the pickle is damaged or cut short: {what}") from None
    if not isinstance(value, Array) or value.shape is None:
        raise Refused("the pickle holds no array")
    return value
