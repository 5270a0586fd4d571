"""What two or more of the six scripts share; each module is one noun."""

import os
import signal
import sys

__version__ = "0.1.0"
SCRIPTS = ("process_data", "encode_videos", "generate_subactions", "encode_subactions", "baseline", "seq_alignment")


def end_at_once(*_):
    """The SIGINT handler of scripts that still load their modules; console.script takes over from it."""
    os.write(2, b"interrupted\n")
    os._exit(130)


if signal.getsignal(signal.SIGINT) is signal.default_int_handler and os.path.realpath(sys.argv[0]) in [
        os.path.realpath(f"{__file__}/../../{name}.py") for name in SCRIPTS]:
    signal.signal(signal.SIGINT, end_at_once)
