"""A chat model behind the OpenAI protocol: asks, waits where the server wants it, and leaves out what it rejects."""

import contextlib
import json
import re
import threading
import time
from email.utils import parsedate_to_datetime

from actalign.console import StageError, log

TRIES = 6  # of one request that meets a rate limit, a lost connection or a server error
TIMEOUT = 120  # s for one answer
LONGEST_PAUSE = 60  # s between two tries, where the server does not ask for another
LONGEST_WAIT = 600  # s that a server may ask for; rather than sleep longer, the run stops and says so

REJECTING = (400, 422)  # a part of the request, which an error's words name
BLAMED = re.compile("(?P<temperature>temperature)|(?P<limit>max_completion_tokens|max_tokens)|"
                    "(?P<format>response_?format|json_object|schema|grammar)", re.IGNORECASE)
OF_THE_QUESTION = (400, 413, 422)  # by a server that has answered others: this question is too long, or filtered
QUESTION_CODES = {"context_length_exceeded", "content_filter", "content_policy_violation"}
QUOTA_CODES = {"insufficient_quota", "billing_not_active", "billing_hard_limit_reached", "402"}
PASSING = (408, 409, 425, 429)  # and all from 500 on: another try may help
UNREACHED = ("ConnectError", "ConnectTimeout")  # what the client's HTTP library calls a server that is not there
ADVICE = {
    400: "the server does not accept the request, choose another --model",
    401: "the key is not accepted, check OPENAI_API_KEY or --apikey",
    403: "the key may not use this model, choose another --model",
    404: "there is no such model or address, check --model and --base_url",
    429: "the limit is used up, wait or ask with fewer --workers",
}


class NoAnswer(Exception):
    """The model gave no answer to this question; another question may do better."""


def request_choices(temperature, schema, max_tokens=None):
    """What a request may say besides its question: {part: [(what it is called, arguments)]}.

    It says the first of each part, and the next where a server rejects that. schema: the JSON schema of the answer.
    """
    strict = {"name": "subactions", "strict": True, "schema": schema}
    limits = ("max_completion_tokens", "max_tokens") if max_tokens else ()  # the newest name first
    return {
        "temperature": [(f"temperature {temperature}", {"temperature": temperature}), ("no temperature", {})],
        "limit": [*((name, {name: max_tokens}) for name in limits), ("no limit", {})],
        "format": [  # OpenAI takes the first, llama.cpp's server the second, others the third
            ("json_schema", {"response_format": {"type": "json_schema", "json_schema": strict}}),
            ("json_object with schema", {"response_format": {"type": "json_object", "schema": schema}}),
            ("json_object", {"response_format": {"type": "json_object"}}),
            ("plain text", {})],
    }


def request_body(model, prompt, choices):
    """The arguments of a chat completion."""
    body = {"model": model, "messages": [{"role": "user", "content": prompt}]}
    for (_, arguments), *_ in choices.values():
        body |= arguments
    return body


class LanguageModel:
    """One model of one server, used from several threads.

    choices  as `request_choices` makes them    timeout  seconds to wait for an answer
    pausing  the threads that wait between two tries    stopped  set it to have further tries raise StageError
    """

    def __init__(self, model, choices, api_key, base_url=None, timeout=TIMEOUT):
        import openai

        self.model = model
        self.tokens_asked = self.tokens_answered = 0
        self.pausing = set()
        self.stopped = False
        self._choices = choices  # replaced, never changed
        self._key = api_key
        self._client = openai.OpenAI(api_key=api_key, base_url=base_url, max_retries=0, timeout=timeout)
        self._guard = threading.Lock()
        self._has_answered = self._has_cut = False

    @property
    def temperature(self):
        """The temperature that the server is asked with, None once it has rejected it."""
        return self._choices["temperature"][0][1].get("temperature")

    def ask(self, prompt):
        """The text of the model's answer.

        Rate limits, lost connections and server errors are tried again, after the pause that the server asks for or
        growing ones. Raises NoAnswer if that did not help, StageError if no further question makes sense: a bad key,
        an unknown model, a used-up quota, no server.
        """
        import backoff
        import openai

        ask_once = backoff.on_exception(
            _pauses, openai.APIError, max_tries=TRIES, giveup=self._gives_up, jitter=backoff.random_jitter, logger=None,
            on_backoff=lambda _: self.pausing.add(threading.get_ident()))(self._ask_once)
        while True:
            choices = self._choices
            try:
                return ask_once(prompt, choices)
            except openai.APIError as error:
                if not self._leave_out(self._blamed(error), choices):
                    raise self._judged(error)[1] from None

    def _ask_once(self, prompt, choices):
        self.pausing.discard(threading.get_ident())
        if self.stopped:
            raise StageError("stopped")
        # Raw: what some servers answer is no completion that the client could read.
        raw = self._client.chat.completions.with_raw_response.create(**request_body(self.model, prompt, choices))
        try:
            answer = json.loads(raw.content)  # less strict than files.parse_json: it is paid for
        except (ValueError, RecursionError):
            answer = None
        with self._guard:
            self._has_answered = True
            self.tokens_asked += answer_part(answer, "usage", "prompt_tokens") or 0
            self.tokens_answered += answer_part(answer, "usage", "completion_tokens") or 0
            if answer_part(answer, "choices", 0, "finish_reason") == "length" and not self._has_cut:
                self._has_cut = True
                log.warning(f"{self.model}: an answer was cut at the token limit; a higher --max_tokens may be needed")
        text = text_of_answer(answer)
        # No file holds the key, even if a server says it. What a local one takes for a key may be any short word.
        return text.replace(self._key, "") if len(self._key) >= 8 else text

    def _gives_up(self, error):
        """Whether another try of the same request makes no sense."""
        # llama-cpp-python's server answers a schema that it does not know with status 500 and says so.
        of_format = self._blamed(error) == "format" and re.search("format|schema|grammar", str(error), re.IGNORECASE)
        return self.stopped or bool(of_format) or not self._judged(error)[0]

    def _blamed(self, error):
        """Which part of the request an error is about, None if about none."""
        status = getattr(error, "status_code", None)
        if status in REJECTING and not _codes(error) & (QUESTION_CODES | QUOTA_CODES):
            if named := BLAMED.search(str(error.param)) or BLAMED.search(str(error)):
                return named.lastgroup
        elif status != 500:
            return None
        # Many servers reject a response format without a word, some with a bare 500.
        return None if self._has_answered else "format"

    def _leave_out(self, part, choices):
        """Say no longer the first choice of a part that the server rejects. Returns whether to ask again."""
        with self._guard:
            if choices is not self._choices:  # another thread has met the same
                return True
            if part is None or len(choices[part]) == 1:
                return False
            (rejected, _), *others = choices[part]
            self._choices = {**choices, part: others}
        log.warning(f"{self.model}: the server does not take {rejected}; asking with {others[0][0]}")
        return True

    def _judged(self, error):
        """(whether another try may help, what to raise if not: NoAnswer or StageError, without the server's words)."""
        status, wait = getattr(error, "status_code", None), _retry_after(error) or 0
        if status is None:
            if type(error.__cause__).__name__ in UNREACHED:
                return True, StageError("no connection to the server, check --base_url and that it runs; what was "
                                        "answered is kept")
            if type(error).__name__ == "APITimeoutError":
                return True, NoAnswer(f"no answer within {self._client.timeout:g} s, see --timeout")
            return True, NoAnswer(f"the connection breaks ({type(error).__name__})")
        codes = _codes(error)
        words = [code for code in sorted(codes) if re.fullmatch("[a-z]+(_[a-z]+)*", code) and self._key not in code]
        named = ", ".join([f"status {status}", *words])
        passing = status in PASSING or status >= 500
        advice = ADVICE.get(status, "the server refuses the request, check --base_url and --model")
        if codes & QUOTA_CODES:
            passing, advice = False, "the quota is used up, add credit or wait"
        elif status in OF_THE_QUESTION and (self._has_answered or codes & QUESTION_CODES):
            return False, NoAnswer(f"the server does not accept the question ({named})")
        elif wait > LONGEST_WAIT:
            passing, advice = False, f"the server asks to wait {wait / 60:.0f} minutes, run the same command again then"
        elif passing and status != 429:
            return True, NoAnswer(f"the server fails with {named}")
        return passing, StageError(f"{self.model}: {advice} ({named}); what was answered is kept")


def _codes(error):
    """How the server calls a status error: by a number and by words."""
    return {code for code in (str(error.status_code), error.code, error.type) if isinstance(code, str)}


def _pauses():
    """Seconds between two tries, for `backoff`: what the server asked for, else growing ones."""
    error, growing = (yield), 1
    while True:
        busy = 4 if getattr(error, "status_code", None) == 429 else 1  # limits are counted by the minute
        asked = _retry_after(error)
        error = yield min(growing * busy, LONGEST_PAUSE) if asked is None else asked
        growing *= 2


def _retry_after(error):
    """The seconds that the server asks to wait, given as a number or as a date; None if it does not."""
    text = error.response.headers.get("retry-after", "") if hasattr(error, "response") else ""
    with contextlib.suppress(ValueError):
        return max(0.0, float(text))  # 0 where it is no number
    with contextlib.suppress(ValueError, OverflowError):
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    return None


def answer_part(answer, *path):
    """What is at a path of keys and positions in a JSON value, None where there is no such place."""
    for step in path:
        try:
            answer = answer[step]
        except (KeyError, IndexError, TypeError):
            return None
    return answer


def text_of_answer(answer):
    """The text of a chat completion's JSON, "" if it has none. Raises NoAnswer if the model refused."""
    message = answer_part(answer, "choices", 0, "message")
    if answer_part(message, "refusal"):
        raise NoAnswer("the model refused to answer")
    content = answer_part(message, "content")
    if isinstance(content, list):  # some servers give it in parts
        content = "".join(text for part in content if isinstance(text := answer_part(part, "text"), str))
    return content if isinstance(content, str) else ""
