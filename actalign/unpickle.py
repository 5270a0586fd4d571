"""Pickled numpy arrays, read without running anything that the file says.

Python's own unpickler imports and calls what a file names. This one knows numpy's arrays, dtypes and scalars, texts,
numbers and plain containers, builds those itself, and refuses everything else by name. It reads from a map of the file:
the numbers of an array stay there until somebody looks at them, whatever the array's size.
"""

import math
import mmap
import pickletools
import re
import struct

import numpy as np

MOST_BYTES = 2 << 30  # of Python objects that a pickle may make; the numbers of arrays stay in the file
MOST_AXES = 32  # of an array, numpy's limit before its version 2
LONGEST_NAME = 200  # characters of a module or of what is in it
COST = {"value": 32, "reference": 8, "list": 72, "dict": 96, "set": 248, "array": 400}  # bytes, rounded up

# What a pickle of arrays names: numpy 1 and 2 keep the same things in two places.
_CORES = ("numpy.core", "numpy._core")
RECONSTRUCT, SCALAR, FROM_BUFFER, NDARRAY, DTYPE = "_reconstruct", "scalar", "_frombuffer", "ndarray", "dtype"
KNOWN = {("numpy", "ndarray"): NDARRAY, ("numpy", "dtype"): DTYPE} | {
    (f"{core}.{module}", name): name for core in _CORES
    for module, name in (("multiarray", RECONSTRUCT), ("multiarray", SCALAR), ("numeric", FROM_BUFFER))}


class Refused(ValueError):
    """Why a pickle is not read, in one line."""


class Array:
    """An array of a pickle. numbers: a numpy array that lies in the file, or None; else objects: a flat list."""

    def __init__(self):
        self.shape = self.numbers = self.objects = None

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


class _Global:
    """Something of KNOWN that the pickle has named."""

    def __init__(self, name):
        self.name = name


class _Dtype:
    """A dtype in the making: its code, such as f4, and then its byte order."""

    def __init__(self, code):
        self.code, self.order = code, "="

    @property
    def numpy(self):
        return np.dtype(self.order + self.code)


def unpickle(path, offset):
    """The Array that is pickled in a file from `offset` on. Raises Refused, or OSError as usual."""
    with open(path, "rb") as file:
        content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    try:
        value = _Machine(content, offset).run()
    except Refused:
        raise
    except (IndexError, ValueError, struct.error) as error:
        raise Refused(f"the pickle is damaged or cut short: {error}") from None
    if not isinstance(value, Array) or value.shape is None:
        raise Refused("the pickle holds no array")
    return value


class _Machine:
    """The pickle machine: a stack, marks on it, and a memo.

    Source: pickletools.py of Python's standard library, which documents every opcode.
    """

    def __init__(self, content, offset):
        self._content, self._at = content, offset
        self._stack, self._marks, self._memo = [], [], {}
        self._left = MOST_BYTES

    def run(self):
        opcodes, stack = _OPCODES, self._stack
        while True:
            code = self._content[self._at]
            self._at += 1
            if code == _FLOAT:
                self._floats()
            elif code == _STOP:
                return stack[-1]
            else:
                operation = opcodes.get(code)
                if operation is None:
                    known = pickletools.code2op.get(chr(code))
                    raise Refused(f"it has the opcode {known.name if known else code}, which arrays do not need")
                operation(self)

    # reading

    def _take(self, count):
        """The next bytes, still in the file."""
        if count > len(self._content) - self._at:
            raise Refused("the pickle is damaged or cut short")
        self._at += count
        return self._content[self._at - count:self._at]

    def _number(self, form):
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _line(self):
        line = bytes(self._content[self._at:self._at + LONGEST_NAME + 1])
        end = line.find(b"\n")
        if end < 0:
            raise Refused("the pickle is damaged: a name has no end")
        self._at += end + 1
        return line[:end].decode()

    def _pay(self, what, count=1):
        self._left -= COST[what] * count
        if self._left < 0:
            raise Refused(f"its objects take more than {MOST_BYTES >> 30} GB of memory")

    def _push(self, value, what="value"):
        self._pay(what)
        self._stack.append(value)

    def _mark(self):
        self._pay("value")
        self._marks.append(len(self._stack))

    def _marked(self):
        """What lies above the last mark, taken off the stack."""
        first = self._marks.pop()
        values = self._stack[first:]
        del self._stack[first:]
        return values

    # operations

    def _floats(self):
        """One float, and those right after it, as collapsed arrays have them by the million."""
        room = (len(self._content) - self._at + 1) // 9
        run = np.frombuffer(self._content, np.uint8, min(room, 1024) * 9, self._at - 1).reshape(-1, 9)
        if not len(run):
            raise Refused("the pickle is damaged or cut short")
        others = np.flatnonzero(run[:, 0] != _FLOAT)
        run = run[:others[0]] if len(others) else run
        self._pay("value", len(run))
        self._stack += np.ascontiguousarray(run[:, 1:]).view(">f8")[:, 0].tolist()
        self._at += 9 * len(run) - 1

    def _text(self, form):
        raw = self._take(self._number(form))
        self._pay("reference", len(raw) // 2 + 8)
        self._push(bytes(raw).decode("utf-8", "surrogatepass"))

    def _whole(self, form):
        length = self._number(form)
        if not 0 <= length <= 8:
            raise Refused(f"it holds a whole number of {length} bytes")
        self._push(int.from_bytes(self._take(length), "little", signed=True))

    def _put(self, key):
        self._pay("dict")
        self._memo[key] = self._stack[-1]

    def _get(self, key):
        if key not in self._memo:
            raise Refused("the pickle is damaged: it recalls what it never kept")
        self._push(self._memo[key], "reference")

    def _tuple(self, count):
        values = tuple(self._stack[-count:])
        if len(values) < count:
            raise IndexError
        del self._stack[-count:]
        self._push(values, "list")

    def _extend(self, values):
        target = self._stack[-1]
        if type(target) is not list:
            raise Refused("the pickle is damaged: it extends what is no list")
        target += values

    def _set_items(self, values):
        target = self._stack[-1]
        if type(target) is not dict or len(values) % 2:
            raise Refused("the pickle is damaged: it fills what is no dict")
        self._pay("dict", len(values) // 2)
        for key, value in zip(values[::2], values[1::2], strict=True):
            target[_hashable(key)] = value

    def _add_items(self):
        values, target = self._marked(), self._stack[-1]
        if type(target) is not set:
            raise Refused("the pickle is damaged: it fills what is no set")
        self._pay("dict", len(values))
        target.update(map(_hashable, values))

    def _name(self, module, name):
        if not isinstance(module, str) or not isinstance(name, str):
            raise Refused("the pickle is damaged: a name is no text")
        known = KNOWN.get((module, name))
        if known is None:
            raise Refused(f"it names {f'{module}.{name}'[:LONGEST_NAME]!a}, which is neither a numpy array nor a "
                          "plain value; nothing of it was run")
        self._push(_Global(known))

    def _stack_name(self):
        name, module = self._stack.pop(), self._stack.pop()
        self._name(module, name)

    def _reduce(self):
        arguments, function = self._stack.pop(), self._stack.pop()
        if not isinstance(function, _Global) or type(arguments) is not tuple:
            raise Refused("it calls what is no part of a numpy array")
        makers = {RECONSTRUCT: _reconstructed, DTYPE: _dtype, SCALAR: _scalar, FROM_BUFFER: _from_buffer}
        if function.name not in makers:
            raise Refused(f"it calls numpy.{function.name} in a way that numpy does not")
        try:
            made = makers[function.name](*arguments)
        except TypeError:
            raise Refused(f"it calls numpy's {function.name} with {len(arguments)} values") from None
        self._push(made, "array")

    def _build(self):
        state, target = self._stack.pop(), self._stack[-1]
        if isinstance(target, Array) and type(state) is tuple and len(state) == 5:
            _, shape, dtype, fortran_order, content = state
            _fill(target, shape, dtype, "F" if fortran_order is True else "C", content)
        elif isinstance(target, _Dtype) and type(state) is tuple and len(state) in (8, 9):
            if state[1] not in ("<", ">", "=", "|") or any(part is not None for part in state[2:5]):
                raise Refused("it holds an array of records")
            target.order = state[1]
        else:
            raise Refused("it sets the state of what is no part of a numpy array")


def _hashable(key):
    """A key of a dict or member of a set; tuples in tuples without end would end Python when they are hashed."""
    if key is None or type(key) in (str, int, float, bool):
        return key
    raise Refused("it has a dict or set of other things than texts and numbers")


def _reconstructed(kind, shape, code):
    if not isinstance(kind, _Global) or kind.name != NDARRAY:
        raise Refused("it makes an array of another class than numpy's")
    return Array()


def _dtype(code, align, copy):
    if not isinstance(code, str) or not re.fullmatch(r"[biufc](1|2|4|8|16)|[SU][0-9]{1,7}|O8?", code):
        raise Refused(f"it has the dtype {ascii(code)[:50]}, which is none of numbers, texts or objects")
    dtype = _Dtype(code)
    try:
        dtype.numpy  # noqa: B018 - i16 is none
    except TypeError:
        raise Refused(f"it has the dtype {ascii(code)[:50]}, which numpy does not know") from None
    return dtype


def _scalar(dtype, raw):
    if not isinstance(dtype, _Dtype) or dtype.code[0] == "O" or not isinstance(raw, memoryview) \
            or len(raw) != dtype.numpy.itemsize or not len(raw):
        raise Refused("it holds a number that does not fit its dtype")
    return np.frombuffer(raw, dtype.numpy)[0].item()


def _from_buffer(raw, dtype, shape, order, axes=None):
    array = Array()
    _fill(array, shape, dtype, "F" if order == "F" else "C", raw)
    if axes is not None:
        raise Refused("it holds an array with its axes in another order")
    return array


def _fill(array, shape, dtype, order, content):
    """Give an Array what it holds. What it claims to hold is compared with what there is before anything is made."""
    if type(shape) is not tuple or len(shape) > MOST_AXES or not all(type(n) is int and n >= 0 for n in shape) \
            or not isinstance(dtype, _Dtype):
        raise Refused("it holds an array without a proper shape")
    size = math.prod(shape)
    if dtype.code[0] == "O":
        if type(content) is not list or len(content) != size:
            raise Refused(f"an array claims the shape {str(shape)[:100]}, its objects are others")
        array.shape, array.objects, array.numbers = shape, content, None
        return
    if not isinstance(content, memoryview) or len(content) != size * dtype.numpy.itemsize:
        raise Refused(f"an array claims the shape {str(shape)[:100]}, its bytes are others")
    numbers = np.frombuffer(content, dtype.numpy) if size else np.empty(0, dtype.numpy)
    array.shape, array.objects, array.numbers = shape, None, numbers.reshape(shape, order=order)


_FLOAT, _STOP = ord("G"), ord(".")

_OPCODES = {ord(code): operation for code, operation in {
    "\x80": lambda m: m._take(1),  # PROTO
    "\x95": lambda m: m._take(8),  # FRAME
    "(": lambda m: m._mark(),
    "0": lambda m: m._stack.pop(),
    "1": lambda m: m._marked(),
    "N": lambda m: m._push(None),
    "\x88": lambda m: m._push(True),
    "\x89": lambda m: m._push(False),
    "J": lambda m: m._push(m._number("<i")),
    "K": lambda m: m._push(m._number("<B")),
    "M": lambda m: m._push(m._number("<H")),
    "\x8a": lambda m: m._whole("<B"),
    "\x8b": lambda m: m._whole("<i"),
    "\x8c": lambda m: m._text("<B"),
    "X": lambda m: m._text("<I"),
    "\x8d": lambda m: m._text("<Q"),
    "C": lambda m: m._push(m._take(m._number("<B")), "array"),
    "B": lambda m: m._push(m._take(m._number("<I")), "array"),
    "\x8e": lambda m: m._push(m._take(m._number("<Q")), "array"),
    "\x96": lambda m: m._push(m._take(m._number("<Q")), "array"),  # BYTEARRAY8, of protocol 5
    "]": lambda m: m._push([], "list"),
    "}": lambda m: m._push({}, "dict"),
    "\x8f": lambda m: m._push(set(), "set"),
    ")": lambda m: m._push((), "reference"),
    "\x85": lambda m: m._tuple(1),
    "\x86": lambda m: m._tuple(2),
    "\x87": lambda m: m._tuple(3),
    "t": lambda m: m._push(tuple(m._marked()), "list"),
    "l": lambda m: m._push(m._marked(), "list"),
    "a": lambda m: m._extend([m._stack.pop()]),
    "e": lambda m: m._extend(m._marked()),
    "s": lambda m: m._set_items([m._stack.pop(-2), m._stack.pop()]),
    "u": lambda m: m._set_items(m._marked()),
    "\x90": lambda m: m._add_items(),
    "q": lambda m: m._put(m._number("<B")),
    "r": lambda m: m._put(m._number("<I")),
    "\x94": lambda m: m._put(len(m._memo)),
    "h": lambda m: m._get(m._number("<B")),
    "j": lambda m: m._get(m._number("<I")),
    "c": lambda m: m._name(m._line(), m._line()),
    "\x93": lambda m: m._stack_name(),
    "R": lambda m: m._reduce(),
    "b": lambda m: m._build(),
}.items()}
