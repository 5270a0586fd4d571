"""--ray: the shards of a run by actors of a Ray cluster, equal to the bit, whatever is killed meanwhile."""

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from conftest import write_manifest
from drawn_videos import write_video
from held_runs import LIMIT, wait_until
from made_artifacts import make_entries, write_entries, write_subaction_embeddings, write_video_embeddings
from video_server import VideoServer

import encode_videos
import seq_alignment
from actalign import artifacts, cluster
from actalign.artifacts import shards
from actalign.console import StageError

N = 5
WORKER = b"ray::MapWorker"


@pytest.fixture(scope="module")
def cluster_here():
    """The address of a cluster on this machine, which every run would otherwise start again."""
    pytest.importorskip("ray", reason="Ray is not installed: requirements-ray.txt")
    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:  # short, for its sockets
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RAY_TMPDIR", folder)
            patch.setenv("RAY_AUTH_MODE", "disabled")
            here = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
        yield here.address
        here.shutdown()


@pytest.fixture
def ray(monkeypatch):
    """Ray, if it is installed, that knows of no cluster but those that a test names; a driver ends with its test."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: requirements-ray.txt")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # else a cluster's start turns it on for all that follows
        yield ray
        ray.shutdown()


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A folder with ten clips, of which a server has the second half and one is not there; and clips.jsonl."""
    folder = tmp_path_factory.mktemp("clips")
    for number in range(10):
        write_video(folder / f"{number}.mp4", 5 + number, size=(64, 48), first=10 * number)
    (folder / "3.mp4").unlink()
    return folder


@pytest.fixture(scope="module")
def server(clips):
    """Serves the clips; `held` is set when one of the web is asked for while its answer waits for `released`."""
    server = VideoServer(clips)
    server.held, server.released = threading.Event(), threading.Event()
    server.released.set()

    def behave(name, handler, content, count):
        if not server.released.is_set():
            server.held.set()
            server.released.wait()
        return False

    server.behave = behave
    yield server
    server.released.set()
    server.close()


@pytest.fixture(scope="module")
def manifest(clips, server):
    """A dataset of the clips: 5 to 9 come from the web."""
    return write_manifest(clips / "clips.jsonl", [
        {"id": str(n), "video": f"{n}.mp4" if n < 5 else f"{server.url}/{n}.mp4", "domain": "yoga",
         "choices": ["a", "b"], "answer": 1} for n in range(10)])


@pytest.fixture(scope="module")
def arguments_for(manifest, checkpoint):
    """arguments_for(output): those of encode_videos.py, without --ray."""
    return lambda output: ["--dataset", str(manifest), "--output", str(output), "--model", str(checkpoint), "--device",
                           "cpu", "--image_size", "48"]


@pytest.fixture(scope="module")
def single(arguments_for, tmp_path_factory):
    """What one run makes of them. Not to be changed."""
    path = tmp_path_factory.mktemp("single") / "v.npy"
    assert encode_videos.main(arguments_for(path)) == 0
    return path


@pytest.fixture
def arguments(arguments_for, single, tmp_path):
    """Those for v.npy."""
    return arguments_for(tmp_path / "v.npy")


def on_ray(address, arguments, *more, count=N):
    return encode_videos.main([*arguments, "--ray", address, "--shards", str(count), *more])


def require_whole(tmp_path, single):
    """The shards are what one run makes: rows, index, and what is missing; and nothing else is left."""
    found, expected = (artifacts.read_array(path, "video_embeddings") for path in (tmp_path / "v.npy", single))
    assert found.fingerprint == expected.fingerprint
    assert found.meta == expected.meta
    assert [item["timestamps"] for item in found.items] == [item["timestamps"] for item in expected.items]
    missing = [entry for path in sorted(tmp_path.glob("v-*.missing.json")) for entry in json.loads(path.read_text())]
    assert missing == json.loads(single.with_suffix(".missing.json").read_text())
    assert [entry["id"] for entry in missing] == ["3"]
    left = {path.name.partition("-of-")[2].partition(".")[2] for path in tmp_path.iterdir() if path.is_file()}
    assert left == {"npy", "json", "missing.json"}


def workers():
    """The processes of actors, whose folder is that of the run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(WORKER) and (path.parent / "cwd").resolve() == Path.cwd():
                found.append(int(path.parent.name))
        except OSError:  # it has ended
            continue
    return found


# One machine


def test_shards_by_ray_are_what_one_run_makes_and_stay(ray, cluster_here, arguments, single, tmp_path, capfd):
    assert on_ray(cluster_here, arguments) == 0
    captured = capfd.readouterr()
    assert f"9 clips encoded ({sum(5 + n for n in range(10)) - 8} frames, " in captured.out
    assert f"1 clips failed, see {tmp_path}/v-*-of-00005.missing.json for the reasons (3)" in captured.out
    assert captured.err == ""
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("v-*.npy")}
    assert len(times) == N
    assert encode_videos.main([*arguments, "--ray", cluster_here]) == 0  # as many shards as there are
    assert "0 clips encoded (0 frames, 0 frames/s by 1 actors), 9 were there already" in capfd.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("v-*.npy")} == times
    require_whole(tmp_path, single)


def test_a_cluster_that_ended_without_a_word_is_passed_over_and_one_started(ray, arguments, tmp_path, root):
    """As where the machine was restarted: Ray alone would wait for it for more than ten minutes."""
    record = Path(os.environ["RAY_TMPDIR"], "ray", "ray_current_cluster")
    record.parent.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as closed:
        record.write_text(f"{ray.util.get_node_ip_address()}:{closed.getsockname()[1]}")
    environment = {**os.environ, "HOME": str(tmp_path)}  # where Ray leaves a token
    del environment["RAY_AUTH_MODE"]
    run = subprocess.run([sys.executable, str(root / "encode_videos.py"), *arguments, "--ray", "--shards", "2",
                          "--limit", "3"], env=environment, capture_output=True, text=True, timeout=LIMIT)
    assert (run.returncode, run.stderr) == (0, "")
    assert list(artifacts.read_array(tmp_path / "v.npy", "video_embeddings")) == ["0", "1", "2"]


def test_an_actor_killed_in_a_clip_costs_nothing_but_time(ray, cluster_here, arguments, single, server, tmp_path,
                                                          root):
    server.released.clear()
    run = subprocess.Popen([sys.executable, str(root / "encode_videos.py"), *arguments, "--ray", cluster_here,
                            "--shards", "2"],
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: (server.held.is_set() and workers()) or run.poll() is not None)
        for pid in workers():
            with contextlib.suppress(ProcessLookupError):  # that of an earlier run, which has just ended
                os.kill(pid, signal.SIGKILL)
        server.released.set()
        stdout, stderr = run.communicate(timeout=LIMIT)
        assert run.returncode == 0, stderr
        assert "Traceback" not in stderr
        assert "clips encoded" in stdout
    finally:
        run.kill()
    require_whole(tmp_path, single)


def test_a_full_disk_is_one_line_and_a_rerun_ends_it(ray, cluster_here, arguments, single, tmp_path, monkeypatch,
                                                     capfd):
    (tmp_path / "FULL").touch()
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    run = cluster.Cluster.run
    monkeypatch.setattr(cluster.Cluster, "run", lambda self, module, *rest: run(self, "full_disk", *rest))
    assert on_ray(cluster_here, arguments) == 1
    error = capfd.readouterr().err
    assert len(error.splitlines()) == 1
    assert "error: 1 of 5 tasks failed: on " in error
    assert "No space left on device; mend that and run the same command again" in error
    with pytest.raises(artifacts.InputError, match="are not there or not finished"):
        artifacts.read_array(tmp_path / "v.npy", "video_embeddings")
    (tmp_path / "FULL").unlink()
    assert on_ray(cluster_here, arguments) == 0
    require_whole(tmp_path, single)


def test_a_checkpoint_that_the_actors_do_not_have_is_one_line(ray, cluster_here, arguments, tmp_path, capfd):
    arguments[arguments.index("--model") + 1] = str(tmp_path / "only-the-driver-has-it")
    assert on_ray(cluster_here, arguments, count=2) == 2
    error = capfd.readouterr().err
    assert len(error.splitlines()) == 1
    assert "2 of 2 tasks failed: on " in error
    assert "only-the-driver-has-it: cannot be loaded" in error


def test_where_ray_itself_fails_what_is_left_is_done(ray, cluster_here, tmp_path, monkeypatch):
    """As Ray 2.60 does now and then, with a KeyError, where a node is lost."""
    (tmp_path / "doubling.py").write_text("def worker(args):\n    return lambda number: 2 * number\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    iter_rows, starts, failures = ray.data.Dataset.iter_rows, [], 2

    def fail_in_the_middle(data):
        starts.append(data.count())
        fails = len(starts) <= failures
        yield from itertools.islice(iter_rows(data), 2 if fails else None)
        if fails:
            raise KeyError("ObjectRef")

    monkeypatch.setattr(ray.data.Dataset, "iter_rows", fail_in_the_middle)
    args = encode_videos.parse_args(["--dataset", "d.csv", "--output", "v.npy", "--ray", cluster_here])
    with cluster.Cluster(args, "cpu") as on:
        assert dict(on.run("doubling", None, [(n,) for n in range(7)])) == {n: 2 * n for n in range(7)}
        assert starts == [7, 5, 3]
        starts.clear()
        failures = 3
        with pytest.raises(StageError, match=r"Ray gave up \(KeyError: 'ObjectRef'\); run the same command again"):
            list(on.run("doubling", None, [(n,) for n in range(7)]))


def test_predictions_by_ray_are_those_of_one_process(ray, cluster_here, tmp_path, capfd):
    options = {f"s{n}": ["dunk", "pass", "lay-up"] for n in range(21)}
    entries = make_entries(options)
    video = write_video_embeddings(tmp_path, {id: 20 + n for n, id in enumerate(options)})
    arguments = ["--subactions", str(write_entries(tmp_path / "g.json", entries)), "--video_embeddings", str(video),
                 "--subaction_embeddings", str(write_subaction_embeddings(tmp_path, entries)), "--calibrate"]
    written = []
    for flags in ((), ("--ray", cluster_here, "--ray_actors", "2")):
        assert seq_alignment.main([*arguments, *flags, "--output", str(tmp_path / "p.json")]) == 0
        written.append([(tmp_path / name).read_bytes() for name in ("p.json", "p.csv", "p_phases.csv")])
    assert written[0] == written[1]
    assert capfd.readouterr().err == ""


# Several machines


def test_a_node_that_is_removed_costs_nothing_but_time(ray, arguments, single, server, tmp_path, capfd):
    from ray.cluster_utils import Cluster

    with_nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [with_nodes.add_node(num_cpus=1) for _ in range(2)]
    with_nodes.wait_for_nodes()
    server.released.clear()
    codes = []
    run = threading.Thread(target=lambda: codes.append(on_ray(with_nodes.address, arguments)))
    try:
        run.start()
        wait_until(lambda: (server.held.is_set() and len(workers()) == 2) or codes)
        with_nodes.remove_node(nodes[0])
        server.released.set()
        run.join(LIMIT)
        assert codes == [0]
        assert "Traceback" not in capfd.readouterr().err
    finally:
        server.released.set()
        with_nodes.shutdown()
    require_whole(tmp_path, single)


def test_actors_and_their_threads_are_as_the_nodes_are(ray, monkeypatch):
    nodes = [{"Alive": True, "Resources": resources} for resources in (
        {"CPU": 4.0}, {"CPU": 16.0, "GPU": 2.0}, {"CPU": 64.0, "GPU": 8.0})]
    nodes.append({"Alive": False, "Resources": {"CPU": 99.0, "GPU": 99.0}})
    monkeypatch.setattr(ray, "init", lambda *_, **__: None)
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    for flags, there, expected in (
            ([], 4, (10, 8, 1)), (["--device", "cpu"], 4, (3, 21, 0)), (["--ray_actors", "2"], 4, (2, 32, 1)),
            (["--device", "cpu", "--ray_actors", "20"], 4, (20, 4, 0)), ([], 1, (1, 4, 0))):
        monkeypatch.setattr(ray, "nodes", lambda there=there: nodes[:there])
        args = encode_videos.parse_args(["--dataset", "d.csv", "--output", "v.npy", "--ray", *flags])
        with cluster.Cluster(args, args.device) as found:
            assert (found.actors, found._threads, found._gpus) == expected


# Bad usage


@pytest.mark.parametrize("flags", [("--ray",), ("--dataset", "d.csv", "--ray", "--shard", "0/2"),
                                   ("--dataset", "d.csv", "--ray", "--ray_actors", "0"), ("--shards", "3")])
def test_flags_that_do_not_go_together_are_usage_errors(flags):
    with pytest.raises(SystemExit) as exit:
        encode_videos.parse_args(["--output", "v.npy", *flags])
    assert exit.value.code == 2


def test_without_ray_one_line_says_what_to_install(arguments, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert on_ray("auto", arguments) == 2
    assert "Ray is not installed; pip install -r requirements-ray.txt" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["127.0.0.1:9", "nobody", "127.0.0.1:port"])
def test_a_cluster_that_is_not_there_is_one_line(ray, arguments, address, capsys):
    assert on_ray(address, arguments) == 2
    assert f"--ray {address}: no cluster is reached" in capsys.readouterr().err


def test_other_shards_or_a_whole_that_are_there_are_refused(arguments, tmp_path, capsys):
    for name in ("v.npy", shards.shard_path("v.npy", (0, 3)).name):
        (tmp_path / name).touch()
        assert on_ray("auto", arguments) == 2
        assert "v.npy: is there, " in capsys.readouterr().err
        (tmp_path / name).unlink()
