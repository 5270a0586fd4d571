"""What a language model's reply says of each option: found by name, checked, and told what is wrong with it."""

import contextlib
import json
import re
import unicodedata

import json_repair

from actalign.subactions import folded_key

MIN_SUBACTIONS = 10  # phrases an option
LONGEST_PHRASE = 400  # characters; SigLIP reads 64 tokens, about 250 characters of English
LONGEST_ANSWER = 1 << 18  # characters after what was only thought; of a longer one the end is read
LONGEST_REPAIRED = 8000  # characters of one broken object; json_repair takes seconds for the worst of that length
MOST_REPAIRED = 50  # broken objects of one reply
OPENING = re.compile(r"""\{(?=\s*(?:["'\u201c}]|//|/\*|\#|\w+\s*:))""")  # of a JSON object, as models write them
LOOKS_LIKE_JSON = re.compile(r"""[\[{]\s*["'{]""")
# What tells where an object ends: its braces, and the texts and comments in which braces do not count.
TOKEN = re.compile(r""" "(?:[^"\\]|\\.)*" | '(?:[^'\\\n]|\\.)*' | //[^\n]* | /\*.{0,2000}?\*/ | ["{}\]] """,
                   re.DOTALL | re.VERBOSE)
# What models think aloud, in their own tags: <think>, <seed:think>, <|START_THINKING|>, [THINK], channels, and those of
# gpt-oss where a server has taken out the tags.
_THOUGHT = r"[\w:]{0,30}(?:think|thought|reason|reflect|analysis|scratchpad|monologue)\w*"
THINKING = re.compile(rf"<\|?\s*(?!end){_THOUGHT}(?:\s[^<>]*)?\|?>|\[THINK\]|\u25c1think\u25b7|\A\s*analysis(?=\w)|"
                      r"<(?:\|?channel\|?|unused\d+)>\s*(?:analysis|thought|commentary)\b", re.IGNORECASE)
END_OF_THINKING = re.compile(rf"<\|?\s*(?:/\s*|end){_THOUGHT}\s*\|?>|\[/THINK\]|\u25c1/think\u25b7|assistantfinal|"
                             r"<\|channel\|>\s*final\s*(?:<\|message\|>)?|<channel\|>|<unused\d+>(?!thought)",
                             re.IGNORECASE)
# Keys of an object under which an action's name is, and its phrases.
NAME_KEY = re.compile(r"(?:action|option|class|move|technique|skill)?[ _-]?(?:name|label|title)?", re.IGNORECASE)
LIST_KEY = re.compile(r"(?:sub[ _-]?)?(?:actions?|steps?|phases?|phrases?|stages?|moments?|sequence)", re.IGNORECASE)
# What a model puts before a phrase or a name to count it: "1.", "(2)", "-", "Step 3:", "**Phase one:**".
COUNTED = r"(?:\d+|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)"
NUMBER = re.compile(rf"""\A(?:[*_]*(?:
    [-\u2010-\u2015*\u2022\u2023\u25aa\u25cf\u25e6]\s+
    | (?:step|stage|phase|part|frame|moment|sub-?action|action|option)\s*
      (?:\#?{COUNTED}\s*[.):\uff1a\u2010-\u2015-]|:)[*_]*\s*
    | \#?\(?\d+(?:[.):]|\s+[\u2010-\u2015-])[*_]*\s+
    | \(?\d+[\uff1a\u3001\uff09][*_]*\s* | \(?[a-z]\)\s+
))+""", re.IGNORECASE | re.VERBOSE)
DASHES = re.compile(r"\s*[-\u2010-\u2015\u2212\ufe58\ufe63\uff0d]\s*")
QUOTES = re.compile(r"[\"'`*_#\u2018-\u201f\u00ab\u00bb\u300c-\u300f]")  # and emphasis


def parse_reply(text, options, domain, min_subactions=MIN_SUBACTIONS):
    """What a model's reply says of each of `options`, all those of a sample.

    Accepts the JSON that the prompts ask for, or one that maps names to lists, alone or among other words, as models
    write JSON, and what is whole of one that was cut short. Names are matched as in `match_names`, never by position.
    What was only thought is no answer.
    Returns (texts, problems): {option: tuple of phrases} of the good ones and {option: what is wrong} of the others.
    """
    answer = _without_thinking(text)[-LONGEST_ANSWER:]
    lists, error = _named_lists(answer)
    if not lists and (start := answer.find('{\\"')) >= 0:  # JSON as a text in JSON
        lists, error = _named_lists(answer[start:].replace('\\"', '"'))
    if not lists:
        problems = {"only thinking and no answer": text.strip() and not answer.strip(),
                    f"JSON that is broken or cut short ({error})": error,
                    "JSON without a list of phrases under an action's name": LOOKS_LIKE_JSON.search(answer)}
        problem = next((problem for problem, is_so in problems.items() if is_so), "no JSON")
        return {}, dict.fromkeys(options, f"the reply holds {problem}")
    names = match_names(lists, options, domain)
    texts, problems = {}, {}
    for option in options:
        phrases = tuple(map(_clean, lists[names[option]])) if option in names else ()
        if problem := problem_of(phrases, min_subactions):
            problems[option] = problem
        else:
            texts[option] = phrases
    return texts, problems


def match_names(names, options, domain):
    """{option: the name that means it}, for the options that one of `names` means.

    A name means the option that it is. Else, what remains is compared without regard to case, white space and how
    accents are encoded; then without quotes, kinds of dashes, numbers, a last full stop and "in <domain>"; at last by
    letters and digits alone. In the last two steps a name that could mean several options means none.
    """
    found = {}
    for fold in (str, folded_key, lambda name: _plain(name, domain), lambda name: _letters(_plain(name, domain))):
        folded = {fold(name): name for name in names}
        same = [fold(option) for option in options]
        for option, key in zip(options, same, strict=True):
            meant = {other for other, its_key in zip(options, same, strict=True) if its_key == key}
            is_clear = fold in (str, folded_key) or len(meant) == 1
            if option not in found and key in folded and is_clear:
                found[option] = folded[key]
    return found


def _without_thinking(text):
    """A reply without all up to the last end of its thinking, and from where it begins to think without end.

    What is JSON as a whole is no thinking, whatever its texts say.
    """
    with contextlib.suppress(ValueError, RecursionError):
        json.loads(re.sub(r"\A\s*```\w*\s|```\s*\Z", "", text), strict=False)
        return text
    *_, answer = END_OF_THINKING.split(text)
    return THINKING.split(answer, maxsplit=1)[0]


def _named_lists(text):
    """({name: list of texts} of whatever in the JSON objects of a text names one, the first error in them or None).

    {name: list} names it, and {"action": name, "subactions": list} does, under these keys or where it holds no other
    text or list, and {name: {"subactions": list}}. Of two with one name the last counts: the first was a draft.
    """
    found, at, repairs, first_error = {}, 0, MOST_REPAIRED, None

    def learn(value):
        lists = {key: part for key, part in value.items()
                 if isinstance(part, list) and all(isinstance(phrase, str) for phrase in part)}
        names = {key: part for key, part in value.items() if isinstance(part, str)}
        named, said = ([part for key, part in parts.items() if pattern.fullmatch(key)]
                       for parts, pattern in ((names, NAME_KEY), (lists, LIST_KEY)))
        found.update(lists)
        if len(its_lists := said or [*lists.values()]) == 1 and len(its_names := named[:1] or [*names.values()]) == 1:
            found[its_names[0]] = its_lists[0]
        return said[0] if len(said) == 1 else value

    # The hook meets each object when it ends, so that nothing is to be read again where one around it does not.
    decoder = json.JSONDecoder(object_hook=learn, parse_int=float, strict=False)
    with contextlib.suppress(RecursionError):  # no answer nests so deep
        while opening := OPENING.search(text, at):
            text = text[opening.start():]  # making an error counts the lines before it
            try:
                _, at = decoder.raw_decode(text)
            except json.JSONDecodeError as error:
                at, first_error = max(error.pos, 1), first_error or error
                start, end = _broken_object(text, error.pos) if repairs else (0, 0)
                repairs = max(repairs - 1, 0)
                if end:
                    with contextlib.suppress(ValueError, AssertionError):  # its own ones fail where it is led astray
                        decoder.decode(json.dumps(json_repair.loads(text[start:end], skip_json_loads=True)))
                        at = max(at, end)
    return found, first_error


def _broken_object(text, position):
    """(start, end) of the innermost object around a position of a text; of one that is cut short, to its last list."""
    open_braces = [0]
    for token in TOKEN.finditer(text, 1, position):
        if token[0] == "{":
            open_braces.append(token.start())
        elif token[0] == "}" and len(open_braces) > 1:
            open_braces.pop()
    start, depth, last_list = open_braces[-1], 0, 0
    for token in TOKEN.finditer(text, start, start + LONGEST_REPAIRED):
        depth += {"{": 1, "}": -1}.get(token[0], 0)
        if token[0] == "}" and not depth:
            return start, token.end()
        if token[0] == "]":
            last_list = token.end()
        if token[0] == '"':  # of a text that does not end
            break
    return start, last_list if start + LONGEST_REPAIRED >= len(text) else 0


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
    return NUMBER.sub("", _without("CZ", re.sub(r"</?[a-zA-Z][^<>]*>", " ", phrase)))


def _without(categories, text):
    """A text with a space for the characters of some Unicode categories, and no surplus of spaces."""
    return " ".join("".join(" " if unicodedata.category(c)[0] in categories else c for c in text).split())


def _plain(name, domain):
    """A name without what models write around it."""
    plain, domain = (unicodedata.normalize("NFKC", text) for text in (name, folded_key(domain)))
    plain = folded_key(QUOTES.sub("", NUMBER.sub("", plain.strip()))).rstrip(".,:; ")
    around = rf"^{re.escape(domain)}\W+|\W+(?:in\W+)?{re.escape(domain)}\W*$"
    return DASHES.sub("-", re.sub(around, "", plain) or plain)


def _letters(name):
    """The letters, digits and symbols of a name, which has at least one, without the s of a plural."""
    return "".join(c for c in name if unicodedata.category(c)[0] in "LMNS").removesuffix("s") or name
