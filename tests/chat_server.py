"""A language model server on this machine, which says what a test has it say."""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def good_reply(prompt):
    """A reply with ten phrases for every option that the prompt lists."""
    options = [line[2:] for line in prompt.partition("An earlier")[0].splitlines() if line.startswith("- ")]
    return json.dumps({option: [f"{option} {m}" for m in range(10)] for option in options})


class Server:
    """A chat-completions server.

    answer(prompt, count)  gives a reply's text, (status, JSON or bytes[, headers]), None to drop the connection, or a
                           generator of the bytes to send, headers included, until the client does not take them
    """

    def __init__(self):
        self.answer = lambda prompt, count: good_reply(prompt)
        self.requests = []
        self.keys = []
        self.paths = []
        self.refusal = None
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.requests.append(request)
                server.keys.append(self.headers["Authorization"])
                server.paths.append(self.path)
                answer = server.answer(request["messages"][0]["content"], len(server.requests))
                if answer is None:
                    self.connection.shutdown(2)
                    return
                if hasattr(answer, "__next__"):
                    with contextlib.suppress(OSError):
                        self.wfile.writelines(answer)
                    return
                status, body, *headers = answer if isinstance(answer, tuple) else (200, {
                    "id": "1", "object": "chat.completion", "created": 0, "model": request["model"],
                    "usage": {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30},
                    "choices": [{"index": 0, "finish_reason": "stop",
                                 "message": {"role": "assistant", "content": None if server.refusal else answer,
                                             "refusal": server.refusal}}]})
                raw = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in (headers[0] if headers else {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                with contextlib.suppress(OSError):  # the client did not wait
                    self.wfile.write(raw)

            def log_message(self, *_):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def prompts(self):
        return [request["messages"][0]["content"] for request in self.requests]

    def close(self):
        self._http.shutdown()
        self._http.server_close()
