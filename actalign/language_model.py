"""A chat model behind the OpenAI protocol: asks, waits where the server wants it, and leaves out what it rejects."""

import json
import random
import re
import threading
import time
from contextlib import suppress
from email.utils import parsedate_to_datetime

from actalign.console import StageError, log

TRIES = 6  # of one request that meets a rate limit, a lost connection or a server error
LONGEST_WAIT = 600  # s that a server may ask for; rather than sleep longer, the run stops and says so

PARTS = re.compile("(?P<temperature>temperature)|(?P<limit>max_completion_tokens|max_tokens)|"
                   "(?P<format>response_?format|json_object|schema|grammar)", re.IGNORECASE)
QUESTION_CODES = {"context_length_exceeded", "content_filter", "content_policy_violation"}
QUOTA_CODES = {"insufficient_quota", "billing_not_active", "billing_hard_limit_reached"}
ADVICE = {
    401: "the key is not accepted, check OPENAI_API_KEY or --apikey",
    402: "the quota is used up, add credit or wait",
    429: "the limit is used up, wait or ask with fewer --workers",
}


class NoAnswer(Exception):
    """The model gave no answer to this question; another question may do better."""


def request_choices(temperature, schema, max_tokens=None):
    """What a request may say besides its question: {part: [arguments]}.

    It says the first of each part, and the next where a server rejects that. schema: the JSON schema of the answer.
    """
    strict = {"name": "subactions", "strict": True, "schema": schema}
    formats = [{"type": "json_schema", "json_schema": strict},  # OpenAI's
               {"type": "json_object", "schema": schema}, {"type": "json_object"}]  # llama.cpp's server's, others'
    return {"temperature": [{"temperature": temperature}, {}],
            "limit": [{"max_completion_tokens": max_tokens}, {"max_tokens": max_tokens}, {}] if max_tokens else [{}],
            "format": [*({"response_format": format} for format in formats), {}]}


def request_body(model, prompt, choices):
    """The arguments of a chat completion."""
    body = {"model": model, "messages": [{"role": "user", "content": prompt}]}
    for arguments, *_ in choices.values():
        body |= arguments
    return body


class LanguageModel:
    """A model of a server, for several threads. Once the Event `stopped` is set, pauses end and nothing is asked."""

    def __init__(self, model, choices, api_key, base_url, timeout):
        import openai

        self.model = model
        self.tokens_asked = self.tokens_answered = 0
        self.stopped = threading.Event()
        self._choices = choices  # replaced, never changed
        self._key = api_key
        self._client = openai.OpenAI(api_key=api_key, base_url=base_url, max_retries=0, timeout=timeout)
        self._guard = threading.Lock()
        self._has_answered = self._has_cut = False

    @property
    def temperature(self):
        """The temperature that the server is asked with, None once it has rejected it."""
        return self._choices["temperature"][0].get("temperature")

    def ask(self, prompt):
        """The text of the model's answer.

        Rate limits, lost connections and server errors are tried again, after the pause that the server asks for or
        growing ones; not by the client, which retries used-up quotas as well, and whose pauses cannot be ended.
        Raises NoAnswer if that did not help, StageError if no further question makes sense: a bad key, no server.
        """
        import openai

        tries = 0
        while not self.stopped.is_set():
            choices = self._choices
            try:
                return self._ask_once(prompt, choices)
            except openai.APIError as error:
                tries += 1
                rejected, passing, outcome = self._judged(error)
                if passing and tries < TRIES:
                    first = 4 if isinstance(error, openai.RateLimitError) else 1  # s; limits are counted by the minute
                    self._pause(_retry_after(error, first * 2 ** (tries - 1)) + random.random())  # not all at once
                elif self._leave_out(rejected, choices):
                    tries = 0
                else:
                    raise outcome from None
        raise StageError("stopped")

    def _pause(self, seconds):
        self.stopped.wait(seconds)

    def _ask_once(self, prompt, choices):
        # Raw: what some servers answer is no completion that the client could read.
        raw = self._client.chat.completions.with_raw_response.create(**request_body(self.model, prompt, choices))
        answer = None
        with suppress(ValueError, RecursionError):
            answer = json.loads(raw.content)  # less strict than files.parse_json: it is paid for
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

    def _judged(self, error):
        """(part of the request that the server rejects or None, whether another try may help, what to raise if not).

        The last is NoAnswer or StageError, without the server's words, which may hold the key.
        """
        status = getattr(error, "status_code", None)
        if status is None:
            cause = type(error.__cause__ or error).__name__
            if cause in ("ConnectError", "ConnectTimeout"):
                return None, True, StageError("no connection to the server, check --base_url and that it runs")
            return None, True, NoAnswer(f"no whole answer ({cause}); a slow model needs a longer --timeout")
        codes = (QUESTION_CODES | QUOTA_CODES).intersection(map(str, (error.code, error.type)))
        details, rejected, named = ", ".join([f"status {status}", *codes]), None, None
        if status in (400, 422, 500) and not codes:  # llama-cpp-python's server answers schemas it cannot read with 500
            named = PARTS.search(f"{error.param} {error}")
            # Many servers reject a response format without a word.
            rejected = named.lastgroup if named else None if self._has_answered else "format"
        passing = status in (408, 409, 425, 429) or status >= 500
        advice = ADVICE.get(status, "the server refuses the request, check --model and --base_url")
        if codes & QUOTA_CODES:
            passing, advice = False, ADVICE[402]
        elif codes or (status in (400, 413, 422) and self._has_answered):  # too long, or filtered
            return rejected, False, NoAnswer(f"the server does not accept the question ({details})")
        elif (wait := _retry_after(error, 0)) > LONGEST_WAIT:
            passing, advice = False, f"the server asks to wait {wait / 60:.0f} minutes, run the same command again then"
        elif passing and status != 429:
            return rejected, not named, NoAnswer(f"the server fails with {details}")
        return rejected, passing, StageError(f"{advice} ({details}); what was answered is kept")

    def _leave_out(self, part, choices):
        """Say no longer the first choice of a part that the server rejects. Returns whether to ask again."""
        with self._guard:
            if part and choices is self._choices and len(choices[part]) > 1:
                self._choices = {**choices, part: choices[part][1:]}
                log.warning(f"{self.model}: the server does not take this {part}; asking with another or none")
            return choices is not self._choices  # also where another thread has met the same


def _retry_after(error, default):
    """The seconds that the server asks to wait, given as a number or as a date, or else `default`."""
    text = error.response.headers.get("retry-after", "") if hasattr(error, "response") else ""
    with suppress(ValueError):
        return max(0.0, float(text))  # 0 where it is no number
    with suppress(ValueError, OverflowError):
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    return default


def answer_part(answer, *path):
    """What is at a path of keys and positions in a JSON value, None where there is no such place."""
    with suppress(KeyError, IndexError, TypeError):
        for step in path:
            answer = answer[step]
        return answer
    return None


def text_of_answer(answer):
    """The text of a chat completion's JSON, "" if it has none. Raises NoAnswer if the model refused."""
    message = answer_part(answer, "choices", 0, "message")
    if answer_part(message, "refusal"):
        raise NoAnswer("the model refused to answer")
    content = answer_part(message, "content")
    if isinstance(content, list):  # some servers give it in parts
        content = "".join(text for part in content if isinstance(text := answer_part(part, "text"), str))
    return content if isinstance(content, str) else ""
