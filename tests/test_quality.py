"""actalign/quality.py: what is said against sub-actions, by their words, a text encoder, and frames."""

import csv
import json

import numpy as np
import pytest
from made_artifacts import make_entries, write_entries
from refusals import refusal

import generate_subactions
from actalign import quality
from actalign.artifacts.writer import ArrayWriter
from actalign.checkpoint import find_checkpoint
from actalign.dataset import Sample
from actalign.quality import FORM, NEAR, NEVER, OTHER_ORDER, REPEATED, SAME, WORD, Check, sequence_likeness
from actalign.subactions import SubActions, read_subactions

PHASES = tuple(f"phase {m}" for m in range(40))
EYE = np.eye(5)


class Encoder:
    """Embeds texts at random; `alike` are {text: another that it is the same as, but for a little}."""

    def __init__(self, alike=()):
        self.alike, self.seen = dict(alike), []

    def iter_texts(self, texts):
        for text in texts:
            self.seen.append(text)
            rng = np.random.default_rng([*text.encode()])
            meant = np.random.default_rng([*self.alike.get(text, text).encode()])
            yield meant.standard_normal(64) + 0.1 * rng.standard_normal(64)


def made(*texts, more=(), id="a"):
    """A SubActions of options named x, y, ..."""
    return SubActions(Sample(id, "sport", tuple("xyz"[:len(texts)])), texts, more)


def kinds(findings):
    return [(one.kind, one.key.partition(" ")[0], one.other.partition(" ")[0]) for one in findings]


@pytest.mark.parametrize(("likeness", "in_order", "in_any"), [
    (EYE, 1, 1),
    (EYE[::-1], 1 / 5, 1),
    (EYE[[1, 0, 2, 3, 4]], 4 / 5, 1),
    (EYE[:3], 3 / 5, 3 / 5),  # the other has two more
    (np.repeat(EYE, 2, axis=0), 1, 1),  # one tells every phase twice
    (np.zeros((2, 3)), 0, 0),
])
def test_sequences_are_alike_in_order_and_in_any_order(likeness, in_order, in_any):
    assert sequence_likeness(likeness) == pytest.approx((in_order, in_any))
    assert sequence_likeness(likeness.T) == pytest.approx((in_order, in_any))


@pytest.mark.parametrize(("texts", "expected"), [
    ((PHASES[:5], PHASES[5:10]), []),
    ((PHASES[:5], ("the same 0", *PHASES[1:5])), [(SAME, "x", "y")]),
    ((PHASES[:5], PHASES[:5][::-1]), [(OTHER_ORDER, "x", "y")]),
    ((PHASES[:5][::-1], PHASES[5:10], PHASES[:5]), [(OTHER_ORDER, "x", "z")]),
    ((("phase 0", "phase 1", "the same 0"), PHASES[5:9]), [(REPEATED, "x", "")]),
    ((("phase 0", "phase 1", "Phase 0."), PHASES[5:9]), [(FORM, "x", "")]),  # once, though it is the same to it as well
    ((("phase 0", "phase 1", "all"), PHASES[5:9]), [(NEAR, "x", "")]),
    (((), PHASES[:5]), [(FORM, "x", "")]),
    ((("phase 0", "an x", "the y"), PHASES[5:9]), [(WORD, "x", ""), (WORD, "x", "")]),
])
def test_what_an_encoder_cannot_tell_is_found_the_worst_first(texts, expected):
    encoder, others = Encoder({"the same 0": "phase 0"}), made(PHASES[10:], id="others")

    def iter_texts(texts):
        rows = dict(zip(PHASES, Encoder().iter_texts(PHASES), strict=True))
        for text, row in zip(texts, encoder.iter_texts(texts), strict=True):
            yield sum(rows.values()) if text == "all" else row

    check = Check([made(*texts), others], 3, encoder=type("Encoder", (), {"iter_texts": staticmethod(iter_texts)}))
    assert kinds(check.findings([made(*texts)])) == expected


def test_an_option_of_many_samples_is_told_once_with_its_figure_and_its_script():
    alike, plain = (PHASES[:3], ("the same 0", *PHASES[1:3])), (PHASES[5:8], PHASES[8:11])
    samples = [made(*plain, more=(alike,), id=id) for id in "abc"] + [made(*plain, id="d")]
    encoder = Encoder({"the same 0": "phase 0"})
    [found] = Check(samples, 3, encoder=encoder).findings(samples)
    assert (found.ids, found.script, found.kind) == (("a", "b", "c"), 1, SAME)
    assert str(found).startswith("a and 2 more, x in sport, script 2: its phases cannot be told from those of 'y' (0.9")
    assert sorted(encoder.seen) == sorted({text for texts in (*alike, *plain) for text in texts})  # each once


@pytest.mark.parametrize(("text", "what"), [
    ("she thinks about the jump", "a thought"), ("prepares mentally", "a thought"),
    ("the ball flies off-camera", "something off camera"), ("holds it for 2.5 seconds", "a time"),
    ("hears the whistle", "a sound"), ("begins the dunk", "its own action's name"),
    ("goes on as in a hook shot", "another option's name"), ("both knees bend", None), ("shot at the rim", None),
    ("the thinner leg is lifted", None),
])
def test_words_that_no_frame_shows_are_told_by_the_rules(text, what):
    sample = SubActions(Sample("a", "sport", ("dunk", "hook shot")), ((text,), ("the arm swings",)))
    said = [one.problem for one in Check([sample], 1).findings([sample])]
    assert [problem.partition(",")[0] for problem in said] == ([what] if what else [])


@pytest.mark.parametrize(("line", "part"), [("a word: (", "line 2"), ("a word", "is no rule"), ("a word: ", "is no")])
def test_a_rule_that_is_none_is_refused_with_its_line(tmp_path, line, part):
    path = tmp_path / "words.txt"
    path.write_text(f"# rules\n{line}\n")
    refusal(lambda: quality.read_rules(path), "words.txt", part)


# The script


@pytest.fixture(scope="module")
def example(root):
    """The example's checkpoint as a Siglip, and its folder."""
    import torch

    from actalign.siglip import load_siglip

    folder = root / "examples" / "checkpoint"
    return load_siglip(find_checkpoint(str(folder)), torch.device("cpu"), 32, "float32"), folder


@pytest.fixture
def check(tmp_path, example):
    """A function that checks entries with the example's checkpoint and returns the exit code."""
    def run(entries, *more):
        path = write_entries(tmp_path / "generated.json", entries)
        return generate_subactions.main(["--check", str(path), "--text_model", str(example[1]), "--min_subactions", "4",
                                         "--device", "cpu", *more])

    run.folder = tmp_path
    return run


def example_entries(root, count=6):
    return json.loads((root / "examples" / "generated_subactions.json").read_text())[:count]


def write_clips(folder, example, entries):
    """Embeddings of clips whose frames look like the answer's sub-actions."""
    encoder, path = example[0], folder / "videos.npy"
    checkpoint = find_checkpoint(str(example[1]))
    with ArrayWriter(path, "video_embeddings", checkpoint.settings("float32"), {"model": "example"}) as writer:
        for entry in entries:
            key = f"{entry['cleaned_options'][entry['correct_answer_index']]} in {entry['domain']}"
            rows = np.repeat(np.stack(list(encoder.iter_texts(entry["subactions"][key]))), 8, axis=0)
            writer.append(entry["id"], rows + 0.01 * np.random.default_rng(0).standard_normal(rows.shape,
                                                                                             dtype=np.float32))
    return path


def test_a_checked_file_ends_with_a_summary_and_a_table(check, root, capsys):
    entries = example_entries(root)
    key, other = list(entries[0]["subactions"])[:2]
    entries[0]["subactions"][key] = entries[0]["subactions"][other]
    table = check.folder / "check.csv"
    assert check(entries, "--check_output", str(table)) == 0
    printed = capsys.readouterr().out.splitlines()
    assert any("cannot be told from those of" in line and "(1)" in line for line in printed)
    assert any("in another order (0." in line for line in printed)
    assert printed[-2].startswith("6 samples with 30 options; ")
    assert printed[-2].endswith("same phases in another order")
    rows = list(csv.DictReader(table.open()))
    assert len(rows) == len(printed) - 2
    assert (rows[0]["kind"], float(rows[0]["figure"]), rows[0]["script"]) == (SAME, 1, "1")
    assert {rows[0]["option"], rows[0]["other"]} == {key, other}


def test_phases_that_no_frames_are_like_are_told_where_embeddings_of_videos_are_given(check, root, example, capsys):
    entries = example_entries(root, 20)
    key = f"{entries[0]['cleaned_options'][entries[0]['correct_answer_index']]} in {entries[0]['domain']}"
    video = write_clips(check.folder, example, entries)
    assert check(entries, "--video_embeddings", str(video)) == 0
    assert f"{key}: no frames are like" not in capsys.readouterr().out
    for entry in entries:
        if key in entry["subactions"]:
            entry["subactions"][key][2] = "a wheel, hands and feet on the floor, back arched"
    assert check(entries, "--video_embeddings", str(video)) == 0
    assert f"{key}: no frames are like phase 3 where its option fits best: 'a wheel," in capsys.readouterr().out


def test_a_figure_of_frames_is_of_the_clips_that_take_the_option(root, example, tmp_path):
    from actalign.artifacts import read_array

    entries = example_entries(root, 20)
    path = write_entries(tmp_path / "generated.json", entries)
    video = read_array(write_clips(tmp_path, example, entries), "video_embeddings")
    subactions = read_subactions(path)
    check = Check(subactions, 4, example[0].tokenizer, example[0], video)
    answers = {(entry["domain"], entry["cleaned_options"][entry["correct_answer_index"]]) for entry in entries}
    shown = {f"{option} in {domain}" for domain, option in answers}
    of_answers = [margins for (key, _, _), (_, margins) in check.margins(subactions).items() if key in shown]
    assert min(map(min, of_answers)) > 0.1
    assert not [one for one in check.findings(subactions) if one.kind == NEVER and one.key in shown]


def test_half_the_samples_may_have_more_scripts_of_other_lengths(check, root, capsys):
    entries = example_entries(root, 4)
    for entry in entries[:2]:
        entry["more_subactions"] = [{key: texts[:n] for key, texts in entry["subactions"].items()} for n in (4, 3)]
    assert check(entries) == 0
    printed = capsys.readouterr().out
    assert "script 3: 3 phrases, at least 4 are needed" in printed
    assert "script 2: 4 phrases" not in printed


@pytest.mark.parametrize("more", ["x", {"x in sport": ["y"]}, [["x"]], [{"x in sport": "y"}]])
def test_scripts_that_are_none_are_refused_in_one_line(tmp_path, more):
    entries = make_entries({"a": ["x"]})
    entries[0]["more_subactions"] = more
    refusal(lambda: read_subactions(write_entries(tmp_path / "generated.json", entries)), "sample a")


def test_videos_of_another_checkpoint_are_refused(check, root, checkpoint, capsys):
    from made_artifacts import write_video_embeddings

    settings = find_checkpoint(str(checkpoint)).settings("float32")  # of another width
    video = write_video_embeddings(check.folder, {"gymnastics-01": 5}, settings=settings, features=64)
    assert check(example_entries(root), "--video_embeddings", str(video)) == 2
    error = capsys.readouterr().err
    assert "give that one as --text_model" in error
    assert error.count("\n") == 1


def test_a_table_never_replaces_another_file(check, root, capsys):
    (check.folder / "mine.csv").write_text("a,b\n")
    assert check(example_entries(root), "--check_output", str(check.folder / "mine.csv")) == 2
    assert (check.folder / "mine.csv").read_text() == "a,b\n"
    assert "is no table of a check; choose another name" in capsys.readouterr().err


def test_videos_without_their_checkpoint_are_refused(tmp_path):
    with pytest.raises(SystemExit) as ended:
        generate_subactions.main(["--check", "a.json", "--video_embeddings", "v.npy"])
    assert ended.value.code == 2
