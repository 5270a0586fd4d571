"""The machine's cores: how many there are for this process, and one torch thread each."""

import contextlib
import os

most = None  # of the cores that this process is to use, where others share them


def count():
    """The number of cores that this process may use."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(there, most or there)


@contextlib.contextmanager
def one_torch_thread():
    """Have each thread that uses torch do its work alone, for callers whose threads keep all cores busy.

    Torch's own threads wait for one another at every operation, and long where a core is busy with something else.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
