"""What the report holds: which samples, their similarity, paths and pictures, the summary, and what is refused."""

import base64
import csv
import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from report_runs import HOSTILE, INJECTED, LENGTHS, make_run, run_all, write_other_predictions

import seq_alignment
from actalign import alignment
from actalign.artifacts import read_array
from actalign.artifacts.writer import ArrayWriter
from actalign.comparison import Compared
from actalign.dataset import Sample
from actalign.evaluation import Prediction
from actalign.files import lock
from actalign.report import Run, chosen_predictions, page
from actalign.report.page import sample_record, sprite


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a run with everything asked for. Not to be changed."""
    return run_all(tmp_path_factory.mktemp("report"))


def records_of(html):
    """The JSON of every sample on the page, by id."""
    found = re.findall(r'<script type="application/json" id="record-\d+">(.*?)</script>', html, flags=re.DOTALL)
    return {record["id"]: record for record in map(json.loads, found)}


# One sample


def test_the_page_holds_the_paths_scores_and_texts_of_predictions_json(made):
    records = records_of((made / "report.html").read_text(encoding="utf-8"))
    predictions = json.loads((made / "predictions.json").read_text(encoding="utf-8"))["samples"]
    entries = {entry["id"]: entry for entry in json.loads((made / "generated.json").read_text(encoding="utf-8"))}
    assert list(records) == [sample["id"] for sample in predictions] == list(LENGTHS)
    for sample in predictions:
        options = records[sample["id"]]["options"]
        assert [option["index"] for option in options] == sample["ranking"]
        for option in options:
            k = option["index"]
            assert option["path"] == sample["paths"][k]
            for shown, phase in zip(option["phases"], sample["phases"][k], strict=True):
                assert [None if value == -1 else value for value in shown[:3]] == [
                    phase["first_frame"], phase["last_frame"], phase["found"]]
            assert option["score"] == sample["scores"][k]
            assert option["name"] == sample["cleaned_options"][k]
            assert option["answer"] == (k == sample["correct_answer_index"])
            assert option["texts"] == entries[sample["id"]]["subactions"][f"{option['name']} in sport"]
        assert records[sample["id"]]["question"] == sample["question"]


def made_run(matrices, method="dtw", paths=True):
    """A Run of one sample with the given similarity matrices, and its Prediction."""
    sample = Sample(id="a", domain="d", options=tuple(f"option {k}" for k in range(len(matrices))), answer=0)
    found = [alignment.dtw(matrix) for matrix in matrices]
    prediction = Prediction(sample, np.array([score for score, _ in found]), [p for _, p in found] if paths else None)
    item = {"options": [{"key": key, "texts": [f"{key} {m}" for m in range(matrix.shape[1])]}
                        for key, matrix in zip(sample.keys, matrices, strict=True)]}
    video = SimpleNamespace(length=lambda _: len(matrices[0]), item=lambda _: {}, timestamps=lambda _: None,
                            path="v.npy", meta={})
    subactions = SimpleNamespace(item=lambda _: item, path="t.npy")
    run = Run({"name": method}, [prediction], {}, video, subactions, None, [], lambda _: matrices)
    return run, prediction


@pytest.mark.parametrize("scale", [1.0, 1e-9, 0.0], ids=["usual", "tiny", "constant"])
def test_similarity_comes_back_to_a_sixty_thousandth_of_its_range(scale):
    rng = np.random.default_rng(1)
    matrices = [scale * rng.random((30, M)) + scale for M in (3, 1, 6)]
    run, prediction = made_run(matrices)
    record = sample_record(run, prediction, 0)
    levels = np.frombuffer(base64.b64decode(record["similarity"]), "<u2") / page.LEVELS
    values = record["low"] + levels * (record["high"] - record["low"])
    for option in record["options"]:
        matrix = matrices[option["index"]]
        back, values = values[:matrix.size], values[matrix.size:]
        np.testing.assert_allclose(back.reshape(matrix.shape[1], -1).T, matrix, atol=scale / 1e5 + 1e-300)
    assert len(values) == 0
    assert record["times"] is None


def test_a_run_without_order_has_no_paths_and_says_so(tmp_path):
    arguments = make_run(tmp_path)
    assert seq_alignment.main([*arguments, "--alignment", "unordered", "--report", str(tmp_path / "r.html")]) == 0
    html = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert all(option["path"] is None for record in records_of(html).values() for option in record["options"])
    assert "there is no path" in html


@pytest.mark.parametrize("paths", [True, False])
def test_an_alignment_is_known_by_its_paths_and_not_by_its_name(tmp_path, paths):
    run, _ = made_run([np.random.default_rng(2).random((5, 3))], "mine", paths)
    assert page.write(tmp_path / "r.html", run, None, 9)[0] == 1
    html = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<title>ActAlign report: mine, 1 sample</title>" in html
    assert ("the line is the option's best path" in html) is paths
    assert ("there is no path" in html) is not paths
    assert (records_of(html)["a"]["options"][0]["path"] is not None) is paths


# Pictures


def write_frames(folder, T, size, noisy=False):
    """A frames artifact of one clip; the red of frame t is t."""
    frames = np.zeros((T, *size, 3), np.uint8)
    if noisy:
        frames[..., 1:] = np.random.default_rng(0).integers(0, 256, (T, *size, 2))
    frames[..., 0] = np.arange(T)[:, None, None]
    with ArrayWriter(folder / "frames.npy", "frames", {}) as writer:
        writer.append("before", frames[:1])
        writer.append("a", frames)
    return read_array(folder / "frames.npy", "frames")


def pictures_of(found):
    """The pictures of a sprite, as arrays."""
    image = Image.open(io.BytesIO(base64.b64decode(found["image"])))
    w, h, columns = found["width"], found["height"], found["columns"]
    return [np.asarray(image.crop((i % columns * w, i // columns * h, i % columns * w + w, i // columns * h + h)))
            for i in range(len(found["kept"]))]


@pytest.mark.parametrize(("T", "size"), [(1, (8, 8)), (20, (48, 48)), (17, (200, 100)), (200, (30, 40))])
def test_pictures_are_those_of_the_frames_they_are_said_to_be(tmp_path, T, size):
    found = sprite(write_frames(tmp_path, T, size), "a", 10**6)
    assert len(found["kept"]) == min(T, page.MOST_FRAMES)
    assert max(found["width"], found["height"]) == min(max(size), page.FRAME_SIZE)
    assert found["width"] / found["height"] == pytest.approx(size[1] / size[0], rel=0.02)
    for t, picture in zip(found["kept"], pictures_of(found), strict=True):
        assert picture[..., 0].mean() == pytest.approx(t, abs=4)


def test_fewer_pictures_are_kept_where_all_would_be_too_large(tmp_path):
    frames = write_frames(tmp_path, 120, (64, 64), noisy=True)
    found = sprite(frames, "a", 60_000)
    assert len(base64.b64decode(found["image"])) <= 60_000
    assert page.FEWEST_FRAMES < len(found["kept"]) < 120
    assert found["kept"][0] == 0
    assert found["kept"][-1] == 119
    gaps = np.diff(found["kept"])
    assert gaps.max() - gaps.min() <= 1
    assert len(sprite(frames, "a", 10)["kept"]) == page.FEWEST_FRAMES


# Which samples


def outcome(id, margin, right, domain="d"):
    """A Prediction with two options, right or wrong, or with no known answer."""
    answer = None if right is None else 0
    scores = [0.0, margin] if right is False else [margin, 0.0]
    return Prediction(Sample(id=id, domain=domain, options=("x", "y"), answer=answer), np.array(scores))


def run_of(predictions, compared=None):
    artifact = SimpleNamespace(path="a.npy", meta={"model": "tiny"}, item=lambda _: {})
    method = {"name": "dtw", "similarity": "sigmoid", "contrast": 0}
    return Run(method, predictions, {}, artifact, artifact, None, [compared] if compared else [], None)


def test_all_samples_are_shown_where_there_is_room():
    predictions = [outcome(str(n), n, True) for n in range(5)]
    assert chosen_predictions(run_of(predictions), None, 5) == (predictions, "")


def test_the_telling_samples_are_of_all_kinds_in_turns():
    predictions = [outcome(f"right {n}", 10 + n, True) for n in range(50)]
    predictions += [outcome(f"wrong {n}", n + 1, False) for n in range(30)]
    theirs = {one.sample.id: one for one in predictions} | {"right 25": outcome("right 25", 1, False)}
    chosen, how = chosen_predictions(run_of(predictions, Compared("mean pool", "p.json", theirs, [])), None, 9)
    assert [one.sample.id for one in chosen] == [
        "right 25", "wrong 29", "right 0", "right 49", "wrong 28", "right 1", "right 48", "wrong 27", "right 2"]
    assert how == ("taken in turns from samples on which published and mean pool disagree, wrong answers, the surest "
                   "first, the narrowest decisions, and the clearest decisions")


def test_a_list_that_ends_leaves_its_turns_to_the_others():
    predictions = [outcome(f"wrong {n}", n, False) for n in range(8)] + [outcome("right", 1, True)]
    chosen, _ = chosen_predictions(run_of(predictions), None, 8)
    assert len({one.sample.id for one in chosen}) == 8
    assert "right" in [one.sample.id for one in chosen]


def test_without_answers_the_narrow_and_the_clear_are_shown():
    chosen, how = chosen_predictions(run_of([outcome(str(n), n, None) for n in range(20)]), None, 4)
    assert [one.sample.id for one in chosen] == ["0", "19", "1", "18"]
    assert how == "taken in turns from the narrowest decisions, and the clearest decisions"


def test_samples_that_are_named_are_shown_in_that_order():
    run = run_of([outcome(str(n), n, True) for n in range(20)])
    chosen, how = chosen_predictions(run, ["7", "3", "7"], 1)
    assert [one.sample.id for one in chosen] == ["7", "3"]
    assert how == "named by --samples"


# The summary


def test_confusions_are_counted_by_domain_and_the_frequent_come_first():
    right, wrong = outcome("a", 1, True), [outcome("b", 1, False), outcome("c", 1, False)]
    elsewhere = outcome("d", 1, False, domain="other")
    found = page.summary(run_of([right, *wrong, elsewhere]))["confusions"]
    assert [(row["domain"], row["ids"], row["of"]) for row in found] == [("d", ["b", "c"], 3), ("other", ["d"], 1)]
    assert (found[0]["truth"], found[0]["taken"]) == ("x", "y")


def judged(n):
    """Predictions, the first half right, with ever greater z, confidence and margin; the first is rejected."""
    return [replace(outcome(f"{i:03d}", i + 1, i < n // 2), order=alignment.Contrast(*np.full((3, 2), float(i))),
                    confidence=(i + 0.5) / n, is_none=i == 0) for i in range(n)]


def test_confidences_are_measured_and_the_threshold_lies_on_the_curve():
    found = page.sureness(run_of(judged(1000)))
    assert found["error"] == pytest.approx(0.75)  # a half is told too little, the other too much
    assert len(found["curve"]) == page.CURVE_POINTS
    assert found["curve"][-1] == (1.0, 0.5)
    assert (found["coverage"], found["lost"], found["spared"], found["rejected"]) == (0.999, 1, 0, 1)
    assert found["kept"][0][1].value == 499 / 999
    unknown = [replace(one, sample=replace(one.sample, answer=None)) for one in judged(3)]
    assert page.sureness(run_of(unknown)) == {"n": 0, "least": 20, "rejected": 1}
    assert page.sureness(run_of([outcome("a", 1, True)])) is None


@pytest.mark.parametrize(("n", "groups"), [(0, 0), (19, 0), (20, 2), (49, 4), (1000, 5)])
def test_margins_are_told_by_groups_of_like_ones(n, groups):
    found = page.margin_groups([*judged(n), outcome("open", 0.5, None)])
    assert len(found) == groups
    if n == 20:
        assert found == [(1, 10, 10, 10), (11, 20, 0, 10)]


@pytest.mark.parametrize(("more", "part"), [(["--calibrate"], "Confidences are calibrated on the known answers"),
                                            ([], "Confidences are not calibrated (<code>--calibrate</code>)")])
def test_the_page_tells_how_sure_answers_are(tmp_path, more, part):
    arguments = make_run(tmp_path, {f"clip {n}": 6 for n in range(24)})
    assert seq_alignment.main([*arguments, *more, "--report", str(tmp_path / "r.html"), "--reject", "0.5"]) == 0
    html = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert part in html
    assert 'aria-label="Reliability diagram. Confidence ' in html
    assert 'aria-label="Risk-coverage curve. Answering ' in html
    assert "The mark is this run: above <i>z</i> = 0.50, " in html
    assert re.search(r"<bdi>published, what it answers</bdi>", html)
    assert len(re.findall("% of such are right", html)) == 24
    assert {record["such"][3] for record in records_of(html).values()} == {12}


@pytest.mark.parametrize(("count", "told"), [(1, 1), (3, 3), (4, 0)])
def test_a_datasets_notes_are_told_where_they_are_few(tmp_path, count, told):
    arguments = make_run(tmp_path, {f"clip {n}": 3 + n % count for n in range(6)},
                         fields=lambda T: {"note": f"note {T} <b>"})
    assert seq_alignment.main([*arguments, "--report", str(tmp_path / "r.html")]) == 0
    assert len(re.findall("<bdi>Note . &lt;b&gt;.</bdi>", (tmp_path / "r.html").read_text(encoding="utf-8"))) == told


def test_the_footer_tells_what_the_run_was_made_from(tmp_path):
    arguments = make_run(tmp_path)
    entries = json.loads((tmp_path / "generated.json").read_text(encoding="utf-8"))
    for n, entry in enumerate(entries[1:]):
        entry["generated_with"] = {"model": f"model <{n % 2}>", "temperature": None, "prompt": f"{n} of {INJECTED}"}
    (tmp_path / "generated.json").write_text(json.dumps(entries), encoding="utf-8")
    assert seq_alignment.main([*arguments, "--report", str(tmp_path / "r.html"), "--output",
                               str(tmp_path / "p.json")]) == 0
    footer = (tmp_path / "r.html").read_text(encoding="utf-8").partition("<footer>")[2].partition("</footer>")[0]
    for source in json.loads((tmp_path / "p.json").read_text(encoding="utf-8"))["sources"].values():
        assert source["fingerprint"] in footer
    assert "model &lt;0&gt;, model &lt;1&gt;" in footer
    assert "temperature" not in footer
    assert "<bdi>0 of &lt;img" in footer
    assert re.search(r"<time datetime=[^>]+>20\d\d-\d\d-\d\d</time>", footer)


# The page as a file


def test_the_page_is_the_same_every_time_and_nothing_else_is_left(tmp_path):
    arguments = [*make_run(tmp_path), "--report", str(tmp_path / "report.html"), "--frames",
                 str(tmp_path / "frames.npy"), "--output", str(tmp_path / "predictions.json")]
    assert seq_alignment.main(arguments) == 0
    first = re.sub(b"<time.*</time>", b"", (tmp_path / "report.html").read_bytes())
    names = {path.name for path in tmp_path.iterdir()}
    assert seq_alignment.main(arguments) == 0  # which replaces a report
    assert re.sub(b"<time.*</time>", b"", (tmp_path / "report.html").read_bytes()) == first
    assert {path.name for path in tmp_path.iterdir()} == names
    assert not any(name.endswith(".tmp") for name in names)


def test_texts_cannot_leave_their_place_in_the_page(made):
    html = (made / "report.html").read_text(encoding="utf-8")
    style_and_scripts = re.sub(r"<(script|style)\b.*?</\1>", "", html, flags=re.DOTALL)
    assert "<img" not in style_and_scripts
    assert "<b>" not in style_and_scripts
    assert "&lt;img src=x onerror=" in style_and_scripts
    assert html.count("</script>") == html.count("<script")
    assert {text for record in records_of(html).values() for option in record["options"]
            for text in [option["name"]]} == set(HOSTILE[:7])


def test_data_within_scripts_cannot_end_them(made):
    html = (made / "report.html").read_text(encoding="utf-8")
    blocks = re.findall(r'<script type="application/json" [^>]*>(.*?)</script>', html, flags=re.DOTALL)
    assert len(blocks) == len(LENGTHS) + 2
    for block in blocks:
        assert block.isascii()
        assert not re.search("[<>&]", block)
    assert json.loads(blocks[0])["other"] == "mean <pool>"
    assert "</script><script>" in "".join(json.loads(blocks[1]))


def test_a_file_whose_name_is_no_unicode_does_not_stop_the_page(tmp_path):
    arguments = make_run(tmp_path)
    other = write_other_predictions(tmp_path / "other\udcff.json", tmp_path)
    assert seq_alignment.main([*arguments, "--report", str(tmp_path / "r.html"), "--compare", other]) == 0
    assert "other?.json" in (tmp_path / "r.html").read_text(encoding="utf-8")
    assert page.anchor("\ud800 ä/#") == "sample-%3F%20%C3%A4%2F%23"


def test_all_methods_that_are_compared_with_are_told_and_shown(tmp_path, capsys):
    arguments = make_run(tmp_path)
    other, own = write_other_predictions(tmp_path / "other.json", tmp_path), str(tmp_path / "own.json")
    assert seq_alignment.main([*arguments, "--smooth", "3", "--output", own]) == 0
    capsys.readouterr()
    report = tmp_path / "r.html"
    assert seq_alignment.main([*arguments, "--report", str(report), "--compare", other, "--compare", own]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^smooth 3 +\d", printed, re.MULTILINE)
    assert "only smooth 3 right" in printed
    text = report.read_text(encoding="utf-8")
    assert '<th scope="row"><bdi>smooth 3</bdi></th>' in text
    assert f"other.json, {own}</bdi>" in text


def test_no_more_samples_than_asked_for_and_it_says_how_they_were_chosen(tmp_path):
    arguments = make_run(tmp_path)
    assert seq_alignment.main([*arguments, "--report", str(tmp_path / "r.html"), "--report_limit", "2"]) == 0
    html = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert len(records_of(html)) == 2
    assert "2 of 5 are on this page, taken in turns from" in html


# What is refused, before anything is computed


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """A function that runs the script and returns its one line of refusal."""
    arguments = make_run(tmp_path)

    def never(*args, **kwargs):
        raise AssertionError("computed")

    def run(*more, computes=False):
        if not computes:
            monkeypatch.setattr(seq_alignment, "predict", never)
        assert seq_alignment.main([*arguments, *map(str, more)]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        assert ";" in err
        return err

    run.folder = tmp_path
    return run


def test_a_report_that_cannot_be_written_is_refused(refused):
    (refused.folder / "mine.html").write_text("<p>my page")
    (refused.folder / "link.html").symlink_to(refused.folder / "none" / "r.html")
    assert "the folder" in refused("--report", refused.folder / "link.html")
    assert "the folder" in refused("--report", refused.folder / "none" / "r.html")
    assert "is a folder" in refused("--report", refused.folder)
    assert "no report of this program" in refused("--report", refused.folder / "mine.html")
    assert (refused.folder / "mine.html").read_text() == "<p>my page"
    for output in ("r.html", "r.json"):
        assert "is where the predictions go" in refused(
            "--output", refused.folder / output, "--report", refused.folder / output.replace("json", "csv"))


def test_figures_that_cannot_be_written_are_refused(refused):
    (refused.folder / "file").write_text("")
    assert "does not exist" in refused("--figures", refused.folder / "none" / "figures")
    assert "is no folder" in refused("--figures", refused.folder / "file")


@pytest.mark.parametrize(("held", "flags"), [
    ("r.html", ["--report", "r.html"]), ("link.html", ["--report", "r.html"]), ("r.html", ["--report", "link.html"]),
    ("figures", ["--figures", "figures"]), ("figures", ["--report", "r.html", "--figures", "figures/"]),
    ("p.csv", ["--output", "p.txt"]), ("p.txt", ["--output", "p.json", "--report", "p.txt"]),
])
def test_what_another_run_writes_is_refused_and_the_rest_let_go(refused, held, flags):
    (refused.folder / "link.html").symlink_to(refused.folder / "r.html")
    before = sorted(refused.folder.iterdir())
    with lock(refused.folder / held):
        assert "another run is writing it" in refused(*(flag if flag.startswith("--") else f"{refused.folder}/{flag}"
                                                        for flag in flags))
    assert sorted(refused.folder.iterdir()) == before


def test_what_links_lead_to_is_written(tmp_path):
    arguments, store = make_run(tmp_path, {"a": 3}), tmp_path / "store"
    store.mkdir()
    (store / "figures").mkdir()
    names = {"--output": "p.json", "--report": "r.html", "--figures": "figures"}
    for name in names.values():
        (tmp_path / name).symlink_to(store / name)
    flags = [part for flag, name in names.items() for part in (flag, str(tmp_path / name))]
    for _ in range(2):
        assert seq_alignment.main([*arguments, *flags]) == 0
        assert all((tmp_path / name).is_symlink() for name in names.values())
        assert sorted(path.name for path in store.rglob("*.*")) == ["a.pdf", "a.png", "p.json", "r.html"]


def test_a_sample_that_there_is_not_is_refused(refused):
    assert "--samples nobody: there is no such sample" in refused("--samples", "plain", "nobody")


def test_frames_of_another_run_are_refused(refused):
    for id, T, part in [("plain", 24, "plain were not encoded from these frames"), ("plain", 3, "plain were not"),
                        ("other", 24, "all clips were not encoded from")]:
        with ArrayWriter(refused.folder / f"{id}{T}.npy", "frames", {}) as writer:
            writer.append(id, np.full((T, 4, 4, 3), 9, np.uint8))
        assert part in refused("--frames", refused.folder / f"{id}{T}.npy")
    for name, frame in (("grey", np.zeros((24, 4, 4), np.uint8)), ("float", np.zeros((24, 4, 4, 3), np.float32))):
        with ArrayWriter(refused.folder / f"{name}.npy", "frames", {}) as writer:
            writer.append("plain", frame)
        assert "has no proper" in refused("--frames", refused.folder / f"{name}.npy")
    assert "no such file" in refused("--frames", refused.folder / "none.npy")
    assert "expected 'frames'" in refused("--frames", refused.folder / "videos.npy")


def test_predictions_of_other_questions_are_refused(refused):
    def renamed(samples):
        return [Sample(id=one.id, domain=one.domain, options=(*one.options[:2], "other")) for one in samples]

    other = write_other_predictions(refused.folder / "other.json", refused.folder, renamed)
    assert "had other options" in refused("--compare", other)
    assert "no such file" in refused("--compare", refused.folder / "none.json")


def test_without_a_report_no_library_for_it_is_loaded(root):
    code = "import sys, actalign.report; print(*{'jinja2', 'plotly', 'matplotlib', 'PIL'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


# Runs of which little is known


@pytest.mark.parametrize(("answers", "part"), [
    (dict.fromkeys(LENGTHS), "No answers are known"), ({"plain": 1, **dict.fromkeys([*LENGTHS][1:])}, "of 1 sample"),
], ids=["none", "one"])
def test_a_page_of_few_answers_makes_sense(tmp_path, answers, part):
    arguments = make_run(tmp_path, answers=answers)
    other = write_other_predictions(tmp_path / "other.json", tmp_path)
    assert seq_alignment.main([*arguments, "--report", str(tmp_path / "r.html"), "--compare", other]) == 0
    assert part in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_a_page_of_one_sample_alone_makes_sense(tmp_path):
    arguments = make_run(tmp_path, lengths={INJECTED: 5})
    assert seq_alignment.main([*arguments, "--report", str(tmp_path / "r.html")]) == 0
    assert len(records_of((tmp_path / "r.html").read_text(encoding="utf-8"))) == 1


def test_samples_that_were_not_scored_are_named_on_the_page(tmp_path):
    arguments = make_run(tmp_path)
    entries = json.loads((tmp_path / "generated.json").read_text(encoding="utf-8"))
    (tmp_path / "generated.json").write_text(json.dumps(entries[1:]), encoding="utf-8")
    assert seq_alignment.main([*arguments, "--report", str(tmp_path / "r.html")]) == 0
    assert "1: <bdi>not among the generated sub-actions</bdi> (<bdi>plain</bdi>)" in (
        tmp_path / "r.html").read_text(encoding="utf-8")


def test_what_is_never_found_is_on_the_page(tmp_path):
    flags, page = make_run(tmp_path, {"one": 12, "two": 9}), tmp_path / "report.html"
    assert seq_alignment.main([*flags, "--report", str(page), "--output", str(tmp_path / "predictions.json")]) == 0
    rows = list(csv.DictReader((tmp_path / "found.csv").open(encoding="utf-8", newline="")))
    text = page.read_text(encoding="utf-8")
    assert f"of {len(rows)} sub-actions are found in a clip" in text
    assert text.count('data-label="Clips">') == len(rows)
    assert seq_alignment.main([*flags, "--alignment", "unordered", "--report", str(page)]) == 0
    assert "What is found" not in page.read_text(encoding="utf-8")
