"""The same stages on many machines, by Ray Data: tasks go to actors that hold what is slow to load, results come back.

    pip install -r requirements-ray.txt
    python encode_videos.py --dataset my_clips.csv --output /shared/video_embeddings.npy --ray

Every machine needs the code, the videos, the checkpoint and the outputs' folder under the same paths.
"""

import collections
import contextlib
import errno
import importlib
import logging
import math
import os
import pickle
import socket
import tempfile
from pathlib import Path

from actalign import console, cores, files

LOCK_SECONDS = 600  # in which a node that was lost lets go of the outputs of its task, which another one has by then
SHARD_CLIPS = 1000  # at most, unless the user says otherwise
SHARDS_AN_ACTOR = 4  # at least, so that uneven shards leave no actor idle for long
CONNECT_SECONDS = 30  # in which a cluster has to answer
MOST_FAILURES = 3  # that are told
ATTEMPTS = 3  # of Ray at what is left


def add_arguments(parser, of):
    """Add the flags that say on which cluster to run; returns the actions."""
    return [
        parser.add_argument("--ray", nargs="?", const="auto", metavar="ADDRESS",
                            help=f"do {of} on the Ray cluster at this address; auto, or no address: on the one that "
                                 "this machine belongs to, else on one that is started here"),
        parser.add_argument("--ray_actors", type=console.workers, metavar="N",
                            help="processes on it (default: one a GPU, else one a machine)")]


class Cluster:
    """A Ray cluster while it is entered; `actors` is the number of processes that work on it, on their `device`.

    Raises InputError if Ray is not installed or there is no such cluster.
    """

    def __init__(self, args, device):
        self._args = args
        self._on_gpus = str(device or "cuda").startswith("cuda")
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what Ray does about faults is no news to the user
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # as Ray asks to have it, with a warning
        try:
            import ray
            import ray.data
        except ImportError:
            raise console.InputError("--ray: Ray is not installed; pip install -r requirements-ray.txt") from None
        self._ray = ray
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)

    def __enter__(self):
        address = os.environ.get("RAY_ADDRESS") if self._args.ray == "auto" else self._args.ray
        here = {} if address else {"include_dashboard": False}
        paths = Path(__file__).resolve().parent.parent.as_posix(), os.environ.get("PYTHONPATH")
        try:
            if address and ":" in address:  # else Ray knows at once what it means
                _require_answer(address)
            with _silent_stderr():  # on which Ray tells of its log level
                self._ray.init(address or _address_here(), logging_level=logging.CRITICAL, log_to_driver=False, **here,
                               runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, paths))}})
        except Exception as error:  # Ray raises anything where nobody answers
            self._ray.shutdown()
            reason = files.reason_of(error)[:300]
            raise console.InputError(f"--ray {address or 'auto'}: no cluster is reached ({reason}); start one with ray "
                                     "start --head, leave the address out, or set RAY_AUTH_MODE=token if it asks for "
                                     "a token") from None
        nodes = [collections.Counter(node["Resources"]) for node in self._ray.nodes() if node["Alive"]]
        gpus = sum(node["GPU"] for node in nodes) if self._on_gpus else 0
        self._gpus = min(gpus, 1)
        self.actors = self._args.ray_actors or int(gpus) or sum(node["CPU"] >= 1 for node in nodes) or 1

        def fitting(threads):
            """How many actors of so many threads the nodes hold."""
            return sum(min(node["CPU"] // threads, node["GPU"] if gpus else math.inf) for node in nodes)

        most = int(max(node["CPU"] for node in nodes))
        self._threads = next((threads for threads in range(most, 1, -1) if fitting(threads) >= self.actors), 1)
        return self

    def __exit__(self, *_):
        self._ray.shutdown()

    def shards_of(self, count):
        """Into how many tasks so many samples are divided, unless the user says."""
        return min(count, max(-(-count // SHARD_CLIPS), SHARDS_AN_ACTOR * self.actors))

    def run(self, module, args, tasks):
        """Yield (number, result) of every task as it ends: what `worker(args)` of a module gives of its arguments.

        What ends with a lost node, or a killed actor, is done again. When all have ended and some have failed, raises
        InputError if the user can mend each, else StageError.
        """
        left, count, failures = dict(enumerate(tasks)), len(tasks), []
        for attempt in range(1, ATTEMPTS + 1):
            try:
                for row in self._rows(module, args, left):
                    del left[row["number"]]
                    if row["error"]:
                        failures.append((row["error"], row["code"]))
                    else:
                        yield row["number"], pickle.loads(row["result"])
                break
            except self._ray.exceptions.RayTaskError:  # a bug of ours
                raise
            except Exception as error:  # Ray's own, such as a KeyError where a node is lost at a bad moment
                if not left:
                    break
                if attempt == ATTEMPTS:
                    raise console.StageError(f"Ray gave up ({type(error).__name__}: {files.reason_of(error)[:300]}); "
                                             "run the same command again to go on") from None
        if failures:
            kind = console.InputError if all(code == console.EXIT_BAD_INPUT for _, code in failures) else \
                console.StageError
            told = " | ".join(list(dict.fromkeys(error for error, _ in failures))[:MOST_FAILURES])
            raise kind(f"{len(failures)} of {count} tasks failed: {told}; mend that and run the same "
                       "command again, which does only these")

    def _rows(self, module, args, tasks):
        """What a Worker returns of each of {number: task}, as it comes."""
        context = self._ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        # Pickled as Ray does it between its processes; nothing of it is stored, or comes from anybody else.
        rows = [{"number": number, "task": pickle.dumps(task)} for number, task in tasks.items()]
        return self._ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            Worker, fn_constructor_args=(module, args, self._threads, os.getcwd()), num_cpus=self._threads,
            num_gpus=self._gpus or None, compute=self._ray.data.ActorPoolStrategy(
                min_size=1, max_size=self.actors, initial_size=self.actors,
                max_tasks_in_flight_per_actor=1)).iter_rows()


def _require_answer(address):
    """Raise OSError or ValueError unless somebody listens there: Ray itself would wait for many minutes."""
    host, _, port = address.rpartition(":")
    socket.create_connection((host, int(port)), CONNECT_SECONDS).close()


def _address_here():
    """None, with which Ray joins the cluster that it has recorded for this machine; "local" if there is none."""
    record = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir(), "ray", "ray_current_cluster")
    try:
        _require_answer(record.read_text().strip())
    except (OSError, ValueError):
        return "local"
    return None


@contextlib.contextmanager
def _silent_stderr():
    with open(os.devnull, "w") as nowhere, contextlib.closing(os.fdopen(os.dup(2))) as saved:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved.fileno(), 2)


class Worker:
    """An actor that does tasks of a module's `worker(args)`, in the folder and with the number of threads given."""

    def __init__(self, module, args, threads, folder):
        self._module, self._args, self._threads, self._folder = module, args, threads, folder
        self._work = None

    def __call__(self, row):
        result, error, code = b"", "", 0
        try:
            if self._work is None:
                os.chdir(self._folder)
                cores.most, files.LOCK_SECONDS = self._threads, LOCK_SECONDS
                self._work = importlib.import_module(self._module).worker(self._args)
            result = pickle.dumps(self._work(*pickle.loads(row["task"])))
        except console.OneLine as failure:
            error, code = str(failure), failure.exit_code
        except OSError as failure:
            if failure.errno not in (*console.OUTSIDE_CAUSES, errno.ENOENT):
                raise
            error, code = f"{failure.filename or 'output'}: {failure.strerror}", console.EXIT_FAILED
        return {"number": row["number"], "result": result, "error": error and f"on {socket.gethostname()}, {error}",
                "code": code}
