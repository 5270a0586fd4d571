"""generated_subactions.json: the ordered sub-actions of every option of every sample, and the file while it grows."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from actalign.artifacts import MissingItems, tell_changes
from actalign.cells import folded_key
from actalign.console import InputError
from actalign.dataset import Sample, require_unique_ids, sample_from_record
from actalign.files import Journal, read_json, write_json

REPAIRED = ("key", "script", "before")  # by which the record of a repair is told from others
STARTED_OVER = {"started_over": True}  # first in the journal of a run that does not go on from the file


@dataclass(frozen=True, slots=True)
class SubActions:
    """What the options of one sample consist of: K tuples of ordered sub-actions, empty where there are none.

    more: further scripts, which tell the same options otherwise; each as `texts`
    """

    sample: Sample
    texts: tuple[tuple[str, ...], ...]
    more: tuple[tuple[tuple[str, ...], ...], ...] = ()

    def script(self, n):
        """The n-th script alone, from 0; where there are fewer, all options lack it."""
        scripts = self.texts, *self.more
        return SubActions(self.sample, scripts[n] if n < len(scripts) else ((),) * len(self.texts))

    @property
    def scripts(self):
        """Every script alone, at least one."""
        return [self.script(n) for n in range(1 + len(self.more))]

    @property
    def lacking(self):
        """The options without sub-actions."""
        return [option for option, texts in zip(self.sample.options, self.texts, strict=True) if not texts]

    @property
    def known(self):
        """{option: sub-actions} of the others."""
        return {option: texts for option, texts in zip(self.sample.options, self.texts, strict=True) if texts}


def read_subactions(path, with_removed=False):
    """The SubActions of every sample of a generated_subactions.json, as a list; those that left the dataset if wanted.

    Raises InputError if the file is no list of samples with options and lists of texts, or ids repeat.
    """
    entries = read_json(path, "list of samples with sub-actions")
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path}: is no list of samples; give an output of generate_subactions.py")
    subactions = [subactions_from_entry(entry, path) for entry in entries]
    require_unique_ids([of_sample.sample for of_sample in subactions], path)
    return [of_sample for of_sample, entry in zip(subactions, entries, strict=True)
            if with_removed or not entry.get("removed")]


def subactions_from_entry(entry, source, sample=None):
    """The SubActions of an entry of the file, for the options of `sample` or its own; `source` is named in errors.

    A reply without JSON, which the published script kept as text, holds none; an option with an empty phrase has none.
    """
    sample, more = sample or sample_from_record(entry, source), entry.get("more_subactions") or []
    if not isinstance(more, list):
        raise InputError(f"{source}: more_subactions of sample {sample.id} are no list of further scripts; mend them")
    texts, *more = [_texts_of(by_key, entry, source, sample) for by_key in (entry.get("subactions"), *more)]
    while more and not any(more[-1]):
        more.pop()
    return SubActions(sample, texts, tuple(more))


def _texts_of(by_key, entry, source, sample):
    """A SubActions' `texts`, of {key: list of texts}."""
    by_key = {} if isinstance(by_key, str) else by_key or {}
    if not isinstance(by_key, dict):
        raise InputError(f"{source}: subactions of sample {sample.id} are no object of option and list; mend them")
    keys, options = sample.keys, [*map(folded_key, sample.options)]
    folded = {folded_key(key): texts for key, texts in by_key.items() if key not in keys}
    before = (f"{option} in {entry.get('domain')}" for option in sample.options)  # the same, unless `sample` has moved
    texts = [by_key.get(key) or folded.get(folded_key(key)) or folded.get(folded_key(earlier)) or []
             for key, earlier in zip(keys, before, strict=True)]
    if not any(texts) and (bare := next((key for key in by_key if folded_key(key) in options), None)):
        key = keys[options.index(folded_key(bare))]
        raise InputError(f"{source}: sample {sample.id} has sub-actions under {bare!r}, where {key!r} is expected; "
                         "rename its keys")
    for key, of_key in zip(keys, texts, strict=True):
        if not (isinstance(of_key, list) and set(map(type, of_key)) <= {str}):
            raise InputError(f"{source}: sub-actions of {key!r} in sample {sample.id} are no list of texts; mend them")
    return tuple(tuple(of_key) if all(map(str.strip, of_key)) else () for of_key in texts)


def options_of(of_sample, start):
    """What an index says of a SubActions: the options that have any, with their rows, of which `start` is the first.

    That is `options`, of the first script, and of others `more_options`, with the number of their script.
    """
    options, more = [], []
    for n, script in enumerate(of_sample.scripts):
        for key, texts in zip(of_sample.sample.keys, script.texts, strict=True):
            if texts:
                (more if n else options).append({"key": key, "start": start, "stop": start + len(texts),
                                                 "texts": list(texts), **({"script": n} if n else {})})
                start += len(texts)
    return {"options": options, **({"more_options": more} if more else {})}


def is_of(item, of_sample):
    """Whether an index's item tells the options of a SubActions."""
    told = {name: item[name] for name in ("options", "more_options") if name in item}
    return told == options_of(of_sample, item["start"])


class GeneratedFile:
    """generated_subactions.json while it grows: answers go to a journal one by one, the file is replaced at the end.

    It begins with the file, and the journal of a run that was killed; with `overwrite` with neither, and the file stays
    until all is done. What was said and could not be used goes to NAME.replies.jsonl. What was paid for stays: entries
    of samples that left the dataset at the end, as "removed", and beside a sample's options those that it had before.
    One run at a time may have it: see `files.lock`.
    scripts: how many each option is to have
    generated_with: function from a Sample to {"model", "temperature", "prompt"} of this run. Raises InputError if the
    file is no such list, or has sub-actions with another of them. Where it does not say, they are taken as they are.
    """

    def __init__(self, path, generated_with, overwrite=False, scripts=1):
        self.path, self.scripts = Path(path).resolve(), scripts
        self._generated_with = generated_with
        self._journal = Journal(self.path.with_name(self.path.name + ".partial"), "take that line out")
        self._replies = Journal(self.path.with_suffix(".replies.jsonl"), "move the file away")
        self.reasons = {}  # of this run: {id: why the sample lacks options}
        self._entries = {}
        self._is_new = overwrite  # and the journal of an earlier run is to go
        journal = [STARTED_OVER] if overwrite else self._journal.read()
        self._starts_over = journal[:1] == [STARTED_OVER]
        there = []
        if self.path.exists() and not self._starts_over:
            there += zip(read_subactions(path, with_removed=True), read_json(path), strict=True)
        self._in_file = [entry for _, entry in there]
        journal = journal[1:] if self._starts_over else journal
        there += [(subactions_from_entry(entry, self._journal.path), entry) for entry in journal]
        self.missing = MissingItems(path, {of_sample.sample.id for of_sample, _ in there if not self._lacks(of_sample)})
        for of_sample, entry in there:
            id, earlier = of_sample.sample.id, entry.get("generated_with")
            self._entries[id] = entry
            if of_sample.known and isinstance(earlier, dict):
                for name, value in generated_with(of_sample.sample).items():
                    if earlier.get(name, value) not in (value, None):
                        raise InputError(f"{path}: sample {id} was generated with another {name}; run with the same "
                                         "settings, choose another --output, or start over with --overwrite")

    def follow(self, samples):
        """Have the entries say what the samples say now; what they have of options that stay is kept."""
        ids, updated = {sample.id for sample in samples}, []
        for sample in samples:
            entry = self._entries.get(sample.id)
            if entry and ("removed" in entry or sample_from_record(entry, self.path).record() != sample.record()):
                entry = self._entry(sample)
                earlier = entry.get("generated_with")
                if isinstance(earlier, dict) and "prompt" in earlier:  # which names the options
                    entry["generated_with"] = {**earlier, "prompt": self._generated_with(sample)["prompt"]}
                self._entries[sample.id] = entry
                updated.append(sample.id)
        gone = [id for id, entry in self._entries.items() if id not in ids and "removed" not in entry]
        tell_changes(self.path, {"gone": gone, "with other options, labels or domains": updated})
        self.missing.follow({sample.id: {} for sample in samples if self._lacks(self.subactions_of(sample))})

    def _lacks(self, of_sample):
        return any(of_sample.script(n).lacking for n in range(self.scripts))

    def _entry(self, sample, known=None, script=0):
        """The entry of a sample, whose n-th `script` says {option: phrases} if `known` is given.

        It has what it had of options that are not its any more.
        """
        entry = {name: value for name, value in self._entries.get(sample.id, {}).items() if name != "removed"}
        before, now, of_sample = f" in {entry.get('domain')}", f" in {sample.domain}", self.subactions_of(sample)
        own = {folded_key(option + domain) for option in sample.options for domain in (before, now)}
        there = [entry.get("subactions"), *(entry.get("more_subactions") or ())]
        there += [None] * (script + 1 - len(there))
        for n, of_script in enumerate(there):
            texts = of_sample.script(n).known if known is None or n != script else known
            by_key = {key: list(texts[option]) for key, option in zip(sample.keys, sample.options, strict=True)
                      if option in texts}
            others = {key.removesuffix(before) + now if key.endswith(before) else key: texts
                      for key, texts in (of_script if isinstance(of_script, dict) else {}).items()
                      if folded_key(key) not in own}
            there[n] = {**by_key, **others}
        first, *more = there
        return {**entry, **sample.record(), "subactions": first, **({"more_subactions": more} if more else {})}

    def subactions_of(self, sample):
        """The SubActions of a sample, empty if it is not there."""
        return subactions_from_entry(self._entries.get(sample.id, sample.record()), self.path, sample)

    def take(self, samples, own):
        """Have the samples' options consist of what an OwnSubactions tells of them; returns how many it changed."""
        changed = 0
        for sample in samples:
            known = self.subactions_of(sample).known
            if (found := own.of(sample)) and {**known, **found} != known:
                entry = self._entry(sample, {**known, **found})
                earlier = {} if found.keys() == set(sample.options) else entry.get("generated_with") or {}
                self._entries[sample.id] = {**entry, "generated_with": {**earlier, "file": str(own.path)}}
                changed += 1
            if found.keys() == set(sample.options) and self.scripts == 1:
                self.missing.drop(sample.id)
        return changed

    def add(self, samples, texts, problems, temperature, script=0):
        """Commit {option: phrases} and {option: why it has none}, of a script, of samples that share their options.

        What a sample has already stays. temperature: that was asked with, None where the server takes none.
        """
        for sample in samples:
            own = self.subactions_of(sample).script(script).known
            known = {**texts, **own}
            if known != own or sample.id not in self._entries:
                entry = self._entry(sample, known, script)
                own_file = {name: of for name, of in (entry.get("generated_with") or {}).items() if name == "file"}
                entry["generated_with"] = {**self._generated_with(sample), "temperature": temperature, **own_file}
                self._commit(sample.id, entry)
            if problems:
                by_problem = defaultdict(list)
                for option, problem in problems.items():
                    by_problem[problem].append(option)
                reason = "; ".join(f"{', '.join(options)}: {problem}" for problem, options in by_problem.items())
                self.reasons[sample.id] = reason
                self.missing.add(sample.id, reason, retry=True)
            elif not self._lacks(self.subactions_of(sample)):
                self.missing.drop(sample.id)

    def _commit(self, id, entry):
        if self._is_new:
            self._journal.replace([STARTED_OVER])
            self._is_new = False
        self._journal.append(entry)
        self._entries[id] = entry

    def repair(self, of_sample, script, record):
        """Commit what a SubActions' script says by now, and the record of what was asked again for."""
        entry = self._entry(of_sample.sample, of_sample.script(script).known, script)
        asked = [one for one in entry.get("repairs", ()) if any(one[name] != record[name] for name in REPAIRED)]
        self._commit(of_sample.sample.id, {**entry, "repairs": [*asked, record]})

    def repairs(self):
        """{(key, script, texts): record} of `repair`, by the texts that were there and by those that were taken.

        Raises InputError if the file has other records.
        """
        found = {}
        for id, entry in self._entries.items():
            try:
                for one in entry.get("repairs", ()):
                    found[one["key"], one["script"], tuple(one["before"])] = one
                    if one["taken"]:
                        found.setdefault((one["key"], one["script"], tuple(one["answer"])), one)
            except (TypeError, KeyError, AttributeError):
                raise InputError(f"{self.path}: sample {id} has repairs that no run wrote; take them out") from None
        return found

    def keep_reply(self, samples, problems, said):
        """Keep what a model said of samples where {option: what was wrong with it}, if it said anything."""
        if problems and said:
            said = said.encode("utf-8", "replace").decode()  # half a character cannot be written
            self._replies.append({"ids": [sample.id for sample in samples], "problems": problems, "reply": said})

    @property
    def where_replies_are(self):
        """The end of a message: where to see what was said, if anything of it could not be used."""
        return f", {self._replies.path} holds what was said" if self._replies.path.exists() else ""

    def finish(self, order, is_done=True):
        """Replace the file by all entries: samples in `order` (ids) first, then those that were removed.

        A file that is started over is replaced only if that is done and there is anything.
        """
        self._journal.close()
        self._replies.close()
        self.missing.save()
        if self._starts_over and not (is_done and any(entry.get("subactions") for entry in self._entries.values())):
            return
        ordered = {id: self._entries[id] for id in order if id in self._entries}
        gone = [{**entry, "removed": True} for id, entry in self._entries.items() if id not in ordered]
        if (entries := [*ordered.values(), *gone]) != self._in_file:
            write_json(self.path, entries, indent=True)
        self._journal.remove()
