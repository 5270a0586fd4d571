"""What a language model's reply says of each option: found by name, checked, and told what is wrong with it."""

import contextlib
import json
import re
import unicodedata

MIN_SUBACTIONS = 10  # phrases an option
LONGEST_PHRASE = 400  # characters; SigLIP reads 64 tokens, about 250 characters of English
OPENING = re.compile(r'\{(?=\s*["}])')  # of a JSON object
# What models think aloud, in their own tags: <think>, [THINK], and the channels of gpt-oss and Gemma.
_TAGS = "(?:seed:)?(?:think|thinking|thoughts?|reasoning|reflection|analysis|scratchpad)"
THINKING = re.compile(rf"<{_TAGS}>|\[THINK\]|\u25c1think\u25b7|<\|?channel\|?>\s*(?:analysis|thought|commentary)\b|"
                      r"<\|begin_of_thought\|>", re.IGNORECASE)
END_OF_THINKING = re.compile(rf"</{_TAGS}>|\[/THINK\]|\u25c1/think\u25b7|<\|channel\|>\s*final\s*(?:<\|message\|>)?|"
                             r"<channel\|>|<\|end_of_thought\|>", re.IGNORECASE)


def parse_reply(text, options, domain, min_subactions=MIN_SUBACTIONS):
    """What a model's reply says of each of `options`.

    Accepts the JSON that the prompts ask for, or one that maps names to lists, alone or among other words, and what is
    whole of one that was cut short. Names are matched without regard to case, spaces, quotes and "in <domain>", but
    exactly where options differ by nothing else; never by position. What was only thought is no answer.
    Returns (texts, problems): {option: tuple of phrases} of the good ones and {option: what is wrong} of the others.
    """
    answer = _without_thinking(text)
    exact = _named_lists(answer)
    if not exact:
        what = "only thinking and no answer" if text.strip() and not answer.strip() else "no JSON with lists of phrases"
        return {}, dict.fromkeys(options, f"the reply holds {what}")
    folded = {_folded(name, domain): phrases for name, phrases in exact.items()}
    texts, problems = {}, {}
    for option in options:
        phrases = tuple(map(_clean, exact.get(option, folded.get(_folded(option, domain), []))))
        if problem := problem_of(phrases, min_subactions):
            problems[option] = problem
        else:
            texts[option] = phrases
    return texts, problems


def _without_thinking(text):
    """A reply without all up to the last end of its thinking, and from where it begins to think without end."""
    *_, answer = END_OF_THINKING.split(text)
    return THINKING.split(answer, maxsplit=1)[0]


def _named_lists(text):
    """{name: list of texts} of whatever in the JSON objects of a text names one, also in one that was cut short.

    {name: list} names it, and {"action": name, "subactions": list} does, under whatever two keys. Of two with one name
    the last counts: the first was a draft.
    """
    found, at = {}, 0

    def learn(value):
        names = [part for part in (value.get("action"), *value.values()) if isinstance(part, str)]
        for key, part in value.items():
            if isinstance(part, list) and all(isinstance(phrase, str) for phrase in part):
                found.update(dict.fromkeys([key, *names[:1]], part))
        return value

    # The hook meets each object when it ends, so that nothing is to be read again where one around it does not.
    decoder = json.JSONDecoder(object_hook=learn, parse_int=float)
    with contextlib.suppress(RecursionError):  # no answer nests so deep
        while opening := OPENING.search(text, at):
            text = text[opening.start():]  # making an error counts the lines before it
            try:
                _, at = decoder.raw_decode(text)
            except json.JSONDecodeError as error:
                at = max(error.pos, 1)
    return found


def problem_of(phrases, least):
    """What is wrong with cleaned phrases, None if they can be used."""
    bares = {bare(phrase) for phrase in phrases}
    count, repeated = len(phrases), len(phrases) - len(bares)
    problems = {
        "an empty phrase": "" in bares,
        f"{repeated} of {count} phrases are repeated": repeated,
        f"{count} phrases, at least {least} are needed": count < least,
        f"a phrase of more than {LONGEST_PHRASE} characters": any(len(phrase) > LONGEST_PHRASE for phrase in phrases),
    }
    return next((problem for problem, is_so in problems.items() if is_so), None)


def bare(phrase):
    """A phrase without case, punctuation and surplus white space, which a text encoder does not hear."""
    return _without("PZ", phrase).casefold()


def _clean(phrase):
    """A phrase without its number, HTML tags, control characters and surplus white space."""
    visible = _without("CZ", re.sub(r"</?[a-zA-Z][^<>]*>", " ", phrase))
    return re.sub(r"^(\d+[.)]|[-*•])\s+", "", visible)


def _without(categories, text):
    """A text with a space for the characters of some Unicode categories, and no surplus of spaces."""
    return " ".join("".join(" " if unicodedata.category(c)[0] in categories else c for c in text).split())


def _folded(name, domain):
    """A name as it is compared."""
    folded = " ".join(re.sub(r"[\"'`*_\u2018\u2019\u201c\u201d]", "", name).split()).casefold()  # quotes and emphasis
    ending = " in " + " ".join(domain.split()).casefold()
    return folded.removesuffix(ending) or folded
