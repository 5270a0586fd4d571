"""The stages run again on a dataset that changed: what a fresh run gives, and nothing made twice; or a refusal."""

import functools
import json
import tempfile
from pathlib import Path

import pytest
from conftest import ROOT, write_manifest
from crashes import by_name
from drawn_videos import write_video
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import baseline
import encode_subactions
import encode_videos
import generate_subactions
import process_data
import seq_alignment
from actalign import checkpoint, language_model, video
from actalign.artifacts import missing_path, read_array, read_index
from actalign.language_model import Answer
from actalign.siglip import Siglip
from actalign.subactions import read_subactions

CHECKPOINT = str(ROOT / "examples" / "checkpoint")
NAMES = ["dunk", "lay-up", "hook shot", "jump shot"]
LENGTHS = {"short.mp4": 5, "long.mp4": 9, "longer.mp4": 12}
SECONDS = 24  # frames a second
QUESTION = ("domain", "cleaned_options", "correct_answer_index")


class Pipeline:
    """The six stages in a folder of their own, on a dataset of a list of rows, and what they did: see `run`."""

    def __init__(self, folder, videos):
        self.folder, self.videos = Path(folder), videos
        self.decoded, self.encoded, self.asked, self.texts = [], [], [], []  # of the last run

    def path(self, name):
        return self.folder / name

    def stage(self, name, rows=None):
        """The exit code of one stage."""
        flags = {
            "process_data": ["--dataset", "rows.jsonl", "--output", "frames.npy", "--image_size", "48", "--workers",
                             "1", "--videos_dir", self.videos],
            "encode_videos": ["--input", "frames.npy", "--output", "videos.npy", "--model", CHECKPOINT],
            "generate_subactions": ["--input", "frames.npy", "--output", "generated.json", "--min_subactions", "2",
                                    "--apikey", "none", "--workers", "1"],
            "encode_subactions": ["--subactions", "generated.json", "--output", "texts.npy", "--model", CHECKPOINT],
            "baseline": ["--input_dataset", "frames.npy", "--video_embeddings", "videos.npy", "--output",
                         "baseline.json"],
            "seq_alignment": ["--subactions", "generated.json", "--video_embeddings", "videos.npy",
                              "--subaction_embeddings", "texts.npy", "--output", "predictions.json"]}[name]
        if rows is not None:
            write_manifest(self.path("rows.jsonl"), rows)
        device = [] if name in ("process_data", "generate_subactions") else ["--device", "cpu"]
        files = (".npy", ".json", ".jsonl")
        return STAGES[name]([str(self.path(flag)) if str(flag).endswith(files) and "/" not in str(flag) else str(flag)
                             for flag in flags] + device)

    def run(self, rows):
        """Run all stages, and keep which videos were decoded, clips encoded, (id, option) asked, and texts encoded."""
        self.decoded, self.encoded, self.asked, self.texts = [], [], [], []
        with pytest.MonkeyPatch.context() as patch:
            watch(patch, video, "read_frames", lambda path, *_: self.decoded.append(path.name))
            watch(patch, encode_videos, "encode_videos", lambda frames, writer, _: self.encoded.extend(
                item["id"] for item in frames.items if item["id"] not in writer))
            watch(patch, generate_subactions.Question, "ask", lambda question, *_: self.asked.extend(
                (sample.id, option) for sample in question.samples for option in question.options))
            watch(patch, Siglip, "iter_texts", lambda _, texts: self.texts.extend(texts))
            for name in ("process_data", "encode_videos", "generate_subactions", "encode_subactions"):
                assert self.stage(name, rows) == 0, name
        for name in ("baseline", "seq_alignment"):
            assert self.stage(name) == 0, name

    def texts_there(self):
        if not self.path("texts.npy").exists():
            return set()
        return {text for item in read_index(self.path("texts.npy"), "subaction_embeddings")["items"]
                for option in item["options"] for text in option["texts"]}

    def result(self):
        """What a run gives, apart from where rows lie in arrays, and their scores."""
        result = {}
        for name in ("baseline.json", "predictions.json"):
            content = json.loads(self.path(name).read_text())
            result[name] = [{key: value for key, value in sample.items() if key not in ("scores", "paths")}
                            for sample in content["samples"]], content["not_scored"]
        for name, kind in (("frames.npy", "frames"), ("videos.npy", "video_embeddings")):
            result[name] = [{key: value for key, value in item.items() if key not in ("start", "stop")}
                            for item in read_array(self.path(name), kind).items]
        for name in ("frames.npy", "generated.json", "texts.npy"):
            missing = missing_path(self.path(name))
            result[missing.name] = sorted(missing.read_text().split("},")) if missing.exists() else []
        result["generated.json"] = read_subactions(self.path("generated.json"))
        result["generated_with"] = {entry["id"]: entry["generated_with"] for entry in json.loads(
            self.path("generated.json").read_text()) if "removed" not in entry}
        result["texts.npy"] = [
            (item["id"], [(option["key"], option["texts"]) for option in item["options"]])
            for item in read_array(self.path("texts.npy"), "subaction_embeddings").items]
        return result

    def scores(self):
        return [score for name in ("baseline.json", "predictions.json")
                for sample in json.loads(self.path(name).read_text())["samples"] for score in sample["scores"]]


STAGES = {module.__name__: module.main for module in (process_data, encode_videos, generate_subactions,
                                                      encode_subactions, baseline, seq_alignment)}


def watch(patch, owner, name, tell):
    """Have `tell` called with what a function is called with, before it is."""
    function = getattr(owner, name)

    @functools.wraps(function)
    def watched(*args, **options):
        tell(*args)
        return function(*args, **options)

    patch.setattr(owner, name, watched)


class PhraseModel:
    """A language model whose phrases depend on the option alone."""

    temperature, tokens_asked, tokens_answered = 0.2, 0, 0

    def __init__(self, *_):
        self.stopped = self

    def set(self):
        pass

    def ask(self, prompt):
        options = [line[2:] for line in prompt.splitlines() if line.startswith("- ")]
        return Answer(json.dumps({option: [f"{option} {m}" for m in range(3)] for option in options}))


@pytest.fixture(scope="module", autouse=True)
def quick_stages():
    """Checkpoints are loaded once, and a model of phrases is asked."""
    import transformers

    with pytest.MonkeyPatch.context() as patch:
        find = functools.cache(checkpoint.find_checkpoint)
        for module in (baseline, encode_subactions, encode_videos):
            patch.setattr(module, "find_checkpoint", find)
        for kind in (transformers.AutoModel, transformers.AutoProcessor):
            patch.setattr(kind, "from_pretrained", staticmethod(by_name(kind.from_pretrained)))
        patch.setattr(language_model, "LanguageModel", PhraseModel)
        yield


@pytest.fixture
def videos(tmp_path):
    """A folder of drawn clips."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for number, (name, frames) in enumerate(LENGTHS.items()):
        write_video(folder / name, frames, size=(64, 48), first=20 * number)
    return folder


def row_of(id, video="short.mp4", **fields):
    return {"id": id, "video": video, "domain": "sport", "choices": NAMES[:2], "answer": 1, **fields}


# Edits of a dataset, which is a list of rows; the first row stays and keeps its video.

ROW = st.integers(0, 3)


def of_row(change):
    """An edit that replaces a row by `change` of it and of a value."""
    def edit(rows, videos, number, value):
        number %= len(rows)
        rows[number] = {**rows[number], **change(rows[number], value)}

    return edit


def rename(row, value):
    others = [name for name in NAMES if name not in row["choices"]]
    return {"choices": [others[value % len(others)], *row["choices"][1:]]}


def remove(rows, videos, number, value):
    if len(rows) > 2:
        del rows[1 + number % (len(rows) - 1)]


def add(rows, videos, number, value):
    ids = {row["id"] for row in rows}
    new = next(id for id in ("b", "c", "d", "e", "f", "g", "h", "i", "j", "k") if id not in ids)
    rows.insert(1 + number % len(rows), row_of(new, "long.mp4", choices=NAMES[value % 2:2 + value % 2]))


def move(rows, videos, number, value):
    rows.insert(number % len(rows), rows.pop(value % len(rows)))


def replace_file(rows, videos, number, value):
    (videos / "long.mp4").unlink()
    write_video(videos / "long.mp4", 7 + value, size=(64, 48), first=100 + value)


EDITS = [
    of_row(lambda row, value: {"answer": [1, 2, None][value % 3]}), of_row(rename),
    of_row(lambda row, value: {"choices": row["choices"][::-1]}),
    of_row(lambda row, value: {"domain": ["sport", "yoga"][value % 2]}),
    of_row(lambda row, value: {"start_timestamp": value % 3 / SECONDS}),
    of_row(lambda row, value: {"video": [*LENGTHS, "lost.mp4"][value % 4]} if row["id"] != "a" else {}),
    of_row(lambda row, value: {"question": f"Which one? {value}"}), remove, add, move, replace_file]


@settings(max_examples=8, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
          suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(batches=st.lists(st.lists(st.tuples(st.sampled_from(EDITS), ROW, ROW), min_size=1, max_size=5), min_size=1,
                        max_size=3))
def test_stages_that_run_again_give_what_fresh_ones_do_and_make_nothing_twice(videos, batches):
    for number, (name, frames) in enumerate(LENGTHS.items()):  # as they were, whatever an example did before
        write_video(videos / name, frames, size=(64, 48), first=20 * number)
    rows = [row_of("a"), row_of("b", "long.mp4", choices=NAMES[1:4], answer=2), row_of("c", "longer.mp4")]
    with tempfile.TemporaryDirectory() as folder:
        kept = Pipeline(Path(folder) / "kept", videos)
        kept.folder.mkdir()
        kept.run(rows)
        asked, was = set(kept.asked), made_from(rows, videos)
        for number, batch in enumerate(batches):
            for edit, row, value in batch:
                edit(rows, videos, row, value)
            texts = kept.texts_there()
            kept.run(rows)
            now = made_from(rows, videos)
            assert sorted(kept.decoded) == sorted(now[id][0] for id in now if was.get(id) != now[id])
            assert all(was.get(id) != now[id] for id in kept.encoded)
            assert not set(kept.asked) & asked
            assert not set(kept.texts) & texts
            asked, was = asked | set(kept.asked), now
            fresh = Pipeline(Path(folder) / f"fresh-{number}", videos)
            fresh.folder.mkdir()
            fresh.run(rows)
            assert kept.result() == fresh.result()
            assert kept.scores() == fresh.scores()


def made_from(rows, videos):
    """{id: video, when its file was written, first second} of the rows whose clips can be made."""
    return {row["id"]: (row["video"], (videos / row["video"]).stat().st_mtime_ns, row.get("start_timestamp"))
            for row in rows if (videos / row["video"]).exists()}


# Results of two states


@pytest.fixture
def pipeline(tmp_path, videos):
    """A Pipeline that has run on three rows."""
    found = Pipeline(tmp_path, videos)
    found.rows = [row_of("a"), row_of("b", "long.mp4", answer=2, start_timestamp=0.0, end_timestamp=4 / SECONDS),
                  row_of("c", "longer.mp4")]
    found.run(found.rows)
    return found


@pytest.mark.parametrize(("change", "run", "refused", "named"), [
    ({"start_timestamp": 1 / SECONDS, "end_timestamp": 5 / SECONDS}, ["process_data"], "baseline",
     "another set of frames"),
    ({"end_timestamp": 5 / SECONDS}, ["process_data"], "baseline", "another number of frames"),
    ({"answer": 1}, ["process_data"], "baseline", "another answer"),
    ({"answer": 1}, ["process_data", "generate_subactions"], "seq_alignment", "another answer"),
    ({"answer": None}, ["process_data", "encode_videos"], "seq_alignment", "another answer"),
    ({"choices": NAMES[2:4]}, ["process_data", "encode_videos"], "seq_alignment", "another list of options"),
    ({"choices": NAMES[2:4]}, ["process_data", "encode_videos", "generate_subactions"], "seq_alignment",
     "encoded from other sub-actions"),
    ({"domain": "yoga"}, ["process_data", "generate_subactions", "encode_subactions"], "seq_alignment",
     "another domain"),
])
def test_a_stage_that_was_forgotten_is_named_and_no_number_is_printed(pipeline, capsys, change, run, refused, named):
    before = pipeline.path("predictions.json").read_bytes(), pipeline.path("baseline.json").read_bytes()
    rows = [pipeline.rows[0], {**pipeline.rows[1], **change}, pipeline.rows[2]]
    for name in run:
        assert pipeline.stage(name, rows) == 0
    capsys.readouterr()
    assert pipeline.stage(refused) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert named in captured.err
    assert "sample b" in captured.err
    assert "again" in captured.err
    assert captured.err.count("error: ") == 1
    assert (pipeline.path("predictions.json").read_bytes(), pipeline.path("baseline.json").read_bytes()) == before
    pipeline.run(rows)


@pytest.mark.parametrize("stage", ["baseline", "seq_alignment"])
def test_questions_of_another_dataset_with_the_same_ids_are_refused(pipeline, tmp_path, videos, capsys, stage):
    other = Pipeline(tmp_path / "other", videos)
    other.folder.mkdir()
    other.run([{**row, "domain": "yoga", "choices": NAMES[2:], "video": "longer.mp4"} for row in pipeline.rows])
    for suffix in (".npy", ".json"):
        other.path("videos.npy").with_suffix(suffix).write_bytes(
            pipeline.path("videos.npy").with_suffix(suffix).read_bytes())
    capsys.readouterr()
    assert other.stage(stage) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "videos.npy: sample a has another " in captured.err
