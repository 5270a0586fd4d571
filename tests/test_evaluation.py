"""Rankings, accuracy with chance and intervals, tables, and predictions.json."""

import itertools
import json

import numpy as np
import pytest
from refusals import refusal
from rich.cells import cell_len

from actalign import evaluation, predictions, tables
from actalign.dataset import Sample
from actalign.evaluation import Prediction, accuracy, accuracy_table, chance, print_results, top_k_hits
from actalign.predictions import predictions_output, publish, read_predictions, write_predictions
from actalign.tables import table


def sample(id="x", options=3, answer=0):
    return Sample(id=id, domain="yoga", options=tuple(f"pose {k}" for k in range(options)), answer=answer)


def prediction(scores, answer=0, id="x", paths=None):
    return Prediction(sample(id, len(scores), answer), np.array(scores, dtype=float), paths)


# Rankings and hits


def test_ranking_goes_from_best_to_worst():
    assert prediction([0.1, 0.9, -2, 0.5]).ranking.tolist() == [1, 3, 0, 2]
    assert [prediction([0.1, 0.9, -2, 0.5], answer).is_right for answer in range(4)] == [False, True, False, False]


def test_equal_scores_keep_the_order_of_the_options_and_are_ties():
    assert prediction([1, 2, 2, 1]).ranking.tolist() == [1, 2, 0, 3]
    assert prediction(np.arange(200) % 2).ranking.tolist() == [*range(1, 200, 2), *range(0, 200, 2)]
    assert prediction([1, 2, 2, 1], answer=2).is_right is False
    assert [prediction(scores).margin for scores in ([1, 2, 2, 1], [1, 1, 2], [0, 0], [3])] == [0, 1, 0, None]


def test_prediction_has_a_score_for_every_option():
    for count in (2, 4):
        with pytest.raises(ValueError, match=r"sample x: .* are no finite scores for 3 options"):
            Prediction(sample(), np.zeros(count))


def test_hit_is_an_answer_among_the_k_best():
    predictions = [prediction([3, 2, 1, 0], answer) for answer in range(4)]
    for k in range(1, 5):
        assert top_k_hits(predictions, k).tolist() == [answer < k for answer in range(4)]
    assert top_k_hits(predictions, 1).dtype == bool


def test_sample_with_fewer_options_than_k_is_a_hit():
    assert top_k_hits([prediction([1, 2], 0)], 1).tolist() == [False]
    assert top_k_hits([prediction([1, 2], 0)], 2).tolist() == [True]
    assert top_k_hits([prediction([1, 2], 0)], 3).tolist() == [True]


# Chance and intervals


@pytest.mark.parametrize("k", evaluation.TOP_K)
def test_chance_is_what_all_rankings_give_together(k):
    samples = [sample(str(options), options, answer=options // 2) for options in (1, 2, 3, 5)]
    shares = [top_k_hits([Prediction(one, np.array(scores)) for scores in
                          itertools.permutations(range(len(one.options)))], k).mean() for one in samples]
    assert chance(samples, k) == pytest.approx(np.mean(shares), abs=1e-12)


def test_chance_is_what_guessing_many_times_comes_to():
    samples = [sample(str(n), options) for n, options in enumerate([2, 3, 4, 4, 5, 6])]
    rng = np.random.default_rng(0)
    for k in evaluation.TOP_K:
        guessed = [top_k_hits([Prediction(one, rng.random(len(one.options))) for one in samples], k).mean()
                   for _ in range(2000)]
        assert chance(samples, k) == pytest.approx(np.mean(guessed), abs=4 * np.std(guessed) / np.sqrt(2000))


@pytest.mark.parametrize(("hits", "of"), [(12, 40), (1, 25), (60, 80), (300, 900)])
def test_interval_is_that_of_resampling_the_hits(hits, of):
    outcomes = np.arange(of) < hits
    found = accuracy(outcomes)
    resampled = np.random.default_rng(5).choice(outcomes, (4000, of)).mean(axis=1)
    low, high = np.percentile(resampled, [2.5, 97.5])
    assert found.value == hits / of
    assert found.low == pytest.approx(low, abs=1.5 / of + 0.002)
    assert found.high == pytest.approx(high, abs=1.5 / of + 0.002)
    assert found.low <= found.value <= found.high


def test_interval_is_the_same_every_time():
    hits = np.arange(100_001) < 31_000  # so many that intervals of other resamples would differ
    assert accuracy(hits) == accuracy(hits[::-1]) == accuracy(list(hits))


@pytest.mark.parametrize(("hits", "of", "expected"), [
    (10, 10, "100.0 [72.2, 100.0]"), (0, 10, "0.0 [0.0, 27.8]"), (80, 80, "100.0 [95.4, 100.0]"),
    (1, 1, "100.0 [20.7, 100.0]")])
def test_interval_of_all_or_nothing_is_wilsons(hits, of, expected):
    assert str(accuracy(np.arange(of) < hits)) == expected


# Tables


def test_table_is_aligned():
    lines = table([("", "a", "count"), ("a long name", "1.25", "7"), ("x", "10.5", "12345")])
    assert lines == [
        "                a  count",
        "------------------------",
        "a long name  1.25      7",
        "x            10.5  12345",
    ]


@pytest.mark.parametrize("label", ["x" * 500, "日本語の長いラベル" * 20, "שלום" * 60, "e\u0301" * 200, "🤸" * 90])
def test_long_labels_are_cut_so_that_lines_fit_a_terminal(label):
    lines = table([("sample", "prediction", "score", "margin"), (label, label, "0.1234", "0.0001"),
                   ("a", "b", "0.5", "0.1")], texts=2)
    assert [cell_len(line) for line in lines] == [80, 80, 80, 80]
    assert lines[2].count("…") == 2
    assert lines[2].endswith("0.1234  0.0001")


def test_wide_and_combining_characters_are_counted_as_a_terminal_shows_them():
    lines = table([("", "n"), ("日本", "1"), ("abcd", "2")])
    assert lines[2:] == ["日本  1", "abcd  2"]


def test_no_label_steers_the_terminal():
    lines = table([("label", "n"), ("\x1b[31mred\x07\nnext\u202eline\t\u2066.", "1")])
    assert lines[2].split() == ["[31mred", "nextline", ".", "1"]
    assert all(line.isprintable() for line in lines)


def test_scores_too_small_for_four_decimals_are_still_seen():
    assert [tables.score_text(value) for value in (0.25, 0.001, 0.00012, 3e-9, 0)] == [
        "0.2500", "0.0010", "1.2e-04", "3.0e-09", "0.0000"]


def test_another_method_stands_in_the_same_table(capsys):
    ours, theirs = [prediction([2, 1], 0, "a")], [prediction([1, 2], 0, "a")]
    print_results("alignment", ours, {}, {"mean pool": theirs})
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("  ")[0] for line in lines[2:5]] == ["chance", "alignment", "mean pool"]


def test_accuracy_table_has_one_chance_line_for_methods_on_the_same_samples():
    first = [prediction([2, 1], 0, "a"), prediction([2, 1], 1, "b")]
    second = [prediction([1, 2], 0, "a"), prediction([1, 2], 1, "b")]
    lines = accuracy_table({"first": first, "second": second})
    assert [line.split()[0] for line in lines[2:]] == ["chance", "first", "second"]
    assert lines[2].split() == ["chance", "50.0", "100.0", "100.0", "2"]
    assert lines[3].split()[:2] == ["first", "50.0"]
    assert len({len(line) for line in lines[1:]}) == 1


def test_accuracy_table_has_a_chance_line_for_each_set_of_samples():
    lines = accuracy_table({"two": [prediction([2, 1])], "four": [prediction([2, 1, 0, 0])]})
    assert [line.partition("  ")[0] for line in lines[2:]] == ["chance, two", "two", "chance, four", "four"]
    assert lines[2].split()[2:] == ["50.0", "100.0", "100.0", "1"]
    assert lines[4].split()[2:] == ["25.0", "50.0", "75.0", "1"]


# What is printed


def test_results_with_answers_show_accuracy_beside_chance(capsys):
    print_results("DTW", [prediction([2, 1], 0, "a"), prediction([2, 1], 1, "b")], {})
    out, err = capsys.readouterr()
    assert "Top-1" in out
    assert "chance" in out
    assert "DTW" in out
    assert "2 of 2 samples scored\n" in out
    assert "not scored" not in out
    assert "ties" not in out
    assert err == ""


def test_results_without_answers_show_the_predictions(capsys):
    print_results("DTW", [prediction([0.25, 0.75], None, "a"), prediction([3], None, "b")], {})
    out = capsys.readouterr().out
    assert "Top-1" not in out
    assert "chance" not in out
    rows = [line.split() for line in out.splitlines()]
    assert ["a", "pose", "1", "-", "0.7500", "0.5000"] in rows
    assert ["b", "pose", "0", "-", "3.0000", "-"] in rows
    assert "2 of 2 samples scored, none with a known answer: no accuracy" in out
    assert "ties" not in out


def test_results_with_some_answers_say_how_many_have_none(capsys):
    print_results("DTW", [prediction([2, 1], 0, "a"), prediction([2, 1], None, "b"), prediction([2, 1], 0, "c")], {})
    out = capsys.readouterr().out
    assert out.splitlines()[2].split()[-1] == "2"  # the accuracy's number of samples
    assert "3 of 3 samples scored, 1 of them without a known answer" in out


def test_results_name_what_was_not_scored_by_reason_and_what_is_tied(capsys):
    not_scored = {"d": "no frames", "e": "no sub-actions", "f": "no frames"} | {f"g{n}": "gone" for n in range(9)}
    print_results("DTW", [prediction([2, 2], 0, "a"), prediction([1], 0, "b")], not_scored)
    out = capsys.readouterr().out
    assert "2 of 14 samples scored" in out
    assert "not scored: 2, no frames (d, f)" in out
    assert "not scored: 1, no sub-actions (e)" in out
    assert "not scored: 9, gone (g0, g1, g2 and 6 more)" in out
    assert "in 1 samples the best score is shared" in out
    assert "(a)" in out


def test_results_of_nothing_are_no_accuracy(capsys):
    print_results("DTW", [], {"a": "no frames"})
    out = capsys.readouterr().out
    assert "0 of 1 samples scored" in out
    assert "Top-1" not in out
    assert "not scored: 1, no frames (a)" in out


# predictions.json


def write_some(path, predictions, not_scored=()):
    write_predictions(path, {"name": "dtw", "smooth": 30}, {"video_embeddings": {"path": "v.npy", "model": "tiny"}},
                      predictions, dict(not_scored))
    return json.loads(path.read_text())


def test_predictions_come_back(tmp_path):
    path = tmp_path / "predictions.json"
    paths = [np.array([[0, 0], [1, 0], [1, 1]]), np.array([[0, 0]])]
    written = [prediction([0.1, 1 / 3], 1, "a", paths), prediction([2, 1, 1], None, "b")]
    content = write_some(path, written, {"c": "no frames"})
    method, back = read_predictions(path)
    assert method == {"name": "dtw", "smooth": 30}
    assert [one.sample.record() for one in back] == [one.sample.record() for one in written]
    for one, other in zip(back, written, strict=True):
        np.testing.assert_array_equal(one.scores, other.scores)
    assert back[0].paths == [path.tolist() for path in paths]
    assert back[1].paths is None
    assert content["samples"][0]["ranking"] == [1, 0]
    assert content["samples"][0]["correct_answer_index"] == 1
    assert content["not_scored"] == [{"id": "c", "reason": "no frames"}]
    assert content["sources"]["video_embeddings"]["path"] == "v.npy"


def test_summary_is_over_samples_with_answers(tmp_path):
    content = write_some(tmp_path / "p.json", [prediction([2, 1, 0, 0], 0, "a"), prediction([2, 1, 0, 0], 1, "b"),
                                               prediction([1, 2], None, "c")], {"d": "gone"})
    wilson = pytest.approx(2 / (2 + 1.96**2), abs=1e-4)
    assert content["summary"] == {
        "scored": 3, "with_answer": 2, "not_scored": 1,
        "top1": {"accuracy": 0.5, "low": 0.0, "high": 1.0, "chance": 0.25},
        "top2": {"accuracy": 1.0, "low": wilson, "high": 1.0, "chance": 0.5},
        "top3": {"accuracy": 1.0, "low": wilson, "high": 1.0, "chance": 0.75},
    }
    content = write_some(tmp_path / "p.json", [prediction([1, 2], None)])
    assert content["summary"] == {"scored": 1, "with_answer": 0, "not_scored": 0}


@pytest.mark.parametrize("scores", [[float("nan"), 1.0], [float("inf"), 1.0]])
def test_scores_that_are_no_finite_numbers_are_no_prediction(scores):
    with pytest.raises(ValueError, match="no finite scores"):
        prediction(scores)


ENTRY = {"id": "a", "cleaned_options": ["x", "y"], "correct_answer_index": 0, "scores": [1, 2]}


@pytest.mark.parametrize("samples", [
    None, 5, [5], [{}], "ab", [{**ENTRY, "scores": [1]}], [{**ENTRY, "scores": "ab"}], [{**ENTRY, "scores": None}],
    [{**ENTRY, "scores": [1, [2, 3]]}], [{**ENTRY, "scores": [1, "x"]}], [{**ENTRY, "scores": {"x": 1, "y": 2}}],
    [{**ENTRY, "correct_answer_index": 2}], [{"id": "a", "cleaned_options": ["x"]}], [{**ENTRY, "scores": [[1], [2]]}],
    [{**ENTRY, "scores": [1, 10**400]}], [{**ENTRY, "scores": [1, float("nan")]}], [ENTRY, ENTRY],
], ids=lambda samples: repr(samples)[-40:].lstrip("0"))
def test_damaged_predictions_are_refused(tmp_path, samples):
    path = tmp_path / "p.json"
    path.write_text(json.dumps({"format": predictions.FORMAT, "version": predictions.VERSION, "method": {"name": "dtw"},
                                "samples": samples}))
    refusal(lambda: read_predictions(path), str(path))


@pytest.mark.parametrize("content", ["[]", "5", "{}", '{"format": "other", "version": 1}', "", "cut {",
                                     json.dumps({"format": predictions.FORMAT, "version": 99, "samples": []}),
                                     json.dumps({"format": predictions.FORMAT, "version": 1, "samples": []})])
def test_file_of_another_kind_is_refused(tmp_path, content):
    path = tmp_path / "p.json"
    path.write_text(content)
    refusal(lambda: read_predictions(path), str(path))


@pytest.mark.parametrize("content", ["[]", "5", "{}", '{"format": "other"}', "", "cut {", "\xff", "[" * 100_000,
                                     "1" * 5000, '{"format": ["actalign-predictions"]}'], ids=lambda text: text[:30])
def test_file_of_another_kind_is_not_replaced(tmp_path, content):
    path = tmp_path / "p.json"
    path.write_text(content, encoding="latin-1")
    refusal(lambda: predictions_output(path), str(path), "--output")


def test_predictions_and_new_names_are_replaced(tmp_path):
    path = tmp_path / "p.json"
    for name in (path, path, str(path)):
        with predictions_output(name):
            write_some(path, [prediction([1, 2])])
    refusal(lambda: predictions_output(tmp_path), str(tmp_path))


def test_every_sample_has_one_prediction_or_one_reason():
    def predictions(*ids):
        return [Prediction(Sample(id, "sport", ("a", "b")), np.array([0.1, 0.2])) for id in ids]

    publish(None, "DTW", {}, {}, predictions("a", "b"), {"c": "lost"}, {"a", "b", "c"})
    for found, lost in ((predictions("a"), {"c": ""}), (predictions("a", "a", "b"), {"c": ""}),
                        (predictions("a", "b"), {"b": "", "c": ""}), (predictions("a", "b", "d"), {"c": ""}),
                        (predictions("a", "b"), {"c": "", "d": ""})):
        with pytest.raises(RuntimeError, match="joined wrongly"):
            publish(None, "DTW", {}, {}, found, lost, {"a", "b", "c"})


@pytest.mark.parametrize("scores", [[0.1], [0.1, 0.2, 0.3]])
def test_scores_that_do_not_meet_the_options_are_no_prediction(scores):
    with pytest.raises(ValueError, match="no finite scores for 2 options"):
        Prediction(Sample("a", "sport", ("a", "b")), np.array(scores))


# The CSV twin


def test_the_csv_twin_has_a_row_for_every_sample_and_option(tmp_path):
    pandas = pytest.importorskip("pandas")
    labels = ('a "quoted", label', "two\nlines", "=1+1", "日本")
    first = Prediction(Sample(id="001", domain="a,b", options=labels, answer=2), np.array([0.1, 1 / 3, 1e-12, -2.5]))
    write_some(tmp_path / "p.json", [first, prediction([2, 1], 1, "b")])
    frame = pandas.read_csv(tmp_path / "p.csv", dtype={"id": str})
    assert tuple(frame.columns) == predictions.COLUMNS
    assert frame["id"].tolist() == ["001"] * 4 + ["b"] * 2
    assert tuple(frame["option"][:4]) == labels
    assert frame["score"].tolist() == [0.1, 1 / 3, 1e-12, -2.5, 2, 1]
    assert frame["rank"].tolist() == [2, 1, 3, 4, 1, 2]
    assert frame[frame["is_prediction"]]["option_index"].tolist() == [1, 0]
    assert frame[frame["is_answer"]]["option_index"].tolist() == [2, 1]
    assert frame["domain"].tolist() == ["a,b"] * 4 + ["yoga"] * 2


def test_is_answer_is_empty_where_it_is_not_known(tmp_path):
    write_some(tmp_path / "p.json", [prediction([2, 1], None, "b")])
    assert (tmp_path / "p.csv").read_text().splitlines()[1] == "b,yoga,0,pose 0,2.0,1,True,"


def test_a_csv_of_another_kind_is_not_replaced(tmp_path):
    (tmp_path / "p.csv").write_text("name,score\n")
    refusal(lambda: predictions_output(tmp_path / "p.json"), "--output", "p.csv")
    (tmp_path / "p.csv").write_bytes(b"\xff\xfe")
    refusal(lambda: predictions_output(tmp_path / "p.json"), "--output", "p.csv")
    (tmp_path / "p.csv").unlink()
    (tmp_path / "p.csv").mkdir()
    refusal(lambda: predictions_output(tmp_path / "p.json"), "--output", "p.csv")
    refusal(lambda: predictions_output(tmp_path / "other.csv"), "--output", "other.json")
