"""How fit sub-actions are to be aligned with: what form, words, a text encoder and frames say against them.

Likeness is how alike two texts are to the encoder: 1 the same, 0 as alike as any two texts of the file.
"""

import itertools
import re
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from actalign import cores
from actalign.console import InputError, progress, some_of
from actalign.files import begins_with, read_bytes, write_csv
from actalign.replies import bare, problem_of
from actalign.sentences import ALL_SAME, MULTILINGUAL, SAME_AS_ANOTHER, TOO_LONG, UNKNOWN, Flaws

WORDS = Path(__file__).with_name("words.txt")
CHARACTERS_A_TOKEN = 4  # of English, for estimates
LONGEST_TEXT = 64 * CHARACTERS_A_TOKEN  # SigLIP reads 64 tokens

# Likeness from which texts, and sequences of them, count as the same; deviations from which a text is near everything;
# share of the usual margin that a phase lacks to be never found. Chosen on the example: benchmarks/texts.py.
SAME_TEXTS, SAME_SEQUENCES, NEAR_ALL, NOT_FOUND = 0.85, 0.75, 3.0, 0.8

# Kinds of findings, the worst first. The last one is no flaw, since order tells such options apart.
FORM, SAME, REPEATED, NEVER = "form", "same as another option", "repeated phase", "never found"
NEAR, WORD, OTHER_ORDER = "near everything", "words", "same phases in another order"
KINDS = (FORM, ALL_SAME, SAME_AS_ANOTHER, SAME, REPEATED, NEVER, UNKNOWN, TOO_LONG, NEAR, WORD, OTHER_ORDER)
COLUMNS = ("kind", "figure", "id", "samples", "option", "script", "other", "text", "problem")


class Finding(NamedTuple):
    """What is to be said of an option of one or more samples in which it has the same texts.

    figure  of the kind, the greater the worse, or None        key  "option in domain"        script  from 0
    texts  that it is about        other  key of the option that it cannot be told from, or ""
    """

    kind: str
    figure: float | None
    key: str
    texts: tuple
    problem: str
    other: str = ""
    script: int = 0
    ids: tuple = ()

    def __str__(self):
        script = f", script {self.script + 1}" if self.script else ""
        figure = "" if self.figure is None else f" ({self.figure:.3g})"
        return f"{some_of(self.ids, 1)}, {self.key}{script}: {self.problem}{figure}"


def read_rules(path=WORDS):
    """[(what, pattern)] of a file of rules on words. Raises InputError if a line is none."""
    rules = []
    for number, line in enumerate(read_bytes(path).decode().splitlines(), start=1):
        what, _, pattern = line.partition(": ")
        if line.strip() and not line.startswith("#"):
            try:
                re.compile(pattern.replace("{option}", "x").replace("{others}", "x"))
            except re.error as error:
                raise InputError(f"{path}, line {number}: {error}; mend the expression") from None
            if not pattern.strip():
                raise InputError(f"{path}, line {number}: is no rule; write what it is, ': ' and an expression")
            rules.append((what, pattern))
    return rules


class Check:
    """Finds what is wrong with sub-actions; with an `encoder`, a siglip.Siglip, also what it cannot tell.

    subactions: SubActions of a whole file, against whose texts each is measured
    least: phases that an option needs        tokenizer: a checkpoint.Tokenizer, or None
    video: ArrayArtifact of frames that the same checkpoint embedded, or None
    """

    def __init__(self, subactions, least, tokenizer=None, encoder=None, video=None):
        self._least, self._encoder, self._video, self._rules = least, encoder, video, read_rules()
        self._tokenizer, self._flaws = tokenizer, tokenizer and Flaws(tokenizer)
        self._rows, self._margin = {}, None  # {text: its unit embedding}; the usual margin
        if encoder and (texts := [*dict.fromkeys(text for one in subactions for script in one.scripts
                                                 for of_option in script.texts for text in of_option)]):
            rows, n = self._embedded(texts), len(texts)
            self._sum = rows.sum(axis=0, dtype=np.float64)
            self._mean = (self._sum @ self._sum - n) / max(n * (n - 1), 1)  # cosine of any two of them
            cosines = [rows @ self._sum]
            if video:
                self._frame = sum(_unit(video.embeddings(id)).mean(axis=0) for id in video) / len(video.items)
                cosines.append(rows @ self._frame)
            self._typical = [(one.mean(), max(one.std(), 1e-9)) for one in cosines]

    def _embedded(self, texts):
        """(n, D) unit embeddings of n texts."""
        new = [text for text in dict.fromkeys(texts) if text not in self._rows]
        embeddings = self._encoder.iter_texts(new)
        for text in progress(len(new), "texts", iterable=new):
            self._rows[text] = _unit(next(embeddings))
        return np.array([self._rows[text] for text in texts])

    def _likeness(self, texts, others):
        """(M, N) likeness of texts with others."""
        cosines = self._embedded(texts) @ self._embedded(others).T
        return 1 - (1 - cosines) / max(1 - self._mean, 1e-9)

    def findings(self, subactions):
        """[Finding] of a list of SubActions, the worst first. Those asked for first tell the usual margin of phases."""
        found = {}  # {what: ids}
        for of_sample in subactions:
            for n, script in enumerate(of_sample.scripts):
                for finding in itertools.chain(self._of_options(script), self._of_pairs(script)):
                    found.setdefault(finding._replace(script=n), []).append(of_sample.sample.id)
        if self._encoder and self._video:
            found |= self._never_found(subactions)
        return sorted((finding._replace(ids=tuple(ids)) for finding, ids in found.items()),
                      key=lambda one: (KINDS.index(one.kind), -(one.figure or 0)))

    def _of_options(self, script):
        """What is to be said of each option alone, as Findings without ids."""
        sample = script.sample
        flaws = self._flaws.of(script) if self._flaws else [
            [(TOO_LONG, text) for text in texts if len(text) > LONGEST_TEXT] for texts in script.texts]
        for key, option, texts, of_option in zip(sample.keys, sample.options, script.texts, flaws, strict=True):
            if problem := problem_of(texts, self._least):
                yield Finding(FORM, None, key, (), problem)
            for kind, text in of_option:
                if not self._encoder or kind in (TOO_LONG, UNKNOWN):  # else it is among the pairs, with its figure
                    length = self._tokenizer.read([text])[0].length if self._flaws else len(text) / CHARACTERS_A_TOKEN
                    yield Finding(kind, length if kind == TOO_LONG else None, key, (text,), f"{kind}: {text!r}")
            yield from self._of_words(sample, key, option, texts)
            if self._encoder and texts:
                yield from self._of_likeness(key, texts)

    def _of_words(self, sample, key, option, texts):
        others = [re.escape(other) for other in sample.options if other != option and other not in option]
        for what, pattern in self._rules:
            if others or "{others}" not in pattern:
                rule = re.compile(pattern.replace("{option}", re.escape(option)).replace("{others}", "|".join(others)),
                                  re.IGNORECASE)
                for text in texts:
                    if said := rule.search(text):
                        yield Finding(WORD, None, key, (text,), f"{what}, {said[0]!r}, in {text!r}")

    def _of_likeness(self, key, texts):
        """Phases that are the same to the encoder, and those that are near everything."""
        alike = self._likeness(texts, texts)
        for j, text in enumerate(texts):
            i = int(alike[j, :j].argmax()) if j else 0
            if i < j and alike[j, i] >= SAME_TEXTS and bare(texts[i]) != bare(text):  # else it is of the form
                yield Finding(REPEATED, float(alike[j, i]), key, (texts[i], text),
                              f"phases {i + 1} and {j + 1} are the same to the encoder: {texts[i]!r}, {text!r}")
        means = [self._sum, self._frame] if self._video else [self._sum]
        for text, row in zip(texts, self._embedded(texts), strict=True):
            z = max((row @ mean - typical) / deviation for mean, (typical, deviation) in
                    zip(means, self._typical, strict=True))
            if z >= NEAR_ALL:
                yield Finding(NEAR, float(z), key, (text,), f"a phase is near everything: {text!r}")

    def _of_pairs(self, script):
        """What two options of a sample have in common."""
        sample = script.sample
        options = [one for one in zip(sample.keys, sample.options, script.texts, strict=True) if one[-1]]
        options = sorted(options) if self._encoder else ()
        for (key, _, texts), (other, name, others) in itertools.combinations(options, 2):
            in_order, in_any = sequence_likeness(self._likeness(texts, others))
            if in_order >= SAME_SEQUENCES:
                yield Finding(SAME, in_order, key, (), f"its phases cannot be told from those of {name!r}", other)
            elif in_any >= SAME_SEQUENCES:
                yield Finding(OTHER_ORDER, in_any, key, (), f"has the phases of {name!r} in another order", other)

    def _never_found(self, subactions):
        """{Finding without ids: ids} of texts that no frames are like where their option fits best."""
        found, margins = {}, self.margins(subactions)
        if margins and self._margin is None:
            self._margin = max(np.median(np.concatenate([of_texts for _, of_texts in margins.values()])), 1e-9)
        for (key, n, texts), (ids, of_texts) in margins.items():
            for m in np.flatnonzero(1 - of_texts / self._margin >= NOT_FOUND):
                problem = f"no frames are like phase {m + 1} where its option fits best: {texts[m]!r}"
                found[Finding(NEVER, float(1 - of_texts[m] / self._margin), key, (texts[m],), problem, script=n)] = ids
        return found

    def margins(self, subactions):
        """{(key, script, texts): (ids, (M,) how much more alike phases' frames are than the rest of their clips)}.

        Cosines, of the clips that take the option by the recommended method, or else the one that nearly does.
        """
        from actalign import alignment, phases  # which take long to load

        method, meta, leads = alignment.METHODS["recommended"], self._video.meta, defaultdict(list)
        tasks = [(n, script) for one in subactions if one.sample.id in self._video
                 for n, script in enumerate(one.scripts) if not script.lacking]
        for _, script in tasks:
            self._embedded([text for texts in script.texts for text in texts])

        def align(task):
            _, script = task
            frames = self._video.embeddings(script.sample.id)
            cosines = [alignment.cosines(frames, self._embedded(texts)) for texts in script.texts]
            matrices = [np.ascontiguousarray(alignment.similarity_of(
                one, meta["logit_scale"], meta["logit_bias"], method.similarity)) for one in cosines]
            scores, paths, _ = alignment.align(matrices, method.alignment, True, method.orders)
            return scores, [phases.phases_of(np.ascontiguousarray(one), path).means
                            for one, path in zip(cosines, paths, strict=True)]

        with cores.one_torch_thread(), ThreadPoolExecutor(cores.count()) as pool:
            aligned = progress(len(tasks), "clips", iterable=pool.map(align, tasks))
            for (n, script), (scores, means) in zip(tasks, aligned, strict=True):
                for k, (key, texts) in enumerate(zip(script.sample.keys, script.texts, strict=True)):
                    margin = np.nan_to_num(means[k][:, 0] - means[k][:, 1], nan=-1.0)  # without a frame it is not found
                    lead = scores[k] - max(np.delete(scores, k), default=0.0)
                    leads[key, n, texts].append((script.sample.id, lead, margin))
        return {one: ([id for id, *_ in of_clips], np.mean(
            [margin for _, lead, margin in of_clips if lead >= min(0, max(lead for _, lead, _ in of_clips))], axis=0))
            for one, of_clips in leads.items()}


def sequence_likeness(likeness):
    """(in order, in any order) of two sequences whose texts' likeness is (M, N), at most 1.

    The mean over the texts of one of their likest in the other, of the two means the lesser; in order: of places in
    the other that never go back.
    """
    def one_way(matrix):
        sums = np.zeros(matrix.shape[1])  # [n] of the texts so far, of which the last is matched at n or before
        for row in matrix:
            sums = np.maximum.accumulate(sums + row)
        return sums[-1] / len(matrix), matrix.max(axis=1).mean()

    return tuple(map(float, np.minimum(one_way(likeness), one_way(likeness.T))))


def _unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def lines(findings, subactions, how):
    """What the terminal says: a line a finding, the worst first, and a summary. how: what was looked with."""
    kinds = Counter(one.kind for one in findings)
    flawed = {(one.key, one.script, id) for one in findings if one.kind != OTHER_ORDER for id in one.ids}
    options = sum(len(one.sample.options) for one in subactions)
    counts = ", ".join(f"{kinds[kind]} {kind}" for kind in KINDS if kind in kinds) or "nothing found"
    advice = [f"{kinds[UNKNOWN]} texts are {UNKNOWN}; take a multilingual checkpoint for frames and texts, such "
              f"as {MULTILINGUAL}"] if UNKNOWN in kinds else []
    return [*map(str, findings), *advice, f"{len(subactions)} samples with {options} options; {len(flawed)} options to "
                                           f"look at ({how}): {counts}"]


def require_table(path):
    """Raise InputError if what is at `path` is no table of findings."""
    if Path(path).exists() and not begins_with(path, ",".join(COLUMNS)):
        raise InputError(f"--check_output {path}: is there and is no table of a check; choose another name")


def write_table(path, findings):
    """Write findings as CSV."""
    write_csv(path, COLUMNS, (
        {"kind": one.kind, "figure": "" if one.figure is None else f"{one.figure:.4g}", "id": one.ids[0],
         "samples": len(one.ids), "option": one.key, "script": one.script + 1, "other": one.other,
         "text": " / ".join(one.texts), "problem": one.problem} for one in findings))
