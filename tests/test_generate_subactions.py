"""Stage 3: the prompt, replies, resuming, and a language model behind a server on this machine."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from made_artifacts import make_entries, write_frames_index

import generate_subactions
from actalign.subactions import read_scripts
from generate_subactions import UnusableReply, generate_prompt, parse_reply

OPTIONS = {"a": ["hook shot", "jump shot"], "b": ["dunk", "lay-up"], "c": ["dunk"]}
KEY = "sk-a-secret-that-must-not-leak"


def good_reply(prompt):
    """A reply with ten phrases for every option that the prompt lists."""
    options = [line[2:] for line in prompt.splitlines() if line.startswith("- ")]
    return json.dumps({option: [f"{option} {m}" for m in range(10)] for option in options})


class Server:
    """A chat-completions server. `answer(prompt, count)` gives a reply's text, or (status, error object)."""

    def __init__(self):
        self.answer = lambda prompt, count: good_reply(prompt)
        self.requests = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.requests.append(request)
                answer = server.answer(request["messages"][0]["content"], len(server.requests))
                status, body = answer if isinstance(answer, tuple) else (200, {
                    "id": "1", "object": "chat.completion", "created": 0, "model": request["model"],
                    "choices": [{"index": 0, "finish_reason": "stop",
                                 "message": {"role": "assistant", "content": answer}}]})
                raw = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    @property
    def prompts(self):
        return [request["messages"][0]["content"] for request in self.requests]

    def close(self):
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


@pytest.fixture
def stage(tmp_path, server, monkeypatch):
    """A dataset of three samples, and a function that runs the script on it against the server."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the pauses between two tries
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


@pytest.mark.parametrize("reply", [
    '{"Hook  Shot": ["a", "b"], "dunk": ["c"]}',
    '```json\n{"dunk": ["c"], "hook shot": ["a", " b "]}\n```',
    'Here you are: {"hook shot": ["a", "b"], "dunk": ["c"], "extra": ["x"]} Enjoy.',
])
def test_replies_are_matched_to_options_by_name(reply):
    assert parse_reply(reply, ["hook shot", "dunk"]) == (("a", "b"), ("c",))


@pytest.mark.parametrize("reply", ["", "I cannot help with that.", '{"hook shot": ["a"]', '{"hook shot": ["a"]}',
                                   '{"hook shot": ["a"], "dunk": []}', '{"hook shot": ["a"], "dunk": "c"}',
                                   '{"hook shot": ["a"], "dunk": [["c"]]}', '{"hook shot": ["a"], "dunk": [" "]}',
                                   "[" * 100_000])
def test_replies_that_leave_an_option_out_are_unusable(reply):
    with pytest.raises(UnusableReply):
        parse_reply(reply, ["hook shot", "dunk"])


def test_the_file_has_the_fixed_shape(stage, server):
    assert stage() == 0
    entries = json.loads(stage.path.read_text())
    assert [entry["id"] for entry in entries] == ["a", "b", "c"]
    assert {"youtube_id", "id", "domain", "action", "question", "cleaned_options", "correct_answer_index",
            "subactions"} <= set(entries[0])
    assert list(entries[0]["subactions"]) == ["hook shot in sport", "jump shot in sport"]
    assert entries[0]["generated_with"] == {"model": generate_subactions.MODEL, "temperature": 0.2}
    assert [script.lacking for script in read_scripts(stage.path)] == [[], [], []]
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


def test_an_unusable_reply_is_asked_again_then_recorded_and_the_run_goes_on(stage, server, capsys):
    server.answer = lambda prompt, count: "no" if "hook shot" in prompt else good_reply(prompt)
    assert stage() == 0
    assert len(server.requests) == generate_subactions.ATTEMPTS + 2
    assert [entry["id"] for entry in json.loads(stage.path.read_text())] == ["b", "c"]
    missing = json.loads((stage.folder / "generated_subactions.missing.json").read_text())
    assert missing == [{"id": "a", "reason": "the reply holds no JSON object", "retry": True}]
    assert "1 samples got no usable reply (a)" in capsys.readouterr().out


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
    (404, {"message": "no such model", "code": "model_not_found"}, "choose another --model"),
    (429, {"message": "quota", "code": "insufficient_quota"}, "wait or add credit"),
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


def test_a_rejected_parameter_is_left_out_from_then_on(stage, server, capsys):
    def without_temperature(prompt, count):
        if "temperature" in server.requests[count - 1]:
            return 400, {"error": {"message": "unsupported", "param": "temperature", "code": "unsupported_value"}}
        return good_reply(prompt)

    server.answer = without_temperature
    assert stage() == 0
    assert len(server.requests) == 4
    assert capsys.readouterr().err.count("does not take temperature") == 1


def test_entries_with_other_options_than_the_dataset_are_refused(stage, capsys):
    stage.path.write_text(json.dumps(make_entries({"a": ["something", "else"]})))
    before = stage.path.read_bytes()
    assert stage() == 2
    assert "sample a is there with other options" in capsys.readouterr().err
    assert stage.path.read_bytes() == before


@pytest.mark.parametrize("content", ["", '[{"id": "a", "cleaned_opt', "{}"])
def test_a_damaged_output_is_never_replaced(stage, capsys, content):
    stage.path.write_text(content)
    assert stage() == 2
    assert stage.path.read_text() == content
    assert capsys.readouterr().err.count("\n") == 1

