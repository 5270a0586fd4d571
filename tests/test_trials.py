"""Every method on the same samples, and what order is worth: by definition, and as the stage tells it."""

import itertools
import json
import re

import numpy as np
import pytest
from made_artifacts import (
    CHECKPOINT,
    make_entries,
    random_rows,
    write_entries,
    write_subaction_embeddings,
    write_video_embeddings,
)
from refusals import refusal

import seq_alignment
from actalign import alignment, trials
from actalign.alignment import METHODS, Method, align, every_method
from actalign.comparison import holm, mcnemar
from actalign.dataset import Sample

PUBLISHED = METHODS["published"]


def samples_of(answers, domains="d"):
    return [Sample(id=str(n), domain=domain, options=("x", "y", "z"), answer=answer)
            for n, (answer, domain) in enumerate(zip(answers, itertools.cycle(domains)))]


def test_every_method_is_tried_once():
    methods = every_method(8)
    assert len(set(methods)) == len(methods) == 6 * 4 * 2 + 4
    assert {method.orders for method in methods if method.alignment != "unordered"} == {0, 8}
    assert PUBLISHED in methods


def test_the_option_taken_is_the_best_of_each_methods_scores():
    rng = np.random.default_rng(0)
    matrices = {kind: [rng.normal(size=(8, 3)) for _ in range(4)] for kind in alignment.SIMILARITIES}
    methods = every_method(5)
    taken = trials.answers_of(methods, matrices)
    for option, method in zip(taken, methods, strict=True):
        scores, _, order = align(matrices[method.similarity], method.alignment, orders=method.orders)
        assert option == np.argmax(scores)
        assert (order is not None) == (method.orders > 0)


def test_gains_and_p_are_those_of_the_hits_beside_the_published_method():
    methods = [Method("segment"), PUBLISHED, Method("drop", "centred", 8)]
    answers = [0, 1, 2, 0, 1, 2, 0, None]
    taken = np.array([[0, 1, 2, 0, 1, 2, 0, 0], [1, 0, 2, 1, 0, 2, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1]]).T
    rows = trials.of_methods(methods, samples_of(answers), taken)
    assert [row["method"] for row in rows] == [methods[0], PUBLISHED, methods[2]]
    assert [row["accuracy"].value for row in rows] == pytest.approx([1, 3 / 7, 2 / 7])
    assert [row["gain"].value for row in rows] == pytest.approx([4 / 7, 0, -1 / 7])
    assert all(row["gain"].low <= row["gain"].value <= row["gain"].high for row in rows)
    first, second = holm([mcnemar(4, 0), mcnemar(2, 3)])
    assert [row["p"] for row in rows] == [first, None, second]
    assert "published" in trials.method_lines(rows)[3]


def test_without_answers_methods_are_compared_by_what_they_take():
    taken = np.array([[0, 1, 2, 0], [0, 1, 0, 1]]).T
    rows = trials.of_methods([PUBLISHED, Method("segment")], samples_of([None] * 4), taken)
    assert [(row["accuracy"], row["same"]) for row in rows] == [(None, 1), (None, 0.5)]
    assert trials.method_lines(rows)[-1].split() == ["segment", "sigmoid", "50.0%"]


def test_losses_are_told_by_domain():
    samples = samples_of([0, 0, 1, 1, None, None], ["b", "a"])
    taken = np.array([0, 0, 1, 0, 2, 2])
    without = np.array([[1, 0, 0], [0, 0, 1], [1, 1, 0], [1, 0, 2], [2] * 3, [2] * 3])
    rows = trials.of_order(samples, taken, without)
    assert [(row["domain"], row["n"], row["accuracy"].value) for row in rows] == [
        (None, 4, 0.75), ("a", 2, 0.5), ("b", 2, 1)]
    assert [[loss.value for loss in row["losses"]] for row in rows] == [[0, 0, 0.5], [-0.5, 0, 0.5], [0.5, 0, 0.5]]
    assert trials.order_lines(rows)[2].split()[:2] == ["all", "75.0"]
    unknown = trials.of_order(samples_of([None] * 6, ["b", "a"]), taken, without)
    assert unknown[0]["accuracy"] is None
    assert unknown[0]["same"] == pytest.approx([4 / 6, 1, 3 / 6])
    assert len(trials.order_lines(unknown)) == 2 + 3


def test_controls_are_the_method_on_backward_clips_and_shuffled_sub_actions():
    forwards = np.eye(3).repeat(5, axis=0)
    backwards = np.ascontiguousarray(forwards[:, ::-1])
    for method in (PUBLISHED, Method("segment", "sigmoid", 8)):
        assert align([forwards, backwards], method.alignment, orders=method.orders)[0].argmax() == 0
        turned, _, unordered = trials.controls_of("a", method, [forwards, backwards])
        assert (turned, unordered) == (1, 0)  # both options have the same best sub-actions
    rng = np.random.default_rng(1)
    matrices = [rng.random((9, 6)) for _ in range(5)]
    found = [trials.controls_of(id, PUBLISHED, matrices).tolist() for id in ("a", "a", "b", "c", "d", "e")]
    assert found[0] == found[1]
    assert len({shuffled for _, shuffled, _ in found}) > 1


# The stage


def make_run(folder, lengths, phases=(3, 3, 3), answer=0):
    """Write artifacts of samples {id: T} in two domains, whose options have so many sub-actions; returns the flags."""
    options = ["dive", "split", "squat"][:len(phases)]
    entries = make_entries(dict.fromkeys(lengths, options), dict.fromkeys(lengths, answer))
    for n, entry in enumerate(entries):
        entry["domain"] = ("judo", "yoga")[n % 2]
        entry["subactions"] = {f"{option} in {entry['domain']}": [f"{option} phase {m}" for m in range(M)]
                               for option, M in zip(options, phases, strict=True)}
    write_entries(folder / "generated.json", entries)
    return ["--subactions", str(folder / "generated.json"),
            "--video_embeddings", str(write_video_embeddings(folder, lengths)),
            "--subaction_embeddings", str(write_subaction_embeddings(folder, entries)), "--smooth", "3"]


def test_the_recommended_method_is_its_three_flags_and_they_can_be_set_alone(tmp_path):
    flags = make_run(tmp_path, {"a": 20, "b": 9})
    named = METHODS["recommended"]

    def run(*more):
        assert seq_alignment.main([*flags, *more, "--output", str(tmp_path / "p.json")]) == 0
        return json.loads((tmp_path / "p.json").read_text())

    content = run("--method", "recommended")
    assert content["method"] == {"name": named.alignment, "similarity": named.similarity, "contrast": named.orders,
                                 "smooth": 3}
    video = alignment.smooth(random_rows(20, "a video", 0), 3)
    texts = [np.concatenate([random_rows(1, f"{option} phase {m}", 0) for m in range(3)])
             for option in ("dive", "split", "squat")]
    matrices = [alignment.similarity_of(alignment.cosines(video, rows), CHECKPOINT["logit_scale"],
                                        CHECKPOINT["logit_bias"], named.similarity) for rows in texts]
    scores, paths, order = align(matrices, named.alignment, True, named.orders)
    assert content["samples"][0]["scores"] == pytest.approx(scores.tolist(), abs=1e-12)
    assert content["samples"][0]["order_p"] == order.p.tolist()
    assert content["samples"][0]["paths"] == [path.tolist() for path in paths]
    assert (tmp_path / "p.csv").read_text().splitlines()[1].split(",")[-4] == repr(float(order.p[0]))
    alone = run("--alignment", named.alignment, "--similarity", named.similarity, "--contrast")
    assert alone["samples"] == content["samples"]
    method = run("--method", "recommended", "--alignment", "drop", "--contrast", "0")["method"]
    assert method == {"name": "drop", "similarity": named.similarity, "contrast": 0, "smooth": 3}
    assert "order_p" in run("--method", "published")["samples"][0]
    assert "order_p" not in run("--alignment", "unordered")["samples"][0]
    assert run()["method"]["name"] == "dtw"


def test_every_method_and_the_controls_are_told_and_shown(tmp_path, capsys):
    flags = make_run(tmp_path, {str(n): 12 + n for n in range(8)})
    page = tmp_path / "report.html"
    every = [*flags, "--alignment", "all", "--contrast", "5", "--controls", "--report", str(page)]
    assert seq_alignment.main(every) == 0
    printed = capsys.readouterr().out
    rows = re.findall(rf"^(?:{'|'.join(alignment.ALIGNMENTS)})  +\w+ .*\]  +[+-]\d", printed, re.MULTILINE)
    assert len(rows) == 52
    assert len(re.findall(r"5 orders", printed)) == 24
    assert re.search(r"^dtw +sigmoid +\d.* \+0.0 +published$", printed, re.MULTILINE)
    assert [re.search(rf"^{row} .*\[", printed, re.MULTILINE) is not None
            for row in ("all", "judo", "yoga", "golf")] == [True, True, True, False]
    text = page.read_text(encoding="utf-8")
    assert text.count("--share:") == 52
    assert text.count('<td class="number published"') == 1
    assert "What order is worth" in text
    assert seq_alignment.main([*flags, "--report", str(page)]) == 0
    assert "--share:" not in page.read_text(encoding="utf-8")


def test_without_answers_it_is_told_how_often_methods_agree(tmp_path, capsys):
    flags = make_run(tmp_path, {str(n): 12 for n in range(4)}, answer=None)
    page = tmp_path / "report.html"
    assert seq_alignment.main([*flags, "--alignment", "all", "--controls", "--report", str(page)]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^dtw +sigmoid +100.0%$", printed, re.MULTILINE)
    assert "same option if" in printed
    assert "Top-1" not in page.read_text(encoding="utf-8").partition("Samples</h2>")[0]


@pytest.mark.parametrize(("lengths", "phases"), [
    ({"a": 2, "b": 3}, (9, 9, 9)), ({"a": 12, "b": 9}, (1, 1, 1)), ({"a": 1, "b": 1}, (3, 3, 3)),
    ({"a": 12, "b": 9}, (4,)), ({"a": 12, "b": 30}, (1, 15, 4)), ({"a": 1, "b": 1}, (1,)),
], ids=["fewer frames than sub-actions", "one sub-action", "one frame", "one option", "very different", "one of all"])
def test_odd_shapes_and_a_window_longer_than_the_clip_are_scored_by_every_method(tmp_path, capsys, lengths, phases):
    flags = make_run(tmp_path, lengths, phases)
    for smooth in ("1", "1000"):
        assert seq_alignment.main([*flags, "--smooth", smooth, "--alignment", "all", "--controls", "--contrast", "7",
                                   "--method", "recommended", "--output", str(tmp_path / "p.json")]) == 0
        printed = capsys.readouterr().out
        assert len(re.findall(r"7 orders", printed)) == 24
        for sample in json.loads((tmp_path / "p.json").read_text())["samples"]:
            if smooth == "1000" or max(phases) == 1 or lengths[sample["id"]] == 1:
                assert sample["scores"] == [0] * len(phases)  # all frames alike: every order scores the same
                assert sample["order_p"] == [1] * len(phases)
                assert ("ties: in 2 samples" in printed) == (len(phases) > 1)
            else:
                assert np.isfinite(sample["scores"]).all()


def test_the_contrast_of_what_has_no_order_is_refused(tmp_path):
    flags = make_run(tmp_path, {"a": 5})
    for more in (["--contrast"], ["--method", "recommended"]):
        refusal(lambda more=more: seq_alignment.method_of(seq_alignment.parse_args([*flags, "--alignment", "unordered",
                                                                                     *more])), "--contrast 0")
    for bad in ("-1", "10001", "many"):
        with pytest.raises(SystemExit):
            seq_alignment.parse_args([*flags, "--contrast", bad])
