"""What is worth what on a user's own data: every method on the same samples, and controls without the order."""

import numpy as np

from actalign import alignment, comparison, evaluation
from actalign.tables import table

CONTROLS = ("reversed", "shuffled", "unordered")
SHUFFLE_SEED = 5
SIGNIFICANT = 0.05


def answers_of(methods, matrices):
    """The option that each Method takes: (len(methods),) int. matrices: {similarity: K matrices (T, M)}."""
    return np.array([alignment.align(matrices[method.similarity], method.alignment, False, method.orders)[0].argmax()
                     for method in methods])


def controls_of(id, method, matrices):
    """The option that a Method takes of a clip that runs backwards, and of shuffled sub-actions, and `unordered`."""
    rng = np.random.default_rng([SHUFFLE_SEED, *id.encode()])
    backwards = [matrix[::-1].copy() for matrix in matrices]
    shuffled = [np.ascontiguousarray(rng.permutation(matrix, axis=1)) for matrix in matrices]
    return np.array([alignment.align(backwards, method.alignment, False, method.orders)[0].argmax(),
                     alignment.align(shuffled, method.alignment, False, method.orders)[0].argmax(),
                     alignment.align(matrices, "unordered")[0].argmax()])


def of_methods(methods, samples, taken):
    """A dict for every Method, the best first: its accuracy, the gain over the published one and Holm's corrected p.

    taken (N, len(methods)): what `answers_of` gives of N samples. Where no answers are known it is how often the
    methods take the same option as the published one, and `accuracy` is None.
    """
    published, answers = methods.index(alignment.METHODS["published"]), _answers(samples)
    known = answers >= 0
    hits = taken[known] == answers[known, None]
    p = comparison.holm([comparison.mcnemar(np.count_nonzero(hits[:, i] & ~hits[:, published]),
                                            np.count_nonzero(hits[:, published] & ~hits[:, i]))
                         for i in range(len(methods)) if i != published])
    p.insert(published, None)
    rows = [{"method": method, "accuracy": evaluation.accuracy(hits[:, i]) if known.any() else None,
             "gain": evaluation.gain(hits[:, i], hits[:, published]) if known.any() else None, "p": p[i],
             "same": float(np.mean(taken[:, i] == taken[:, published]))} for i, method in enumerate(methods)]
    return sorted(rows, key=lambda row: -(row["accuracy"].value if known.any() else row["same"]))


def of_order(samples, taken, without):
    """A dict for all samples (its domain is None) and for every domain of several: what is lost without the order.

    taken (N,): the options that a method took; without (N, 3): what `controls_of` gives. Losses are of the samples with
    an answer; where there are none it is how often the controls take the same option.
    """
    answers, domains, rows = _answers(samples), np.array([sample.domain for sample in samples]), []
    for domain in (None, *(sorted(set(domains)) if len(set(domains)) > 1 else ())):
        here = (domains == domain) | (domain is None)
        asked = here & (answers >= 0)
        row = {"domain": domain, "n": int(np.count_nonzero(asked) or np.count_nonzero(here)), "accuracy": None,
               "same": (without[here] == taken[here, None]).mean(axis=0).tolist()}
        if asked.any():
            hits = taken[asked] == answers[asked]
            row |= {"accuracy": evaluation.accuracy(hits),
                    "losses": [evaluation.gain(hits, others == answers[asked]) for others in without[asked].T]}
        rows.append(row)
    return rows


def _answers(samples):
    """(N,) int, -1 where the answer is not known."""
    return np.array([-1 if sample.answer is None else sample.answer for sample in samples])


def method_lines(rows):
    """What the terminal says of `of_methods`."""
    if rows[0]["accuracy"] is None:
        return table([("alignment", "similarity", "contrast", "same option as published"), *(
            (*_words(row["method"]), f"{100 * row['same']:.1f}%") for row in rows)], texts=3)
    return table([("alignment", "similarity", "contrast", "Top-1 [95%]", "gain", "p"), *(
        (*_words(row["method"]), str(row["accuracy"]), f"{100 * row['gain'].value:+.1f}",
         "published" if row["p"] is None else comparison.p_text(row["p"])) for row in rows)], texts=3)


def _words(method):
    return method.alignment, method.similarity, f"{method.orders} orders" if method.orders else ""


def _of(row):
    return "all" if row["domain"] is None else row["domain"]


def order_lines(rows):
    """What the terminal says of `of_order`."""
    if rows[0]["accuracy"] is None:
        return table([("same option if", *CONTROLS, "n"), *(
            (_of(row), *(f"{100 * same:.0f}%" for same in row["same"]), str(row["n"])) for row in rows)])
    return table([("lost if", "Top-1", *CONTROLS, "n"), *(
        (_of(row), f"{100 * row['accuracy'].value:.1f}", *(f"{100 * loss.value:+.0f} [{100 * loss.low:+.0f}, "
         f"{100 * loss.high:+.0f}]" for loss in row["losses"]), str(row["n"])) for row in rows if row["accuracy"])])
