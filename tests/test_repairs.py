"""generate_subactions.py --repair: asks again for what the check found, takes what is better, and never asks twice."""

import json

import pytest
from made_artifacts import make_entries, write_frames_index

import generate_subactions
from actalign.language_model import LanguageModel

OPTIONS = {"a": ["hook shot", "jump shot"], "b": ["jump shot", "dunk"], "c": ["dunk", "lay-up"]}
LIMBS = {"hook shot": "an arm", "jump shot": "a wrist", "dunk": "a foot", "lay-up": "a knee"}
THOUGHT = "she thinks about it"


def phrases(option, count):
    """Ten phrases that nothing is said against, without the names of options."""
    return [f"{LIMBS[option]} moves, moment {m} of {count}" for m in range(10)]


def answer_of(texts):
    """A server's answer: texts(option, count) for every option that a prompt asks for."""
    def answer(prompt, count):
        options = [line[2:] for line in prompt.partition("An earlier")[0].splitlines() if line.startswith("- ")]
        return json.dumps({option: texts(option, count) for option in options})

    return answer


@pytest.fixture
def stage(tmp_path, server, monkeypatch):
    """A dataset whose sub-actions are there, and a function that runs the script with --repair, or without."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(LanguageModel, "_pause", lambda self, seconds: None)
    frames, path = write_frames_index(tmp_path, make_entries(OPTIONS)), tmp_path / "generated.json"

    def run(*more, repair=True):
        return generate_subactions.main(["--input", str(frames), "--output", str(path), "--base_url", server.url,
                                         "--apikey", "a-key", "--workers", "1", "--device", "cpu",
                                         *["--repair"] * repair, *more])

    run.path, run.folder = path, tmp_path
    server.answer = answer_of(lambda option, count: phrases(option, 0))
    assert run(repair=False) == 0
    server.answer = answer_of(phrases)
    server.requests.clear()
    return run


def entries_of(stage):
    return {entry["id"]: entry for entry in json.loads(stage.path.read_text())}


def plant(stage, key, change, script=None):
    """Change the texts of an option in all samples that have it."""
    entries = [*entries_of(stage).values()]
    for entry in entries:
        for texts in [entry["subactions"], *entry.get("more_subactions", [])][script or 0:][:1]:
            if key in texts:
                texts[key] = change(texts[key])
    stage.path.write_text(json.dumps(entries))


def with_a_thought(texts):
    return [THOUGHT, *texts[1:]]


def test_nothing_found_asks_nothing_and_changes_nothing(stage, server, capsys):
    before = stage.path.read_bytes()
    assert stage() == 0
    assert server.requests == []
    assert stage.path.read_bytes() == before
    assert "0 scripts of options have something" in capsys.readouterr().out


def test_only_what_was_found_is_asked_for_and_told_and_taken_wherever_it_stands(stage, server, capsys):
    before = entries_of(stage)
    plant(stage, "jump shot in sport", with_a_thought)
    assert stage() == 0
    [prompt] = server.prompts
    assert "- jump shot\n" in prompt
    assert "- hook shot" not in prompt
    assert f"- jump shot: a thought, 'thinks', in {THOUGHT!r}" in prompt
    after = entries_of(stage)
    assert after["a"]["subactions"]["jump shot in sport"] == phrases("jump shot", 1)
    assert after["b"]["subactions"]["jump shot in sport"] == phrases("jump shot", 1)
    assert after["a"]["subactions"]["hook shot in sport"] == before["a"]["subactions"]["hook shot in sport"]
    assert after["c"] == before["c"]
    [record] = after["a"]["repairs"]
    assert record["before"][0] == THOUGHT
    assert record["taken"]
    assert "1 asked again in 1 questions, 1 taken, 0 left as they were" in capsys.readouterr().out
    whole = stage.path.read_bytes()
    assert stage() == stage(repair=False) == 0
    assert len(server.requests) == 1
    assert stage.path.read_bytes() == whole


@pytest.mark.parametrize("answer", [
    answer_of(lambda option, count: with_a_thought(phrases(option, count))),  # as bad
    answer_of(lambda option, count: with_a_thought([*phrases(option, count)[:-1], "he decides"])),  # worse
    lambda prompt, count: "I cannot help with that", answer_of(lambda option, count: ["too short"]),
    answer_of(lambda option, count: with_a_thought(phrases(option, 3)))])
def test_what_is_not_better_is_not_taken_kept_and_never_asked_for_again(stage, server, capsys, answer):
    plant(stage, "jump shot in sport", with_a_thought)
    before = entries_of(stage)
    server.answer = answer
    assert stage() == 0
    asked = len(server.requests)
    assert 1 <= asked <= generate_subactions.ATTEMPTS
    after = entries_of(stage)
    for id in "ab":
        assert after[id]["subactions"] == before[id]["subactions"]
        [record] = after[id].pop("repairs")
        assert not record["taken"]
    assert "0 taken, 1 left as they were" in capsys.readouterr().out
    server.answer = answer_of(phrases)
    assert stage() == 0
    assert len(server.requests) == asked
    assert "0 asked again in 0 questions" in capsys.readouterr().out


def test_a_text_that_was_edited_since_is_asked_for_again(stage, server):
    plant(stage, "jump shot in sport", with_a_thought)
    server.answer = answer_of(lambda option, count: with_a_thought(phrases(option, count)))
    assert stage() == 0
    plant(stage, "jump shot in sport", lambda texts: [*texts[:-1], "he decides"])
    server.answer = answer_of(phrases)
    assert stage() == 0
    assert len(server.requests) == 2
    assert len(entries_of(stage)["a"]["repairs"]) == 2


def test_of_two_options_that_are_the_same_one_answer_suffices(stage, server, root, capsys):
    entries = entries_of(stage)
    example = json.loads((root / "examples" / "generated_subactions.json").read_text())
    scripts = [texts for entry in example[:4] for texts in entry["subactions"].values()]
    for entry, first in zip(entries.values(), (0, 6, 11), strict=True):
        entry["subactions"] = dict(zip(entry["subactions"], scripts[first:], strict=False))
    entries["c"]["subactions"]["lay-up in sport"] = entries["c"]["subactions"]["dunk in sport"]
    same = entries["c"]["subactions"]["dunk in sport"]
    entries["b"]["subactions"]["dunk in sport"] = same
    stage.path.write_text(json.dumps([*entries.values()]))
    new = scripts[15]
    server.answer = answer_of(lambda option, count: new)
    assert stage("--text_model", str(root / "examples" / "checkpoint"), "--min_subactions", "4") == 2  # another prompt
    for entry in entries.values():
        entry.pop("generated_with")
    stage.path.write_text(json.dumps([*entries.values()]))
    assert stage("--text_model", str(root / "examples" / "checkpoint"), "--min_subactions", "4") == 0
    [prompt] = server.prompts
    assert f"- dunk: its phrases cannot be told from those of 'lay-up in sport': {'; '.join(same)}" in prompt
    assert "- lay-up: its phrases cannot be told from those of 'dunk in sport'" in prompt
    after = entries_of(stage)
    assert after["c"]["subactions"] == {"dunk in sport": new, "lay-up in sport": same}
    assert after["b"]["subactions"]["dunk in sport"] == new
    assert "2 asked again in 1 questions, 1 taken, 1 left" in capsys.readouterr().out


def test_each_script_is_repaired_for_itself(stage, server):
    server.answer = answer_of(lambda option, count: phrases(option, 7))
    assert stage("--scripts", "2", repair=False) == 0
    server.answer = answer_of(phrases)
    plant(stage, "dunk in sport", with_a_thought, script=1)
    server.requests.clear()
    assert stage() == 0
    assert [request.get("seed") for request in server.requests] == [1]
    after = entries_of(stage)
    assert after["b"]["more_subactions"][0]["dunk in sport"] == phrases("dunk", 1)
    assert THOUGHT not in after["b"]["subactions"]["dunk in sport"]
    assert stage() == 0
    assert len(server.requests) == 1


def test_what_came_before_the_quota_ran_out_is_kept_and_not_asked_for_again(stage, server):
    for key in ("hook shot in sport", "jump shot in sport", "dunk in sport"):
        plant(stage, key, with_a_thought)
    server.answer = lambda prompt, count: answer_of(phrases)(prompt, count) if count == 1 else (
        401, {"error": {"message": "no", "code": "invalid_api_key"}})
    assert stage() == 1
    assert THOUGHT not in str(entries_of(stage)["a"]["subactions"])
    assert THOUGHT in str(entries_of(stage)["b"]["subactions"]["dunk in sport"])
    server.answer = answer_of(phrases)
    server.requests.clear()
    assert stage() == 0
    assert len(server.requests) == 1
    assert THOUGHT not in str({id: entry["subactions"] for id, entry in entries_of(stage).items()})


def test_a_run_that_was_killed_between_two_samples_is_completed_without_asking(stage, server):
    plant(stage, "jump shot in sport", with_a_thought)
    before = entries_of(stage)["b"]
    assert stage() == 0
    whole, entries = stage.path.read_bytes(), entries_of(stage)
    stage.path.write_text(json.dumps([entries["a"], before, entries["c"]]))  # b was not reached
    assert stage() == 0
    assert len(server.requests) == 1
    assert json.loads(stage.path.read_text()) == json.loads(whole)


def test_a_dry_run_shows_the_prompt_and_asks_nothing(stage, server, capsys):
    plant(stage, "jump shot in sport", with_a_thought)
    before = stage.path.read_bytes()
    assert stage("--dry_run") == 0
    printed = capsys.readouterr().out
    assert "1 requests for 1 samples" in printed
    assert "- jump shot: a thought" in printed
    assert server.requests == []
    assert stage.path.read_bytes() == before


@pytest.mark.parametrize("repairs", [3, ["x"], [{"key": "x"}], {"key": 1}])
def test_records_that_no_run_wrote_are_refused_in_one_line(stage, capsys, repairs):
    entries = [{**entry, "repairs": repairs} for entry in entries_of(stage).values()]
    stage.path.write_text(json.dumps(entries))
    before = stage.path.read_bytes()
    capsys.readouterr()
    assert stage() == 2
    error = capsys.readouterr().err
    assert "sample a has repairs that no run wrote" in error
    assert error.count("\n") == 1
    assert stage.path.read_bytes() == before


@pytest.mark.parametrize("flags", [["--batch", "x"], ["--check", "x"], ["--overwrite"], ["--batch_results", "x"]])
def test_flags_that_make_no_sense_with_repair_are_refused(stage, flags):
    with pytest.raises(SystemExit) as ended:
        stage(*flags)
    assert ended.value.code == 2
