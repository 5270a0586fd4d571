"""What a reply says of each option, however it says it."""

import json
import time

import pytest

from actalign.replies import parse_reply

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
    ("", "is empty"), ("I cannot help with that.", "no JSON"), ('{"actions": [{"action": "dunk", "subac', "no JSON"),
    ("[" * 100_000, "no JSON"), (as_list({"hook shot": ONE_TO_TEN}), "no list"),
    (json.dumps([ONE_TO_TEN, ["rises", "slams it in"]]), "no JSON"),
    (as_list({"dunk": ["rises"]}), "at least 2"), (as_list({"dunk": ["rises", "Rises "]}), "repeated"),
    (as_list({"dunk": ["rises", " "]}), "empty"), (as_list({"dunk": ["rises", ["slams"]]}), "something else"),
    (as_list({"dunk": [str(n) + " times" for n in range(10_000)]}), "at most"),
    (as_list({"dunk": ["rises", "high " * 200]}), "characters"), (json.dumps({"dunk": "rises, slams"}), "no JSON"),
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
