"""What a language model's reply says of each option: found by name, checked, and told what is wrong with it."""

import json
import re
import unicodedata

MIN_SUBACTIONS = 10  # phrases an option
MOST_SUBACTIONS = 60  # phrases an option; a model that gives more repeats itself without end
LONGEST_PHRASE = 400  # characters; SigLIP reads 64 tokens, about 250 characters of English
OPENING = re.compile(r'\{(?=\s*["}])|\[(?=\s*["{[\]])')  # of an object, or of a list that can hold texts
READINGS = 20  # of a whole reply at most, in search of its JSON: brackets without end cost no more


def parse_reply(text, options, domain, min_subactions=MIN_SUBACTIONS):
    """What a model's reply says of each of `options`.

    Accepts the JSON that the prompts ask for, or one that maps names to lists, alone or among other words, and what is
    whole of one that was cut short. Names are matched without regard to case, spaces, quotes and "in <domain>", but
    exactly where options differ by nothing else; never by position.
    Returns (texts, problems): {option: tuple of phrases} of the good ones and {option: what is wrong} of the others.
    """
    if not text.strip():
        return {}, dict.fromkeys(options, "the reply is empty")
    exact, folded = {}, {}
    for value in _json_values(text):
        for name, phrases in _named_lists(value):  # of two with one name the last counts: the first was a draft
            exact[name], folded[_folded(name, domain)] = phrases, phrases
    if not exact:
        return {}, dict.fromkeys(options, "the reply holds no JSON with lists of sub-actions")
    texts, problems = {}, {}
    for option in options:
        phrases = exact.get(option, folded.get(_folded(option, domain)))
        if phrases is None:
            problems[option] = f"the reply has no list for {option!r}"
            continue
        if not all(isinstance(phrase, str) for phrase in phrases):
            problems[option] = f"the list for {option!r} holds something else than texts"
            continue
        phrases = tuple(_clean(phrase) for phrase in phrases)
        problem = _problem_of(phrases, min_subactions)
        if problem is None:
            texts[option] = phrases
        else:
            problems[option] = problem
    return texts, problems


def _problem_of(phrases, least):
    """Why a list of phrases cannot be used, or None."""
    bares = [bare(phrase) for phrase in phrases]
    if not all(bares):
        return "an empty phrase"
    if len(set(bares)) < len(bares):
        return f"{len(bares) - len(set(bares))} of {len(phrases)} phrases are repeated"
    if len(phrases) < least:
        return f"{len(phrases)} phrases, at least {least} are needed"
    if len(phrases) > MOST_SUBACTIONS:
        return f"{len(phrases)} phrases, at most {MOST_SUBACTIONS} make sense"
    if any(len(phrase) > LONGEST_PHRASE for phrase in phrases):
        return f"a phrase of more than {LONGEST_PHRASE} characters"
    return None


def bare(phrase):
    """A phrase without case, punctuation and surplus white space, which a text encoder does not hear."""
    letters = "".join(" " if unicodedata.category(character)[0] in "PZ" else character for character in phrase)
    return " ".join(letters.split()).casefold()


def _clean(phrase):
    """A phrase without its number, HTML tags, control characters and surplus white space."""
    untagged = re.sub(r"</?[a-zA-Z][^<>]*>", " ", phrase)
    visible = "".join(" " if unicodedata.category(character)[0] in "CZ" else character for character in untagged)
    return re.sub(r"^\s*(\d+[.)]|[-*•])\s+", "", " ".join(visible.split()))


def _json_values(text):
    """The JSON objects and lists in a text, one after another. Yields them."""
    decoder, at, budget = json.JSONDecoder(), 0, READINGS * len(text)
    while budget > 0 and (opening := OPENING.search(text, at)):
        start = opening.start()
        try:
            value, at = decoder.raw_decode(text, start)
        except (ValueError, RecursionError) as error:  # making the error reads what is before, to count its lines
            at, read = start + 1, getattr(error, "pos", len(text)) - start + start // 32
        else:
            read = at - start
            yield value
        budget -= read + 1


def _named_lists(value):
    """(name, list) of whatever in a JSON value names a list, in order. Yields them.

    {"action": name, "subactions": list} names it, under whatever two keys, and {name: list} does.
    """
    left = [value]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            lists = [(name, phrases) for name, phrases in value.items() if isinstance(phrases, list)]
            names = [name for name in (value.get("action"), *value.values()) if isinstance(name, str)]
            yield from lists
            if len(lists) == 1 and (len(set(names)) == 1 or ("action" in value and names)):
                yield names[0], lists[0][1]
        if isinstance(value, dict | list):
            inner = value.values() if isinstance(value, dict) else value
            left += reversed([part for part in inner if isinstance(part, dict | list)])


def _folded(name, domain):
    """A name as it is compared."""
    folded = " ".join(re.sub(r"[\"'`*_\u2018\u2019\u201c\u201d]", "", name).split()).casefold()  # quotes and emphasis
    ending = " in " + " ".join(domain.split()).casefold()
    return folded.removesuffix(ending) or folded
