"""Two methods on the same samples: the join by id, refusals, and the paired test."""

import itertools

import numpy as np
import pytest
from refusals import refusal

from actalign import comparison
from actalign.comparison import disagreements, mcnemar, outcomes, p_text, paired, read_all_compared
from actalign.dataset import Sample
from actalign.evaluation import Prediction
from actalign.predictions import write_predictions

DTW = {"name": "dtw", "similarity": "sigmoid", "contrast": 0, "smooth": 30}


def prediction(id, right=True, answer=0, options=("x", "y")):
    scores = np.zeros(len(options))
    scores[(answer or 0) if right else 1 - (answer or 0)] = 1
    return Prediction(Sample(id=id, domain="d", options=options, answer=answer), scores)


@pytest.fixture
def compared_with(tmp_path):
    """A function that writes predictions of another method and reads them beside those of this run."""
    def read(ours, theirs, method=None):
        write_predictions(tmp_path / "other.json", {"name": "mean pool"} if method is None else method, {}, theirs, {})
        return read_all_compared([tmp_path / "other.json"], [one.sample for one in ours], DTW)[0]

    return read


def test_counts_of_numpy_do_not_overflow():
    counts = np.array([140, 90])
    assert mcnemar(*counts) == mcnemar(140, 90) == pytest.approx(0.0012, abs=1e-4)
    assert mcnemar(*np.array([600, 700])) == mcnemar(600, 700) < 0.01


@pytest.mark.parametrize(("first", "second"), [*itertools.product(range(6), range(6)), (0, 12), (11, 3)])
def test_p_value_is_the_share_of_outcomes_that_differ_at_least_as_much(first, second):
    n = first + second
    if n > 10:
        heads = np.array([bin(outcome).count("1") for outcome in range(2**n)])
    else:
        heads = np.array([sum(outcome) for outcome in itertools.product((0, 1), repeat=n)])
    as_extreme = np.abs(2 * heads - n) >= abs(first - second)
    assert mcnemar(first, second) == pytest.approx(as_extreme.mean(), abs=1e-12)


def test_p_value_of_many_samples_neither_overflows_nor_vanishes():
    assert mcnemar(0, 0) == 1
    assert mcnemar(4000, 4000) == 1
    assert 0 < mcnemar(100, 900) < 1e-100
    assert mcnemar(100, 900) == mcnemar(900, 100)


def test_holms_correction_is_the_textbooks():
    assert comparison.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert comparison.holm([0.6, 0.7]) == [1, 1]
    assert comparison.holm([]) == []


def test_samples_are_joined_by_id_whatever_their_order(compared_with):
    ours = [prediction("a"), prediction("b", False), prediction("c"), prediction("d", False), prediction("e")]
    theirs = [prediction("f"), prediction("d", False), prediction("c"), prediction("b"), prediction("a", False)]
    compared = compared_with(ours, theirs)
    pairs = paired(ours, compared)
    assert {one.sample.id: (one.is_right, other.is_right) for one, other in pairs} == {
        "a": (True, False), "b": (False, True), "c": (True, True), "d": (False, False)}
    assert outcomes(pairs) == {"compared": 4, "both": 1, "first": 1, "second": 1, "neither": 1, "p": "1"}
    assert [one.sample.id for one, _ in disagreements(pairs)] == ["a", "b"]
    assert compared.others == ["f"]
    said = "\n".join(comparison.lines(DTW, ours, [compared]))
    assert "1 samples of this run are not in" in said
    assert "only published right: 1, only mean pool right: 1, of 4 samples; exact McNemar test p = 1" in said


def test_an_answer_that_only_this_run_knows_counts(compared_with):
    ours = [prediction("a"), prediction("b", answer=None)]
    compared = compared_with(ours, [prediction("a", answer=None), prediction("b", answer=1)])
    found = outcomes(paired(ours, compared))
    assert (found["compared"], found["both"]) == (1, 1)


def test_where_both_are_right_alike_they_disagree_on_what_they_chose_differently(compared_with):
    ours, theirs = ([Prediction(Sample(id=id, domain="d", options=("x", "y", "z"), answer=0), np.eye(3)[k])
                     for id, k in zip("abc", chosen, strict=True)] for chosen in ((0, 1, 1), (0, 1, 2)))
    pairs = paired(ours, compared_with(ours, theirs))
    assert [one.sample.id for one, _ in disagreements(pairs)] == ["c"]


def test_without_answers_the_comparison_tells_how_often_both_predict_the_same(compared_with):
    ours = [prediction("a", answer=None), prediction("b", answer=None)]
    compared = compared_with(ours, [prediction("a", True, None), prediction("b", False, None)])
    assert comparison.lines(DTW, ours, [compared]) == [
        "compared with mean pool: no answers are known; the two predict the same in 1 of 2 samples"]


@pytest.mark.parametrize(("theirs", "part"), [
    ([prediction("other")], "has none of this run's samples"),
    ([prediction("a", options=("x", "z"))], "a had other options"),
    ([prediction("a", options=("y", "x"))], "a had other options"),
    ([prediction("a", options=("x", "y", "z"))], "a had other options"),
    ([prediction("a", answer=1)], "a had other options or another answer"),
], ids=["samples", "name", "order", "number", "answer"])
def test_predictions_of_other_questions_are_refused(compared_with, theirs, part):
    refusal(lambda: compared_with([prediction("a")], theirs), "--compare", part)


@pytest.mark.parametrize(("method", "name"), [
    ({"name": "mean pool"}, "mean pool"), (DTW | {"smooth": 6}, "smooth 6"), (DTW, "other.json"),
    (DTW | {"name": "segment"}, "segment"), (DTW | {"name": "paced", "similarity": "evidence", "contrast": 32},
                                             "recommended"),
    (DTW | {"name": "segment", "similarity": "centred"}, "segment, centred"),
    (DTW | {"contrast": 5}, "dtw, sigmoid, contrast"), ({"name": "long " * 30}, "long long long long long long l…"),
])
def test_methods_have_names_that_tell_them_apart(compared_with, method, name):
    assert compared_with([prediction("a")], [prediction("a")], method).name == name


def test_several_methods_have_a_name_each(tmp_path):
    paths = [tmp_path / "a.json", tmp_path / "b.json", tmp_path / "b" / "b.json"]
    paths[2].parent.mkdir()
    for path in paths:
        write_predictions(path, {"name": "mean pool"}, {}, [prediction("a", False)], {})
    found = read_all_compared([*paths, paths[0]], [prediction("a").sample], DTW)
    assert [one.name for one in found] == ["mean pool", "b.json", "mean pool 2", "a.json"]
    said = comparison.lines(DTW, [prediction("a")], found)
    assert len(said) == 4
    assert "only published right: 1, only mean pool right: 0" in said[0]


@pytest.mark.parametrize("method", [{}, "odd", {"name": ""}])
def test_predictions_of_a_method_without_a_name_are_refused(compared_with, method):
    refusal(lambda: compared_with([prediction("a")], [prediction("a")], method), "is damaged")


@pytest.mark.parametrize(("p", "text"), [(1, "1"), (0.996, "1"), (0.25, "0.25"), (0.0312, "0.031"), (0.001, "0.001"),
                                         (0.00031, "3.1e-04"), (5.9e-11, "5.9e-11"), (0, "0")])
def test_p_values_have_two_digits(p, text):
    assert p_text(p) == text
