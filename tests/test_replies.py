"""What a reply says of each option, however it says it."""

import json
import time

import pytest

from actalign.replies import match_names, parse_reply

ONE_TO_TEN = [f"moment {m}" for m in range(10)]
GOOD = {"hook shot": tuple(ONE_TO_TEN), "dunk": ("rises", "slams it in")}


def as_list(lists):
    """A reply's JSON in the form that the prompts ask for."""
    return json.dumps({"actions": [{"action": name, "subactions": phrases} for name, phrases in lists.items()]})


@pytest.mark.parametrize("reply", [
    as_list({"hook shot": ONE_TO_TEN, "dunk": ["rises", "slams it in"]}),
    as_list({"Dunk in Basketball": ["1. rises", " slams\tit\u0007in "], '"Hook  Shot"': ONE_TO_TEN, "extra": ["x"]}),
    json.dumps({"Hook Shot": ONE_TO_TEN, "dunk": ["rises", "slams it in"]}),
    "```json\n" + json.dumps({"subactions": {"dunk": ["- rises", "slams it in"], "hook shot": ONE_TO_TEN}}) + "\n```",
    "Here [as asked] {you are}: " + as_list({"hook shot": ONE_TO_TEN, "dunk": ["rises", "slams it in"]}) + " Enjoy!",
])
def test_replies_are_matched_to_options_by_name(reply):
    assert parse_reply(reply, ["hook shot", "dunk"], "basketball", 2) == (GOOD, {})


@pytest.mark.parametrize(("reply", "problem"), [
    ("", "no JSON"), ("I cannot help with that.", "no JSON"), ("[" * 100_000, "no JSON"),
    ('{"actions": [{"action": "dunk", "subac', "broken or cut short"),
    ('{"actions": [{"action": "dunk", "subactions": ["rises", "sl', "broken or cut short"),
    (as_list({"hook shot": ONE_TO_TEN}), "0 phrases"),
    (json.dumps([ONE_TO_TEN, ["rises", "slams it in"]]), "without a list of phrases"),
    (as_list({"dunk": ["rises"]}), "at least 2"), (as_list({"dunk": ["rises", "Rises "]}), "repeated"),
    (as_list({"dunk": ["rises", " "]}), "empty"), (as_list({"dunk": ["rises", ["slams"]]}), "without a list"),
    (json.dumps({"dunk": [{"step": "rises"}, {"step": "slams"}]}), "without a list of phrases"),
    (as_list({"dunk": ["rises", "high " * 200]}), "characters"),
    (json.dumps({"dunk": "rises, slams"}), "without a list of phrases"),
])
def test_a_reply_that_cannot_be_used_says_what_is_wrong(reply, problem):
    texts, problems = parse_reply(reply, ["dunk"], "basketball", 2)
    assert texts == {}
    assert problem in problems["dunk"]


@pytest.mark.parametrize("options", [["Tuck", "tuck "], ['a "quick" one', "{braces}", "two\nlines"],
                                     ["прыжок", "跳跃", "قفزة"], ["dunk in basketball"], ["in basketball"]])
def test_options_of_every_spelling_survive_the_round_trip(options):
    texts, problems = parse_reply(as_list({option: ["rises", "falls"] for option in options}), options, "basketball", 2)
    assert problems == {}
    assert texts == dict.fromkeys(options, ("rises", "falls"))


@pytest.mark.parametrize(("reply", "expected"), [
    (as_list({"Tuck": ["a", "b"], "tuck": ["c", "d"]}), {"Tuck": ("a", "b"), "tuck": ("c", "d")}),
    (as_list({"TUCK": ["a", "b"]}), {"Tuck": ("a", "b"), "tuck": ("a", "b")}),
])
def test_options_that_differ_only_by_case_get_their_own_list_where_there_is_one(reply, expected):
    assert parse_reply(reply, ["Tuck", "tuck"], "basketball", 2) == (expected, {})


@pytest.mark.parametrize("reply", [
    f"<think>[maybe {{so}}] {as_list({'dunk': ['a draft']})} no: [[</think> {as_list({'dunk': ['rises', 'falls']})}",
    "{" * 200 + as_list({"dunk": ["rises", "falls"]}),
    json.dumps([{"name": "dunk", "steps": ["rises", "falls"]}]),
    json.dumps({"answer": {"actions": {"dunk": ["<b>rises</b>", "falls<br/>"]}}}),
    json.dumps({"dunk": [{"action": "dunk", "subactions": ["rises", "falls"]}]}),
    '{"seed": ' + "9" * 5000 + ', "dunk": ["rises", "falls"]}',
    as_list({"dunk": ["a", "draft"]}) + '{"a" ' + as_list({"dunk": ["rises", "falls"]}) + '{"action": "dunk", "subact',
])
def test_the_list_is_found_among_drafts_brackets_and_other_names(reply):
    assert parse_reply(reply, ["dunk"], "basketball", 2) == ({"dunk": ("rises", "falls")}, {})


THINKING = ["<think>{}</think>", "<THINKING>\n{}\n</THINKING>", "{}</think>", "[THINK]{}[/THINK]", "◁think▷{}◁/think▷",
            "<seed:think>{}</seed:think>", "<think>one</think>{}<think>two</think>", "<thought>{}</thought>",
            "<|channel|>analysis<|message|>{}<|end|><|start|>assistant<|channel|>final<|message|>",
            "<|channel>thought\n{}<channel|>",
            "<think >{}</ think>", '<think time="3">{}</think>', "<|think|>{}<|/think|>",
            "<|START_THINKING|>{}<|END_THINKING|>", "<internal_monologue>{}</internal_monologue>",
            "<unused94>thought\n{}<unused95>", "<seed:cot_reflect>{}</seed:cot_reflect>", "<reason>{}</reason>",
            "analysisThey want{}assistantfinal"]


@pytest.mark.parametrize("thinking", THINKING)
def test_what_was_thought_before_the_answer_is_no_answer(thinking):
    thought = thinking.format(as_list({"dunk": ["a", "draft"], "hook shot": ONE_TO_TEN}))
    answer = as_list({"dunk": ["rises", "falls"]})
    assert parse_reply(thought + answer, ["dunk"], "basketball", 2) == ({"dunk": ("rises", "falls")}, {})
    texts, problems = parse_reply(thought + answer, ["hook shot"], "basketball", 2)
    assert texts == {}
    assert "0 phrases" in problems["hook shot"]
    assert "only thinking" in parse_reply(thought, ["dunk"], "basketball", 2)[1]["dunk"]


@pytest.mark.parametrize("opening", ["<think>", " <Thinking>\n", "[THINK]", "◁think▷", "<reasoning>",
                                     "<|channel>thought\n", "<|channel|>analysis<|message|>",
                                     "<think>a</think><think>", "< think >", "<think budget=9>", "<|START_THINKING|>",
                                     "<|thinking|>", "<inner_thoughts>", "analysisWe "])
def test_thinking_without_an_end_holds_no_answer(opening):
    reply = f"{opening}First draft: {as_list({'dunk': ['a', 'draft']})} No, that is"
    assert parse_reply(reply, ["dunk"], "basketball", 2) == (
        {}, {"dunk": "the reply holds only thinking and no answer"})
    answered = as_list({"dunk": ["rises", "falls"]}) + reply
    if "</think>" not in opening and opening.strip()[0] != "a":
        assert parse_reply(answered, ["dunk"], "basketball", 2)[0] == {"dunk": ("rises", "falls")}


@pytest.mark.parametrize("fence", ["{}", "```json\n{}\n```\n"])
@pytest.mark.parametrize("tag", ["</think>", "<think>", "[THINK]", "<thinking>"])
def test_an_answer_may_speak_of_the_tags_of_thinking(tag, fence):
    reply = fence.format(as_list({"dunk": [f"holds a sign that reads {tag} high", "falls"]}))
    assert list(parse_reply(reply, ["dunk"], "basketball", 2)[0]) == ["dunk"]


@pytest.mark.parametrize("entry", [
    {"confused_with": "hook shot", "action": "dunk", "subactions": ["rises", "falls"]},
    {"Notes": "hook shot", "actionName": "dunk", "subActions": ["rises", "falls"]},
    {"description": "a shot", "name": "dunk", "steps": ["rises", "falls"], "equipment": ["ball", "hoop"]},
    {"action": "dunk", "differs_from": ["hook shot", "x"], "sub-actions": ["rises", "falls"], "tags": []},
    {"dunk": {"phases": ["rises", "falls"], "equipment": ["ball", "hoop"]}},
    {"dunk": {"subactions": ["rises", "falls"]}},
    {"option_1": {"label": "dunk", "Sub Actions": ["rises", "falls"]}},
])
def test_what_else_an_entry_says_is_neither_its_name_nor_its_phrases(entry):
    for reply in (entry, [entry], {"actions": [entry]}, {"actions": entry}):
        assert parse_reply(json.dumps(reply), ["dunk", "hook shot"], "basketball", 2)[0] == {"dunk": ("rises", "falls")}


@pytest.mark.parametrize("entry", [
    {"first": "dunk", "second": "hook shot", "subactions": ["rises", "falls"]},
    {"action": "dunk", "before": ["rises", "falls"], "after": ["lands", "runs"]},
    {"dunk": {"preparation": ["rises", "falls"], "execution": ["lands", "runs"]}},
    {"properties": {"dunk": {"enum": ["rises", "falls"]}}}, {"subactions": ["rises", "falls"]},
])
def test_where_it_is_not_clear_what_is_meant_nothing_is_taken(entry):
    assert parse_reply(json.dumps(entry), ["dunk", "hook shot"], "basketball", 2)[0] == {}


@pytest.mark.parametrize("reply", [
    json.dumps({"answer": as_list({"dunk": ["rises", "falls"]})}),
    as_list({"dunk": ["rises", "falls"]}).replace('"', '\\"')])
def test_json_within_a_text_of_json_is_read(reply):
    assert parse_reply(reply, ["dunk"], "basketball", 2) == ({"dunk": ("rises", "falls")}, {})


def test_of_an_endless_reply_the_end_is_read():
    reply = '{"a" ' * 1_000_000 + as_list({"dunk": ["rises", "falls"]})
    assert parse_reply(reply, ["dunk"], "basketball", 2) == ({"dunk": ("rises", "falls")}, {})


def test_what_is_whole_of_half_a_reply_counts():
    half = as_list({"dunk": ["rises", "falls"], "hook shot": ONE_TO_TEN})[:-30]
    texts, problems = parse_reply(half, ["dunk", "hook shot"], "basketball", 2)
    assert texts == {"dunk": ("rises", "falls")}
    assert list(problems) == ["hook shot"]


@pytest.mark.parametrize(("phrases", "problem"), [
    (["rises", "rises."], "repeated"), (["rises", "..."], "empty"), (["rises", "<br>"], "empty"),
    (["rises", "\u0000\u200b"], "empty"), ([["rises", "falls"]], "without a list"), ([], "at least"),
])
def test_phrases_that_say_nothing_or_nothing_new_do_not_count(phrases, problem):
    assert problem in parse_reply(as_list({"dunk": phrases}), ["dunk"], "basketball", 2)[1]["dunk"]


def test_vowel_signs_tell_phrases_apart():
    assert parse_reply(as_list({"dunk": ["कि", "की"]}), ["dunk"], "basketball", 2)[1] == {}


@pytest.mark.parametrize("reply", [
    "[" * 300_000, '{"a":' * 100_000, '["a",' * 100_000, '{"a":[' * 900 + "1" + "]}" * 900, "{" * 300_000,
    as_list({"dunk": [["x"] * 10] * 10_000}), '{"actions": [' + '{"action": "x", "subactions": ["y"]},' * 20_000,
    '{"a" ' * 30_000, '{"a": ["' + '"x" y ' * 20_000 + '"]}', '{"a": [' + "'x " * 30_000 + "]}",
    '{"a": [1,] /*' * 10_000, '{"a": ' + "9" * 5000 + "]", """{'x(x': ['y'], "ly\u201d\u201d\u201d": ","y",]}""",
    """{'```json(```json```jsondunk': ['it\\'s', 'b'], "ly-up\u201d\u201d\u201d": ","y",]} // c""",
])
def test_no_reply_takes_long_or_ends_the_run(reply):
    began = time.process_time()
    assert parse_reply(reply, ["dunk"], "basketball", 2)[0] == {}
    assert time.process_time() - began < 5


@pytest.mark.parametrize("name", [
    "hook\u2011shot", "Hook \u2013 Shot", "hook - shot", "1. hook-shot", "- hook-shot", "**1) Hook-shot**",
    "hook-shot.", "hook-shot (basketball)", "Hook-Shot in Basketball.", "Action 2: hook-shot", "hookshot", "hook shot",
    "\u2022 hook-shot:", "Hook\u2212shot", "(1) hook-shot", "`hook-shot`", "basketball hook-shot",
    "Hook-shot - Basketball", "hook-shot, basketball", "Basketball: hook-shot", "hook-shot [basketball]", "hook-shots",
    "a) hook-shot", "Action: hook-shot", "# hook-shot", "\u00abhook-shot\u00bb", "\u300chook-shot\u300d"])
def test_a_name_is_matched_as_models_write_it(name):
    reply = as_list({name: ["rises", "falls"], "dunk": ["a", "b"]})
    assert parse_reply(reply, ["dunk", "hook-shot"], "Basketball", 2) == (
        {"hook-shot": ("rises", "falls"), "dunk": ("a", "b")}, {})


@pytest.mark.parametrize(("option", "name"), [
    ("pli\u00e9", "plie\u0301"), ("plie\u0301", "Pli\u00c9"), ("u.s. grip.", "U.S. grip"), ("360 flip", "2. 360 flip"),
    ("180\u00b0", "180\u00b0"), ("step 1: lunge", "lunge"), ("o'neill", "O\u2019Neill"), ("跳跃", "1、跳跃")])
def test_options_of_every_kind_are_matched_so(option, name):
    reply = json.dumps({name: ["rises", "falls"]}, ensure_ascii=False)
    assert parse_reply(reply, [option, "dunk"], "basketball", 2)[0] == {option: ("rises", "falls")}


@pytest.mark.parametrize(("options", "names", "meant"), [
    (["lay-up", "layup"], ["lay up"], {}), (["lay-up", "layup"], ["Lay\u2011up"], {"lay-up": "Lay\u2011up"}),
    (["dunk", "dunk in basketball"], ["Dunk (basketball)"], {}), (["dunk", "'dunk'"], ["\"dunk\""], {}),
    (["dunk", "dunk in basketball"], ["Dunk in Basketball"], {"dunk in basketball": "Dunk in Basketball"}),
    (["360 flip", "flip"], ["360 flip"], {"360 flip": "360 flip"}), (["c", "c++"], ["C++"], {"c++": "C++"}),
    (["lay-up", "lay up"], ["lay-up"], {"lay-up": "lay-up"}), (["dunk", "dunks"], ["Dunk."], {"dunk": "Dunk."}),
    (["dunk", "basketball dunk"], ["dunk (basketball)"], {}), (["jump", "jumps"], ["j-ump"], {}),
    (["1. flip", "2. flip"], ["flip"], {}),
])
def test_a_name_that_could_mean_two_options_means_neither(options, names, meant):
    assert match_names(names, options, "basketball") == meant


@pytest.mark.parametrize("reply", [
    '{"dunk": ["rises\n to the rim", "falls\tdown"]}', '{"dunk": ["rises to the rim", "falls down",],}',
    '{"dunk": [ // in order\n "rises to the rim", /* then */ "falls down" # last\n]}',
    "{'dunk': ['rises to the rim', 'falls down']}", '{"dunk": ["rises to the rim" "falls down"]}',
    '{"actions": [{"action": "x", "subactions": ["y",]}, {"action": "dunk", "subactions": ["rises to the rim", '
    '"falls down",],},]}',
    'Sure:\n```json\n{actions: [{action: "dunk", subactions: ["rises to the rim", "falls down"]}]}\n```',
    "{\u201cdunk\u201d: [\u201crises to the rim\u201d, \u201cfalls down\u201d]}",
    '{"dunk": ["rises to the rim", "falls down"]',
    '{"dunk": ["rises to the rim", "falls down"], "hook shot": ["gat', '{"dunk": ["rises to the rim", "falls down"}',
    '{"actions": [' + '{"action": "x", "subactions": ["y"]},' * 2000 + '{"action": "dunk", "subactions": '
    '["rises to the rim", "falls down",]}]}',
    '{"actions": [{"action": "dunk", "subactions": ["a", "draft"]}, {"a":,}, {"action": "dunk", "subactions": '
    '["rises to the rim", "falls down",]}]}',
])
def test_json_is_read_as_models_write_it(reply):
    assert parse_reply(reply, ["dunk"], "basketball", 2) == ({"dunk": ("rises to the rim", "falls down")}, {})


@pytest.mark.parametrize("reply", [
    '{"dunk": ["rises", "falls", "lan', '{"dunk": ["rises", "falls", ', '{"dunk": ["rises", "falls", "lands [on',
    '{"actions": [{"action": "dunk", "subactions": ["rises", "falls", "lan',
    '{"dunk": [/* "a", "b" ] */ "rises", "fal'])
def test_a_list_that_was_cut_short_is_not_taken_for_a_whole_one(reply):
    texts, problems = parse_reply(reply, ["dunk"], "basketball", 2)
    assert texts == {}
    assert "cut short" in problems["dunk"]


def test_quotes_within_a_phrase_are_kept():
    reply = '{"dunk": ["says "hi" to the crowd", "holds // the rim # hard"]}'
    assert parse_reply(reply, ["dunk"], "basketball", 2)[0] == {
        "dunk": ('says "hi" to the crowd', "holds // the rim # hard")}


@pytest.mark.parametrize(("phrase", "clean"), [
    ("Step 1: rises", "rises"), ("1: rises", "rises"), ("1 - rises", "rises"), ("1 \u2013 rises", "rises"),
    ("**Step 2:** rises", "rises"), ("(3) rises", "rises"), ("Phase one: rises", "rises"), ("#4. rises", "rises"),
    ("- 5. rises", "rises"), ("STEP 6 \u2014 rises", "rises"), ("1\u3001rises", "rises"), ("step 7. rises", "rises"),
    ("Step forward: rises", "Step forward: rises"), ("2:1 fast break", "2:1 fast break"), ("1-2 punch", "1-2 punch"),
    ("360 spin", "360 spin"), ("3 steps to the rim", "3 steps to the rim"), ("1.5 turns", "1.5 turns"),
    ("One hand rises", "One hand rises"), ("part of the hand rises", "part of the hand rises"),
])
def test_phrases_lose_their_numbers_and_nothing_else(phrase, clean):
    assert parse_reply(as_list({"dunk": [phrase, "falls"]}), ["dunk"], "basketball", 2)[0] == {"dunk": (clean, "falls")}
