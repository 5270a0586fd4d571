"""actalign/sentences.py: templates, and what a text encoder cannot tell."""

import argparse

import pytest

from actalign.checkpoint import load_tokenizer
from actalign.dataset import Sample
from actalign.sentences import (
    ALL_SAME,
    MULTILINGUAL,
    SAME_AS_ANOTHER,
    SUBACTION_TEMPLATE,
    TOO_LONG,
    UNKNOWN,
    Flaws,
    sentences_of,
    template_with,
    warnings_about,
)
from actalign.subactions import SubActions

FIELDS = ("subaction", "option", "domain")
CHINESE = ("快速助跑", "双腿分开", "屈膝下蹲")


@pytest.fixture(scope="module")
def tokenizer(checkpoint):
    """That of the tiny checkpoint: characters of ASCII, 24 tokens."""
    return load_tokenizer(str(checkpoint))


def made(*texts, id="a"):
    """A SubActions of options named x, y, ..."""
    return SubActions(Sample(id, "sport", tuple("xyz"[:len(texts)])), texts)


@pytest.mark.parametrize("text", ["{subaction}", "a video of {option} in {domain}: {subaction}", "{{{subaction}}}"])
def test_templates_with_their_fields_are_taken_as_they_are(text):
    assert template_with("subaction", of=FIELDS)(text) == text


@pytest.mark.parametrize(("text", "part"), [
    ("", "lacks {subaction}"), ("{option}", "lacks {subaction}"), ("{subaction", "for braces"), ("}", "for braces"),
    ("{subaction} {sport}", "{sport} is no field"), ("{subaction} {}", "{} is no field"), ("{0}", "{0} is no field"),
    ("{subaction.upper}", "is no field"),
    ("{subaction!r}", "{subaction!r} is no field"), ("{subaction:>9}", "{subaction:>9} is no field"),
    ("{subaction:{option}}", "is no field"), ("{{subaction}}", "lacks {subaction}"),
])
def test_templates_with_other_fields_are_refused_with_what_is_wrong(text, part):
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        template_with("subaction", of=FIELDS)(text)
    assert part in str(caught.value)


def test_sentences_are_filled_templates_and_braces_in_texts_stay():
    of_sample = made(("runs {fast}", "jumps"), (), ("falls",))
    assert sentences_of(of_sample, "{domain}, {option}: {subaction} {{1}}") == [
        ["sport, x: runs {fast} {1}", "sport, x: jumps {1}"], [], ["sport, z: falls {1}"]]
    assert sentences_of(of_sample, SUBACTION_TEMPLATE) == [["runs {fast}", "jumps"], [], ["falls"]]


def test_texts_that_are_read_have_no_flaws(tokenizer):
    assert Flaws(tokenizer).of(made(("runs", "jumps"), ("jumps", "runs"), ())) == [[], [], []]


def test_flaws_of_texts_and_options_are_found(tokenizer):
    long = "bends the knees very deeply"
    assert Flaws(tokenizer).of(made(("runs", long), CHINESE, CHINESE[::-1])) == [
        [(TOO_LONG, long)],
        [*((UNKNOWN, text) for text in CHINESE), (ALL_SAME, CHINESE[0])],
        [*((UNKNOWN, text) for text in CHINESE[::-1]), (ALL_SAME, CHINESE[2]), (SAME_AS_ANOTHER, "y")]]
    assert Flaws(tokenizer).of(made(("runs", "jumps"), ("Runs", "JUMPS"))) == [[], [(SAME_AS_ANOTHER, "x")]]
    assert Flaws(tokenizer).of(made(("runs",), ("jumps",))) == [[], []]


def test_flaws_are_those_of_the_whole_sentence_but_what_is_unknown_is_of_the_text(tokenizer):
    of_sample = made(("runs", "jumps up"), ("runs", "jumps up"))
    assert Flaws(tokenizer, "{option}: {subaction}").of(of_sample) == [[], []]
    assert Flaws(tokenizer, "on a sports field {subaction}").of(of_sample)[0] == [(TOO_LONG, "jumps up")]
    assert Flaws(tokenizer, "a video: {subaction}").of(made((CHINESE[0], "runs"))) == [[(UNKNOWN, CHINESE[0])]]


def test_warnings_count_texts_once_and_name_a_multilingual_checkpoint(tokenizer):
    said = warnings_about([made(CHINESE, ("runs", "jumps")), made(CHINESE, CHINESE, id="b")], tokenizer,
                          SUBACTION_TEMPLATE, "tiny")
    assert len(said) == 3
    assert said[0].startswith("3 sub-actions are mostly of characters that the tokenizer of tiny does not know")
    assert MULTILINGUAL in said[0]
    assert all(repr(text) in said[0] for text in CHINESE)
    assert said[1].startswith("3 options have sub-actions that are all the same")
    assert "'x' of sample a, 'x' of sample b, 'y' of sample b" in said[1]
    assert said[2].startswith("1 options are the same to tiny as another option of their sample")
    assert "'y' of sample b" in said[2]
    assert warnings_about([made(("runs", "jumps"))], tokenizer, SUBACTION_TEMPLATE, "tiny") == []


def test_the_tokenizer_reads_every_sentence_once(tokenizer, monkeypatch):
    seen, read = [], tokenizer.read
    monkeypatch.setattr(tokenizer, "read", lambda texts: seen.extend(texts) or read(texts))
    warnings_about([made(("runs", "jumps"), ("runs", "falls")), made(("runs", "falls"), ("jumps",))], tokenizer,
                   SUBACTION_TEMPLATE, "tiny")
    assert sorted(seen) == ["falls", "jumps", "runs"]
