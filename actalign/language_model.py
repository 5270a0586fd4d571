"""A chat model behind the OpenAI protocol: asks, waits where the server wants it, and leaves out what it rejects."""

import functools
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
from concurrent import futures
from contextlib import suppress
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime

from actalign.console import InputError, StageError, log, one_line
from actalign.files import reason_of

OPENAI = "https://api.openai.com/v1"

TRIES = 6  # of one request that meets a rate limit, a lost connection or a server error
LONGEST_WAIT = 600  # s that a server may ask for; rather than sleep longer, the run stops and says so
LONGEST_CONNECT = 30  # s until a server takes a connection; less than an answer may take, so that it is told from that
MOST_BYTES = 1 << 24  # of one answer
MOST_NON_ANSWERS = 5  # before the first answer; more say that the address or the model is wrong
MOST_WORDS = 300  # characters of a server's own words behind ours
SHORTEST_KEY = 8  # characters; what a local server takes for a key may be any short word
SPOKEN = ("content", "tool_calls", "function_call", "reasoning_content", "reasoning")  # parts of a message

# Servers' words. Each pattern was read in a server's own messages; a message is tried against them from the top down.
TOO_LONG = re.compile(  # the question, or with the limit of the answer, for the model's context
    r"exceed_context|context[ _-]?(length|size|window|overflow)|max_(seq|model)_len|prompt length|tokens to keep"
    r"|reduce the length|(prompt|input|request|message)s?( is| are)? too (long|large)|too many (input |prompt )?tokens"
    r"|(length|tokens|token count)\b.{0,60}(exceed|greater than|longer than)|maximum .{0,40}tokens|max_new_tokens"
    r"|max_(completion_|output_)?tokens\b.{0,60}(too large|at most|exceed|less than|<=|range)", re.IGNORECASE)
FILTERED = re.compile("content.?(filter|policy|management|exists risk)|moderation|flagged|safety|prohibited|recitation"
                      "|data_inspection_failed", re.IGNORECASE)
QUOTA = re.compile("credit balance|(any|more|of|insufficient) credits?|insufficient.(balance|quota|funds)|billing"
                   "|budget.{0,10}exceeded|exceeded your current quota", re.IGNORECASE)
KEY = re.compile(r"api.?key|unauthori[sz]ed|authenticat|authorization|credentials", re.IGNORECASE)
PARTS = re.compile(r"(?P<temperature>temperature)|(?P<seed>\bseed\b)|(?P<limit>max_completion_tokens|max_tokens)|"
                   "(?P<format>response_?format|json_object|schema|grammar)", re.IGNORECASE)
HEADER_VARIABLES = {"OPENAI_ORG_ID": "[!-~]*", "OPENAI_PROJECT_ID": "[!-~]*",  # and what they may hold
                    "OPENAI_CUSTOM_HEADERS": r"((?i:(?!content-length|transfer-enc))[\w-]+:[ -~]*\r?(\n|$))*"}
CERTIFICATE_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE")
ANSWER_CODES = {"json_validate_failed", "tool_use_failed", "output_parse_failed"}  # which the server threw away
CUT = "the answer was cut at the token limit (--max_tokens)"
ADVICE = {
    401: "the key is not accepted, check OPENAI_API_KEY or --apikey",
    402: "the quota is used up, add credit or wait",
    407: "the proxy wants a user and a password, write them into HTTPS_PROXY or HTTP_PROXY",
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


@dataclass(frozen=True)
class _Judgement:
    """What to make of what came.

    outcome  Answer to give, or NoAnswer or StageError to raise, if nothing else helps
    rejected  the part of the request that the server does not take
    pause  s before another try, None where that would not help
    is_unexplained  it may mean anything, such as that the server does not take the response format
    """

    outcome: Exception | Answer
    rejected: str | None = None
    pause: float | None = None
    is_unexplained: bool = False


def request_choices(temperature, schema, max_tokens=None, seed=None):
    """What a request may say besides its question: {part: [arguments]}.

    It says the first of each part, and the next where a server rejects that. schema: the JSON schema of the answer.
    """
    strict = {"name": "subactions", "strict": True, "schema": schema}
    formats = [{"type": "json_schema", "json_schema": strict},  # OpenAI's
               {"type": "json_object", "schema": schema}, {"type": "json_object"}]  # llama.cpp's server's, others'
    return {"temperature": [{"temperature": temperature}, {}], "seed": [{"seed": seed}, {}] if seed else [{}],
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
        self._timeout = timeout
        self._client = _client_of(base_url, api_key, timeout)
        self._guard = threading.Lock()
        self._has_answered = False
        self._non_answers = 0
        self._tell = functools.cache(lambda what: log.warning(f"{model}: {what}"))  # once

    @property
    def temperature(self):
        """The temperature that the server is asked with, None once it has rejected it."""
        return self._choices["temperature"][0].get("temperature")

    def ask(self, prompt, seed=None, varied=None):
        """The model's Answer; where it is to be another one, by a seed or, if the server takes none, a varied prompt.

        Rate limits, lost connections and server errors are tried again, after the pause that the server asks for or
        growing ones; not by the client, which retries used-up quotas as well, and whose pauses cannot be ended.
        Raises NoAnswer if that did not help, StageError if no further question makes sense: a bad key, no server, or
        one from which nothing came so far that is an answer.
        """
        tries = guessed = 0  # guessed: response formats left out for this question, since they may be what is wrong
        while not self.stopped.is_set():
            shared = self._choices
            takes_seed = seed and shared["seed"][0]
            choices = {**shared, "format": shared["format"][guessed:] or [{}],
                       "seed": [{"seed": seed} if takes_seed else {}]}
            found = self._found(varied if seed and not takes_seed else prompt, choices, tries)
            tries += 1
            is_answer = isinstance(found.outcome, Answer)
            if found.pause is not None and tries < TRIES:
                self._pause(found.pause + random.random())  # at random, so that not all come back at once
            elif found.is_unexplained and not (is_answer or self._has_answered) and len(choices["format"]) > 1:
                tries, guessed = 0, guessed + 1
            elif not is_answer and self._leave_out(found.rejected, shared):
                tries = 0
            elif is_answer and found.outcome.text:
                self._has_answered = True
                if guessed:  # so the format it was; what is no answer teaches nothing
                    self._leave_out("format", shared, guessed)
                return found.outcome
            else:
                if found.is_unexplained:
                    self._count_non_answer(found.outcome)
                if is_answer:
                    return found.outcome
                raise found.outcome
        raise StageError("stopped")

    def _pause(self, seconds):
        self.stopped.wait(seconds)

    def _found(self, prompt, choices, tries):
        """The _Judgement of what comes for a prompt that was tried so often."""
        import openai

        arrived = futures.Future()

        def create():  # raw: what some servers answer is no completion that the client could read
            try:
                body = request_body(self.model, prompt, choices)
                arrived.set_result(self._client.chat.completions.with_raw_response.create(**body).http_response)
            except Exception as error:  # raised below
                arrived.set_exception(error)

        threading.Thread(target=create, daemon=True).start()  # for the client limits only the time between two bytes
        try:
            response = arrived.result(self._timeout)
        except openai.APIStatusError as error:
            response = error.response
        except (openai.APIConnectionError, futures.TimeoutError, UnicodeError) as error:
            return self._no_response(error.__cause__ or error, 2 ** tries)
        body = _json_of(response.content, self._key)
        choice = answer_part(body, "choices", 0)
        message, error = answer_part(choice, "message"), answer_part(body, "error") or answer_part(choice, "error")
        if response.status_code >= 300 or (error and not any(answer_part(message, part) for part in SPOKEN)):
            return self._judged(response, error or body, choices, tries)
        asked, answered = (tokens if isinstance(tokens := answer_part(body, "usage", f"{kind}_tokens"), int) else 0
                           for kind in ("prompt", "completion"))
        with self._guard:
            self.tokens_asked += asked
            self.tokens_answered += answered
        self._check_limit(choices["limit"][0], answered)
        answer = read_answer(body)
        if answer.flaw == CUT:
            self._tell("an answer was cut at the token limit; a higher --max_tokens may be needed")
        return _Judgement(answer, is_unexplained=not answer.text)

    def _check_limit(self, asked_with, tokens):
        """Ask for the limit by another name where the server answered with more tokens than were allowed."""
        for name, limit in asked_with.items():
            if tokens > limit:
                with self._guard:
                    if asked_with is self._choices["limit"][0] and len(self._choices["limit"]) > 2:
                        self._choices = {**self._choices, "limit": self._choices["limit"][1:]}
                self._tell(f"the server does not keep to {name} ({limit}): an answer had more tokens")

    def _count_non_answer(self, what):
        """Raise StageError if nothing else came so far, often enough."""
        with self._guard:
            self._non_answers += 1
            if self._non_answers >= MOST_NON_ANSWERS and not self._has_answered:
                what = what.flaw if isinstance(what, Answer) else what
                raise StageError(f"{what}; nothing else came, {self._non_answers} times")

    def _no_response(self, cause, pause):
        """The _Judgement where a connection failed or was too slow. It names the proxy through which it went."""
        kind, reason = type(cause).__name__, without_key(reason_of(cause), self._key)
        if kind not in ("ConnectError", "ConnectTimeout", "ProxyError", "UnicodeError"):  # the last: no name of a host
            advice = f" within {self._timeout:g} s; a slow model needs a longer --timeout" if "Timeout" in kind else ""
            return _Judgement(NoAnswer(f"no whole answer ({reason}){advice}"), pause=pause)
        address, proxies, check = self._address, urllib.request.getproxies(), "--base_url, the network, that it runs"
        proxy = proxies.get(address.scheme) or proxies.get("all")
        if proxy and not (_is_loopback(address.hostname) or urllib.request.proxy_bypass(address.hostname)):
            reason = f"through the proxy {proxy.rpartition('//')[2].rpartition('@')[2]} ({reason})"
            check = "HTTPS_PROXY, HTTP_PROXY and ALL_PROXY"
        host = address.netloc.rpartition("@")[2]
        return _Judgement(StageError(f"no connection to {host} {reason}; check {check}"), pause=pause)

    def _judged(self, response, error, choices, tries):
        """The _Judgement of an error. Our words are followed by the server's."""
        status, said, wait = response.status_code, words_of(error), _retry_after(response.headers)
        codes = {str(answer_part(error, name)) for name in ("code", "type", "status")}
        if status == 200:
            status = next((int(code) for code in codes if re.fullmatch("[45][0-9][0-9]", code)),
                          429 if re.search("rate.?limit", " ".join(codes)) else status)
        details = ", ".join([f"status {status}", *sorted(filter(re.compile("(?!.*error).*_").match, codes))])
        details, words = f"({details}){': ' * bool(said)}{said[:MOST_WORDS]}", f"{codes} {said}"

        def stop(advice, pause=None):
            return _Judgement(StageError(f"{advice} {details}; what was answered is kept"), pause=pause)

        failed = answer_part(error, "failed_generation")
        if failed or codes & ANSWER_CODES:
            flaw = f"the server rejects the model's answer {details}"
            return _Judgement(Answer(failed if isinstance(failed, str) else "", flaw, json.dumps(error)))
        if QUOTA.search(words if status in (400, 402, 403, 422) else str(codes)):  # of minutes others speak so as well
            return stop(ADVICE[402])
        is_too_long = status == 413 or (status not in (401, 402, 403, 404) and TOO_LONG.search(words))
        if is_too_long and (status != 429 or "too large" in said):
            lower = " with this --max_tokens" if choices["limit"][0] else ""
            return _Judgement(NoAnswer(f"the question is too long for the model{lower} {details}"))
        if status < 500 and FILTERED.search(words):
            return _Judgement(NoAnswer(f"the server does not accept the question {details}"))
        if status in (400, 422) and KEY.search(said):
            return stop(ADVICE[401])
        if (wait or 0) > LONGEST_WAIT:
            return stop(f"the server asks to wait {wait / 60:.0f} minutes, run the same command again then")
        wait = (4 if status == 429 else 1) * 2 ** tries if wait is None else wait  # limits are counted by the minute
        named = PARTS.search(f"{answer_part(error, 'param')} {said}") if status in (200, 400, 422, 500) else None
        rejected = named.lastgroup if named else None
        if status == 429:
            return stop(ADVICE[429], pause=wait)
        if status in (408, 409, 424, 425, 498) or status >= 500:
            found = _Judgement(NoAnswer(f"the server fails {details}"), rejected, None if named else wait)
        elif status == 200 and not named:
            found = _Judgement(Answer("", f"no answer but an error came: {said}", json.dumps(error)))
        elif status in (200, 400, 422):
            advice = "" if self._has_answered else ", check --model and --base_url"
            found = _Judgement(NoAnswer(f"the server does not accept the question{advice} {details}"), rejected)
        elif place := without_key(response.headers.get("location", ""), self._key):
            return stop(f"the server sends on to {place}, give the address that answers as --base_url")
        else:
            return stop(ADVICE.get(status, "the server refuses the request, check --model and --base_url"))
        return replace(found, is_unexplained=status in (200, 400, 422, 500) and not named)

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
    for name, pattern in HEADER_VARIABLES.items():
        if not re.fullmatch(pattern, named[name], re.ASCII):
            raise InputError(f"{name}: holds what cannot be sent; copy it again or unset it")
    parts, names = urllib.parse.urlsplit(address), []
    is_local = _is_loopback(parts.hostname)  # and needs no proxy
    certificates = os.environ.get("SSL_CERT_FILE") if is_local and parts.scheme == "https" else None
    try:
        verify = ssl.create_default_context(cafile=certificates) if certificates else True
        client = openai.DefaultHttpxClient(trust_env=not is_local, verify=verify, follow_redirects=False,
                                           event_hooks={"response": [_limit]})
        names = ["--base_url"]
        made = openai.OpenAI(
            api_key=api_key, base_url=parts._replace(query="", fragment="").geturl(), max_retries=0,
            timeout=openai.Timeout(timeout, connect=min(timeout / 2, LONGEST_CONNECT)),
            default_query=dict(urllib.parse.parse_qsl(parts.query)), http_client=client)
        made.organization, made.project = (named[name] or None for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID"))
        return made
    except Exception as error:  # HTTP libraries raise anything on what they cannot use
        if isinstance(error, OSError):
            names = [f"{name}={os.environ[name]}" for name in CERTIFICATE_VARIABLES if os.environ.get(name)]
        elif not names:  # without their values, which may hold passwords
            names = [name for name in os.environ if name.lower().endswith("_proxy")]
        advice = "; `pip install socksio` lets SOCKS proxies be used" if isinstance(error, ImportError) else ""
        raise InputError(f"{' or '.join(names) or 'the HTTP client'}: cannot be used ({reason_of(error)}); mend or "
                         f"unset it{advice}") from None


def _limit(response):
    """Have a client's response end with NoAnswer where it is too large."""
    parts = response.iter_bytes

    def iter_bytes(chunk_size=None):
        size = 0
        for part in parts():
            if (size := size + len(part)) > MOST_BYTES:
                raise NoAnswer(f"the server's answer has more than {MOST_BYTES >> 20} MB")
            yield part

    response.iter_bytes = iter_bytes


def _is_loopback(host):
    """Whether a host is this machine, for which no proxy is asked."""
    with suppress(ValueError):
        address = ipaddress.ip_address(host)
        return address.is_loopback or address.is_unspecified
    return host == "localhost" or host.endswith(".localhost")


def _retry_after(headers):
    """The seconds that a server asks to wait, given as a number or as a date, None if it does not."""
    text = headers.get("retry-after", "")
    with suppress(ValueError):
        return max(0.0, float(text))  # 0 where it is no number
    with suppress(ValueError, OverflowError):
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    return None


def _json_of(content, key):
    """The JSON value of bytes, read less strictly than our own since it is paid for, or their text; without the key."""
    with suppress(ValueError, RecursionError):
        body = without_key(json.loads(content), key)
        return body[0] if isinstance(body, list) and len(body) == 1 else body  # Gemini's errors are lists
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


def words_of(body):
    """What a server's error or page says, as one printable line."""
    body = answer_part(body, "error") or body
    texts = [answer_part(body, *path) for path in (["message"], ["detail"], ["msg"], ["metadata", "raw"])]
    texts = filter(None, texts if any(texts) else [body])
    texts = [text if isinstance(text, str) else json.dumps(text) for text in texts]
    return one_line(re.sub(r"(?s)<(script|style)\b.{0,5000}?</\1>|<[^<>]*>", " ", " ".join(texts)[:5000]))


def read_answer(body):
    """The Answer in the JSON of a chat completion, the first choice that says something.

    Raises NoAnswer if the model refused or a filter withheld it.
    """
    choices = answer_part(body, "choices")
    choices = choices if isinstance(choices, list) else []
    choice = next((one for one in choices if _text_of(answer_part(one, "message"))), answer_part(choices, 0))
    message, reason = answer_part(choice, "message"), answer_part(choice, "finish_reason")
    raw = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)
    if refusal := answer_part(message, "refusal"):
        raise NoAnswer(f"the model refused to answer: {words_of(refusal)[:MOST_WORDS]}")
    if not isinstance(message, dict):
        return Answer("", _what_came(body), raw)
    text, reason = _text_of(message), str(reason or "")
    error = answer_part(body, "error") or answer_part(choice, "error")
    if FILTERED.search(reason) and not text:
        raise NoAnswer(f"a filter withheld the answer ({reason})")
    ended = f"the answer ended with {reason} {words_of(error)[:MOST_WORDS]}".rstrip()
    flaws = {CUT: re.search("length|max_tokens", reason),
             ended: error or not re.fullmatch("|stop.*|eos.*|end.*|tool.*|function.*", reason),
             "the answer is empty": not any(map(message.get, SPOKEN)), "the answer holds only thinking": not text}
    return Answer(text, next((flaw for flaw, is_so in flaws.items() if is_so), ""), raw)


def _text_of(message):
    """The text of a message, "" if it has none: its content, or what servers put elsewhere by mistake."""
    for name in ("content", "tool_calls", "function_call"):
        parts, texts = answer_part(message, name), []
        for part in parts if isinstance(parts, list) else [parts]:
            if answer_part(part, "type") in (None, "text", "output_text", "function"):  # else it was thought
                said = (answer_part(part, "function", "arguments") or answer_part(part, "arguments")
                        or answer_part(part, "text") or (part if name == "content" else None))
                texts.append(said if isinstance(said, str) else json.dumps(said) if said else "")
        if (text := "".join(texts)).strip():
            return text
    thought = answer_part(message, "reasoning_content") or answer_part(message, "reasoning")
    # Thinking is no answer; but if it is JSON from its first character on, it is the answer in the wrong place.
    return thought if isinstance(thought, str) and re.match(r"\s*(```\w*\s*)?\{", thought) else ""


def _what_came(body):
    """What a server's answer is that holds no message."""
    if isinstance(body, dict) and "choices" in body:
        return f"the server's completion has no answer in it: {words_of(body)[:MOST_WORDS]}"
    whats = {"nothing": not body, "other JSON": not isinstance(body, str), "a web page": re.match(r"\s*<", str(body)),
             "a stream of events": re.match(r"\s*(data|event|id|retry)?:", str(body)),
             "half an answer or several": re.match(r"\s*\{", str(body))}
    what = next((what for what, is_so in whats.items() if is_so), "other text")
    return f"no chat completion; does --base_url end in /v1? There came {what}: {words_of(body)[:MOST_WORDS]}"
