"""A chat model behind the OpenAI protocol: asks, waits where the server wants it, and leaves out what it rejects."""

import ipaddress
import json
import os
import random
import re
import ssl
import threading
import time
import urllib.parse
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from actalign.console import InputError, StageError, log, one_line
from actalign.files import reason_of

OPENAI = "https://api.openai.com/v1"

TRIES = 6  # of one request that meets a rate limit, a lost connection or a server error
LONGEST_WAIT = 600  # s that a server may ask for; rather than sleep longer, the run stops and says so
MOST_NON_ANSWERS = 5  # before the first answer; more say that the address or the model is wrong
MOST_WORDS = 300  # characters of a server's own words behind ours
SHORTEST_KEY = 8  # characters; what a local server takes for a key may be any short word
SPOKEN = ("content", "tool_calls", "function_call", "reasoning_content", "reasoning")  # parts of a message

# Servers' words. Each pattern was read in a server's own messages; a message is tried against them from the top down.
TOO_LONG = re.compile(  # the question, or with the limit of the answer, for the model's context
    r"exceed_context|context[ _-]?(length|size|window|overflow)|max_(seq|model)_len|reduce the length|tokens to keep"
    r"|(prompt|input|request|message)s?( is| are)? too (long|large)|too many (input |prompt )?tokens"
    r"|(length|tokens|token count)\b.{0,60}(exceed|greater than|longer than)|maximum .{0,40}tokens|max_new_tokens"
    r"|max_(completion_|output_)?tokens\b.{0,60}(too large|at most|exceed|less than|<=|range)", re.IGNORECASE)
FILTERED = re.compile("content.?(filter|policy|management)|moderation|flagged|data_inspection_failed", re.IGNORECASE)
KEY = re.compile(r"api.?key|unauthori[sz]ed|authenticat|authorization|credentials", re.IGNORECASE)
PARTS = re.compile("(?P<temperature>temperature)|(?P<limit>max_completion_tokens|max_tokens)|"
                   "(?P<format>response_?format|json_object|schema|grammar)", re.IGNORECASE)
HEADER_VARIABLES = ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_CUSTOM_HEADERS")
PROXY_VARIABLES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")
CERTIFICATE_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE")
QUESTION_CODES = {"context_length_exceeded", "exceed_context_size_error", "content_filter",
                  "content_policy_violation"}
QUOTA_CODES = {"insufficient_quota", "billing_not_active", "billing_hard_limit_reached"}
ANSWER_CODES = {"json_validate_failed", "tool_use_failed", "output_parse_failed"}  # which the server threw away
ADVICE = {
    401: "the key is not accepted, check OPENAI_API_KEY or --apikey",
    402: "the quota is used up, add credit or wait",
    404: "the server knows no such model or address, check --model and --base_url; does --base_url end in /v1?",
    429: "the limit is used up, wait or ask with fewer --workers",
}


class NoAnswer(Exception):
    """The model gave no answer to this question; another question may do better."""


@dataclass(frozen=True)
class Answer:
    """What came for a question: the answer's text, "" if there is none, what is wrong with it, and all that came."""

    text: str
    flaw: str = ""
    raw: str = ""


class _ErrorInstead(Exception):
    """An error that came with status 200, in place of an answer."""

    def __init__(self, body, response):
        super().__init__(body)
        self.body, self.response = body, response


@dataclass(frozen=True)
class _Judgement:
    """What an error means.

    outcome  NoAnswer or StageError to raise, or the Answer to give, if nothing else helps
    rejected  the part of the request that the server does not take
    pause  s before another try, which may help; 0 where it would not
    is_unexplained  it may mean anything
    may_be_format  even that the server does not take the response format, which many reject without a word
    """

    outcome: Exception | Answer
    rejected: str | None = None
    pause: int = 0
    is_unexplained: bool = False
    may_be_format: bool = False


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
        self.model = model
        self.tokens_asked = self.tokens_answered = 0
        self.stopped = threading.Event()
        self._choices = choices  # replaced, never changed
        self._key = api_key
        self._address = urllib.parse.urlsplit(base_url)
        self._client = _client_of(base_url, api_key, timeout)
        self._guard = threading.Lock()
        self._has_answered = False
        self._non_answers = 0
        self._told = set()

    @property
    def temperature(self):
        """The temperature that the server is asked with, None once it has rejected it."""
        return self._choices["temperature"][0].get("temperature")

    def ask(self, prompt):
        """The model's Answer.

        Rate limits, lost connections and server errors are tried again, after the pause that the server asks for or
        growing ones; not by the client, which retries used-up quotas as well, and whose pauses cannot be ended.
        Raises NoAnswer if that did not help, StageError if no further question makes sense: a bad key, no server, or
        one from which nothing came so far that is an answer.
        """
        import openai

        tries = guessed = 0  # guessed: response formats left out for this question, since they may be what is wrong
        while not self.stopped.is_set():
            shared = self._choices
            choices = {**shared, "format": shared["format"][guessed:] or [{}]}
            try:
                answer = self._ask_once(prompt, choices)
            except (openai.APIError, _ErrorInstead) as error:
                tries += 1
                found = self._judged(error, choices)
                if found.pause and tries < TRIES:  # at random, so that not all come back at once
                    self._pause(_retry_after(error, found.pause * 2 ** (tries - 1)) + random.random())
                elif found.may_be_format and not self._has_answered and len(choices["format"]) > 1:
                    tries, guessed = 0, guessed + 1
                elif self._leave_out(found.rejected, shared):
                    tries = 0
                else:
                    if found.is_unexplained:
                        self._count_non_answer(found.outcome)
                    if isinstance(found.outcome, Answer):
                        return found.outcome
                    raise found.outcome from None
            else:
                if answer.text and guessed:  # so the format it was; what is no answer teaches nothing
                    self._leave_out("format", shared, guessed)
                return answer
        raise StageError("stopped")

    def _pause(self, seconds):
        self.stopped.wait(seconds)

    def _ask_once(self, prompt, choices):
        # Raw: what some servers answer is no completion that the client could read.
        raw = self._client.chat.completions.with_raw_response.create(**request_body(self.model, prompt, choices))
        body = _json_of(raw.content, self._key)
        message = answer_part(body, "choices", 0, "message")
        if not any(answer_part(message, part) for part in SPOKEN) and (error := error_in(body)):
            raise _ErrorInstead(error, raw.http_response)
        asked, answered = (answer_part(body, "usage", f"{kind}_tokens") for kind in ("prompt", "completion"))
        with self._guard:
            self.tokens_asked += asked if isinstance(asked, int) else 0
            self.tokens_answered += answered if isinstance(answered, int) else 0
        if isinstance(answered, int):
            self._check_limit(choices["limit"][0], answered)
        if answer_part(body, "choices", 0, "finish_reason") == "length":
            self._tell("an answer was cut at the token limit; a higher --max_tokens may be needed")
        answer = read_answer(body)
        if answer.text:
            self._has_answered = True
        else:
            self._count_non_answer(answer)
        return answer

    def _tell(self, what):
        """Warn once."""
        with self._guard:
            if what not in self._told:
                self._told.add(what)
                log.warning(f"{self.model}: {what}")

    def _check_limit(self, asked_with, tokens):
        """Ask for the limit by another name where the server answered with more tokens than were allowed."""
        for name, limit in asked_with.items():
            if tokens > limit:
                with self._guard:
                    names = self._choices["limit"]
                    if name in names[0] and len(names) > 2:
                        self._choices = {**self._choices, "limit": names[1:]}
                self._tell(f"the server does not keep to {name} ({limit}): an answer had more tokens")

    def _count_non_answer(self, what):
        """Raise StageError if nothing else came so far, often enough."""
        with self._guard:
            self._non_answers += 1
            if self._non_answers >= MOST_NON_ANSWERS and not self._has_answered:
                what = what.flaw if isinstance(what, Answer) else what
                raise StageError(f"{what}; nothing else came, {self._non_answers} times")

    def _judged(self, error, choices):
        """The _Judgement of an error. Our words are followed by the server's, without the key."""
        status = getattr(error, "status_code", 200)
        if not hasattr(error, "response"):
            cause = type(error.__cause__ or error).__name__
            if cause in ("ConnectError", "ConnectTimeout", "ProxyError"):
                return _Judgement(self._no_connection(reason_of(error.__cause__)), pause=1)
            return _Judgement(NoAnswer(f"no whole answer ({cause}); a slow model needs a longer --timeout"), pause=1)
        body = without_key(error.body, self._key)
        codes = {str(answer_part(body, name)) for name in ("code", "type", "status")}
        if status == 200:
            status = next((int(code) for code in codes if re.fullmatch("[45][0-9][0-9]", code)),
                          429 if re.search("rate.?limit", " ".join(codes)) else status)
        said = words_of(body)
        details = ", ".join([f"status {status}", *sorted(codes & (ANSWER_CODES | QUOTA_CODES | QUESTION_CODES))])
        details = f"({details}){': ' * bool(said)}{said[:MOST_WORDS]}"

        def stop(advice):
            return StageError(f"{advice} {details}; what was answered is kept")

        failed = answer_part(body, "failed_generation")
        if failed or codes & ANSWER_CODES:
            flaw = f"the server rejects the model's answer {details}"
            return _Judgement(Answer(failed if isinstance(failed, str) else "", flaw, json.dumps(body)))
        if codes & QUOTA_CODES:
            return _Judgement(stop(ADVICE[402]))
        is_too_long = status == 413 or (status not in (401, 402, 403, 404) and TOO_LONG.search(f"{codes} {said}"))
        if is_too_long and (status != 429 or "too large" in said):
            lower = " with this --max_tokens" if choices["limit"][0] else ""
            return _Judgement(NoAnswer(f"the question is too long for the model{lower} {details}"))
        if status < 500 and FILTERED.search(f"{codes} {said}"):
            return _Judgement(NoAnswer(f"the server does not accept the question {details}"))
        if status in (400, 422) and KEY.search(said):
            return _Judgement(stop(ADVICE[401]))
        named = PARTS.search(f"{answer_part(body, 'param')} {said}") if status in (200, 400, 422, 500) else None
        rejected = named.lastgroup if named else None
        if (wait := _retry_after(error, 0)) > LONGEST_WAIT:
            return _Judgement(stop(f"the server asks to wait {wait / 60:.0f} minutes, run the same command again then"))
        if status == 429:
            return _Judgement(stop(ADVICE[429]), pause=4)  # limits are counted by the minute
        if status in (408, 409, 425) or status >= 500:
            return _Judgement(NoAnswer(f"the server fails {details}"), rejected, 0 if named else 1,
                              may_be_format=status == 500 and not named)
        if status == 200 and not named:
            return _Judgement(Answer("", f"no answer but an error came: {said}", json.dumps(body)), is_unexplained=True)
        if status in (200, 400, 422):
            advice = "" if self._has_answered else ", check --model and --base_url"
            return _Judgement(NoAnswer(f"the server does not accept the question{advice} {details}"), rejected,
                              is_unexplained=not named, may_be_format=not named)
        return _Judgement(stop(ADVICE.get(status, "the server refuses the request, check --model and --base_url")))

    def _no_connection(self, reason):
        """The StageError that says which host could not be reached, and through which proxy."""
        host, proxy = self._address.netloc.rpartition("@")[2], _proxy_for(self._address)
        if proxy:
            advice = f" through the proxy {proxy} ({reason}); check HTTPS_PROXY, HTTP_PROXY and ALL_PROXY"
        elif self._address.geturl() == OPENAI:
            advice = f" ({reason}); check the network, or give --base_url of another server"
        else:
            advice = f" ({reason}), check --base_url and that it runs"
        return StageError(f"no connection to {host}{advice}")

    def _leave_out(self, part, choices, times=1):
        """Say no longer the first choices of a part that the server rejects. Returns whether to ask again."""
        with self._guard:
            if part and choices is self._choices and len(choices[part]) > times:
                self._choices = {**choices, part: choices[part][times:]}
                for _ in range(times):
                    log.warning(f"{self.model}: the server does not take this {part}; asking with another or none")
            return choices is not self._choices  # also where another thread has met the same


def _client_of(address, api_key, timeout):
    """An openai.OpenAI for a server. Raises InputError if a variable of the environment is none that it can use."""
    import openai

    named = {name: os.environ.get(name, "").strip() for name in HEADER_VARIABLES}
    for name, value in named.items():
        if not re.fullmatch("[ -~\r\n]*" if name == "OPENAI_CUSTOM_HEADERS" else "[!-~]*", value):
            raise InputError(f"{name}: holds a character that cannot be sent; copy it again or unset it")
    try:
        client = None  # one that minds the proxies and certificates of the environment
        if _is_loopback(urllib.parse.urlsplit(address).hostname):
            certificates = os.environ.get("SSL_CERT_FILE") if address.startswith("https") else None
            client = openai.DefaultHttpxClient(
                trust_env=False, verify=ssl.create_default_context(cafile=certificates) if certificates else True)
        return openai.OpenAI(api_key=api_key, base_url=address, max_retries=0, timeout=timeout, http_client=client,
                             organization=named["OPENAI_ORG_ID"] or None, project=named["OPENAI_PROJECT_ID"] or None)
    except Exception as error:  # HTTP libraries raise anything on what they cannot use
        if isinstance(error, OSError):
            names = [f"{name}={os.environ[name]}" for name in CERTIFICATE_VARIABLES if os.environ.get(name)]
        else:  # without their values, which may hold passwords
            names = [name for name in (*PROXY_VARIABLES, *map(str.lower, PROXY_VARIABLES)) if os.environ.get(name)]
        advice = "; `pip install socksio` lets SOCKS proxies be used" if isinstance(error, ImportError) else ""
        raise InputError(f"{' or '.join(names) or 'the HTTP client'}: cannot be used ({reason_of(error)}); mend or "
                         f"unset it{advice}") from None


def _is_loopback(host):
    """Whether a host is this machine, for which no proxy is asked."""
    with suppress(ValueError):
        address = ipaddress.ip_address(host)
        return address.is_loopback or address.is_unspecified
    return host == "localhost" or host.endswith(".localhost")


def _proxy_for(address):
    """host:port of the proxy that the environment names for a split URL, None if it names none."""
    proxies = urllib.request.getproxies()
    proxy = proxies.get(address.scheme) or proxies.get("all")
    if not proxy or _is_loopback(address.hostname) or urllib.request.proxy_bypass(address.hostname):
        return None
    return proxy.rpartition("//")[2].rpartition("@")[2]


def _retry_after(error, default):
    """The seconds that the server asks to wait, given as a number or as a date, or else `default`."""
    text = error.response.headers.get("retry-after", "") if hasattr(error, "response") else ""
    with suppress(ValueError):
        return max(0.0, float(text))  # 0 where it is no number
    with suppress(ValueError, OverflowError):
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    return default


def _json_of(content, key):
    """The JSON value of bytes, or their text if they are none, without the key.

    Less strict than files.parse_json: it is paid for.
    """
    with suppress(ValueError, RecursionError):
        return without_key(json.loads(content), key)
    return without_key(content.decode(errors="replace"), key)


def without_key(value, key):
    """A JSON value whose texts do not hold the key: no file and no message does, even if a server says it."""
    if len(key) < SHORTEST_KEY:
        return value
    return json.loads(json.dumps(value).replace(json.dumps(key)[1:-1], ""))


def answer_part(answer, *path):
    """What is at a path of keys and positions in a JSON value, None where there is no such place."""
    with suppress(KeyError, IndexError, TypeError):
        for step in path:
            answer = answer[step]
        return answer
    return None


def error_in(body):
    """The error in the JSON of an answer, None if there is none."""
    body = answer_part(body, 0) if isinstance(body, list) else body
    return answer_part(body, "error") or answer_part(body, "choices", 0, "error")


def words_of(body):
    """What a server's error or page says, as one printable line."""
    body = answer_part(body, 0) if isinstance(body, list) else body
    body = answer_part(body, "error") or body
    texts = [answer_part(body, *path) for path in (["message"], ["detail"], ["msg"], ["metadata", "raw"])]
    texts = [text if isinstance(text, str) else json.dumps(text) for text in texts if text] or [
        body if isinstance(body, str) else json.dumps(body) if body else ""]
    return one_line(re.sub(r"(?s)<(script|style)\b.{0,5000}?</\1>|<[^<>]*>", " ", " ".join(texts)[:5000]))


def read_answer(body):
    """The Answer in the JSON of a chat completion. Raises NoAnswer if the model refused or a filter withheld it."""
    message, reason = answer_part(body, "choices", 0, "message"), answer_part(body, "choices", 0, "finish_reason")
    raw = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)
    if refusal := answer_part(message, "refusal"):
        raise NoAnswer(f"the model refused to answer: {words_of(refusal)[:MOST_WORDS]}")
    if not isinstance(message, dict):
        return Answer("", _what_came(body), raw)
    text = _text_of(message)
    if reason == "content_filter" and not text:
        raise NoAnswer("a filter withheld the answer (content_filter)")
    flaw = {"length": "the answer was cut at the token limit (--max_tokens)",
            "content_filter": "a filter cut the answer (content_filter)"}.get(str(reason), "")
    if not text and not flaw:
        flaw = "the answer is empty" if not any(map(message.get, SPOKEN)) else "the answer holds only thinking"
    return Answer(text, flaw, raw)


def _text_of(message):
    """The text of a message, "" if it has none: its content, or what servers put elsewhere by mistake."""
    content = message.get("content")
    if isinstance(content, list):  # some servers give it in parts, of which some may be thinking
        content = "".join(text for part in content if answer_part(part, "type") in (None, "text", "output_text")
                          and isinstance(text := answer_part(part, "text"), str))
    if isinstance(content, str) and content.strip():
        return content
    calls = message.get("tool_calls") if isinstance(message.get("tool_calls"), list) else []
    called = [answer_part(call, "function", "arguments") for call in calls]
    called.append(answer_part(message, "function_call", "arguments"))
    called = [part if isinstance(part, str) else json.dumps(part) for part in called if part]
    if called:
        return "\n".join(called)
    thought = message.get("reasoning_content") or message.get("reasoning")
    # Thinking is no answer; but if it is JSON from its first character on, it is the answer in the wrong place.
    return thought if isinstance(thought, str) and re.match(r"\s*(```\w*\s*)?\{", thought) else ""


def _what_came(body):
    """What a server's answer is that holds no message."""
    if isinstance(body, dict) and "choices" in body:
        return f"the server's completion has no answer in it: {words_of(body)[:MOST_WORDS]}"
    if not isinstance(body, str):
        what = "other JSON"
    elif re.match(r"\s*(data|event|id|retry)?:", body):
        what = "a stream of events"
    else:
        what = "a web page" if body.lstrip().startswith("<") else "other text"
    return f"no chat completion; does --base_url end in /v1? There came {what}: {words_of(body)[:MOST_WORDS]}"
