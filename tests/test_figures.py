"""The figures of samples: which options, which names, and texts that do their worst."""

import warnings

import numpy as np
import pytest
from PIL import Image
from report_runs import LENGTHS, make_run, run_all

import seq_alignment
from actalign import report
from actalign.dataset import Sample
from actalign.evaluation import Prediction
from actalign.report import figures
from actalign.report.figures import file_name, mark, options_drawn


def prediction(scores, answer=0):
    sample = Sample(id="a", domain="d", options=tuple("wxyz"[:len(scores)]), answer=answer)
    return Prediction(sample, np.array(scores, dtype=float))


@pytest.mark.parametrize(("scores", "answer", "drawn"), [
    ([1, 4, 3, 2], 1, [1, 2]), ([1, 4, 3, 2], 0, [1, 0]), ([1, 4, 3, 2], 2, [1, 2]), ([1, 4, 3, 2], None, [1, 2]),
    ([1], 0, [0]), ([1], None, [0]),
])
def test_the_answer_and_its_strongest_rival_are_drawn_the_better_first(scores, answer, drawn):
    assert options_drawn(prediction(scores, answer)) == drawn


def test_right_and_wrong_are_told_in_words():
    assert mark(prediction([2, 1], 0), 0)[0] == "✓ predicted, right"
    assert mark(prediction([2, 1], 1), 0)[0] == "✗ predicted, wrong"
    assert mark(prediction([2, 1], 1), 1)[0] == "the answer"
    assert mark(prediction([2, 1], None), 0)[0] == "predicted"
    assert mark(prediction([2, 1], 0), 1)[0] == ""


def test_files_have_names_that_are_safe_and_differ():
    assert file_name("yoga-03") == "yoga-03"
    ids = ("a/b", "a_b", "a:b", "../x", ".", "..", "", "x" * 300, "x" * 301, "日本", "\ud800")
    names = {file_name(id) for id in ids}
    assert len(names) == len(ids)
    for name in names:
        assert "/" not in name
        assert name.strip(".")
        assert not name.startswith(".")
        assert len(name) < 80


def test_every_text_is_drawn_without_a_word_of_warning(tmp_path, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # as matplotlib's are
        run_all(tmp_path, "--figures", str(tmp_path / "figures"))
    assert "5 figures -> " in (printed := capfd.readouterr()).out
    assert "glyph" not in printed.err.lower()
    assert "font" not in printed.err.lower()
    names = {file_name(id) for id in LENGTHS}
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        f"{name}.{suffix}" for name in names for suffix in ("png", "pdf")}
    for name in names:
        image = Image.open(tmp_path / "figures" / f"{name}.png")
        assert image.width == figures.WIDTH * figures.DPI
        assert len(np.unique(np.asarray(image.convert("L")))) > 50
        assert (tmp_path / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")


def test_a_figure_is_the_same_every_time(tmp_path):
    arguments = make_run(tmp_path)
    for folder in ("first", "second"):
        assert seq_alignment.main([*arguments, "--figures", str(tmp_path / folder), "--samples", "plain"]) == 0
    for suffix in ("png", "pdf"):
        first, second = (tmp_path / folder / f"plain.{suffix}" for folder in ("first", "second"))
        assert first.read_bytes() == second.read_bytes()
    assert len(list((tmp_path / "first").iterdir())) == 2


def test_a_figure_tells_seconds_of_the_video(tmp_path, monkeypatch):
    arguments = make_run(tmp_path, {"only": 9}, fields=lambda T: {"timestamps": [60.0 + t for t in range(T)]})
    runs = []
    monkeypatch.setattr(report, "write", lambda args, run: runs.append(run))
    assert seq_alignment.main([*arguments, "--figures", str(tmp_path / "figures")]) == 0
    panel = figures.draw(runs[0], runs[0].predictions[0]).axes[0]
    assert [label.get_text() for label in panel.get_xticklabels()] == [f"{second} s" for second in range(60, 69)]


def test_a_figure_without_order_has_no_path(tmp_path):
    arguments = make_run(tmp_path)
    for alignment in ("dtw", "unordered"):
        assert seq_alignment.main([*arguments, "--alignment", alignment, "--figures", str(tmp_path / alignment),
                                   "--samples", "plain"]) == 0
    ordered, unordered = (np.asarray(Image.open(tmp_path / name / "plain.png").convert("RGB"), int)
                          for name in ("dtw", "unordered"))
    white_in = [((image > 250).all(-1)[:, 700:1200]).sum() for image in (ordered, unordered)]
    assert white_in[0] > white_in[1]
