"""Loops compiled by numba: once for each machine, kept on disk where that can be."""

from numba import njit
from numba.core import event

from actalign.console import log


def compiled(function):
    """Decorate a function of numbers and arrays: compiled when it is first called, and run without Python's lock.

    The result is kept beside the source or, where that folder cannot be written, in numba's cache of the user; where
    neither can, it is compiled again in every process.
    """
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:  # numba found no folder for its cache
        return njit(nogil=True)(function)


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
