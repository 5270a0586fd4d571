"""Sub-actions in which a check found something: what to ask again for, and which answers are better by that check."""

from collections import defaultdict
from dataclasses import replace

from actalign.quality import OTHER_ORDER


class Repairs:
    """What a quality.Check finds in a GeneratedFile, as questions, and what became of their answers.

    Samples in which an option has the same texts are repaired together. What was asked for once, with the same texts
    before or as its answer, is not asked for again.
    check_of: function from a list of SubActions to (quality.Check, what it looks with in words)    model: that is asked
    """

    def __init__(self, samples, generated, check_of, model):
        self._generated, self._model = generated, model
        self._subactions = {sample.id: generated.subactions_of(sample) for sample in samples}
        self._holders = defaultdict(list)  # ids by (key, script, texts)
        records = generated.repairs()
        for id in self._subactions:
            for what in self._scripts(id):
                self._holders[what].append(id)
                record = records.get(what)
                if record and record["taken"] and tuple(record["before"]) == what[-1]:  # an interrupted run's
                    self._commit([id], what, record)
        self._check, self.how = check_of([*self._subactions.values()])
        self.found = self._problems(self._check.findings([*self._subactions.values()]))
        self.before = self.found.keys() & records.keys()  # asked for in an earlier run
        self.taken, self.left = set(), set()

    def _scripts(self, id):
        """[(key, script, texts)] of a sample's options, those that have any."""
        one = self._subactions[id]
        return [(key, n, texts) for n, script in enumerate(one.scripts)
                for key, texts in zip(one.sample.keys, script.texts, strict=True) if texts]

    def _problems(self, findings):
        """{(key, script, texts): [what a model is told]}."""
        found = defaultdict(dict)
        for one in findings:
            for id in one.ids if one.kind != OTHER_ORDER else ():
                texts = {key: texts for key, n, texts in self._scripts(id) if n == one.script}
                if one.key in texts and not one.other:
                    found[one.key, one.script, texts[one.key]][one.problem] = True
                elif one.other:
                    for key, other in ((one.key, one.other), (one.other, one.key)):
                        said = f"its phrases cannot be told from those of {other!r}: {'; '.join(texts[other])}"
                        found[key, one.script, texts[key]][said] = True
        return {what: list(told) for what, told in found.items()}

    def questions(self):
        """Yield (Sample, script, {option: what is wrong}), each text once."""
        asked = set(self.before)
        # Of two options that are the same, both are asked about at once where a sample has both.
        for id in sorted(self._subactions, key=lambda of: -sum(what in self.found for what in self._scripts(of))):
            sample, told = self._subactions[id].sample, defaultdict(dict)
            for what in self._scripts(id):
                if what in self.found and what not in asked:
                    asked.add(what)
                    key, n, _ = what
                    told[n][sample.options[sample.keys.index(key)]] = "; ".join(self.found[what])
            yield from ((sample, n, of_script) for n, of_script in told.items())

    def judge(self, sample, option, script, told, answer):
        """Take an answer, a tuple of phrases, if the check finds less then; commit it either way, () as well."""
        key = sample.keys[sample.options.index(option)]
        what = next(what for what in self._scripts(sample.id) if what[:2] == (key, script))
        if what in self.taken:
            return
        ids = self._holders[what]
        old = [self._subactions[id].script(script) for id in ids]
        new = [_replaced(one, key, answer) for one in old]
        taken = bool(answer) and self._count(new, key) < self._count(old, key)
        self._commit(ids, what, {"key": key, "script": script, "problem": told, "before": list(what[-1]),
                                 "answer": list(answer), "taken": taken, "model": self._model})
        self.left.discard(what)
        (self.taken if taken else self.left).add((key, script, answer) if taken else what)

    def _count(self, scripts, key):
        return sum(one.kind != OTHER_ORDER and key in (one.key, one.other) for one in self._check.findings(scripts))

    def _commit(self, ids, what, record):
        key, n, _ = what
        for id in ids:
            one = self._subactions[id]
            if record["taken"]:
                first, *more = [_replaced(script, key, record["answer"]).texts if n == number else script.texts
                                for number, script in enumerate(one.scripts)]
                self._subactions[id] = replace(one, texts=first, more=tuple(more))
            self._generated.repair(self._subactions[id], n, record)
        if record["taken"]:
            self._holders[key, n, tuple(record["answer"])] += self._holders.pop(what, [])


def _replaced(script, key, texts):
    """SubActions of one script whose option of that key has other texts."""
    return replace(script, texts=tuple(tuple(texts) if of == key else own for of, own in
                                       zip(script.sample.keys, script.texts, strict=True)))
