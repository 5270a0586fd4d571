"""A chat model behind the OpenAI protocol: asks, waits where the server wants it, and leaves out what it rejects."""

import email.utils
import json
import re
import threading
import time

from actalign.console import StageError, log

TRIES = 6  # of one request that meets a rate limit, a lost connection or a server error
TIMEOUT = 120  # s for one answer
LONGEST_PAUSE = 60  # s between two tries, where the server does not ask for another
LONGEST_WAIT = 600  # s that a server may ask for; rather than sleep longer, the run stops and says so

# What structured output is called, the best first. OpenAI takes the first, llama.cpp's server the second, others the
# third; the last is a plain question.
RESPONSE_FORMATS = ("json_schema", "json_object with schema", "json_object", None)
LIMIT_NAMES = ("max_completion_tokens", "max_tokens", None)  # of the token limit, the newest first

# Servers name the parameter that they reject in `param`, or only in their words.
BLAMES = {
    "temperature": re.compile(r"temperature", re.IGNORECASE),
    "limit": re.compile(r"max_completion_tokens|max_tokens", re.IGNORECASE),
    "format": re.compile(r"response_?format|json_schema|json_object|schema|grammar", re.IGNORECASE),
}
REJECTING = (400, 422)
PASSING = (408, 409, 425, 429)  # and all from 500 on: another try may help
OF_THE_QUESTION = (400, 413, 422)  # by a server that has answered others: this question is too long, or filtered
QUESTION_CODES = ("context_length_exceeded", "content_filter", "content_policy_violation")
QUOTA_CODES = ("insufficient_quota", "billing_not_active", "billing_hard_limit_reached")
UNREACHED = ("ConnectError", "ConnectTimeout", "UnsupportedProtocol")  # what httpx calls a server that is not there


class NoAnswer(Exception):
    """The model gave no answer to this question; another question may do better."""


class LanguageModel:
    """One model of one server, used from several threads.

    schema      the JSON schema that answers are to follow, where the server knows how
    max_tokens  limit of an answer, None for the server's own    timeout  seconds to wait for one
    pausing     the threads that wait between two tries
    """

    def __init__(self, model, temperature, api_key, schema, base_url=None, max_tokens=None, timeout=TIMEOUT):
        import openai

        self.model = model
        self.tokens_asked = self.tokens_answered = 0
        self.pausing = set()
        self._key = api_key
        self._timeout = timeout
        self._client = openai.OpenAI(api_key=api_key, base_url=base_url, max_retries=0, timeout=timeout)
        self._guard = threading.Lock()
        self._request = Request(model, temperature, schema, max_tokens)
        self._proven = None  # the response format that the server has answered
        self._has_answered = self._has_cut = self._stopped = False

    @property
    def temperature(self):
        """The temperature that the server is asked with, None once it has rejected it."""
        return self._request.temperature

    def stop(self):
        """Begin no further request: questions and repetitions raise StageError from now on."""
        self._stopped = True

    def close(self):
        """Close the connections; to be called when nothing is being asked."""
        self._client.close()

    def ask(self, messages):
        """The text of the model's answer to [{"role", "content"}].

        Rate limits, lost connections and server errors are tried again, after the pause that the server asks for or
        growing ones. Raises NoAnswer if that did not help, StageError if no further question makes sense: a bad key,
        an unknown model, a used-up quota, no server.
        """
        import backoff
        import openai

        ask_once = backoff.on_exception(
            _pauses, openai.APIError, max_tries=TRIES, giveup=self._is_final, jitter=backoff.random_jitter, logger=None,
            on_backoff=lambda _: self.pausing.add(threading.get_ident()))(self._ask_once)
        while True:
            try:
                return ask_once(messages)
            except openai.APIStatusError as error:
                # Some servers answer every format that they do not know with a bare 500.
                if error.status_code == 500 and self._proven is None and self._leave_out(self._request, "format"):
                    continue
                raise self._explained(error) from None
            except openai.APIError as error:
                if type(error.__cause__).__name__ in UNREACHED:
                    raise StageError("no connection to the server, check --base_url and that it runs; what was "
                                     "answered is kept") from None
                why = (f"no answer within {self._timeout:g} s, see --timeout" if isinstance(
                    error, openai.APITimeoutError) else f"the connection breaks ({type(error).__name__})")
                raise NoAnswer(why) from None

    def _ask_once(self, messages):
        import openai

        while True:
            self.pausing.discard(threading.get_ident())
            if self._stopped:
                raise StageError("stopped")
            with self._guard:
                request = self._request
            try:
                answer = self._client.chat.completions.with_raw_response.create(**request.body(messages))
            except openai.APIStatusError as error:
                if not self._leave_out(request, _blamed(error, request, self._proven)):
                    raise
                continue
            return self._text_of(json_of(answer.content), request)

    def _text_of(self, answer, request):
        cut = answer_part(answer, "choices", 0, "finish_reason") == "length"
        with self._guard:
            self._proven = request.response_format
            self._has_answered = True
            self.tokens_asked += _count(answer_part(answer, "usage", "prompt_tokens"))
            self.tokens_answered += _count(answer_part(answer, "usage", "completion_tokens"))
            first_cut, self._has_cut = cut and not self._has_cut, self._has_cut or cut
        if first_cut:
            log.warning(f"{self.model}: an answer was cut at the token limit; a higher --max_tokens may be needed")
        # No file holds the key, even if a server says it.
        return text_of_answer(answer).replace(self._key, "") if len(self._key) >= 8 else text_of_answer(answer)

    def _leave_out(self, request, part):
        """Have further requests do without a part of this one that the server rejects. Returns whether it had it."""
        with self._guard:
            if request is not self._request:  # another thread has met the same
                return True
            changed = request.without(part)
            if changed is None:
                return False
            self._request, noted = changed
        log.warning(f"{self.model}: the server does not take {noted}")
        return True

    def _is_final(self, error):
        """Whether another try of the same request makes no sense."""
        import openai

        if self._stopped or isinstance(error, openai.APIResponseValidationError):
            return True
        if not isinstance(error, openai.APIStatusError):
            return False
        passing = error.status_code in PASSING or error.status_code >= 500
        return not passing or _is_quota(error) or (_retry_after(error) or 0) > LONGEST_WAIT

    def _explained(self, error):
        """What a status error that is final comes to: NoAnswer or StageError, without the server's own words."""
        status = error.status_code
        named = f"status {status}" + "".join(
            f", {code}" for code in _codes(error) if re.fullmatch(r"[a-z]+(_[a-z]+)*", code) and self._key not in code)
        if status in OF_THE_QUESTION and not _is_quota(error) and (
                self._has_answered or set(_codes(error)) & {*QUESTION_CODES}):
            return NoAnswer(f"the server does not accept the question ({named})")
        wait = _retry_after(error) or 0
        if wait > LONGEST_WAIT and not _is_quota(error):
            return StageError(f"{self.model}: the server asks to wait {wait / 60:.0f} minutes, run the same command "
                              f"again then ({named}); what was answered is kept")
        if status >= 500 or (status in PASSING and status != 429):
            return NoAnswer(f"the server fails with {named}")
        return StageError(f"{self.model}: {_advice(status, _is_quota(error))} ({named}); what was answered is kept")


class Request:
    """What every request has besides its messages. Not changed; `without` gives another."""

    def __init__(self, model, temperature, schema, max_tokens=None, formats=RESPONSE_FORMATS, limits=LIMIT_NAMES):
        self._model = model
        self.temperature = temperature
        self._schema = schema
        self._max_tokens = max_tokens
        self._formats = formats
        self._limits = limits

    @property
    def response_format(self):
        """One of RESPONSE_FORMATS."""
        return self._formats[0]

    def body(self, messages):
        """The arguments of a chat completion."""
        body = {"model": self._model, "messages": messages}
        if self.temperature is not None:
            body["temperature"] = self.temperature
        if self._max_tokens is not None and self._limits[0] is not None:
            body[self._limits[0]] = self._max_tokens
        response_format = {
            "json_schema": {"type": "json_schema",
                            "json_schema": {"name": "subactions", "strict": True, "schema": self._schema}},
            "json_object with schema": {"type": "json_object", "schema": self._schema},
            "json_object": {"type": "json_object"},
        }.get(self.response_format)
        if response_format is not None:
            body["response_format"] = response_format
        return body

    def without(self, part):
        """(Request without the part, what was left out), or None if it has no such part."""
        temperature, formats, limits = self.temperature, self._formats, self._limits
        if part == "temperature" and temperature is not None:
            noted, temperature = f"temperature {temperature}; asking without it", None
        elif part == "limit" and self._max_tokens is not None and limits[0] is not None:
            noted, limits = f"{limits[0]}; asking with {limits[1] or 'no limit'}", limits[1:]
        elif part == "format" and formats[0] is not None:
            noted, formats = f"the response format {formats[0]}; asking for {formats[1] or 'plain text'}", formats[1:]
        else:
            return None
        return Request(self._model, temperature, self._schema, self._max_tokens, formats, limits), noted


# Answers


def json_of(raw):
    """The JSON value of an answer's bytes, None if they hold none."""
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
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
    refusal, content = answer_part(message, "refusal"), answer_part(message, "content")
    if isinstance(refusal, str) and refusal:
        raise NoAnswer("the model refused to answer")
    if isinstance(content, list):  # some servers give it in parts
        content = "".join(text for part in content if isinstance(text := answer_part(part, "text"), str))
    return content if isinstance(content, str) else ""


def _count(tokens):
    return tokens if type(tokens) is int else 0


# Errors


def _blamed(error, request, proven):
    """Which part of the request an error is about: "temperature", "limit", "format" or None."""
    texts = (str(getattr(error, "param", None) or ""), str(error))
    if error.status_code in REJECTING and not set(_codes(error)) & {*QUESTION_CODES, *QUOTA_CODES}:
        for text in texts:
            for part, pattern in BLAMES.items():
                if pattern.search(text):
                    return part
        return "format" if proven is None and request.response_format is not None else None
    # llama-cpp-python's server answers a schema that it does not know with status 500.
    return "format" if error.status_code == 500 and proven is None and BLAMES["format"].search(texts[1]) else None


def _pauses():
    """Seconds between two tries, for `backoff`: what the server asked for, else growing ones."""
    error, growing = (yield), 1.0
    while True:
        asked = _retry_after(error)
        if asked is None:  # limits are counted by the minute
            asked = min(growing * (4 if getattr(error, "status_code", None) == 429 else 1), LONGEST_PAUSE)
        error = yield asked
        growing *= 2


def _retry_after(error):
    """The seconds that the server asks to wait, given as a number or as a date; None if it does not."""
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    text = headers.get("retry-after", "")
    try:
        seconds = float(text)
    except ValueError:
        date = email.utils.parsedate_tz(text)
        try:
            seconds = float("nan") if date is None else email.utils.mktime_tz(date) - time.time()
        except (ValueError, OverflowError):
            return None
    return None if seconds != seconds else max(seconds, 0.0)


def _codes(error):
    """How the server calls an error."""
    return [code for code in (getattr(error, "code", None), getattr(error, "type", None)) if isinstance(code, str)]


def _is_quota(error):
    return error.status_code == 402 or bool(set(_codes(error)) & {*QUOTA_CODES})


def _advice(status, is_quota):
    """What to do about an error that stops the run."""
    if is_quota:
        return "the quota is used up, add credit or wait"
    return {
        400: "the server does not accept the request, choose another --model",
        401: "the key is not accepted, check OPENAI_API_KEY or --apikey",
        403: "the key may not use this model, choose another --model",
        404: "there is no such model or address, check --model and --base_url",
        429: "the limit is used up, wait or ask with fewer --workers",
    }.get(status, "the server refuses the request, check --base_url and --model")
