"""Sub-actions that a person wrote: as text, as JSON, and what generate_subactions.py makes of them."""

import json

import pytest
from made_artifacts import make_entries, write_frames_index

import generate_subactions
from actalign.dataset import Sample
from actalign.own_subactions import OwnSubactions
from actalign.subactions import read_subactions

DUNK = ("both feet leave the floor", "the ball goes down through the rim")
LAYUP = ("one knee rises", "the ball rolls off the fingers")
SAMPLE = Sample("a", "basketball", ("dunk", "layup"))

TEXT = """\
Dunk:
  both feet leave the floor
  - the ball goes down through the rim

LAYUP in basketball
\t1. one knee rises
\t2) the ball rolls off the fingers
"""
PUBLISHED = [{"id": "a", "domain": "basketball", "cleaned_options": ["dunk", "layup"],
              "subactions": {"dunk in basketball": DUNK, "layup in basketball": LAYUP}}]


@pytest.mark.parametrize("content", [
    TEXT.encode(), b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode(),
    TEXT.replace("Dunk", "1. Dunk").replace("LAYUP", "- LAYUP").encode("utf-16"),
    json.dumps({"dunk": DUNK, "Layup in Basketball": LAYUP}).encode(), json.dumps(PUBLISHED).encode()],
    ids=["text", "text with a mark and CRLF", "options with number and bullet, UTF-16", "json by option",
         "a generated file"])
def test_every_form_gives_the_same_phases(tmp_path, content):
    (tmp_path / "own").write_bytes(content)
    assert OwnSubactions(tmp_path / "own").of(SAMPLE) == {"dunk": DUNK, "layup": LAYUP}


def test_a_generated_file_is_joined_by_id_first(tmp_path):
    other = [{**PUBLISHED[0], "id": "b", "subactions": {"dunk in basketball": LAYUP, "layup in basketball": DUNK}}]
    (tmp_path / "own").write_text(json.dumps(PUBLISHED + other))
    own = OwnSubactions(tmp_path / "own")
    assert own.of(SAMPLE)["dunk"] == DUNK
    assert own.of(Sample("b", "basketball", ("dunk",)))["dunk"] == LAYUP
    assert own.of(Sample("another", "basketball", ("dunk",)))["dunk"] == DUNK


def frames_of(tmp_path):
    entries = make_entries(dict.fromkeys("ab", ("dunk", "layup")))
    write_frames_index(tmp_path, [{**entry, "domain": "basketball"} for entry in entries], name="frames.npy")


def generate(tmp_path, content, *flags):
    (tmp_path / "own.txt").write_text(content)
    return generate_subactions.main(["--input", str(tmp_path / "frames.npy"), "--output", str(tmp_path / "texts.json"),
                                     "--subactions", str(tmp_path / "own.txt"), *flags])


def test_no_language_model_is_asked_where_the_file_tells_of_every_option(tmp_path, capsys):
    frames_of(tmp_path)
    assert generate(tmp_path, TEXT) == 0
    assert "2 samples take their sub-actions from" in capsys.readouterr().out
    assert {one.texts for one in read_subactions(tmp_path / "texts.json")} == {(DUNK, LAYUP)}
    assert json.loads((tmp_path / "texts.json").read_text())[0]["generated_with"] == {"file": str(tmp_path / "own.txt")}


def test_a_correction_is_one_edit(tmp_path, capsys):
    frames_of(tmp_path)
    generate(tmp_path, TEXT)
    assert generate(tmp_path, TEXT.replace("one knee", "one elbow")) == 0
    assert {one.texts[1][0] for one in read_subactions(tmp_path / "texts.json")} == {"one elbow rises"}


def test_what_the_file_lacks_takes_a_language_model_and_the_message_says_both_ways_out(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    frames_of(tmp_path)
    assert generate(tmp_path, "dunk\n  both feet leave the floor") == 2
    err = capsys.readouterr().err
    assert "OPENAI_API_KEY" in err
    assert "--subactions" in err
    assert read_subactions(tmp_path / "texts.json")[0].known == {"dunk": DUNK[:1]}  # what was told is kept


@pytest.mark.parametrize(("content", "said"), [
    (TEXT.replace("LAYUP", "lay-upp"), "'lay-upp in basketball' is none of the options; the nearest without phases is "
                                       "'layup'"),
    ("dunk\nlayup\n  one knee rises", "'dunk' has no phases"),
    ("  one knee rises\nlayup", "line 1 is indented"),
    ("", "names no option"),
    ('{"dunk": []}', "'dunk' has no phases"),
    ('{"dunk": [""]}', "'dunk' has no phases"),
    ('{"dunk": "both feet"}', "'dunk' has no phases"),
    ('{"dunk"', "damaged JSON"),
    ("dunk\n  a\nDUNK\n  b", "'DUNK' twice"),
    ('{"dunk": ["a"], "layup": ["b"], "dunk": ["c"]}', "'dunk' twice"),
    ('{"dunk": ' + "[" * 100_000, "damaged JSON"),
    ('[{"option": "dunk", "phases": ["a"]}]', "no generated_subactions.json"),
    ("[]", "is no list of samples")])
def test_files_that_cannot_be_used_are_one_line(tmp_path, capsys, content, said):
    frames_of(tmp_path)
    assert generate(tmp_path, content) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_no_file_and_no_text(tmp_path, capsys):
    frames_of(tmp_path)
    (tmp_path / "own.txt").write_bytes(b"\x81\xff")
    flags = ["--input", str(tmp_path / "frames.npy"), "--output", str(tmp_path / "t.json"), "--subactions"]
    for name in ("own.txt", "nothing.txt"):
        assert generate_subactions.main([*flags, str(tmp_path / name)]) == 2
        assert "cannot be read" in capsys.readouterr().err
