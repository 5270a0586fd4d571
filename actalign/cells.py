"""What the cells of a dataset's row mean: options, an answer, times, phases; `where` names the row in errors."""

import ast
import contextlib
import math
import re
import unicodedata

from actalign.console import InputError
from actalign.files import parse_json

# A list in a CSV cell as Python writes it: strings or numbers with commas between them.
ITEM = r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|-?\d[\d.]*)"""
PYTHON_LIST = re.compile(rf"\[\s*{ITEM}(\s*,\s*{ITEM})*\s*,?\s*\]", re.DOTALL)
NUMBER = re.compile(r"-?[\d.,]+")
CLOCK = re.compile(r"((?P<h>\d+):)?(?P<m>\d+):(?P<s>[0-5]?\d(\.\d*)?)")


def parse_choices(choices, where):
    """K option names of a row: a list, or lines "1. name", or "name | name", or a list that CSV turned into text.

    A number is taken off only where it counts the options, so "360 flip" stays whole.
    Raises InputError if there is no option or an empty one.
    """
    if isinstance(choices, str):
        choices = _list_of_text(choices.strip())
    if (not isinstance(choices, list | tuple) or not choices
            or any(isinstance(choice, list | tuple | dict) for choice in choices)):
        raise InputError(f"{where}: has no options; give `choices` as a list or as lines \"1. name\", or --options")
    labels = tuple(name_of("" if choice is None else str(choice), position)
                   for position, choice in enumerate(choices, start=1))
    if "" in labels:
        raise InputError(f"{where}: option {labels.index('') + 1} is empty; name it or take it out")
    if len(set(map(folded_key, labels))) < len(labels):
        raise InputError(f"{where}: has two options that are the same but for case: {', '.join(labels)}; rename one")
    return labels


def folded_key(key):
    """A name or key as it is compared: without regard to case, white space and how accents are encoded."""
    return unicodedata.normalize("NFC", " ".join(key.split()).casefold())


def name_of(text, position):
    """An option's name without the bullet, or the number that is its position, before it."""
    return re.sub(rf"^\s*([-*\u2022]\s+|{position}[.)](?!\d)\s*)", "", text).strip()


def _list_of_text(text):
    """The list that a text holds as JSON or as Python writes it, else its lines; [] where a list is broken.

    Strings without commas between them, as numpy prints a list, are a broken one: Python would join them.
    """
    with contextlib.suppress(ValueError):
        if text.startswith("["):
            return parse_json(text)
    if not (re.match(r"\[\s*['\"]", text) and text.endswith("]")):
        separator = separator_of(text)
        return [part for part in (text.split(separator) if separator else text.splitlines()) if part.strip()]
    with contextlib.suppress(ValueError, SyntaxError):
        return ast.literal_eval(text) if PYTHON_LIST.fullmatch(text) else []
    return []


def separator_of(text):
    """The | or ; between options that stand in one line; None where they stand in lines of their own, or are a list."""
    if re.match(r"\s*\[\s*['\"]", text) or len(text.strip().splitlines()) > 1:
        return None
    return next((separator for separator in "|;" if separator in text), None)


def parse_answer(answer, labels, where):
    """The 0-based index of a row's answer: a number from 1 to K as in ActionAtlas, or the option's name.

    Raises InputError if it is neither.
    """
    if answer is None:
        return None
    name, number = None, answer
    if isinstance(answer, str):
        name = folded_key(answer)
        with contextlib.suppress(ValueError):
            number = float(answer)
    found = [k for k, label in enumerate(labels)
             if folded_key(label) == name or (k + 1 == number and number is not True)]
    if len(found) != 1:
        problem = "fits two options" if found else "is none of the options"
        raise InputError(f"{where}: answer {answer!r} {problem}; give 1 to {len(labels)}, an option's name, or nothing")
    return found[0]


def parse_phases(value, where):
    """The true phases of a row, or None. Raises InputError unless they are such objects, in order."""
    if value is None:
        return None
    with contextlib.suppress(KeyError, TypeError, ValueError):
        phases = parse_json(value) if isinstance(value, str) else value
        phases = [{"start": float(one["start"]), "end": float(one["end"]), "subactions": [*map(int, one["subactions"])]}
                  for one in phases]
        times = [time for one in phases for time in (one["start"], one["end"])]
        if any(one["subactions"] for one in phases) and times == sorted(times) and abs(times[-1]) < math.inf:
            return phases
    raise InputError(f"{where}: phases are no list of {{\"start\", \"end\": seconds, \"subactions\": [0, ...]}} in "
                     "order; mend them or take the column out")


def parse_seconds(value, name, where):
    clock = CLOCK.fullmatch(value.strip()) if isinstance(value, str) else None
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        if clock:
            value = 3600 * int(clock["h"] or 0) + 60 * int(clock["m"]) + float(clock["s"])
        if 0 <= float(value) < math.inf:
            return float(value)
    raise InputError(f"{where}: {name} {value!r} is no number of seconds, nor MM:SS or HH:MM:SS; mend it or leave it "
                     "empty")
