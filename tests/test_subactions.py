"""generated_subactions.json: the fixed shape that users have files of."""

import dataclasses
import json

import pytest
from refusals import refusal

from actalign.subactions import GeneratedFile, SubActions, read_subactions, subactions_from_entry

ENTRY = {
    "youtube_id": "dQw4w9WgXcQ", "id": "dQw4w9WgXcQ_1", "domain": "Basketball", "action": "Euro Step",
    "question": "Which move is it?", "cleaned_options": ["crossover", "euro step", "360 layup"],
    "correct_answer_index": 1,
    "subactions": {
        "crossover in Basketball": ["dribbles low", "swings the ball across"],
        "euro step in Basketball": ["gathers the ball", "steps to one side", "steps to the other side"],
        "360 layup in Basketball": ["jumps", "turns in the air"],
    },
}


def write(tmp_path, entries):
    path = tmp_path / "generated_subactions.json"
    path.write_text(json.dumps(entries), encoding="utf-8")
    return path


def entry_of(tmp_path, subactions):
    """The entry that a GeneratedFile writes for some SubActions, but for how they were generated."""
    generated = GeneratedFile(tmp_path / "written.json", lambda sample: {"model": "x"})
    generated.add([subactions.sample], subactions.known, {}, 0.5)
    generated.finish([subactions.sample.id])
    entry, = json.loads((tmp_path / "written.json").read_text())
    assert entry.pop("generated_with") == {"model": "x", "temperature": 0.5}
    return entry


def test_fixed_shape_is_read_in_the_order_of_the_options(tmp_path):
    shuffled = {**ENTRY, "id": "second", "subactions": dict(reversed(ENTRY["subactions"].items()))}
    first, second = read_subactions(write(tmp_path, [ENTRY, shuffled]))
    sample = first.sample
    assert (sample.id, sample.youtube_id, sample.domain, sample.action, sample.question, sample.answer) == (
        "dQw4w9WgXcQ_1", "dQw4w9WgXcQ", "Basketball", "Euro Step", "Which move is it?", 1)
    assert sample.options == ("crossover", "euro step", "360 layup")
    assert first.texts == (("dribbles low", "swings the ball across"),
                           ("gathers the ball", "steps to one side", "steps to the other side"),
                           ("jumps", "turns in the air"))
    assert second.sample.id == "second"
    assert second.texts == first.texts
    assert first.lacking == []


def test_entry_comes_back(tmp_path):
    subactions = read_subactions(write(tmp_path, [ENTRY]))[0]
    entry = entry_of(tmp_path, subactions)
    assert entry == ENTRY
    assert list(entry) == list(ENTRY)
    assert read_subactions(write(tmp_path, [entry])) == [subactions]


@pytest.mark.parametrize("key", ["Euro Step in Basketball", " euro  step in basketball ", "EURO\tSTEP IN\nBASKETBALL"])
def test_keys_are_matched_without_regard_to_case_and_white_space(key):
    entry = {**ENTRY, "subactions": {key: ["gathers"], "crossover in Basketball": ["dribbles"]}}
    assert subactions_from_entry(entry, "a.json").texts == (("dribbles",), ("gathers",), ())


def test_keys_of_other_alphabets_are_matched_too():
    entry = {**ENTRY, "domain": "Fußball", "cleaned_options": ["ÜBERSTEIGER"],
             "correct_answer_index": 0, "subactions": {"übersteiger in FUSSBALL": ["steps over the ball"]}}
    assert subactions_from_entry(entry, "a.json").texts == (("steps over the ball",),)
    entry = {**entry, "subactions": {"U\u0308bersteiger in Fu\u00dfball": ["steps over the ball"]}}
    assert subactions_from_entry(entry, "a.json").texts == (("steps over the ball",),)


@pytest.mark.parametrize("subactions", [
    {"crossover in Basketball": ["dribbles"]},
    {"crossover in Basketball": ["dribbles"], "euro step in Basketball": []},
    {"crossover in Basketball": ["dribbles"], "euro step in Basketball": None},
    {"crossover in Basketball": ["dribbles"], "euro step": ["of another key"], "euro step in Volleyball": ["too"]},
    {"crossover in Basketball": ["dribbles"], "unknown in Basketball": "of another type"},
])
def test_option_without_sub_actions_is_empty_and_named(tmp_path, subactions):
    of_sample = subactions_from_entry({**ENTRY, "subactions": subactions}, "a.json")
    assert of_sample.texts == (("dribbles",), (), ())
    assert of_sample.lacking == ["euro step", "360 layup"]
    entry = entry_of(tmp_path, of_sample)
    assert entry["subactions"] == {"crossover in Basketball": ["dribbles"]}
    assert subactions_from_entry(entry, "a.json") == of_sample


@pytest.mark.parametrize("key", ["euro step", "Euro Step"])
def test_keys_without_the_domain_are_told_what_is_expected(tmp_path, key):
    path = write(tmp_path, [{**ENTRY, "subactions": {key: ["gathers"], "crossover": ["dribbles"]}}])
    refusal(lambda: read_subactions(path), str(path), "dQw4w9WgXcQ_1", repr(key), "'euro step in Basketball'")


def test_an_error_in_a_file_written_by_hand_names_line_and_column(tmp_path):
    path = tmp_path / "generated_subactions.json"
    path.write_text('[\n {"id": "a",\n  "domain": "sport",\n }\n]')
    refusal(lambda: read_subactions(path), str(path), "line 3 column 20")


@pytest.mark.parametrize("subactions", [{}, None])
def test_entry_without_any_sub_actions_lacks_all(subactions):
    assert subactions_from_entry({**ENTRY, "subactions": subactions}, "a.json").texts == ((), (), ())
    without = {key: value for key, value in ENTRY.items() if key != "subactions"}
    assert subactions_from_entry(without, "a.json").lacking == ENTRY["cleaned_options"]


@pytest.mark.parametrize("texts", [[""], [" "], ["gathers", "", "steps"], ["gathers", "\n"]])
def test_option_with_an_empty_phrase_lacks_its_sub_actions(texts):
    entry = {**ENTRY, "subactions": {**ENTRY["subactions"], "euro step in Basketball": texts}}
    assert subactions_from_entry(entry, "a.json").lacking == ["euro step"]


def test_reply_that_was_kept_as_text_holds_no_sub_actions():
    entry = {**ENTRY, "subactions": "I am sorry, euro step in Basketball is unknown to me"}
    assert subactions_from_entry(entry, "a.json").lacking == ENTRY["cleaned_options"]


@pytest.mark.parametrize("texts", ["gathers", 5, True, {"1": "gathers"}, ["gathers", None],
                                   ["gathers", ["steps"]], [5]])
def test_sub_actions_that_are_no_list_of_texts_are_refused(tmp_path, texts):
    entry = {**ENTRY, "subactions": {**ENTRY["subactions"], "euro step in Basketball": texts}}
    path = write(tmp_path, [ENTRY | {"id": "good"}, entry])
    refusal(lambda: read_subactions(path), str(path), "dQw4w9WgXcQ_1", "euro step")


@pytest.mark.parametrize("subactions", [["gathers"], 5, True])
def test_sub_actions_that_are_no_object_are_refused(tmp_path, subactions):
    path = write(tmp_path, [{**ENTRY, "subactions": subactions}])
    refusal(lambda: read_subactions(path), str(path), "dQw4w9WgXcQ_1")


@pytest.mark.parametrize("entries", [
    None, 5, "x", {}, [], {"entries": [ENTRY]}, [5], [[ENTRY]], [None],
    [{**ENTRY, "id": None}], [{**ENTRY, "id": ""}], [{**ENTRY, "cleaned_options": []}],
    [{**ENTRY, "cleaned_options": "crossover"}], [{**ENTRY, "correct_answer_index": 3}],
    [{**ENTRY, "correct_answer_index": "1"}], [ENTRY, ENTRY], [{**ENTRY, "id": 1}, {**ENTRY, "id": "1"}],
], ids=lambda entries: repr(entries)[:20])
def test_file_of_another_shape_is_refused(tmp_path, entries):
    path = write(tmp_path, entries)
    refusal(lambda: read_subactions(path), str(path))


def test_file_that_is_no_json_is_refused(tmp_path):
    path = tmp_path / "generated_subactions.json"
    refusal(lambda: read_subactions(path), str(path), "no such file")
    for raw in (b"", b"[", json.dumps([ENTRY])[:-9].encode(), b"\xff\xfe"):
        path.write_bytes(raw)
        refusal(lambda: read_subactions(path), str(path))


def test_further_keys_are_no_matter():
    entry = {**ENTRY, "generated_with": {"model": "x"}, "temperature": 0.2, "notes": [None]}
    assert subactions_from_entry(entry, "a.json") == subactions_from_entry(ENTRY, "a.json")


@pytest.mark.parametrize("answer", [-1, None])
def test_entry_without_an_answer_has_none(tmp_path, answer):
    subactions = subactions_from_entry({**ENTRY, "correct_answer_index": answer}, "a.json")
    assert subactions.sample.answer is None
    assert entry_of(tmp_path, subactions)["correct_answer_index"] is None


def test_number_as_an_id_is_read_as_text():
    assert subactions_from_entry({**ENTRY, "id": 17}, "a.json").sample.id == "17"


def test_lists_of_sub_actions_are_as_many_as_options():
    subactions = subactions_from_entry(ENTRY, "a.json")
    with pytest.raises(ValueError, match="zip"):
        _ = SubActions(subactions.sample, subactions.texts[:2]).lacking


MORE = {**ENTRY, "more_subactions": [{"euro step in Basketball": ["gathers", "steps"]},
                                     {"crossover in Basketball": ["dribbles"], "360 layup in Basketball": ["turns"]}]}


def test_further_scripts_stand_beside_the_first_and_come_back(tmp_path):
    [first], [of_sample] = read_subactions(write(tmp_path, [ENTRY])), read_subactions(write(tmp_path, [MORE]))
    assert of_sample.texts == first.texts
    assert of_sample.more == (((), ("gathers", "steps"), ()), (("dribbles",), (), ("turns",)))
    assert [script.lacking for script in of_sample.scripts] == [[], ["crossover", "360 layup"], ["euro step"]]
    assert of_sample.script(7).lacking == list(ENTRY["cleaned_options"])
    generated = GeneratedFile(tmp_path / "generated_subactions.json", lambda sample: {}, scripts=3)
    generated.add([of_sample.sample], {"crossover": ("swings",)}, {}, 0.5, script=1)
    generated.finish([of_sample.sample.id])
    entry, = json.loads((tmp_path / "generated_subactions.json").read_text())
    assert entry["subactions"] == ENTRY["subactions"]
    assert entry["more_subactions"] == [{"crossover in Basketball": ["swings"], **MORE["more_subactions"][0]},
                                        MORE["more_subactions"][1]]


def test_scripts_follow_the_dataset_and_what_was_paid_for_stays(tmp_path):
    path = write(tmp_path, [MORE])
    sample = dataclasses.replace(read_subactions(path)[0].sample, domain="streetball",
                                 options=("euro step", "dunk", "crossover"))
    generated = GeneratedFile(path, lambda sample: {})
    generated.follow([sample])
    generated.finish([sample.id])
    entry, = json.loads(path.read_text())
    assert entry["more_subactions"] == [
        {"euro step in streetball": ["gathers", "steps"]},
        {"crossover in streetball": ["dribbles"], "360 layup in streetball": ["turns"]}]
    assert read_subactions(path)[0].more[0] == (("gathers", "steps"), (), ())
