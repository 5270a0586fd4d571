"""Stage 3: the prompt, replies, resuming, and a language model behind a server on this machine."""

import email.utils
import errno
import gzip
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from chat_server import good_reply
from crashes import in_child
from held_runs import LIMIT, wait_until
from made_artifacts import make_entries, write_frames_index

import generate_subactions
from actalign import language_model
from actalign.artifacts import read_samples
from actalign.files import Journal, lock
from actalign.language_model import LanguageModel
from actalign.subactions import GeneratedFile, read_subactions
from generate_subactions import generate_prompt

OPTIONS = {"a": ["hook shot", "jump shot"], "b": ["dunk", "lay-up"], "c": ["dunk"]}
KEY = "sk-a-secret-that-must-not-leak"


@pytest.fixture
def stage(tmp_path, server, monkeypatch):
    """A dataset of three samples, and a function that runs the script on it against the server."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(LanguageModel, "_pause", lambda self, seconds: None)
    frames = write_frames_index(tmp_path, make_entries(OPTIONS))
    path = tmp_path / "generated_subactions.json"

    def run(*more):
        return generate_subactions.main(["--input", str(frames), "--output", str(path), "--base_url", server.url,
                                         "--apikey", KEY, "--temp", "0.2", "--workers", "1", *more])

    run.path, run.folder, run.frames = path, tmp_path, frames
    return run


def test_the_prompt_names_every_option_and_the_domain():
    prompt = generate_prompt(["hook shot", "jump shot"], "basketball")
    assert "basketball" in prompt
    assert "- hook shot\n- jump shot\n" in prompt


def test_the_file_has_the_fixed_shape(stage, server):
    assert stage() == 0
    entries = json.loads(stage.path.read_text())
    assert [entry["id"] for entry in entries] == ["a", "b", "c"]
    assert {"youtube_id", "id", "domain", "action", "question", "cleaned_options", "correct_answer_index",
            "subactions"} <= set(entries[0])
    assert list(entries[0]["subactions"]) == ["hook shot in sport", "jump shot in sport"]
    assert entries[0]["generated_with"] == {"model": generate_subactions.MODEL, "temperature": 0.2,
                                            "prompt": generate_prompt(OPTIONS["a"], "sport")}
    assert [of_sample.lacking for of_sample in read_subactions(stage.path)] == [[], [], []]
    assert server.requests[0]["temperature"] == 0.2


def test_nothing_is_asked_twice_and_no_key_is_needed_when_nothing_is_left(stage, server):
    assert stage() == 0
    before = stage.path.read_bytes()
    assert len(server.requests) == 3
    assert generate_subactions.main(["--input", str(stage.frames), "--output", str(stage.path)]) == 0
    assert len(server.requests) == 3
    assert stage.path.read_bytes() == before


def test_without_a_key_one_line_says_what_to_set(stage, capsys):
    assert generate_subactions.main(["--input", str(stage.frames), "--output", str(stage.path)]) == 2
    error = capsys.readouterr().err
    assert "OPENAI_API_KEY" in error
    assert error.count("\n") == 1
    assert not stage.path.exists()


def test_an_interrupted_run_keeps_its_answers_and_goes_on(stage, server):
    def interrupt_at_third(prompt, count):
        return good_reply(prompt) if count < 3 else (401, {"error": {"message": "no", "code": "invalid_api_key"}})

    assert stage() == 0
    whole = stage.path.read_bytes()
    stage.path.unlink()
    server.requests.clear()
    server.answer = interrupt_at_third
    assert stage() == 1
    assert [entry["id"] for entry in json.loads(stage.path.read_text())] == ["a", "b"]
    server.answer = lambda prompt, count: good_reply(prompt)
    assert stage() == 0
    assert len(server.requests) == 4
    assert stage.path.read_bytes() == whole


def test_answers_in_the_journal_of_a_killed_run_are_taken_over(stage, server):
    assert stage() == 0
    whole = stage.path.read_bytes()
    entries = json.loads(whole)
    stage.path.unlink()
    journal = stage.path.with_name(stage.path.name + ".partial")
    lines = [json.dumps(entry, ensure_ascii=False) for entry in entries[:2]]
    journal.write_text("\n".join([*lines, '{"id": "c", "cleaned']), encoding="utf-8")  # killed while writing the third
    server.requests.clear()
    assert stage() == 0
    assert len(server.requests) == 1
    assert stage.path.read_bytes() == whole
    assert not journal.exists()


def test_only_what_was_wrong_is_asked_again_then_recorded_and_the_run_goes_on(stage, server, capsys):
    server.answer = lambda prompt, count: re.sub("hook shot 3", "hook shot 4", good_reply(prompt))
    assert stage() == 0
    assert len(server.requests) == generate_subactions.ATTEMPTS + 2
    again = [prompt for prompt in server.prompts if "An earlier answer could not be used" in prompt]
    assert len(again) == generate_subactions.ATTEMPTS - 1
    assert all("- hook shot: 1 of 10 phrases are repeated" in prompt and "jump shot" not in prompt for prompt in again)
    assert [of_sample.lacking for of_sample in read_subactions(stage.path)] == [["hook shot"], [], []]
    missing = json.loads((stage.folder / "generated_subactions.missing.json").read_text())
    assert missing == [{"id": "a", "reason": "hook shot: 1 of 10 phrases are repeated", "retry": True}]
    assert "1 failed (a; " in capsys.readouterr().out
    server.requests.clear()
    server.answer = lambda prompt, count: good_reply(prompt)
    assert stage() == 0
    assert len(server.requests) == 1
    assert "jump shot" not in server.prompts[0]
    assert not (stage.folder / "generated_subactions.missing.json").exists()


def test_a_sample_that_lacks_an_option_is_asked_again_and_its_other_keys_are_kept(stage, server):
    assert stage() == 0
    entries = json.loads(stage.path.read_text())
    del entries[1]["subactions"]["dunk in sport"]
    entries[1]["note"] = "checked by hand"
    stage.path.write_text(json.dumps(entries))
    assert stage() == 0
    assert len(server.requests) == 4
    entries = json.loads(stage.path.read_text())
    assert set(entries[1]["subactions"]) == {"dunk in sport", "lay-up in sport"}
    assert entries[1]["note"] == "checked by hand"


def test_rate_limits_and_server_errors_are_tried_again(stage, server):
    def flaky(prompt, count):
        return {1: (429, {"error": {"message": "slow down"}}), 2: (500, {"error": {"message": "oops"}})}.get(
            count, good_reply(prompt))

    server.answer = flaky
    assert stage() == 0
    assert len(server.requests) == 5


@pytest.mark.parametrize(("status", "error", "advice"), [
    (401, {"message": f"Incorrect API key provided: {KEY}", "code": "invalid_api_key"}, "check OPENAI_API_KEY"),
    (404, {"message": "no such model", "code": "model_not_found"}, "check --model"),
    (429, {"message": "quota", "code": "insufficient_quota"}, "add credit or wait"),
])
def test_errors_that_no_retry_mends_stop_at_once_without_the_key(stage, server, capsys, status, error, advice):
    server.answer = lambda prompt, count: (status, {"error": error})
    assert stage() == 1
    assert len(server.requests) == 1
    captured = capsys.readouterr()
    assert advice in captured.err
    assert captured.err.count("\n") == 1
    assert KEY not in captured.out + captured.err
    assert not any(KEY in file.read_text(errors="replace") for file in stage.folder.iterdir() if file.suffix != ".npy")


def scripted(*answers):
    """Give these answers to the first requests, and good ones to all others."""
    return lambda prompt, count: answers[count - 1] if count <= len(answers) else good_reply(prompt)


def only_for(part, answer):
    """Give an answer to prompts that hold `part`, and good ones to all others."""
    return lambda prompt, count: answer if part in prompt else good_reply(prompt)


def an_error(status, message, **more):
    return status, {"error": {"message": f"{message} (your key is {KEY})", **more}}


def renamed(prompt, count):
    """A good reply in which every option is called otherwise."""
    return good_reply(prompt).replace("dunk", "slam").replace("shot", "throw").replace("lay-up", "lob")


BUSY = (429, {"error": {"message": f"slow down, {KEY}"}}, {"Retry-After": "3"})
TRIES, ATTEMPTS = 6, generate_subactions.ATTEMPTS


# The samples are a (hook shot, jump shot), b (dunk, lay-up) and c (dunk): three questions where nothing fails.
@pytest.mark.parametrize(("answer", "code", "requests", "complete", "failed"), [
    pytest.param(scripted(), 0, 3, "abc", "", id="answered"),
    pytest.param(scripted(BUSY, BUSY), 0, 2 + 3, "abc", "", id="busy twice"),
    pytest.param(scripted(an_error(500, "oops")), 0, 1 + 3, "abc", "", id="server error"),
    pytest.param(scripted(None), 0, 1 + 3, "abc", "", id="dropped connection"),
    pytest.param(scripted("hang"), 0, 1 + 3, "abc", "", id="hang"),
    pytest.param(only_for("hook", BUSY), 1, TRIES, "", "", id="busy without end"),
    pytest.param(only_for("dunk", an_error(503, "down")), 0, 1 + 2 * TRIES, "a", "bc", id="down without end"),
    pytest.param(only_for("hook", None), 0, TRIES + 2, "bc", "a", id="dropped without end"),
    pytest.param(only_for("dunk", an_error(401, "no", code="invalid_api_key")), 1, 2, "a", "", id="bad key"),
    pytest.param(only_for("dunk", an_error(403, "no")), 1, 2, "a", "", id="forbidden"),
    pytest.param(only_for("dunk", an_error(404, "no", code="model_not_found")), 1, 2, "a", "", id="no model"),
    pytest.param(only_for("dunk", an_error(429, "no", code="insufficient_quota")), 1, 2, "a", "", id="no quota"),
    pytest.param(scripted(an_error(400, "no temperature", param="temperature")), 0, 1 + 3, "abc", "", id="temperature"),
    pytest.param(scripted(an_error(400, "no", param="response_format")), 0, 1 + 3, "abc", "", id="response format"),
    pytest.param(only_for("hook", '{"actions": [{"action": "hook shot", "subac'), 0, ATTEMPTS + 2, "bc", "a",
                 id="malformed"),
    pytest.param(only_for("lay-up", json.dumps({"dunk": [f"dunk {m}" for m in range(10)]})), 0,
                 1 + ATTEMPTS + 1, "ac", "b", id="partial"),
    pytest.param(renamed, 1, 3 * ATTEMPTS, "", "abc", id="renamed"),
    pytest.param(only_for("hook", "<html><script>1</script> Bad Gateway"), 0, ATTEMPTS + 2, "bc", "a", id="html"),
    pytest.param(only_for("hook", (200, b"<html>Bad Gateway</html>")), 0, ATTEMPTS + 2, "bc", "a", id="html page"),
    pytest.param(only_for("hook", (200, b"\xff{")), 0, ATTEMPTS + 2, "bc", "a", id="no text"),
    pytest.param(only_for("hook", (200, {"choices": ["x"], "usage": KEY})), 0, ATTEMPTS + 2, "bc", "a", id="no chat"),
    pytest.param(only_for("hook", (200, {"choices": [{"message": {"refusal": f"no, {KEY}"}}]})), 0, 1 + 2, "bc", "a",
                 id="refused"),
    pytest.param(lambda prompt, count: good_reply(prompt).replace("hook shot 3", f"key {KEY}"), 0, 3, "abc", "",
                 id="the key for a phrase"),
    pytest.param(only_for("dunk", an_error(400, "too long for this server")), 0, 3, "a", "bc", id="not taken"),
    pytest.param(only_for("hook", an_error(400, "no", code="context_length_exceeded")), 0, 3, "bc", "a", id="too long"),
    pytest.param(only_for("dunk", an_error(402, "no balance")), 1, 2, "a", "", id="no balance"),
    pytest.param(only_for("dunk", an_error(401, "no", code=KEY, type=KEY, param=KEY)), 1, 2, "a", "", id="key as code"),
    pytest.param(only_for("dunk", (429, {"error": {}}, {"Retry-After": "86400"})), 1, 2, "a", "", id="wait a day"),
    pytest.param(scripted((429, {"error": {}}, {"Retry-After": "nan"}), (409, {}), (529, {})), 0, 3 + 3, "abc", "",
                 id="no number to wait for"),
])
def test_what_a_server_may_answer(stage, server, capsys, answer, code, requests, complete, failed):
    hanging = threading.Event()

    def answer_or_hang(prompt, count):
        given = answer(prompt, count)
        if given == "hang":  # longer than the test would pass with: an answer that is waited for is not asked again
            hanging.wait(30)
            return good_reply(prompt)
        return given

    server.answer = answer_or_hang
    assert stage("--timeout", "3") == code
    hanging.set()
    assert len(server.requests) == requests
    generated = read_subactions(stage.path) if complete else []
    assert "".join(of_sample.sample.id for of_sample in generated if not of_sample.lacking) == complete
    missing = stage.folder / "generated_subactions.missing.json"
    assert "".join(entry["id"] for entry in json.loads(missing.read_text())) == failed if failed else \
        not missing.exists()
    captured = capsys.readouterr()
    assert KEY not in captured.out + captured.err
    assert "Traceback" not in captured.err
    assert not any(KEY.encode() in file.read_bytes() for file in stage.folder.iterdir())

    server.answer = scripted()  # and the next run asks only for what is left
    before = len(server.requests)
    assert stage() == 0
    assert len(server.requests) - before == len(OPTIONS) - len(complete)
    assert [of_sample.lacking for of_sample in read_subactions(stage.path)] == [[], [], []]


def test_what_a_killed_run_could_not_get_is_known_to_the_next(tmp_path):
    frames = write_frames_index(tmp_path, make_entries(OPTIONS))
    samples, path = read_samples(frames)[0], tmp_path / "g.json"

    def fail_and_die():
        generated = GeneratedFile(path, lambda sample: {})
        generated.add(samples[:2], {}, {"dunk": "lost"}, None)
        generated.add(samples[2:], {"dunk": ["up", "down"]}, {}, None)
        generated.add(samples[1:2], {option: ["x", "y"] for option in samples[1].options}, {}, None)
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(fail_and_die) == -signal.SIGKILL
    GeneratedFile(path, lambda sample: {}).finish([sample.id for sample in samples])
    assert [entry["id"] for entry in json.loads((tmp_path / "g.missing.json").read_text())] == ["a"]
    assert sorted(file.name for file in tmp_path.glob("g.*")) == ["g.json", "g.missing.json"]


def test_the_target_of_a_link_holds_what_is_generated(stage, server):
    target = stage.folder / "store.json"
    stage.path.symlink_to(target)
    with lock(target):
        assert stage() == 2
    assert stage() == 0
    assert stage.path.is_symlink()
    assert [of_sample.lacking for of_sample in read_subactions(target)] == [[], [], []]
    assert not stage.path.with_name("store.json.partial").exists()


def completion(message=None, **choice):
    """A chat completion whose message is good, but for what is given."""
    return 200, {"choices": [{"index": 0, "finish_reason": "stop", "message": message, **choice}]}


def reasons(stage):
    path = stage.folder / "generated_subactions.missing.json"
    return {entry["id"]: entry["reason"] for entry in json.loads(path.read_text())} if path.exists() else {}


NON_ANSWERS = [
    pytest.param((200, {"choices": None}), "no answer in it", id="choices null"),
    pytest.param((200, {"choices": []}), "no answer in it", id="choices empty"),
    pytest.param((200, b""), "There came nothing", id="nothing"),
    pytest.param((200, b'{"choices": [{"mess'), "There came half an answer", id="half an answer"),
    pytest.param((200, b"<html><title>Bad Gateway</title></html>"), "a web page: Bad Gateway", id="page"),
    pytest.param((200, b'data: {"choices": [{"delta": {"content": "{"}}]}\n\n'), "a stream of events", id="events"),
    pytest.param((200, {"model": "x", "message": {"content": "hi"}}), "no chat completion; does --base_url end in /v1?",
                 id="another protocol"),
    pytest.param((200, {"error": "Unexpected endpoint or method. (POST /chat/completions)"}), "Unexpected endpoint",
                 id="an error as an answer"),
    pytest.param(completion({"content": None}), "the answer is empty", id="empty"),
    pytest.param(completion({"content": "", "reasoning_content": 'First {"hook shot": ["a'}), "only thinking",
                 id="only thinking"),
    pytest.param(completion({"content": ""}, finish_reason="length"), "cut at the token limit", id="cut"),
    pytest.param(completion({"content": ""}, finish_reason="content_filter"), "content_filter", id="filtered"),
    pytest.param(completion({"refusal": "I must\n not"}), "refused to answer: I must not", id="refused"),
    pytest.param((400, {"error": {"message": "Oops", "code": "strange"}}), "Oops", id="refused without a reason"),
]


@pytest.mark.parametrize(("answer", "named"), NON_ANSWERS)
def test_what_comes_instead_of_an_answer_is_named_and_teaches_nothing(stage, server, answer, named):
    server.answer = only_for("hook", answer)
    assert stage() == 0
    assert list(reasons(stage)) == ["a"]
    assert named in reasons(stage)["a"]
    assert [request.get("response_format", {}).get("type") for request in server.requests[-2:]] == ["json_schema"] * 2
    assert "another or none" not in reasons(stage)["a"]


@pytest.mark.parametrize(("answer", "named"), NON_ANSWERS[:10])
def test_a_server_from_which_nothing_else_comes_stops_the_run(tmp_path, stage, server, capsys, answer, named):
    folder = tmp_path / "many"
    folder.mkdir()
    frames = write_frames_index(folder, make_entries({f"clip-{n}": [f"hook {n}"] for n in range(20)}))
    server.answer = lambda prompt, count: answer
    assert stage("--input", str(frames)) == 1
    assert len(server.requests) == 5
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("body", [
    {"error": {"code": 429, "message": "slow down"}}, {"error": {"code": "rate_limit_exceeded", "message": "slow"}},
    {"choices": [{"error": {"code": "503", "message": "overloaded"}, "message": {"content": ""}}]}])
def test_an_error_with_status_200_counts_as_the_status_that_it_names(stage, server, body):
    server.answer = scripted(*[(200, body)] * (TRIES - 1))
    assert stage() == 0
    assert len(server.requests) == TRIES - 1 + 3
    assert reasons(stage) == {}


@pytest.mark.parametrize("message", [
    {"content": None, "tool_calls": [{"function": {"name": "answer", "arguments": "REPLY"}}]},
    {"content": "", "tool_calls": [{"function": {"name": "answer", "arguments": {"REPLY": 0}}}]},
    {"content": None, "function_call": {"arguments": "REPLY"}}, {"content": "", "reasoning_content": "```json\nREPLY"},
    {"reasoning": "REPLY"}, {"content": ["REPLY"]}, {"content": {"REPLY": 0}},
    {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "{}"}]},
                                         {"type": "text", "text": "REPLY"}]},
])
def test_an_answer_in_another_place_is_read(stage, server, message):
    def answer(prompt, count):
        reply = good_reply(prompt)
        text = json.dumps(message)
        return completion(json.loads(text.replace('{"REPLY": 0}', reply).replace('"REPLY"', json.dumps(reply)).replace(
            "REPLY", json.dumps(reply)[1:-1])))

    server.answer = answer
    assert stage() == 0
    assert len(server.requests) == 3
    assert reasons(stage) == {}


TOO_LONG = [
    {"code": 400, "message": "request (5000 tokens) exceeds the available context size (4096 tokens), try increasing "
     "it", "type": "exceed_context_size_error", "n_prompt_tokens": 5000, "n_ctx": 4096},  # llama.cpp
    "Trying to keep the first 5008 tokens when context the overflows. However, the model is loaded with context length "
    "of only 4096 tokens, which is not enough.",  # LM Studio
    {"message": "This model's maximum context length is 2048 tokens. However, you requested 3000 tokens. Please reduce "
     "the length of the messages or completion.", "code": 400, "type": "BadRequestError"},  # vLLM
    {"message": "Prompt contains 40000 tokens, too large for model with 32768 maximum context length"},  # Mistral
    {"type": "invalid_request_error", "message": "prompt is too long: 208310 tokens > 200000 maximum"},  # Anthropic
    {"message": "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."},  # Gemini
    {"message": "Content violates usage guidelines; flagged by moderation"},
    {"message": "Words that nobody knows"},
]


@pytest.mark.parametrize("error", TOO_LONG)
def test_the_first_question_may_be_too_long_and_changes_nothing_for_the_others(stage, server, capsys, error):
    server.answer = only_for("hook", (400, {"error": error}))
    assert stage() == 0
    assert list(reasons(stage)) == ["a"]
    assert (error if isinstance(error, str) else error["message"]) in reasons(stage)["a"]
    assert len(server.requests) == (4 if error == TOO_LONG[-1] else 1) + 2
    assert {request["response_format"]["type"] for request in server.requests[-2:]} == {"json_schema"}
    assert "does not take this" not in capsys.readouterr().err


@pytest.mark.parametrize("message", [
    "'max_completion_tokens' is too large: 90000. This model's maximum context length is 8192 tokens and your request "
    "has 234 input tokens", "max_tokens is too large: 90000. This model supports at most 16384 completion tokens",
    "Invalid max_tokens value, the valid range of max_tokens is [1, 8192]"])
def test_a_limit_beyond_the_context_is_named_and_kept(stage, server, message):
    server.answer = lambda prompt, count: (400, {"error": {"message": message, "param": "max_tokens"}})
    assert stage("--max_tokens", "90000") == 1
    assert len(server.requests) == 3
    assert all("--max_tokens" in reason for reason in reasons(stage).values())
    assert all(request["max_completion_tokens"] == 90000 for request in server.requests)


def test_an_answer_that_the_server_itself_rejects_is_one_attempt(stage, server):
    failed = {"message": "Failed to generate JSON. Please adjust your prompt. See 'failed_generation' for the schema.",
              "type": "invalid_request_error", "code": "json_validate_failed", "failed_generation": ""}
    server.answer = scripted((400, {"error": failed}), (400, {"error": failed}))
    assert stage() == 0
    assert len(server.requests) == 2 + 3
    assert reasons(stage) == {}
    assert {request["response_format"]["type"] for request in server.requests} == {"json_schema"}
    stage.path.unlink()
    server.requests.clear()
    server.answer = only_for("hook", (400, {"error": failed}))
    assert stage() == 0
    assert len(server.requests) == ATTEMPTS + 2
    assert "json_validate_failed" in reasons(stage)["a"]


def test_an_answer_that_the_server_rejects_and_shows_is_read(stage, server):
    server.answer = lambda prompt, count: (400, {"error": {"message": "Failed", "code": "json_validate_failed",
                                                           "failed_generation": good_reply(prompt)}})
    assert stage() == 0
    assert len(server.requests) == 3
    assert reasons(stage) == {}


@pytest.mark.parametrize("body", [
    {"code": "Client specified an invalid argument", "error": "Incorrect API key provided: sk***. See console.x.ai"},
    [{"error": {"code": 400, "message": "API key not valid. Please pass a valid API key.",
                "status": "INVALID_ARGUMENT"}}]])
def test_a_bad_key_that_is_answered_with_400_is_called_so(stage, server, capsys, body):
    server.answer = lambda prompt, count: (400, body)
    assert stage() == 1
    assert len(server.requests) == 1
    error = capsys.readouterr().err
    assert "check OPENAI_API_KEY" in error
    assert "API key" in error
    assert "--model" not in error


def test_a_server_that_ignores_the_limit_by_its_new_name_is_given_the_old_one(stage, server, capsys):
    def answer(prompt, count):
        tokens = 50 if "max_tokens" in server.requests[count - 1] else 18_000
        status, body = completion({"content": good_reply(prompt)})
        return status, {**body, "usage": {"prompt_tokens": 1, "completion_tokens": tokens}}

    server.answer = answer
    assert stage("--max_tokens", "50") == 0
    assert ["max_completion_tokens" in request for request in server.requests] == [True, False, False]
    assert all(request["max_tokens"] == 50 for request in server.requests[1:])
    assert capsys.readouterr().err.count("does not keep to max_completion_tokens") == 1
    stage.path.unlink()
    server.answer = lambda prompt, count: (200, {**completion({"content": good_reply(prompt)})[1],
                                                 "usage": {"completion_tokens": 18_000, "prompt_tokens": "many"}})
    assert stage("--max_tokens", "50") == 0
    assert all(request["max_tokens"] == 50 for request in server.requests[4:])
    assert capsys.readouterr().err.count("does not keep to") == 2  # one line a name


HEADERS = b"HTTP/1.0 STATUS Fine\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize("start", [HEADERS.replace(b"STATUS", b"200") + b"\r\n", b"HTTP/1.0 503 No\r\n\r\n",
                                   HEADERS.replace(b"STATUS", b"200") + b"X-Slow: ", b"HT"],
                         ids=["body", "body of an error", "header", "status"])
def test_an_answer_that_comes_byte_by_byte_is_not_waited_for_beyond_the_limit(stage, server, monkeypatch, start):
    monkeypatch.setattr(language_model, "TRIES", 2)
    over = threading.Event()

    def drip(prompt, count):
        yield start
        while not over.wait(0.05):
            yield b"T"

    server.answer = lambda prompt, count: drip(prompt, count) if "hook" in prompt else good_reply(prompt)
    try:
        assert stage("--timeout", "2") == 0
    finally:
        over.set()
    assert list(reasons(stage)) == ["a"]
    assert "within 2 s; a slow model needs a longer --timeout" in reasons(stage)["a"]
    assert len(server.requests) == 2 + 2


def without_end(status, coding=b"", part=b" " * 65536):
    def send():
        yield HEADERS.replace(b"STATUS", status) + coding + b"\r\n"
        while True:
            yield part
    return send


@pytest.mark.parametrize("send", [without_end(b"200"), without_end(b"400"), without_end(b"503"), without_end(
    b"200", b"Content-Encoding: gzip\r\n", gzip.compress(b" " * 5_000_000))], ids=["200", "400", "503", "compressed"])
def test_an_answer_without_end_is_not_read_further_than_its_largest_size(stage, server, monkeypatch, send):
    monkeypatch.setattr(language_model, "MOST_BYTES", 1 << 20)
    server.answer = lambda prompt, count: send() if "hook" in prompt else good_reply(prompt)
    assert stage() == 0
    assert list(reasons(stage)) == ["a"]
    assert "has more than 1 MB" in reasons(stage)["a"]
    assert len(server.requests) == 1 + 2


@pytest.mark.parametrize(("parts", "named"), [
    ([b"SSH-2.0-OpenSSH_9.6\r\n"], ""), ([b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n{"], "received 1 bytes"),
    ([b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}"], "decompressing"),
    ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"], "chunked"),
    ([b"HTTP/1.1 200 OK\r\n" + KEY.encode() + b"\r\n\r\n"], "illegal header")])
def test_a_connection_that_breaks_says_how_and_not_that_the_model_is_slow(stage, server, parts, named):
    server.answer = lambda prompt, count: iter(parts) if "hook" in prompt else good_reply(prompt)
    assert stage() == 0
    assert len(server.requests) == TRIES + 2
    assert "no whole answer (" in reasons(stage)["a"]
    assert named in reasons(stage)["a"]
    assert "--timeout" not in reasons(stage)["a"]
    assert KEY not in reasons(stage)["a"]


@pytest.mark.parametrize(("status", "place"), [(302, "/login"), (307, "SELF"), (308, "https://example.invalid/v1"),
                                               (301, f"http://[x/?{KEY}")])
def test_a_redirection_is_named_and_not_followed(stage, server, capsys, status, place):
    place = place.replace("SELF", server.url + "/chat/completions")
    server.answer = lambda prompt, count: (status, b"moved", {"Location": place})
    assert stage() == 1
    assert len(server.requests) == 1
    error = capsys.readouterr().err
    assert f"the server sends on to {place.replace(KEY, '')}, give the address that answers as --base_url" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(("status", "message", "advice"), [
    (400, "Your credit balance is too low to access the API", "add credit"),  # Anthropic
    (403, "Your newly created team doesn't have any credits yet.", "add credit"),  # xAI
    (400, "Budget has been exceeded! Current cost: 10.1", "add credit"),  # LiteLLM
    (407, "auth required", "HTTPS_PROXY"),
])
def test_what_no_retry_mends_is_told_from_the_servers_words(stage, server, capsys, status, message, advice):
    server.answer = lambda prompt, count: an_error(status, message)
    assert stage() == 1
    assert len(server.requests) == 1
    error = capsys.readouterr().err
    assert advice in error
    assert message in error
    assert KEY not in error


@pytest.mark.parametrize(("status", "message", "requests"), [
    (429, "You exceeded your current quota, please check your plan and billing details.", TRIES - 1),  # Gemini
    (424, "Request failed during generation: CUDA out of memory", TRIES - 1),  # text-generation-inference
    (498, "Flex tier capacity exceeded", TRIES - 1),  # Groq
])
def test_what_passes_is_tried_again(stage, server, status, message, requests):
    server.answer = scripted(*[an_error(status, message)] * requests)
    assert stage() == 0
    assert len(server.requests) == requests + 3
    assert reasons(stage) == {}


@pytest.mark.parametrize(("message", "reason", "named"), [
    ({"content": ""}, "error", "the answer ended with error"), ({}, "SAFETY", "a filter withheld the answer (SAFETY)"),
    ({}, "content_filter: PROHIBITED_CONTENT", "a filter withheld"),
    ({"content": '{"a": ['}, "model_length", "--max_tokens"),
    ({"content": '{"hook shot": ["a'}, "error", "the answer ended with error")])
def test_how_an_answer_ended_is_told(stage, server, message, reason, named):
    server.answer = only_for("hook", completion(message, finish_reason=reason))
    assert stage() == 0
    assert named in reasons(stage)["a"]


def test_an_answer_that_broke_off_is_used_as_far_as_it_is_whole(stage, server):
    half = json.dumps({"hook shot": [f"rises {m}" for m in range(10)]})
    server.answer = scripted(completion({"content": half}, error={"code": 502, "message": "upstream gone"}))
    assert stage() == 0
    assert "hook shot" not in server.prompts[1]
    assert "the answer ended with stop upstream gone" in replies(stage)[0]["problems"]["jump shot"]


def test_a_wrong_address_is_told_from_a_wrong_model(stage, server, capsys):
    server.answer = lambda prompt, count: (404, b"404 page not found")
    assert stage() == 1
    assert len(server.requests) == 1
    error = capsys.readouterr().err
    assert "does --base_url end in /v1?" in error
    assert "404 page not found" in error


@pytest.mark.parametrize("message", ["CUDA out of memory. Tried to allocate 20 MiB", "line\nbreak and \x1b[31mred"])
def test_the_servers_own_words_are_told_without_control_characters(stage, server, message):
    server.answer = only_for("hook", (503, {"error": {"message": message + " " + "x" * 2000}}))
    assert stage() == 0
    reason = reasons(stage)["a"]
    assert "CUDA out of memory" in reason or "line break" in reason
    assert reason.isprintable()
    assert len(reason) < 500



def rejecting(server, name, status=400, error=None):
    """An answer that rejects requests with a parameter for which `name(request)` holds."""
    def answer(prompt, count):
        if name(server.requests[count - 1]):
            return status, {"error": error or {"message": "unsupported value", "code": "unsupported_value"}}
        return good_reply(prompt)
    return answer


def test_a_rejected_temperature_is_left_out_from_then_on(stage, server, capsys):
    server.answer = rejecting(server, lambda request: "temperature" in request,
                              error={"message": "unsupported", "param": "temperature", "code": "unsupported_value"})
    assert stage() == 0
    assert len(server.requests) == 4
    assert capsys.readouterr().err.count("does not take this temperature") == 1


@pytest.mark.parametrize(("status", "error"), [
    (400, {"message": "response_format is not supported", "param": "response_format"}),
    (422, {"message": "validation failed"}), (500, {"message": "1 validation error for ResponseFormat"})])
def test_response_formats_are_tried_from_the_best_down_and_remembered(stage, server, capsys, status, error):
    server.answer = rejecting(server, lambda request: request.get("response_format", {}).get("type") == "json_schema"
                              or "schema" in request.get("response_format", {}), status, error)
    assert stage() == 0
    types = [request["response_format"]["type"] for request in server.requests]
    assert types == ["json_schema", *["json_object"] * 4]
    assert "schema" in server.requests[1]["response_format"]
    assert all("schema" not in request["response_format"] for request in server.requests[2:])
    assert capsys.readouterr().err.count("\n") == 2


def test_a_server_without_response_formats_is_asked_plainly(stage, server):
    server.answer = rejecting(server, lambda request: "response_format" in request, 400, {"message": "extra fields"})
    assert stage() == 0
    assert len(server.requests) == 3 + 3


def test_the_token_limit_is_asked_by_the_name_that_the_server_knows(stage, server):
    server.answer = rejecting(server, lambda request: "max_completion_tokens" in request,
                              error={"message": "unknown field max_completion_tokens"})
    assert stage("--max_tokens", "500") == 0
    assert len(server.requests) == 4
    assert all(request["max_tokens"] == 500 for request in server.requests[1:])


@pytest.mark.parametrize(("header", "least", "most"), [
    ("7", 7, 8.1), ("0.5", 0.5, 1.6), ("-3", 0, 1.1), (None, 4, 9.1), ("soon", 4, 9.1), ("date", 50, 61.1),
    ("Sun, 06 Nov 1994 08:49:37 GMT", 0, 1.1)])
def test_retry_after_is_waited_for(stage, server, monkeypatch, header, least, most):
    pauses = []
    monkeypatch.setattr(LanguageModel, "_pause", lambda self, seconds: pauses.append(seconds))
    if header == "date":
        header = email.utils.formatdate(time.time() + 60, usegmt=True)
    busy = (429, {"error": {"message": "slow down"}}, {} if header is None else {"Retry-After": header})
    server.answer = scripted(busy, busy)
    assert stage() == 0
    assert len(server.requests) == 5
    assert all(least <= pause <= most for pause in pauses)
    assert len(pauses) == 2


def test_answers_that_are_cut_at_the_token_limit_are_noted_once(stage, server, capsys):
    cut = {"choices": [{"message": {"content": "{"}, "finish_reason": "length"}]}
    server.answer = scripted((200, cut), (200, cut))
    assert stage() == 0
    assert len(server.requests) == 5
    assert capsys.readouterr().err.count("--max_tokens") == 1


def test_a_server_that_asks_to_wait_for_hours_stops_the_run_and_says_so(stage, server, capsys):
    server.answer = scripted((503, {"error": {}}, {"Retry-After": "7200"}))
    assert stage() == 1
    assert len(server.requests) == 1
    assert "asks to wait 120 minutes" in capsys.readouterr().err


def test_a_passing_server_error_does_not_cost_the_structured_output(stage, server):
    server.answer = scripted(an_error(500, "oops"), an_error(503, "overloaded"))
    assert stage() == 0
    assert {request["response_format"]["type"] for request in server.requests} == {"json_schema"}


def test_a_server_that_answers_unknown_formats_with_a_bare_500_is_asked_plainly_at_last(stage, server):
    server.answer = rejecting(server, lambda request: "response_format" in request, 500, {"message": "oops"})
    assert stage() == 0
    assert len(server.requests) == 3 * TRIES + 3


def test_a_server_that_is_not_there_stops_the_run(stage, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        assert stage("--base_url", f"http://127.0.0.1:{taken.getsockname()[1]}/v1") == 1
    error = capsys.readouterr().err
    assert "check --base_url" in error
    assert error.count("\n") == 1
    assert not stage.path.exists()


@pytest.mark.parametrize("address", [
    "localhost", "ftp://127.0.0.1/v1", "http://127.0.0.1:99999/v1", "http://[x/v1", "http:///v1", "http://a..b/v1", "http://./v1",
    f"http://{'a' * 64}.invalid/v1", "http://256.256.256.256/v1", "http://[v1.x]/v1", "http://x/" + "a" * 70_000])
def test_what_is_no_address_is_refused(stage, capsys, address):
    assert stage("--base_url", address) == 2
    assert capsys.readouterr().err.count("\n") == 1


PROXIES = ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
FAR = "http://example.invalid/v1"  # never looked up: a proxy would do that


@pytest.fixture
def environment(monkeypatch):
    """A function that sets variables, where no others of their kinds are set."""
    for name in (*PROXIES, *map(str.lower, PROXIES), "SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"):
        monkeypatch.delenv(name, raising=False)
    return lambda **variables: [monkeypatch.setenv(*variable) for variable in variables.items()]


@pytest.mark.parametrize("variables", [
    {"ALL_PROXY": "socks5://127.0.0.1:9"}, {"HTTP_PROXY": "http://127.0.0.1:9"}, {"http_proxy": "127.0.0.1:9"},
    {"HTTP_PROXY": "ftp://x"}, {"OPENAI_CUSTOM_HEADERS": "X-Team: a:b\r\nX-B: c"}, {"SSL_CERT_FILE": "/no/such.pem"},
    {"OPENAI_PROJECT_ID": "proj-1\n"}, {"OPENAI_ORG_ID": " "}])
def test_no_proxy_and_no_certificate_is_needed_on_this_machine(stage, server, environment, variables):
    environment(**variables)
    assert stage() == 0
    assert len(server.requests) == 3


@pytest.mark.parametrize(("variables", "address", "named"), [
    ({"ALL_PROXY": "socks5://user:hush@127.0.0.1:9"}, FAR, ["ALL_PROXY", "socksio"]),
    ({"HTTP_PROXY": "ftp://user:hush@127.0.0.1:9"}, FAR, ["HTTP_PROXY"]),
    ({"SSL_CERT_FILE": "/no/such.pem"}, "https://example.invalid", ["SSL_CERT_FILE", "/no/such.pem"]),
    ({"SSL_CERT_FILE": __file__}, "https://127.0.0.1:9", ["SSL_CERT_FILE"]),
    ({"OPENAI_PROJECT_ID": "\u201cproj\u201d"}, FAR, ["OPENAI_PROJECT_ID"]),
    ({"OPENAI_ORG_ID": "org\nid"}, FAR, ["OPENAI_ORG_ID"]),
    ({"OPENAI_CUSTOM_HEADERS": "X-Team: é"}, FAR, ["OPENAI_CUSTOM_HEADERS"]),
    ({"OPENAI_CUSTOM_HEADERS": "X-Team: a\nX Y: b"}, FAR, ["OPENAI_CUSTOM_HEADERS"]),
    ({"OPENAI_CUSTOM_HEADERS": "X-Team: a\nno colon"}, FAR, ["OPENAI_CUSTOM_HEADERS"]),
    ({"OPENAI_CUSTOM_HEADERS": "X-Team: a\nContent-Length: 5"}, FAR, ["OPENAI_CUSTOM_HEADERS"]),
])
def test_a_variable_that_cannot_be_used_is_named_in_one_line(stage, capsys, environment, variables, address, named):
    environment(**variables)
    assert stage("--base_url", address) == 2
    error = capsys.readouterr().err
    assert all(name in error for name in named)
    assert error.count("\n") == 1
    assert "hush" not in error


@pytest.mark.parametrize("name", ["HTTP_PROXY", "all_proxy"])
def test_a_dead_proxy_is_named(stage, capsys, environment, name):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        proxy = f"127.0.0.1:{taken.getsockname()[1]}"
        environment(**{name: f"http://user:hush@{proxy}"})
        assert stage("--base_url", FAR) == 1
    error = capsys.readouterr().err
    assert f"no connection to example.invalid through the proxy {proxy}" in error
    assert error.count("\n") == 1
    assert "hush" not in error


def test_an_address_may_have_a_line_break_at_its_end_and_none_within(stage, server, capsys):
    assert stage("--base_url", f" {server.url}\n") == 0
    assert len(server.requests) == 3
    stage.path.unlink()
    assert stage("--base_url", server.url.replace("/v1", "\n/v1")) == 2
    assert "is no address" in capsys.readouterr().err


def test_the_whole_address_of_chat_completions_is_taken_and_what_it_asks_is_kept(stage, server, monkeypatch):
    assert stage("--base_url", server.url + "/chat/completions?api-version=preview") == 0
    assert server.paths == ["/v1/chat/completions?api-version=preview"] * 3


@pytest.mark.parametrize("address", ["", " \n"])
def test_an_empty_address_is_none(stage, capsys, environment, address):
    assert stage("--base_url", address, "--apikey", "") == 2
    assert "no API key" in capsys.readouterr().err
    environment(HTTPS_PROXY="http://127.0.0.1:9")
    assert stage("--base_url", address) == 1
    assert "no connection to api.openai.com" in capsys.readouterr().err


@pytest.mark.parametrize("key", [KEY + "-é", KEY + "\nx", KEY + " x", KEY + "\x07"])
def test_a_key_that_cannot_be_sent_is_refused_without_showing_it(stage, server, capsys, key):
    assert stage("--apikey", key) == 2
    captured = capsys.readouterr()
    assert "copy it again" in captured.err
    assert KEY not in captured.out + captured.err
    assert server.requests == []


def test_a_key_is_sent_without_the_line_break_of_its_file(stage, server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY + "\n")
    assert stage("--apikey", "") == 0
    assert server.keys == ["Bearer " + KEY] * 3


@pytest.mark.parametrize("flags", [["--temp", "nan"], ["--temp", "-1"], ["--temp", "warm"], ["--timeout", "0"],
                                   ["--timeout", "1e300"],
                                   ["--attempts", "0"], ["--workers", "0"]])
def test_flags_that_make_no_sense_are_refused(stage, flags):
    with pytest.raises(SystemExit) as caught:
        stage(*flags)
    assert caught.value.code == 2


def test_what_a_reply_brought_before_the_quota_ran_out_is_kept(stage, server):
    def partly(prompt, count):
        return json.dumps({"hook shot": [f"hook shot {m}" for m in range(10)]}) if count == 1 else \
            an_error(429, "no", code="insufficient_quota")

    server.answer = partly
    assert stage() == 1
    assert len(server.requests) == 2
    assert [of_sample.lacking for of_sample in read_subactions(stage.path)] == [["jump shot"]]
    server.answer = scripted()
    assert stage() == 0
    assert "hook shot" not in server.prompts[2]
    assert len(server.requests) == 5


def watched_models(monkeypatch):
    """The list of the LanguageModels to be made, whose Event `stopped` says that nothing more is asked."""
    made, init = [], LanguageModel.__init__
    monkeypatch.setattr(LanguageModel, "__init__", lambda model, *arguments: (
        made.append(model), init(model, *arguments))[1])
    return made


def test_answers_in_flight_when_the_quota_runs_out_are_kept_and_no_more_is_asked(stage, server, monkeypatch):
    monkeypatch.undo()  # real pauses: the busy thread is not waited for
    all_asked, models = threading.Barrier(3), watched_models(monkeypatch)

    def answer(prompt, count):
        all_asked.wait(LIMIT)
        if "hook" in prompt:  # slow, and then wrong: would be asked again
            models[0].stopped.wait(LIMIT)
            return json.dumps({"hook shot": [f"hook shot {m}" for m in range(10)]})
        if "lay-up" in prompt:
            return 429, {"error": {"message": "slow down"}}, {"Retry-After": "500"}
        return an_error(429, "no", code="insufficient_quota")

    server.answer = answer
    began = time.monotonic()
    assert stage("--workers", "3", "--timeout", str(LIMIT)) == 1
    assert time.monotonic() - began < 500
    assert len(server.requests) == 3
    assert [of_sample.lacking for of_sample in read_subactions(stage.path)] == [["jump shot"]]


def test_every_reply_is_committed_before_the_next_question(stage, server):
    journal, committed = stage.path.with_name(stage.path.name + ".partial"), []

    def answer(prompt, count):
        committed.append(journal.read_bytes().count(b"\n") if journal.exists() else 0)
        return good_reply(prompt).replace("jump shot 3", "jump shot 4") if count == 1 else good_reply(prompt)

    server.answer = answer
    assert stage() == 0
    assert committed == [0, 1, 2, 3]  # the first question is asked again for one of its options


def test_answers_in_flight_when_the_disk_is_full_are_kept_if_there_is_room_again(stage, server, monkeypatch, capsys):
    append, both_asked, models = Journal.append, threading.Barrier(2), watched_models(monkeypatch)

    def append_all_but_one(journal, entry):
        if entry["id"] == "a":
            raise OSError(errno.ENOSPC, "No space left on device")
        append(journal, entry)

    def answer(prompt, count):
        both_asked.wait(LIMIT)
        if "hook" not in prompt:
            models[0].stopped.wait(LIMIT)
        return good_reply(prompt)

    monkeypatch.setattr(Journal, "append", append_all_but_one)
    server.answer = answer
    assert stage("--workers", "2") == 1
    assert "No space left" in capsys.readouterr().err
    assert len(server.requests) == 2
    assert [of_sample.sample.id for of_sample in read_subactions(stage.path)] == ["b"]


def test_ctrl_c_ends_at_once_and_keeps_what_is_done(tmp_path, server, root):
    options = {f"clip-{n}": [f"move {n}"] for n in range(12)}
    frames, path = write_frames_index(tmp_path, make_entries(options)), tmp_path / "out.json"
    reached, release = threading.Barrier(5), threading.Event()

    def answer(prompt, count):
        if count > 6:  # of four workers, two hang and two pause
            reached.wait(LIMIT)
            if count % 2:
                return 429, {"error": {}}, {"Retry-After": "600"}
            release.wait()
        return good_reply(prompt)

    server.answer = answer
    process = subprocess.Popen([sys.executable, str(root / "generate_subactions.py"), "--input", str(frames),
                                "--output", str(path), "--base_url", server.url, "--timeout", "36000"],
                               stderr=subprocess.PIPE, text=True)
    reached.wait(LIMIT)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=LIMIT / 2)[1]
    release.set()
    assert process.returncode == 130
    assert "interrupted" in error
    assert "Traceback" not in error
    assert len(read_subactions(path)) == 6
    server.answer = scripted()
    assert subprocess.run(process.args, capture_output=True, check=False).returncode == 0
    assert len(server.requests) == 10 + 6
    assert [of_sample.sample.id for of_sample in read_subactions(path)] == list(options)


def test_only_the_temperature_that_was_asked_with_is_recorded(stage, server):
    server.answer = rejecting(server, lambda request: "temperature" in request,
                              error={"message": "unsupported", "param": "temperature"})
    assert stage() == 0
    entries = json.loads(stage.path.read_text())
    assert [entry["generated_with"]["temperature"] for entry in entries] == [None] * 3
    assert stage() == 0
    assert len(server.requests) == 4


def test_a_sample_that_failed_can_be_asked_of_another_model(stage, server):
    server.answer = scripted(*["no"] * 3 * ATTEMPTS)
    assert stage() == 1
    assert stage("--model", "another", "--temp", "0.9") == 0
    assert {entry["generated_with"]["model"] for entry in json.loads(stage.path.read_text())} == {"another"}


def test_other_settings_are_refused_even_for_other_samples(tmp_path, stage, server, capsys):
    assert stage() == 0
    folder = tmp_path / "others"
    folder.mkdir()
    frames = write_frames_index(folder, make_entries({"d": ["tuck"]}))
    assert stage("--input", str(frames), "--model", "another") == 2
    assert "sample a was generated with another model" in capsys.readouterr().err
    assert len(server.requests) == 3


@pytest.mark.parametrize("prompt", ["context", "short"])
def test_as_many_phrases_as_are_needed_are_asked_for_in_the_prompt(stage, server, prompt):
    for least, code in (("12", 1), ("1", 0)):
        asked = len(server.requests)
        assert stage("--min_subactions", least, "--attempts", "1", "--prompt", prompt, "--overwrite") == code
        assert all(re.findall(r"at least (\d+) sub-actions", text) == [least] for text in server.prompts[asked:])


@pytest.mark.parametrize(("reply", "told"), [
    ('{"actions": [{"action": "hook shot", "subactions": ["gat', "broken or cut short"),
    (json.dumps({"hook shot": "gathers, rises", "jump shot": "rises"}), "without a list of phrases"),
    ("I would say that", "no JSON"), ("<think>{", "only thinking")])
def test_the_model_is_told_what_was_wrong_with_its_answer(stage, server, reply, told):
    server.answer = scripted(reply)
    assert stage() == 0
    assert len(server.requests) == 1 + 3
    assert told in server.prompts[1].partition("An earlier")[2]
    assert ("no JSON" in server.prompts[1]) == (told == "no JSON")


def test_what_is_no_answer_of_the_model_is_not_told_to_it(stage, server):
    server.answer = scripted((200, b"<html>Bad Gateway</html>"))
    assert stage() == 0
    assert server.prompts[1] == server.prompts[0]


def test_an_option_that_is_known_is_not_taken_for_one_that_is_asked_again(stage, server):
    folder = stage.folder / "alike"
    folder.mkdir()
    frames = write_frames_index(folder, make_entries({"a": ["lay-up", "layup"]}))
    server.answer = lambda prompt, count: json.dumps({"lay-up": [f"rises {m}" for m in range(10)]})
    assert stage("--input", str(frames)) == 1
    assert len(server.requests) == ATTEMPTS
    assert [of_sample.lacking for of_sample in read_subactions(stage.path)] == [["layup"]]


def replies(stage):
    path = stage.folder / "generated_subactions.replies.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_what_a_model_said_and_could_not_be_used_is_kept_and_named(stage, server, capsys):
    said = "<think>no</think> My key is " + KEY
    page = b"<html>Bad Gateway " + KEY.encode() + b"</html>"
    half = json.dumps({"hook shot": [f"rises {m}" for m in range(10)]})
    server.answer = scripted(said, (200, page), half)
    assert stage("--attempts", "4") == 0
    assert reasons(stage) == {}
    assert [(line["ids"], line["reply"]) for line in replies(stage)] == [
        (["a"], said.replace(KEY, "")), (["a"], "<html>Bad Gateway </html>"), (["a"], half)]
    assert "no JSON" in replies(stage)[0]["problems"]["hook shot"]
    assert list(replies(stage)[2]["problems"]) == ["jump shot"]
    stage.path.unlink()
    server.answer = only_for("hook", "no \ud800")
    capsys.readouterr()
    assert stage() == 0
    assert len(replies(stage)) == 3 + 4 + ATTEMPTS - 4
    assert "generated_subactions.replies.jsonl holds what was said" in capsys.readouterr().out
    assert not any(KEY.encode() in file.read_bytes() for file in stage.folder.iterdir())


def test_nothing_is_kept_of_answers_that_could_be_used(stage, server, capsys):
    assert stage() == 0
    assert replies(stage) == []
    assert "replies" not in capsys.readouterr().out


@pytest.mark.parametrize("workers", ["1", "4"])
def test_ten_samples_in_a_row_that_could_not_be_used_stop_the_run(stage, server, capsys, workers):
    folder = stage.folder / "many"
    folder.mkdir()
    frames = write_frames_index(folder, make_entries({f"clip-{n}": [f"move {n}"] for n in range(40)}))
    server.answer = lambda prompt, count: good_reply(prompt) if "- move 0\n" in prompt else json.dumps({"x": ["y"]})
    assert stage("--input", str(frames), "--workers", workers) == 1
    assert 1 + 10 * ATTEMPTS <= len(server.requests) <= 1 + 20 * ATTEMPTS  # some are in flight
    error = capsys.readouterr().err
    assert "10 samples in a row could not be used" in error
    assert "0 phrases, at least 10 are needed" in error
    assert "generated_subactions.replies.jsonl" in error
    assert error.count("\n") == 1
    assert [of_sample.sample.id for of_sample in read_subactions(stage.path) if not of_sample.lacking] == ["clip-0"]


def test_samples_that_gain_something_do_not_stop_the_run(stage, server):
    folder = stage.folder / "many"
    folder.mkdir()
    frames = write_frames_index(folder, make_entries({f"clip-{n}": [f"move {n}", f"turn {n}"] for n in range(12)}))
    server.answer = lambda prompt, count: re.sub("turn", "other", good_reply(prompt))
    assert stage("--input", str(frames), "--attempts", "1") == 1
    assert len(server.requests) == 12


def test_a_few_are_asked_first(stage, server, capsys):
    assert stage("--limit", "2") == 0
    assert "2 samples generated, 0 were there already, 0 failed, 1 left;" in capsys.readouterr().out
    assert [of_sample.sample.id for of_sample in read_subactions(stage.path)] == ["a", "b"]
    assert stage("--limit", "2") == 0
    assert len(server.requests) == 3
    assert "1 samples generated, 2 were there already, 0 failed;" in capsys.readouterr().out
    stage.path.unlink()
    server.answer = lambda prompt, count: "no"
    assert stage("--limit", "1") == 1
    assert stage("--limit", "1", "--dry_run") == 0
    assert "1 requests for 1 samples" in capsys.readouterr().out


def test_overwriting_starts_over_and_keeps_the_old_file_until_the_new_one_is_done(stage, server, capsys):
    assert stage() == 0
    old = stage.path.read_bytes()
    assert stage("--temp", "0.9") == 2
    assert "start over with --overwrite" in capsys.readouterr().err
    server.requests.clear()
    server.answer = lambda prompt, count: good_reply(prompt) if count == 1 else an_error(401, "no")
    assert stage("--temp", "0.9", "--overwrite") == 1
    assert stage.path.read_bytes() == old
    server.answer = lambda prompt, count: good_reply(prompt)
    assert stage("--temp", "0.9") == 0  # goes on from what came, not from the old file
    assert len(server.requests) == 2 + 2
    entries = json.loads(stage.path.read_text())
    assert [(entry["id"], entry["generated_with"]["temperature"]) for entry in entries] == [
        ("a", 0.9), ("b", 0.9), ("c", 0.9)]
    assert not stage.path.with_name(stage.path.name + ".partial").exists()
    server.requests.clear()
    assert stage("--overwrite") == 0
    assert len(server.requests) == 3
    assert stage.path.read_bytes() == old


def test_overwriting_with_nothing_but_failures_leaves_what_is_there(stage, server):
    assert stage() == 0
    old = stage.path.read_bytes()
    stage.path.with_name(stage.path.name + ".partial").write_text("{]\n")
    server.answer = lambda prompt, count: "no"
    assert stage("--overwrite") == 1
    assert stage.path.read_bytes() == old
    assert stage("--overwrite", "--dry_run") == 0
    server.answer = scripted()
    assert stage("--overwrite") == 0
    assert stage.path.read_bytes() == old


def test_why_no_sample_was_generated_is_said(stage, server, capsys):
    server.answer = lambda prompt, count: (400, {"error": "context length 2048 exceeded"})
    assert stage() == 1
    error = capsys.readouterr().err
    assert "context length 2048 exceeded" in error
    assert "--model" not in error


def test_a_bad_batch_answer_is_kept_and_told_in_the_servers_words(stage, capsys):
    batch, results = stage.folder / "batch.jsonl", stage.folder / "results.jsonl"
    assert stage("--batch", str(batch), "--limit", "2") == 0
    a, b = batch_answers(batch)
    a["response"] = {"status_code": 400, "body": {"error": {"message": f"context length exceeded, {KEY}"}}}
    b["response"]["body"]["choices"][0]["message"]["content"] = f"no, {KEY}"
    assert stage("--batch_results", str(write_lines(results, [a, b]))) == 1
    assert "(status 400): context length exceeded" in reasons(stage)["a"]
    assert [line["reply"] for line in replies(stage)] == ["no, "]


def test_what_a_twin_has_costs_neither_request_nor_key(tmp_path, stage, server):
    assert stage() == 0
    folder = tmp_path / "more"
    folder.mkdir()
    frames = write_frames_index(folder, make_entries({**OPTIONS, "twin": ["lay-up", "dunk"]}))
    assert generate_subactions.main(["--input", str(frames), "--output", str(stage.path)]) == 0
    assert len(server.requests) == 3
    generated = {of_sample.sample.id: of_sample for of_sample in read_subactions(stage.path)}
    assert generated["twin"].known == generated["b"].known


def test_a_file_of_the_published_code_is_taken_as_it_is(stage, server):
    entries = make_entries(OPTIONS, answers={"a": -1, "b": 1})
    arguments = dataset(stage, [{**entry, "domain": "Sport"} for entry in make_entries(OPTIONS, {"a": None, "b": 1})])
    for entry in entries:
        entry["domain"] = "Sport"
        entry["subactions"] = {key.replace(" in sport", " in Sport"): texts for key, texts in
                               entry["subactions"].items()}
    stage.path.write_text(json.dumps(entries, indent=4))
    before = stage.path.read_bytes()
    assert stage(*arguments) == 0
    assert server.requests == []
    assert stage.path.read_bytes() == before


def test_own_phrases_are_kept_where_a_twin_has_others(stage, server):
    entries = make_entries({"a": OPTIONS["b"], "b": OPTIONS["b"], "c": ["dunk"]})
    entries[0]["subactions"] = {"dunk in sport": ["mine"], "lay-up in sport": ["mine too"]}
    del entries[1]["subactions"]["lay-up in sport"]
    stage.path.write_text(json.dumps(entries))
    folder = stage.folder / "twins"
    folder.mkdir()
    frames = write_frames_index(folder, entries)
    assert stage("--input", str(frames)) == 0
    assert server.requests == []
    generated = {of_sample.sample.id: of_sample for of_sample in read_subactions(stage.path)}
    assert generated["b"].known == {"dunk": tuple(f"dunk phase {m}" for m in range(3)), "lay-up": ("mine too",)}


def test_a_dropped_connection_and_a_hang_are_tried_again(stage, server):
    release = threading.Event()

    def failing(prompt, count):
        if count == 1:
            return None
        if count == 2:
            release.wait(30)
        return good_reply(prompt)

    server.answer = failing
    assert stage("--timeout", "3") == 0
    release.set()
    assert len(server.requests) == 5


def test_a_server_that_never_comes_back_is_recorded_and_the_run_goes_on(stage, server):
    server.answer = lambda prompt, count: (503, {"error": {"message": "down"}}) if "dunk" in prompt else \
        good_reply(prompt)
    assert stage() == 0
    missing = json.loads((stage.folder / "generated_subactions.missing.json").read_text())
    assert {entry["id"] for entry in missing} == {"b", "c"}
    assert "status 503" in missing[0]["reason"]


def test_a_refusal_is_recorded(stage, server):
    server.refusal = "I cannot help with that"
    assert stage() == 1
    missing = json.loads((stage.folder / "generated_subactions.missing.json").read_text())
    assert {entry["id"] for entry in missing} == {"a", "b", "c"}
    assert "the model refused to answer" in missing[0]["reason"]


def test_identical_questions_are_asked_once(tmp_path, stage, server):
    folder = tmp_path / "alike"
    folder.mkdir()
    frames = write_frames_index(folder, make_entries({"a": ["dunk", "hook shot"], "b": ["hook shot", "dunk"],
                                                      "c": ["dunk"]}))
    assert stage("--input", str(frames)) == 0
    assert len(server.requests) == 2
    entries = json.loads(stage.path.read_text())
    assert entries[0]["subactions"] == entries[1]["subactions"]
    assert entries[1]["cleaned_options"] == ["hook shot", "dunk"]


@pytest.mark.parametrize("change", [["--model", "another"], ["--temp", "0.9"], ["--prompt", "short"]])
def test_other_settings_into_the_same_output_are_refused(stage, server, capsys, change):
    assert stage() == 0
    before = stage.path.read_bytes()
    assert stage(*change) == 2
    error = capsys.readouterr().err
    assert "choose another --output" in error
    assert stage.path.read_bytes() == before
    assert len(server.requests) == 3


def test_an_edited_prompt_is_used_and_noticed(stage, server, monkeypatch):
    assert stage() == 0
    monkeypatch.setattr(generate_subactions, "generate_prompt", lambda options, domain: f"mine: {options}")
    assert stage() == 2
    stage.path.unlink()
    server.requests.clear()
    assert stage() == 1
    assert server.prompts[0].startswith("mine: ['hook shot', 'jump shot']")


def test_a_dry_run_asks_and_writes_nothing_and_shows_a_prompt(stage, server, capsys):
    assert stage("--dry_run") == 0
    printed = capsys.readouterr().out
    assert "3 requests for 3 samples" in printed
    assert generate_prompt(OPTIONS["a"], "sport") in printed
    assert server.requests == []
    assert not stage.path.exists()


def test_the_tokens_used_are_said(stage, server, capsys):
    assert stage() == 0
    assert "30 tokens asked, 60 answered" in capsys.readouterr().out


def batch_answers(batch):
    """Good lines of a Batch result file, for the lines of a batch."""
    lines = [json.loads(line) for line in batch.read_text().splitlines()]
    return [{"custom_id": line["custom_id"], "error": None, "response": {"status_code": 200, "body": {"choices": [{
        "message": {"content": good_reply(line["body"]["messages"][0]["content"])}}]}}} for line in lines]


def write_lines(path, lines):
    path.write_text("\n".join(map(json.dumps, lines)))  # without a last line break, as editors leave files
    return path


def test_a_batch_goes_out_and_comes_back_by_custom_id_until_nothing_is_left(stage, server, capsys):
    batch, results = stage.folder / "batch.jsonl", stage.folder / "results.jsonl"
    assert stage("--batch", str(batch)) == 0
    assert "3 requests" in capsys.readouterr().out
    lines = [json.loads(line) for line in batch.read_text().splitlines()]
    assert [line["custom_id"].partition("#")[0] for line in lines] == ["a", "b", "c"]
    assert {(line["method"], line["url"]) for line in lines} == {("POST", "/v1/chat/completions")}
    assert stage("--batch", str(batch)) == 2  # an existing file stays
    a, b, c = batch_answers(batch)
    b["response"] = {"status_code": 429, "body": {"error": {"message": KEY, "code": KEY}}}
    c = {"custom_id": c["custom_id"], "response": None, "error": {"code": "batch_expired", "message": KEY}}
    stranger = {**a, "custom_id": "z#00000000"}
    assert stage("--batch_results", str(write_lines(results, [stranger, c, b, a]))) == 0
    generated = {of_sample.sample.id: of_sample for of_sample in read_subactions(stage.path)}
    assert generated["a"].texts[0][0] == "hook shot 0"
    assert generated["b"].lacking == ["dunk", "lay-up"]
    missing = json.loads((stage.folder / "generated_subactions.missing.json").read_text())
    assert [entry["id"] for entry in missing] == ["c", "b"]
    assert "status 429" in missing[1]["reason"]

    follow_up = stage.folder / "follow_up.jsonl"
    assert stage("--batch", str(follow_up)) == 0
    b, c = batch_answers(follow_up)
    b["response"]["body"]["choices"][0]["message"]["content"] = json.dumps({"dunk": [f"dunk {m}" for m in range(10)]})
    assert stage("--batch_results", str(write_lines(results, [c, b]))) == 0
    assert {of_sample.sample.id: of_sample.lacking for of_sample in read_subactions(stage.path)} == {
        "a": [], "b": ["lay-up"], "c": []}
    last = stage.folder / "last.jsonl"
    assert stage("--batch", str(last)) == 0
    prompt = json.loads(last.read_text())["body"]["messages"][0]["content"]
    assert "- lay-up\n" in prompt
    assert "dunk" not in prompt
    assert stage("--batch_results", str(write_lines(results, batch_answers(last)))) == 0
    assert [of_sample.lacking for of_sample in read_subactions(stage.path)] == [[], [], []]
    assert not (stage.folder / "generated_subactions.missing.json").exists()
    assert server.requests == []
    assert not any(KEY.encode() in file.read_bytes() for file in stage.folder.iterdir() if file != results)


@pytest.mark.parametrize("change", [["--model", "another"], ["--temp", "0.9"], ["--prompt", "short"]])
def test_results_of_a_batch_with_other_settings_are_refused(stage, capsys, change):
    batch = stage.folder / "batch.jsonl"
    assert stage("--batch", str(batch)) == 0
    results = write_lines(stage.folder / "results.jsonl", batch_answers(batch))
    assert stage("--batch_results", str(results), *change) == 2
    assert "the same settings" in capsys.readouterr().err
    assert not stage.path.exists()


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff", b"[1]\n", b'{"id": 5}\n', b'{"custom_id": "a"}\n{"cus'])
def test_what_is_no_batch_result_file_is_refused(stage, capsys, content):
    results = stage.folder / "results.jsonl"
    if content is not None:
        results.write_bytes(content)
    assert stage("--batch_results", str(results)) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not stage.path.exists()


def test_a_batch_whose_temperature_is_rejected_says_which_one_to_try(stage):
    batch = stage.folder / "batch.jsonl"
    assert stage("--batch", str(batch)) == 0
    rejected = {"status_code": 400, "body": {"error": {"message": "unsupported", "param": "temperature"}}}
    results = write_lines(stage.folder / "results.jsonl", [{**line, "response": rejected}
                                                           for line in batch_answers(batch)])
    assert stage("--batch_results", str(results)) == 1
    assert "try --temp 1" in (stage.folder / "generated_subactions.missing.json").read_text()
    assert stage("--temp", "1", "--batch", str(stage.folder / "again.jsonl")) == 0


def test_check_tells_what_is_missing_repeated_or_too_long(tmp_path, checkpoint, capsys):
    entries = make_entries({"a": ["dunk", "hook shot"], "b": ["lay-up"]}, phases=10)
    entries[0]["subactions"]["dunk in sport"][1] = "Dunk phase 0"
    entries[0]["subactions"]["hook shot in sport"][0] = "x" * 30
    del entries[1]["subactions"]["lay-up in sport"]
    path = tmp_path / "generated.json"
    path.write_text(json.dumps(entries))
    assert generate_subactions.main(["--check", str(path), "--text_model", str(checkpoint), "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "a, dunk in sport: 1 of 10 phrases are repeated" in printed
    assert f"a, hook shot in sport: too long: '{'x' * 30}' (31)" in printed
    assert "b, lay-up in sport: 0 phrases, at least 10 are needed" in printed
    assert "2 samples with 3 options; 3 options to look at" in printed
    assert generate_subactions.main(["--check", str(path)]) == 0
    assert "lengths estimated" in capsys.readouterr().out
    assert generate_subactions.main(["--check", str(path), "--text_model", "no/such-model"]) == 2


def test_two_hundred_samples_in_parallel_killed_halfway_and_rerun_ask_nothing_twice(tmp_path, server, root):
    options = {f"clip-{n}": [f"move {n} one", f"move {n} two"] for n in range(200)}
    frames = write_frames_index(tmp_path, make_entries(options))

    all_asked = threading.Barrier(8)
    server.answer = lambda prompt, count: (count <= 8 and all_asked.wait(LIMIT), good_reply(prompt))[1]

    def command(name):
        return [sys.executable, str(root / "generate_subactions.py"), "--input", str(frames), "--output",
                str(tmp_path / name), "--base_url", server.url, "--workers", "8"]

    subprocess.run(command("whole.json"), check=True, capture_output=True)
    assert not all_asked.broken
    server.requests.clear()
    journal = tmp_path / "killed.json.partial"
    release = threading.Event()
    server.answer = lambda prompt, count: (count > 150 and release.wait(LIMIT), good_reply(prompt))[1]
    process = subprocess.Popen(command("killed.json"), stderr=subprocess.DEVNULL)
    wait_until(lambda: journal.exists() and journal.read_bytes().count(b"\n") >= 100)
    process.send_signal(signal.SIGKILL)
    process.wait()
    release.set()
    answered = {json.loads(line)["id"] for line in journal.read_bytes().split(b"\n")[:-1]}
    asked_before = len(server.requests)
    subprocess.run(command("killed.json"), check=True, capture_output=True)
    asked_again = "\n".join(server.prompts[asked_before:])
    assert 100 <= len(answered) < 200
    assert not any(f"- move {id.removeprefix('clip-')} one\n" in asked_again for id in answered)
    assert (tmp_path / "killed.json").read_bytes() == (tmp_path / "whole.json").read_bytes()


@pytest.mark.parametrize("before", [[{}], [{"message": {"content": ""}}], [{"message": None}, "x"],
                                    [{"message": {"reasoning_content": "hm"}, "finish_reason": "length"}],
                                    [{"message": {"content": None, "refusal": "no"}, "finish_reason": "stop"}]])
def test_of_several_choices_the_first_that_says_something_is_taken(stage, server, before):
    server.answer = lambda prompt, count: (200, {"choices": [
        *before, {"message": {"content": good_reply(prompt)}, "finish_reason": "stop"},
        {"message": {"content": "another one"}}]})
    assert stage() == 0
    assert len(server.requests) == 3


# Several scripts


def in_other_words(prompt, count):
    """A good reply that no other one is the same as."""
    return good_reply(prompt).replace(' 3"', f' 3, look {count}"')


def seeds(server):
    return [request.get("seed") for request in server.requests]


def test_scripts_are_asked_for_by_seed_and_stand_beside_the_first(stage, server, capsys):
    assert stage() == 0
    first = json.loads(stage.path.read_text())
    server.requests.clear()
    server.answer = in_other_words
    assert stage("--scripts", "3") == 0
    assert seeds(server) == [1, 1, 1, 2, 2, 2]
    assert "3 samples generated, 0 were there already, 0 failed" in capsys.readouterr().out
    entries = json.loads(stage.path.read_text())
    assert [entry["subactions"] for entry in entries] == [entry["subactions"] for entry in first]
    assert [[len(script) for script in entry["more_subactions"]] for entry in entries] == [[2, 2], [2, 2], [1, 1]]
    scripts = [[script.texts for script in of_sample.scripts] for of_sample in read_subactions(stage.path)]
    assert all(len(set(of_sample)) == 3 for of_sample in scripts)
    before = stage.path.read_bytes()
    assert stage("--scripts", "3") == stage("--scripts", "2") == stage() == 0
    assert len(server.requests) == 6
    assert stage.path.read_bytes() == before


def test_only_the_scripts_that_lack_are_asked_for(stage, server, capsys):
    server.answer = lambda prompt, count: in_other_words(prompt, count) if count < 5 else "no"
    assert stage("--scripts", "2", "--attempts", "1") == 0
    assert "1 samples generated, 0 were there already, 2 failed (b, c; " in capsys.readouterr().out
    missing = json.loads((stage.folder / "generated_subactions.missing.json").read_text())
    assert [entry["id"] for entry in missing] == ["b", "c"]
    server.requests.clear()
    server.answer = in_other_words
    assert stage("--scripts", "2") == 0
    assert seeds(server) == [1, 1]
    assert not (stage.folder / "generated_subactions.missing.json").exists()
    entries = json.loads(stage.path.read_text())
    del entries[0]["more_subactions"][0]["hook shot in sport"]
    stage.path.write_text(json.dumps(entries))
    assert stage("--scripts", "2") == 0
    assert len(server.requests) == 3
    assert "- hook shot\n" in server.prompts[-1]
    assert "- jump shot\n" not in server.prompts[-1]


def test_a_server_without_seeds_is_asked_in_other_words_from_then_on(stage, server, capsys):
    def answer(prompt, count):
        refused = an_error(400, "unknown parameter", param="seed")
        return refused if "seed" in server.requests[count - 1] else in_other_words(prompt, count)

    server.answer = answer
    assert stage("--scripts", "2") == 0
    assert seeds(server) == [None] * 3 + [1] + [None] * 3
    varied = ["This is description 2 of these actions" in prompt for prompt in server.prompts]
    assert varied == [False] * 4 + [True] * 3
    assert "does not take this seed" in capsys.readouterr().err
    prompts = {entry["generated_with"]["prompt"] for entry in json.loads(stage.path.read_text())}
    assert not any("description 2" in prompt for prompt in prompts)


def test_an_answer_that_repeats_an_earlier_script_is_asked_for_again_and_never_taken(stage, server):
    server.answer = lambda prompt, count: (in_other_words if "take other words" in prompt else good_reply)(
        *([prompt, count] if "take other words" in prompt else [prompt]))
    assert stage("--scripts", "2") == 0
    assert len(server.requests) == 3 + 6
    server.answer = lambda prompt, count: good_reply(prompt)
    assert stage("--scripts", "3") == 1
    assert len(server.requests) == 9 + 3 * ATTEMPTS
    assert all(len(of_sample.scripts) == 2 for of_sample in read_subactions(stage.path))


def test_a_batch_asks_for_all_scripts(stage, capsys):
    batch, results = stage.folder / "batch.jsonl", stage.folder / "results.jsonl"
    assert stage("--scripts", "2", "--batch", str(batch)) == 0
    requests = [json.loads(line) for line in batch.read_text().splitlines()]
    assert [request["body"].get("seed") for request in requests] == [None] * 3 + [1] * 3
    assert len({request["custom_id"] for request in requests}) == 6
    answers = [{"custom_id": request["custom_id"], "response": {"status_code": 200, "body": completion(
        {"content": in_other_words(request["body"]["messages"][0]["content"], n)})[1]}}
        for n, request in enumerate(requests)]
    write_lines(results, answers)
    assert stage("--scripts", "2", "--batch_results", str(results)) == 0
    assert [len(of_sample.scripts) for of_sample in read_subactions(stage.path)] == [2, 2, 2]
    assert not any(script.lacking for of_sample in read_subactions(stage.path) for script in of_sample.scripts)


# Following the dataset


def dataset(stage, entries):
    """The arguments of a run on another dataset."""
    folder = stage.folder / f"dataset-{len(list(stage.folder.iterdir()))}"
    folder.mkdir()
    return "--input", str(write_frames_index(folder, entries))


def entries_of(stage):
    """{id: entry} of the file, in order"""
    return {entry["id"]: entry for entry in json.loads(stage.path.read_text())}


def asked_options(server):
    return [line[2:] for prompt in server.prompts for line in prompt.splitlines() if line.startswith("- ")]


@pytest.mark.parametrize("change", [{"correct_answer_index": 1}, {"correct_answer_index": None}, {"domain": "judo"},
                                    {"cleaned_options": ["jump shot", "hook shot"]}, {"question": "Which?"}])
def test_what_the_dataset_says_is_taken_over_and_nothing_is_asked(stage, server, capsys, change):
    assert stage() == 0
    texts = entries_of(stage)["a"]["subactions"]
    server.requests.clear()
    capsys.readouterr()
    entries = make_entries(OPTIONS)
    arguments = dataset(stage, [{**entries[0], **change}, *entries[1:]])
    assert stage(*arguments) == 0
    assert "follows what changed: 1 samples with other options, labels or domains (a)" in capsys.readouterr().err
    assert server.requests == []
    entry = entries_of(stage)["a"]
    assert {name: entry[name] for name in change} == change
    domain = entry["domain"]
    assert entry["subactions"] == {f"{option} in {domain}": texts[f"{option} in sport"]
                                   for option in entry["cleaned_options"]}
    before = stage.path.read_bytes()
    assert stage(*arguments) == 0  # whose prompt is that of the options as they are now
    assert stage.path.read_bytes() == before


def test_only_a_renamed_option_is_asked_for_and_its_old_name_stays_paid(stage, server):
    assert stage() == 0
    before = entries_of(stage)
    server.requests.clear()
    entries = make_entries(OPTIONS)
    entries[0]["cleaned_options"] = ["hook shot", "set shot"]
    assert stage(*dataset(stage, entries)) == 0
    assert asked_options(server) == ["set shot"]
    assert list(entries_of(stage)["a"]["subactions"]) == ["hook shot in sport", "set shot in sport",
                                                          "jump shot in sport"]
    assert read_subactions(stage.path)[0].known.keys() == {"hook shot", "set shot"}
    server.requests.clear()
    for domain in ("judo", "sport"):
        assert stage(*dataset(stage, [{**entry, "domain": domain} for entry in make_entries(OPTIONS)])) == 0
    assert server.requests == []
    after = entries_of(stage)
    assert after["a"]["subactions"].pop("set shot in sport")
    assert after == before


def test_removed_samples_leave_every_reader_and_stay_paid(stage, server, capsys):
    assert stage() == 0
    before = stage.path.read_bytes()
    server.requests.clear()
    entries = make_entries({**OPTIONS, "d": ["serve"]})
    assert stage(*dataset(stage, [entries[3], entries[2]])) == 0
    assert asked_options(server) == ["serve"]
    assert "follows what changed: 2 samples gone (a, b)" in capsys.readouterr().err
    assert [of_sample.sample.id for of_sample in read_subactions(stage.path)] == ["d", "c"]
    assert [(id, entry.get("removed")) for id, entry in entries_of(stage).items()] == [
        ("d", None), ("c", None), ("a", True), ("b", True)]
    assert stage() == 0
    assert len(server.requests) == 1
    without_d = [entry for entry in json.loads(stage.path.read_text()) if entry["id"] != "d"]
    assert without_d == json.loads(before)


def test_what_failed_is_named_only_while_it_lacks_something(stage, server):
    server.answer = lambda prompt, count: "no" if "hook shot" in prompt or "dunk" in prompt else good_reply(prompt)
    missing = stage.folder / "generated_subactions.missing.json"
    arguments = dataset(stage, make_entries({**OPTIONS, "d": ["serve"]}))
    assert stage(*arguments) == 0
    assert [entry["id"] for entry in json.loads(missing.read_text())] == ["a", "b", "c"]
    arguments = dataset(stage, make_entries({"d": ["serve"], "a": ["serve"], "b": OPTIONS["b"]}))
    assert stage(*arguments, "--limit", "1") == 0
    assert [entry["id"] for entry in json.loads(missing.read_text())] == ["b"]


def test_without_a_key_labels_are_taken_over_all_the_same(stage, server, capsys):
    assert stage() == 0
    entries = make_entries({**OPTIONS, "d": ["serve"]}, {"a": 1, "b": 1, "c": 0, "d": 0})
    arguments = ["--output", str(stage.path), *dataset(stage, entries)]
    assert generate_subactions.main(arguments) == 2
    assert "no API key" in capsys.readouterr().err
    assert {id: entry["correct_answer_index"] for id, entry in entries_of(stage).items()} == {"a": 1, "b": 1, "c": 0}


def test_a_dry_run_and_a_batch_take_nothing_over(stage, server):
    assert stage() == 0
    before = stage.path.read_bytes()
    arguments = dataset(stage, make_entries({"a": ["set shot", "hook shot"], "c": ["dunk"]}, {"a": 1}))
    assert stage(*arguments, "--dry_run") == 0
    assert stage(*arguments, "--batch", str(stage.folder / "batch.jsonl")) == 0
    assert stage.path.read_bytes() == before


@pytest.mark.parametrize("content", ["", '[{"id": "a", "cleaned_opt', "{}", "\ufeff[]", "[5]", json.dumps(
    make_entries({"a": ["dunk"]}) * 2)])
def test_a_damaged_output_is_never_replaced(stage, capsys, content):
    stage.path.write_text(content)
    assert stage() == 2
    assert stage.path.read_text() == content
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("line", ["{]", "5", '{"id": "a"}', "\x00\x00"])
def test_a_damaged_journal_is_named_and_never_replaced(stage, server, capsys, line):
    assert stage() == 0
    before = stage.path.read_bytes()
    journal = stage.path.with_name(stage.path.name + ".partial")
    journal.write_text(line + "\n")
    assert stage() == 2
    error = capsys.readouterr().err
    assert journal.name in error
    assert "--overwrite" not in error
    assert error.count("\n") == 1
    assert journal.read_text() == line + "\n"
    assert stage.path.read_bytes() == before
