"""The header of a .npy file, read by its pattern and checked against the file before anyone asks for memory.

numpy's own reader evaluates the header as Python and believes its shape; this one takes only what numpy writes for a
plain array or for pickled objects.
"""

import math
import os
import re
import struct
from dataclasses import dataclass

import numpy as np

MAGIC = b"\x93NUMPY"
LONGEST_HEADER = 10_000  # bytes, numpy's own limit
MOST_AXES = 32  # numpy's own limit, before its version 2
PATTERN = re.compile(
    r"\{'descr': '([<>|=]?[biufcSUVO][0-9]{0,9})', 'fortran_order': (True|False), "
    r"'shape': \(((?:[0-9]{1,18}, ?)*[0-9]{0,18}),?\),? *\} *\n?", re.ASCII)


@dataclass(frozen=True)
class Header:
    """What a .npy file says of itself: dtype, shape, whether columns come first, and where the content begins."""

    dtype: np.dtype
    shape: tuple
    fortran_order: bool
    offset: int

    @property
    def is_pickled(self):
        """Whether the content is a pickle of objects."""
        return self.dtype.hasobject


def read_header(path):
    """The Header of a .npy file.

    Raises ValueError if it is none, or if a plain array's shape is not what the file's size allows. OSError as usual.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(12)
        if head[:6] != MAGIC or len(head) < 12:
            raise ValueError("it does not begin as a .npy file")
        if head[6] not in (1, 2, 3):
            raise ValueError(f"it has version {head[6]} of the .npy format")
        start = 10 if head[6] == 1 else 12
        length = struct.unpack_from("<H" if head[6] == 1 else "<I", head, 8)[0]
        if not length <= min(LONGEST_HEADER, size - start):
            raise ValueError(f"its header is said to have {length} bytes")
        file.seek(start)
        text = file.read(length).decode("utf-8" if head[6] == 3 else "latin-1")
    matched = PATTERN.fullmatch(text)
    if not matched or matched[3].count(",") > MOST_AXES:
        raise ValueError("its header is not that of a plain array")
    try:
        dtype = np.dtype(matched[1])
    except TypeError:
        raise ValueError(f"numpy knows no type {matched[1]}") from None
    shape = tuple(int(n) for n in matched[3].replace(",", " ").split())
    header = Header(dtype, shape, matched[2] == "True", start + length)
    expected = math.prod(shape) * dtype.itemsize
    if not header.is_pickled and size - header.offset != expected:
        raise ValueError(f"its header says {dtype.name} {list(shape)}, {expected} bytes, and "
                         f"{size - header.offset} follow")
    return header
