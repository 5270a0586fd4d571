"""A chat model behind the OpenAI protocol: asks, waits where the server wants it, and leaves out what it rejects."""

import re
import threading

from actalign.console import StageError, warn

TRIES = 6  # of one request that meets a rate limit, a lost connection or a server error
TIMEOUT = 120  # s for one answer
LONGEST_PAUSE = 60  # s between two tries, where the server does not ask for another

# What structured output is called, the best first. OpenAI takes the first, llama.cpp's server the second, others the
# third; the last is a plain question.
RESPONSE_FORMATS = ("json_schema", "json_object with schema", "json_object", None)
LIMIT_NAMES = ("max_completion_tokens", "max_tokens", None)  # of the token limit, the newest first

# Servers name the parameter that they reject in `param`, or only in their words.
BLAMES = {
    "temperature": re.compile(r"temperature"),
    "limit": re.compile(r"max_completion_tokens|max_tokens"),
    "format": re.compile(r"response_format|json_schema|json_object|schema|grammar"),
}
REJECTING = (400, 422)  # and any server error, for a format that this server has never answered yet


class NoAnswer(Exception):
    """The model gave no answer to this question; another question may do better."""


class LanguageModel:
    """One model of one server, used from several threads.

    schema      the JSON schema that answers are to follow, where the server knows how
    max_tokens  limit of an answer, None for the server's own
    """

    def __init__(self, model, temperature, api_key, schema, base_url=None, max_tokens=None):
        import openai

        self.model = model
        self.tokens_asked = self.tokens_answered = 0
        self._client = openai.OpenAI(api_key=api_key, base_url=base_url, max_retries=0, timeout=TIMEOUT)
        self._guard = threading.Lock()
        self._request = Request(model, temperature, schema, max_tokens)
        self._proven = None  # the response format that the server has answered

    def close(self):
        """Break off what is still being asked."""
        self._client.close()

    def ask(self, messages):
        """The text of the model's answer to [{"role", "content"}].

        Rate limits, lost connections and server errors are tried again, after the pause that the server asks for or
        growing ones. Raises NoAnswer if that did not help, StageError if no further question makes sense: a bad key,
        an unknown model, a used-up quota.
        """
        import backoff
        import openai

        passing = (openai.RateLimitError, openai.APIConnectionError, openai.InternalServerError)
        ask_once = backoff.on_exception(_pauses, passing, max_tries=TRIES, giveup=_is_final,
                                        jitter=backoff.random_jitter, logger=None)(self._ask_once)
        try:
            return ask_once(messages)
        except openai.APIStatusError as error:
            if error.status_code >= 500:
                raise NoAnswer(f"the server fails with status {error.status_code}") from None
            raise StageError(f"{self.model}: {_advice(error)}; what was answered is kept") from None
        except openai.APIError as error:
            raise NoAnswer(f"no connection to the server ({type(error).__name__})") from None

    def _ask_once(self, messages):
        import openai

        while True:
            with self._guard:
                request = self._request
            try:
                reply = self._client.chat.completions.create(**request.body(messages))
            except openai.APIStatusError as error:
                self._leave_out(request, error)
                continue
            return self._text_of(reply, request)

    def _text_of(self, reply, request):
        with self._guard:
            self._proven = request.response_format
            if reply.usage is not None:
                self.tokens_asked += reply.usage.prompt_tokens or 0
                self.tokens_answered += reply.usage.completion_tokens or 0
        message = reply.choices[0].message if reply.choices else None
        if message is not None and getattr(message, "refusal", None):
            raise NoAnswer("the model refused to answer")
        return (message.content if message is not None else None) or ""

    def _leave_out(self, request, error):
        """Have further requests do without what the server rejects in this one; raises the error if it is not that."""
        with self._guard:
            if request is not self._request:  # another thread has met the same
                return
            changed = request.without(_blamed(error, request, self._proven))
            if changed is None:
                raise error
            self._request, noted = changed
        warn(f"{self.model}: the server does not take {noted}")


class Request:
    """What every request has besides its messages. Not changed; `without` gives another."""

    def __init__(self, model, temperature, schema, max_tokens=None, formats=RESPONSE_FORMATS, limits=LIMIT_NAMES):
        self._model = model
        self._temperature = temperature
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
        if self._temperature is not None:
            body["temperature"] = self._temperature
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
        temperature, formats, limits = self._temperature, self._formats, self._limits
        if part == "temperature" and temperature is not None:
            noted, temperature = f"temperature {temperature}; asking without it", None
        elif part == "limit" and self._max_tokens is not None and limits[0] is not None:
            noted, limits = f"{limits[0]}; asking with {limits[1] or 'no limit'}", limits[1:]
        elif part == "format" and formats[0] is not None:
            noted, formats = f"the response format {formats[0]}; asking for {formats[1] or 'plain text'}", formats[1:]
        else:
            return None
        return Request(self._model, temperature, self._schema, self._max_tokens, formats, limits), noted


def _blamed(error, request, proven):
    """Which part of the request an error is about: "temperature", "limit", "format" or None."""
    rejected = error.status_code in REJECTING
    if rejected:
        for text in (str(getattr(error, "param", None) or ""), str(error)):
            for part, pattern in BLAMES.items():
                if pattern.search(text):
                    return part
    if proven is None and request.response_format is not None and (rejected or error.status_code >= 500):
        return "format"  # llama-cpp-python's server answers a schema that it does not know with status 500
    return None


def _pauses():
    """Seconds between two tries, for `backoff`: what the server asked for, else 1, 2, 4, ..."""
    error, growing = (yield), 1.0
    while True:
        asked = _retry_after(error)
        error = yield (min(growing, LONGEST_PAUSE) if asked is None else asked)
        growing *= 2


def _retry_after(error):
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    try:
        return max(float(headers.get("retry-after", "")), 0.0)
    except ValueError:
        return None


def _is_final(error):
    return getattr(error, "code", None) == "insufficient_quota"


def _advice(error):
    """What to do about an error of the server, without the server's words: those may quote the key."""
    advice = {
        400: "the server does not accept the request, choose another --model",
        401: "the key is not accepted, check OPENAI_API_KEY or --apikey",
        403: "the key may not use this model, choose another --model",
        404: "there is no such model or address, check --model and --base_url",
        429: "the limit or quota is used up, wait or add credit",
    }.get(error.status_code, "the server refuses the request, check --base_url and --model")
    code = getattr(error, "code", None)
    named = f", {code}" if isinstance(code, str) and code.isidentifier() else ""
    return f"{advice} (status {error.status_code}{named})"
