"""Pickled numpy arrays, read without running anything that the file says.

Python's unpickler imports and calls what a file names. Here it gets stand-ins for what pickled arrays name, and refuses
the rest. It is the one in Python: that in C takes every opcode and makes a memo as large as a few bytes ask for.
"""

import math
import mmap
import os
import pickle
import re

import numpy as np

from actalign.files import reason_of

OPCODES = """PROTO FRAME MARK STOP NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT SHORT_BINUNICODE
    BINUNICODE BINUNICODE8 SHORT_BINBYTES BINBYTES BINBYTES8 BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET EMPTY_LIST
    APPEND APPENDS EMPTY_TUPLE TUPLE1 TUPLE2 TUPLE3 TUPLE SETITEM SETITEMS GLOBAL STACK_GLOBAL REDUCE BUILD"""


class Array(np.ndarray):
    """A numpy array, empty until it gets its state. Given to a class, a state lacks an argument."""

    __setitem__ = None  # else what fills a dict would fill an array as well
    told_shape = None  # of an array whose content was passed over, so that it is empty

    def __new__(cls, *_):
        return np.ndarray.__new__(Array, 0)

    def __setstate__(self, state):
        _, shape, dtype, is_fortran, content = state
        kind, size = (list, 1) if dtype.numpy.hasobject else (bytes, dtype.numpy.itemsize)
        if type(shape) is not tuple or not 0 < len(shape) < 33 or not all(type(n) is int and n >= 0 for n in shape) \
                or type(content) not in (kind, _PassedOver) or len(content) != math.prod(shape) * size:
            raise ValueError("an array claims a shape or dtype that does not fit its content")
        if type(content) is _PassedOver:
            self.told_shape = shape
            return
        super().__setstate__((1, shape, dtype.numpy, is_fortran is True, content))


class _PassedOver:
    """Stands for so many bytes of a file that were not read."""

    def __init__(self, length):
        self._length = length

    def __len__(self):
        return self._length


class _WithoutLarge:
    """A file of which more than `most` bytes at once are passed over."""

    def __init__(self, content, most):
        self.readline = content.readline
        self._content, self._most = content, most

    def read(self, length):
        if length <= self._most:
            return self._content.read(length)
        self._content.seek(length, os.SEEK_CUR)  # ValueError where the file ends before
        return _PassedOver(length)


class FromBuffer(Array):
    """What makes an array of bytes."""

    def __new__(cls, raw, dtype, shape, order):
        array = Array()
        array.__setstate__((1, shape, dtype, type(order) is str and order == "F", raw))
        return array


class Scalar(Array):
    """What makes a number or text of bytes."""

    def __new__(cls, dtype, raw):
        return FromBuffer(raw, dtype, (1,), "C").tolist()[0]


class Dtype:
    """A dtype of numbers, truths, texts or objects, as `numpy` has it."""

    def __init__(self, code, *_):
        if not re.fullmatch(r"[biufc](1|2|4|8|16)|[SU][1-9][0-9]{0,6}|O8?", code):
            raise ValueError(f"it has the dtype {code!a}, which is none of numbers, texts or objects")
        self.numpy = np.dtype(code)

    def __setstate__(self, state):
        _, order, *parts = state
        if type(order) is not str or order not in "<>=|" or any(part is not None for part in parts[:3]):
            raise ValueError("it holds an array of records")
        self.numpy = self.numpy.newbyteorder(order)


class _Dict(dict):
    """A dict without tuples for keys: hashing deep ones ends Python, hashing those that share others does not end."""

    __slots__ = ()

    def __setitem__(self, key, value):
        if type(key) not in (str, int, float, bool):
            raise ValueError("it has keys that are neither texts nor numbers")
        super().__setitem__(key, value)


class _Memo(dict):
    """What a pickle names again. Of arrays, those are texts and dtypes; with more, a small file can fill the memory."""

    def __getitem__(self, index):
        value = super().__getitem__(index)
        if isinstance(value, str | int | float | type | Dtype) or (type(value) is bytes and len(value) < 2):
            return value
        raise ValueError(f"it holds one and the same {type(value).__name__} in two places")


STAND_INS = {"numpy.ndarray": Array, "numpy.dtype": Dtype, "numpy.core.multiarray._reconstruct": Array,
             "numpy.core.multiarray.scalar": Scalar, "numpy.core.numeric._frombuffer": FromBuffer}


class _Unpickler(pickle._Unpickler):
    """Takes what numpy writes. A length is read only as far as the file goes, so that memory is bounded by its size."""

    def find_class(self, module, name):
        """The stand-in for one of numpy's names; nothing is imported."""
        full_name = f"{module}.{name}".replace("numpy._core.", "numpy.core.")  # of numpy 2 and 1
        if full_name not in STAND_INS:
            raise ValueError(f"nothing was run of what it names: {full_name!a}")
        return STAND_INS[full_name]

    def _refuse(self):
        raise ValueError("it has an opcode that arrays do not need")

    dispatch = dict.fromkeys(range(256), _refuse)
    dispatch.update({code: pickle._Unpickler.dispatch[code] for name in OPCODES.split()
                     for code in getattr(pickle, name)})
    dispatch[pickle.EMPTY_DICT[0]] = lambda self: self.append(_Dict())
    dispatch[pickle.BYTEARRAY8[0]] = dispatch[pickle.BINBYTES8[0]]  # which makes no more bytes than there are


def unpickle(path, offset, most=math.inf):
    """The numpy array that is pickled in a file from byte `offset` on. Raises ValueError, or OSError as usual.

    Arrays in it of more than `most` bytes are not read: they are empty, and have their shape as `told_shape`.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        content.seek(offset)
        unpickler = _Unpickler(_WithoutLarge(content, most))
        unpickler.memo = _Memo()
        try:
            return unpickler.load().view(np.ndarray)
        except Exception as error:  # a damaged pickle makes it raise errors of every kind
            raise ValueError(f"its pickle is damaged or no array: {reason_of(error)[:300]}") from None
