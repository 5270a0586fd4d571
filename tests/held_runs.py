"""Tests wait for states: runs in processes of their own that stop in the middle of an item and wait for a signal."""

import subprocess
import sys
import time

import pytest

LIMIT = 600  # s; no test waits for as long, unless something hangs

# A script with a brake: of the item after so many that it committed, the rows are handed over and not committed.
HELD = """import importlib, itertools, sys, time
from actalign.files import Journal
script, items, append, number = sys.argv.pop(1), int(sys.argv.pop(1)), Journal.append, itertools.count()

def hold(journal, entry):
    if next(number) == items:
        print("held", flush=True)
        time.sleep(3600)
    return append(journal, entry)

Journal.append = hold
sys.argv[0] = script + ".py"
sys.exit(importlib.import_module(script).main())"""


def stop_after(items, arguments, root, sign, script="process_data"):
    """Send a signal to a run that has committed so many items and is at the next. Returns (exit code, stderr)."""
    process = subprocess.Popen([sys.executable, "-c", HELD, script, str(items), *map(str, arguments)], cwd=root,
                               text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
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
