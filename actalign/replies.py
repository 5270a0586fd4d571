"""What a language model's reply says of each option: found by name, checked, and told what is wrong with it."""

import contextlib
import json
import re
import unicodedata

MIN_SUBACTIONS = 10  # phrases an option
MOST_SUBACTIONS = 60  # phrases an option; a model that gives more repeats itself without end
LONGEST_PHRASE = 400  # characters; SigLIP reads 64 tokens, about 250 characters of English
OPENING = re.compile(r'\{(?=\s*["}])')  # of a JSON object


def parse_reply(text, options, domain, min_subactions=MIN_SUBACTIONS):
    """What a model's reply says of each of `options`.

    Accepts the JSON that the prompts ask for, or one that maps names to lists, alone or among other words, and what is
    whole of one that was cut short. Names are matched without regard to case, spaces, quotes and "in <domain>", but
    exactly where options differ by nothing else; never by position.
    Returns (texts, problems): {option: tuple of phrases} of the good ones and {option: what is wrong} of the others.
    """
    exact = _named_lists(text)
    if not exact:
        return {}, dict.fromkeys(options, "the reply holds no JSON with lists of sub-actions" if text.strip() else
                                 "the reply is empty")
    folded = {_folded(name, domain): phrases for name, phrases in exact.items()}
    texts, problems = {}, {}
    for option in options:
        phrases = exact.get(option, folded.get(_folded(option, domain)))
        try:
            texts[option] = _usable(phrases, min_subactions)
        except ValueError as problem:
            problems[option] = str(problem)
    return texts, problems


def _named_lists(text):
    """{name: list} of whatever in the JSON objects of a text names a list, also in one that was cut short.

    {"action": name, "subactions": list} names it, under whatever two keys, and {name: list} does. Of two with one name
    the last counts: the first was a draft.
    """
    found, at = {}, 0

    def learn(value):
        lists = {name: part for name, part in value.items() if isinstance(part, list)}
        action = value.get("action")
        names = {action} if isinstance(action, str) else {part for part in value.values() if isinstance(part, str)}
        if len(lists) == len(names) == 1:
            lists[names.pop()] = next(iter(lists.values()))
        for name, phrases in lists.items():
            of_objects = any(isinstance(phrase, dict) for phrase in phrases)  # which may have named one before
            found[name] = found.get(name, phrases) if of_objects else phrases
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


def _usable(phrases, least):
    """A list of phrases as a cleaned tuple. Raises ValueError, which says what is wrong, if it cannot be used."""
    if phrases is None:
        raise ValueError("the reply has no list for it")
    if not all(isinstance(phrase, str) for phrase in phrases):
        raise ValueError("its list holds something else than texts")
    phrases = tuple(_clean(phrase) for phrase in phrases)
    bares = {bare(phrase) for phrase in phrases}
    count, repeated = len(phrases), len(phrases) - len(bares)
    for is_so, problem in (
            ("" in bares, "an empty phrase"),
            (repeated, f"{repeated} of {count} phrases are repeated"),
            (count < least, f"{count} phrases, at least {least} are needed"),
            (count > MOST_SUBACTIONS, f"{count} phrases, at most {MOST_SUBACTIONS} make sense"),
            (any(len(phrase) > LONGEST_PHRASE for phrase in phrases),
             f"a phrase of more than {LONGEST_PHRASE} characters")):
        if is_so:
            raise ValueError(problem)
    return phrases


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
