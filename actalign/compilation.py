"""Loops compiled by numba: once for each machine, kept on disk where that can be."""

from numba import njit, types
from numba.core import event

from actalign.console import log


def compiled(function, signature=None):
    """Decorate a function of numbers and arrays: compiled when it is first called, and run without Python's lock.

    signature: compile for these types, at once. One that takes functions must be given theirs, or it is compiled for
    each of them in every process.
    The result is kept beside the source or, where that folder cannot be written, in numba's cache of the user; where
    neither can, it is compiled again in every process.
    """
    try:
        return njit(signature, nogil=True, cache=True)(function)
    except RuntimeError:  # numba found no folder for its cache
        return njit(signature, nogil=True)(function)


def alignment_first(result, *others):
    """The signature of a function that takes a compiled alignment, and other arguments of numba's types."""
    path = types.Optional(types.int32[:, ::1])
    alignment = types.Tuple((types.float64, path))(types.float64[:, ::1], types.boolean)
    return result(types.FunctionType(alignment), *others)


class _Teller(event.Listener):
    """Says once why the first call takes seconds."""

    has_told = False

    def on_start(self, event):
        if not self.has_told:
            log.info("compiling the alignment for this machine, which takes some seconds the first time")
        self.has_told = True

    def on_end(self, event):
        """Nothing to say."""


event.register("numba:compile", _Teller())
