"""Classify fine-grained actions in video without training: `classify` clips, `align` arrays of one's own.

The modules are what two or more of the six scripts share; each is one noun.
"""

import os
import signal
import sys

__version__ = "0.1.0"
__all__ = ["align", "classify"]
SCRIPTS = ("process_data", "encode_videos", "generate_subactions", "encode_subactions", "baseline", "seq_alignment")


def end_at_once(*_):
    """The SIGINT handler of scripts that still load their modules; console.script takes over from it."""
    os.write(2, b"interrupted\n")
    os._exit(130)


if signal.getsignal(signal.SIGINT) is signal.default_int_handler and os.path.realpath(sys.argv[0]) in [
        os.path.realpath(f"{__file__}/../../{name}.py") for name in SCRIPTS]:
    signal.signal(signal.SIGINT, end_at_once)


def __getattr__(name):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from actalign import api  # when it is asked for: numpy, numba and torch take seconds

    return getattr(api, name)
