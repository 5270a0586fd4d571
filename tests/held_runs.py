"""Runs of process_data.py in processes of their own that stop in the middle of a clip and wait for a signal there."""

import subprocess
import sys
import time

import pytest

LIMIT = 600  # s; no test waits for as long, unless something hangs

# process_data.py with a brake: of the clip after so many that it wrote, the rows are handed over and not committed.
HELD = """import itertools, sys, time
import process_data
clips, write_clip, number = int(sys.argv.pop(1)), process_data._write_clip, itertools.count()

def hold(chunks):
    yield from chunks
    print("held", flush=True)
    time.sleep(3600)

process_data._write_clip = lambda writer, sample, chunks: write_clip(
    writer, sample, hold(chunks) if next(number) == clips else chunks)
sys.argv[0] = "process_data.py"
sys.exit(process_data.main())"""


def stop_after(clips, arguments, root, sign):
    """Send a signal to a run that has written so many clips and is at the next. Returns (exit code, stderr)."""
    process = subprocess.Popen([sys.executable, "-c", HELD, str(clips), *map(str, arguments)], cwd=root, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stdout.readline() == "held\n", process.communicate(timeout=LIMIT)[1]
        process.send_signal(sign)
        _, stderr = process.communicate(timeout=LIMIT)
    finally:
        process.kill()
    return process.returncode, stderr


def wait_until(holds):
    """Wait for a state that must come; fail if it does not."""
    for _ in range(LIMIT * 100):
        if holds():
            return
        time.sleep(0.01)
    pytest.fail("waited in vain")
