"""Sub-actions that a person wrote, as text or JSON, and how a sample's options find theirs."""

import difflib
import json
import re

from actalign.cells import name_of
from actalign.console import InputError, some_of
from actalign.files import reason_of
from actalign.rows import text_of
from actalign.subactions import folded_key, read_subactions

BULLET = re.compile(r"^([-*\u2022]|\d+[.)])\s+")


class OwnSubactions:
    """A file of options and their phases; see docs/own_videos.md.

    JSON, {option: [phases]} or a generated_subactions.json, or text: an option on a line, its phases indented below it.
    An option is named as it is or as "option in domain", in any case and spacing.
    Raises InputError if the file is none of these, or names an option twice or without phases.
    """

    def __init__(self, path):
        self.path = path
        try:
            text = text_of(path, "Windows-1252")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"--subactions {path}: cannot be read ({reason_of(error)}); give a text file in UTF-8, or "
                             "JSON") from None
        self._by_id, pairs = {}, []  # {(id, folded key): phases}
        if text.lstrip().startswith("["):
            try:
                generated = read_subactions(path)
            except InputError as error:
                raise InputError(f"--subactions {path}: is no generated_subactions.json ({error}); write text, or "
                                 "{option: [phases]} in JSON") from None
            for one in generated:
                of_key = [(key, texts) for key, texts in zip(one.sample.keys, one.texts, strict=True) if texts]
                self._by_id |= {(one.sample.id, folded_key(key)): texts for key, texts in of_key}
                pairs += [pair for pair in of_key if pair not in pairs]
        elif text.lstrip().startswith("{"):
            try:
                pairs = json.loads(text, object_pairs_hook=list)  # names that occur twice included
            except (ValueError, RecursionError) as error:
                raise InputError(f"--subactions {path}: is damaged JSON ({error}); mend it or write text") from None
        else:
            pairs = _pairs_of_text(text, path)
        self.names = [name for name, _ in pairs]  # as they are written
        self.is_free = not self._by_id  # whether a name may stand without its domain
        if not pairs:
            raise InputError(f"--subactions {path}: names no option; write one on a line, its phases indented below it")
        self._by_name = {}
        for name, phases in pairs:
            if not (isinstance(phases, list | tuple) and phases
                    and all(isinstance(one, str) and one.strip() for one in phases)):
                raise InputError(f"--subactions {path}: {name!r} has no phases; write them in order, in text each on "
                                 "an indented line below the name, in JSON as a list")
            phases = tuple(map(str.strip, phases))
            if self._by_name.setdefault(folded_key(name), phases) != phases and not self._by_id:
                raise InputError(f"--subactions {path}: has {name!r} twice; leave one")

    def of(self, sample):
        """{option: phases} of those of a Sample's options that the file tells of."""
        found = {}
        for option, key in zip(sample.options, map(folded_key, sample.keys), strict=True):
            phases = (self._by_id.get((sample.id, key)) or self._by_name.get(key)
                      or self._by_name.get(folded_key(option)))
            if phases:
                found[option] = phases
        return found

    def require_used(self, samples):
        """Raise InputError if a name of the file is no option's while samples have options that it does not tell of."""
        known = {name for sample in samples for option, key in zip(sample.options, sample.keys, strict=True)
                 for name in (folded_key(option), folded_key(key))}
        unused = [name for name in self.names if folded_key(name) not in known]
        lacking = [*dict.fromkeys(option for sample in samples for option in sample.options
                                  if option not in self.of(sample))]
        if unused and lacking:
            [near] = difflib.get_close_matches(folded_key(unused[0]), lacking, 1, 0)
            raise InputError(f"--subactions {self.path}: {unused[0]!r} is none of the options; the nearest without "
                             f"phases is {near!r}: give both the same name (lacking: {some_of(lacking)})")


def _pairs_of_text(text, path):
    pairs = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        if not line[0].isspace():
            pairs.append((name_of(line, len(pairs) + 1).rstrip(":"), []))
        elif pairs:
            pairs[-1][1].append(BULLET.sub("", line.strip()))
        else:
            raise InputError(f"--subactions {path}: line {number} is indented and stands below no option; write the "
                             "option's name on a line before it")
    return pairs
