"""Every stage, stopped where it changes files, and the harness that does it; `make crashes` stops them everywhere."""

import re
import subprocess
import sys

import crashes


def test_stages_that_are_stopped_and_run_again_leave_what_an_unbroken_run_does(root):
    ran = subprocess.run([sys.executable, "tests/crashes.py", "--most", "6"], cwd=root, capture_output=True, text=True,
                         check=False)
    print(ran.stdout)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    kills = re.findall(r"killed at (\d+) of (\d+) points", ran.stdout)
    assert len(kills) == len(crashes.STAGES)
    assert all(int(killed) == 6 and int(points) > 20 for killed, points in kills)
    assert ran.stdout.endswith(", 0 differences\n")


def test_the_harness_notices_a_stage_that_does_not_survive(tmp_path, monkeypatch):
    def careless_stage(folder):
        def run(out):
            path = out / "result.json"
            if not path.exists():
                with open(path, "w") as file:
                    file.write("[" + "1, " * 10_000 + "1]")
            return 0
        return run, crashes.nothing_before

    monkeypatch.setitem(crashes.STAGES, "careless", careless_stage)
    harness = crashes.Harness("careless", tmp_path / "careless", most=None)
    assert harness.kinds[0] == "open"
    assert harness.failures == []
    assert harness.killed() == len(harness.kinds)
    assert any("result.json damaged" in failure for failure in harness.failures)
    assert any("leaves another result.json" in failure for failure in harness.failures)
