"""Sub-actions and labels as the sentences that a text encoder reads: templates, and what the encoder cannot tell.

A template is text with {option}, {domain} and {subaction} in it.
"""

import argparse
import string
from collections import defaultdict

from actalign.console import some_of

SUBACTION_TEMPLATE = "{subaction}"
LABEL_TEMPLATE = "a person performing {option} in {domain}"
MULTILINGUAL = "google/siglip2-so400m-patch14-384"  # of the resolution of the default checkpoint

# Kinds of flaws. The first two are of a text, the others of an option.
TOO_LONG = "too long"
UNKNOWN = "mostly unknown to the tokenizer"
ALL_SAME = "all of one option, and the same to the encoder"
SAME_AS_ANOTHER = "the same to the encoder as those of another option"


def template_with(*needed, of):
    """An argparse type: a template with all of the fields `needed`, and no others than those of `of`."""
    def template(text):
        listed = ", ".join(f"{{{name}}}" for name in of)
        try:
            fields = [field for field in string.Formatter().parse(text) if field[1] is not None]
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r}: {error}; write {{{{ and }}}} for braces") from None
        # Anything else than a name, such as {option.upper} or {option!r}, is no field either.
        unknown = [name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
                   for _, name, spec, conversion in fields if name not in of or spec or conversion]
        if unknown or not set(needed) <= {name for _, name, _, _ in fields}:
            problem = f"{{{unknown[0]}}} is no field" if unknown else f"lacks {{{needed[0]}}}"
            raise argparse.ArgumentTypeError(f"{text!r}: {problem}; its fields are {listed}")
        return text

    return template


def sentence_of(template, text, option, domain):
    """The sentence that is encoded for a sub-action of an option."""
    if template == SUBACTION_TEMPLATE:
        return text  # itself: of millions no copies
    return template.format(subaction=text, option=option, domain=domain)


def sentences_of(of_sample, template):
    """K lists of the sentences of a SubActions' texts."""
    return [[sentence_of(template, text, option, of_sample.sample.domain) for text in texts]
            for option, texts in zip(of_sample.sample.options, of_sample.texts, strict=True)]


class Flaws:
    """Finds what the encoder with a checkpoint.Tokenizer cannot tell of options; it looks at every sentence once."""

    def __init__(self, tokenizer, template=SUBACTION_TEMPLATE):
        self._tokenizer, self._template = tokenizer, template
        self._readings = {}

    def of(self, of_sample):
        """K lists of (kind, text) of the options of a SubActions.

        TOO_LONG: a text whose sentence is cut     UNKNOWN: one mostly of characters that the tokenizer does not know
        ALL_SAME: the first text of an option with several, whose sentences all have the same tokens
        SAME_AS_ANOTHER: the name of an earlier option whose sentences have the same tokens
        """
        flaws, earlier = [], {}
        sentences = sentences_of(of_sample, self._template)
        for option, texts, of_option in zip(of_sample.sample.options, of_sample.texts, sentences, strict=True):
            readings, plain = self._read(of_option), self._read(texts)
            tokens = tuple(reading.tokens for reading in readings)
            found = [(TOO_LONG, text) for text, reading in zip(texts, readings, strict=True) if reading.is_cut]
            found += [(UNKNOWN, text) for text, reading in zip(texts, plain, strict=True) if reading.is_unknown]
            if len(tokens) > 1 and len(set(tokens)) == 1:
                found.append((ALL_SAME, texts[0]))
            if tokens and tokens in earlier:
                found.append((SAME_AS_ANOTHER, earlier[tokens]))
            earlier.setdefault(tokens, option)
            flaws.append(found)
        return flaws

    def _read(self, texts):
        new = [text for text in dict.fromkeys(texts) if text not in self._readings]
        self._readings.update(zip(new, self._tokenizer.read(new), strict=True))
        return [self._readings[text] for text in texts]


def warnings_about(subactions, tokenizer, template, model, what="sub-actions"):
    """Lines about the flaws of a list of SubActions, one for each kind that is there.

    model: name of the checkpoint   what: what their texts are
    """
    flaws, found = Flaws(tokenizer, template), defaultdict(dict)  # of each kind, what has it; a text counts once
    for of_sample in subactions:
        for option, of_option in zip(of_sample.sample.options, flaws.of(of_sample), strict=True):
            for kind, text in of_option:
                is_of_text = kind in (TOO_LONG, UNKNOWN)
                found[kind][repr(text) if is_of_text else f"{option!r} of sample {of_sample.sample.id}"] = None
    said = {
        TOO_LONG: f"{what} are longer than the checkpoint reads and are cut, such as",
        UNKNOWN: f"{what} are mostly of characters that the tokenizer of {model} does not know; take a multilingual "
                 f"checkpoint for frames and texts, such as --model {MULTILINGUAL}. Unknown are",
        ALL_SAME: f"options have {what} that are all the same to {model}, so that their order tells nothing:",
        SAME_AS_ANOTHER: f"options are the same to {model} as another option of their sample, and score the same:",
    }
    return [f"{len(found[kind])} {words} {some_of(list(found[kind]))}" for kind, words in said.items() if found[kind]]
