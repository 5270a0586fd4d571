"""Stage 3: ask a language model for the ordered sub-actions of every option of every sample.

Reads the index of processed_dataset.npy, writes generated_subactions.json. To change the prompt, edit
generate_prompt(). What the output holds already is not asked again; labels, options and domains follow the dataset.
Sub-actions of one's own (--subactions) stand in place of an answer.

    python generate_subactions.py --input processed_dataset.npy --output generated_subactions.json --temp 0.2
    python generate_subactions.py --check generated_subactions.json --text_model google/siglip-so400m-patch14-384
"""

import actalign  # isort: skip  # noqa: F401 - before what takes long to load
import hashlib
import itertools
import json
import os
import re
import threading
import urllib.parse
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from actalign import artifacts, console, files, language_model, quality
from actalign.checkpoint import SO400M, find_checkpoint, load_tokenizer, resolve_dtype
from actalign.language_model import NoAnswer, answer_part
from actalign.own_subactions import OwnSubactions
from actalign.repairs import Repairs
from actalign.replies import MIN_SUBACTIONS, parse_reply
from actalign.subactions import GeneratedFile, read_subactions

MODEL = "gpt-5.4-mini"
MOST_SCRIPTS = 100
ATTEMPTS = 3  # questions about one option before its sample is recorded as failed
TOKENS_A_PHRASE = 15  # of English, for estimates
MOST_UNUSABLE = 10  # samples in a row that gained nothing; more say that the prompt or the model is wrong
VARIED = ("This is description {} of these actions, beside an earlier one: look at other moments and details, and take "
          "other words.")  # where a server takes no seed
SAME_AGAIN = "says what an earlier description says; look at other moments and details, and take other words"
BATCH_SIZE = 64  # texts that --check encodes at once


def generate_prompt(options, domain, min_subactions=MIN_SUBACTIONS):
    """The question about some of a sample's options. Edit at will, but keep the JSON that the answer is asked for."""
    listed = "\n".join(f"- {option}" for option in options)
    return f"""\
You know {domain} well enough to coach it. A silent video shows one of these {domain} actions:
{listed}

Describe how each of them unfolds, so that a viewer who sees one frame at a time could tell them apart.
For every action, list at least {min_subactions} sub-actions in the order in which they happen, from the set-up to the
follow-through. Each sub-action is one short phrase (at most 15 words) that says what is to be seen at that moment:
posture, limbs, equipment, direction, and other people where they matter. Name {domain} in the phrase where it would
be unclear otherwise. Do not repeat a phrase, do not number the phrases, and do not use the action's own name in them.
Dwell on the moments in which the listed actions differ.

{ANSWER_FORM}"""


ANSWER_FORM = """\
Answer with JSON and nothing else, one entry for every action, named exactly as above:
{"actions": [{"action": "name of the action", "subactions": ["first phrase", "second phrase"]}]}"""

# The answer's form for servers that can hold a model to it. A list, because strict schemas allow no names as keys.
SCHEMA = {
    "type": "object", "additionalProperties": False, "required": ["actions"],
    "properties": {"actions": {"type": "array", "items": {
        "type": "object", "additionalProperties": False, "required": ["action", "subactions"],
        "properties": {"action": {"type": "string"}, "subactions": {"type": "array", "items": {"type": "string"}}}}}},
}


def make_prompt(settings, sample, options, problems=None):
    """The prompt that the parsed arguments choose, and the {option: problem} of an earlier answer."""
    least = settings.min_subactions
    if settings.prompt == "short":  # the ablation: no context and no advice, only the question
        lines = [f"List at least {least} sub-actions of each of these {sample.domain} actions, in order:",
                 *(f"- {option}" for option in options), "", ANSWER_FORM]
    else:
        other = {} if least == MIN_SUBACTIONS else {"min_subactions": least}
        lines = [generate_prompt(list(options), sample.domain, **other)]
    if problems:
        lines += ["", "An earlier answer could not be used:"]
        lines += [f"- {option}: {problem}" for option, problem in problems.items()]
    return "\n".join(lines)


def generated_with(settings, sample):
    """What is recorded of how a sample's sub-actions come about."""
    prompt = make_prompt(settings, sample, sample.options)
    return {"model": settings.model, "temperature": settings.temp, "prompt": prompt}


@dataclass(eq=False)
class Question:
    """Samples with the same options in the same domain, asked for once; known: {option: phrases}, which grows.

    script: which of several, from 0; others: function that gives {(option, phrases)} of the others
    told: {option: what is wrong with what there is}
    """

    samples: list
    known: dict
    script: int = 0
    others: Callable = set
    told: dict = field(default_factory=dict)

    @property
    def options(self):
        """Those still to be asked; none if other samples have all of them."""
        return [option for option in dict.fromkeys(self.samples[0].options) if option not in self.known]

    def prompt(self, settings, problems=None):
        """The text to ask with, given {option: what was wrong with an earlier answer}."""
        return make_prompt(settings, self.samples[0], self.options, problems or self.told)

    def commit(self, generated, problems, said, temperature):
        """Commit what is known by now, and {option: why it has no phrases} after a reply that said so."""
        generated.add(self.samples, self.known, problems, temperature, self.script)
        generated.keep_reply(self.samples, problems, said)

    def ask(self, answer, settings, attempts):
        """Learn from what `answer`, a function of a prompt, gives until every option is known or it has no answer.

        Asks `attempts` times at most. Yields ({option: why it has no phrases}, what came that could not all be used)
        after each Answer.
        """
        told = {}  # what the model is told of its earlier answer
        while self.options and attempts:
            attempts -= 1
            try:
                prompt = self.prompt(settings, told)
                varied = f"{prompt}\n\n{VARIED.format(self.script + 1)}"
                reply = answer(prompt, self.script, varied) if self.script else answer(prompt)
            except NoAnswer as error:
                yield dict.fromkeys(self.options, str(error)), ""
                return
            first = self.samples[0]
            found, told = parse_reply(reply.text, first.options, first.domain, settings.min_subactions)
            others = self.others()
            again = [option for option in found if (option, found[option]) in others]
            told |= {option: SAME_AGAIN for option in again if found.pop(option)}
            told = {option: problem for option, problem in told.items() if option not in self.known}
            problems = {option: "; ".join(filter(None, [reply.text and problem, reply.flaw]))
                        for option, problem in told.items()}
            told = {option: "; ".join(filter(None, [problem, self.told.get(option)]))
                    for option, problem in told.items()} if reply.text else {}
            self.known.update({**found, **self.known})
            yield problems, (reply.text or reply.raw) if problems else ""


def others_of(generated, samples, script):
    """{(option, phrases)} of the samples' other scripts."""
    return {told for sample in samples for n, one in enumerate(generated.subactions_of(sample).scripts) if n != script
            for told in one.known.items()}


def collect_questions(samples, generated):
    """The Questions that are left, those of the first script first."""
    groups, questions = defaultdict(list), []
    for sample in samples:
        groups[sample.domain, frozenset(sample.options)].append(generated.subactions_of(sample))
    for n, group in itertools.product(range(generated.scripts), groups.values()):
        scripts = [of_sample.script(n) for of_sample in group]
        if lacking := [script.sample for script in scripts if script.lacking]:
            known = {option: texts for script in scripts for option, texts in script.known.items()}
            questions.append(Question(lacking, known, n, partial(others_of, generated, lacking, n)))
    return questions


def ids_of(questions):
    """The ids of the samples of Questions, each once."""
    return list(dict.fromkeys(sample.id for question in questions for sample in question.samples))


def generate_subactions(questions, generated, model, settings):
    """Ask the questions of a LanguageModel, `settings.workers` at a time. Each reply is committed before another asks.

    settings: the parsed arguments. Raises what went wrong first, StageError if asking makes no sense any more, as after
    MOST_UNUSABLE samples in a row that gained nothing; what is in flight then is waited for, since it is paid for. An
    interrupt keeps what has come and waits for nothing.
    """
    left, errors, committing = iter(questions), [], threading.Lock()
    in_a_row = []  # samples whose questions gained nothing

    def work():
        try:
            for question in left:  # of all threads: each question goes to one
                asked = question.options
                for problems, said in question.ask(model.ask, settings, settings.attempts):
                    with committing:
                        question.commit(generated, problems, said, model.temperature)
                bar.update(len(question.samples))
                with committing:
                    in_a_row[:] = [*in_a_row, question.samples[0].id] if question.options == asked else []
                    if len(in_a_row) >= MOST_UNUSABLE:  # asking on would cost as much for as little
                        raise console.StageError(
                            f"what came for {len(in_a_row)} samples in a row could not be used ({in_a_row[-1]}: "
                            f"{generated.reasons[in_a_row[-1]]}){generated.where_replies_are}; change the prompt or "
                            "--model and run again")
        except BaseException as error:  # raised below, when the others have ended
            errors.append(error)
            model.stopped.set()

    # For threads of a pool the interpreter would wait, however long a request hangs.
    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(settings.workers, len(questions)))]
    with console.progress(sum(len(question.samples) for question in questions), "samples") as bar:
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            committing.acquire()  # for good: after an interrupt, nobody writes beside what ends the run
    if errors:
        raise errors[0]


def estimate(questions, settings):
    """What asking would take if the first answers can be used, and one full prompt, as lines."""
    prompts = [question.prompt(settings) for question in questions]
    asked = sum(map(len, prompts)) // quality.CHARACTERS_A_TOKEN
    answered = sum(len(question.options) for question in questions) * settings.min_subactions * TOKENS_A_PHRASE
    return [f"{len(prompts)} requests for {len(ids_of(questions))} samples",
            f"about {asked} tokens asked and {answered} tokens answered", "", *"\n".join(prompts[:1]).splitlines()]


def write_batch(path, questions, settings):
    """Write the questions as a file for OpenAI's Batch API."""
    console.require_folder_of(path)
    if os.path.exists(path):
        raise console.InputError(f"--batch {path}: is there already; remove it or choose another name")
    with files.lock(path), files.replacing(path) as file:
        for question in questions:
            choices = language_model.request_choices(settings.temp, SCHEMA, settings.max_tokens, question.script)
            body = language_model.request_body(settings.model, question.prompt(settings), choices)
            id = batch_id(question.samples[0], settings, question.script)
            file.write(json.dumps({"custom_id": id, "method": "POST", "url": "/v1/chat/completions", "body": body})
                       + "\n")


def batch_id(sample, settings, script=0):
    """The custom_id of a request: the sample's id, and what tells apart other prompts, models, temperatures..."""
    how = json.dumps(generated_with(settings, sample) | ({"script": script} if script else {}), sort_keys=True)
    return f"{sample.id}#{hashlib.blake2b(how.encode(), digest_size=4).hexdigest()}"


def read_batch(path, questions, generated, settings):
    """Take the answers of a Batch result or error file by custom_id. Raises InputError if it answers no question."""
    asked = {batch_id(sample, settings, question.script): question for question in questions
             for sample in question.samples}
    is_used = False
    for line in files.read_json(path, "Batch result file", lines=True):
        if question := asked.get(str(answer_part(line, "custom_id"))):
            is_used = True
            for problems, said in question.ask(partial(batch_answer, line, settings), settings, attempts=1):
                question.commit(generated, problems, said, settings.temp)
    if questions and not is_used:
        raise console.InputError(f"--batch_results {path}: answers none of the questions that are left; give the "
                                 "results of --batch, and the same settings")


def batch_answer(line, settings, *_):
    """The Answer in a line of a Batch result file. Raises NoAnswer if there is none."""
    line = language_model.without_key(line, api_key(settings))
    status, answer = answer_part(line, "response", "status_code"), answer_part(line, "response", "body")
    error = answer_part(answer, "error") or answer_part(line, "error")
    if answer_part(error, "param") == "temperature":
        raise NoAnswer(f"the model does not take temperature {settings.temp}, try --temp 1")
    if status != 200 or error:
        said = language_model.words_of(error or answer)[:language_model.MOST_WORDS]
        raise NoAnswer(f"the batch has no answer (status {status or 'unknown'}): {said}")
    return language_model.read_answer(answer)


def check_of(args, subactions):
    """(quality.Check of a list of SubActions, what it looks with in words), as the parsed arguments ask for."""
    encoder = video = tokenizer = None
    if args.text_model:
        from actalign.siglip import load_siglip

        checkpoint, device = find_checkpoint(args.text_model), console.pick_device(args.device)
        if args.video_embeddings:
            video = artifacts.read_array(args.video_embeddings, "video_embeddings")
            artifacts.require_made_with(video, checkpoint, "--text_model")
        encoder = load_siglip(checkpoint, device, BATCH_SIZE, resolve_dtype("auto", device, checkpoint))
        tokenizer, how = encoder.tokenizer, f"by {args.text_model}" + " and the frames" * bool(video)
    else:
        how = f"lengths estimated without {SO400M}; --text_model looks closer"
        with suppress(console.InputError):
            tokenizer, how = load_tokenizer(SO400M), f"lengths by the tokenizer of {SO400M}; --text_model looks closer"
    return quality.Check(subactions, args.min_subactions, tokenizer, encoder, video), how


@dataclass(eq=False)
class Repair(Question):
    """Asks again for options that a check found something in; `repairs`, a Repairs, takes what is better."""

    repairs: Repairs = None

    def commit(self, generated, problems, said, temperature):
        generated.keep_reply(self.samples, problems, said)
        generated.reasons[self.samples[0].id] = "; ".join(problems.values())
        for option in self.told:
            if option in self.known or (option in problems and said):
                self.repairs.judge(self.samples[0], option, self.script, self.told[option], self.known.get(option, ()))


def repair(samples, generated, args):
    """Ask again for what the check finds, take what is better by it, and tell how many were asked, taken and left."""
    repairs = Repairs(samples, generated, partial(check_of, args), args.model)
    questions = []
    for sample, n, told in repairs.questions():
        script = generated.subactions_of(sample).script(n)
        known = {option: texts for option, texts in zip(sample.options, script.texts, strict=True)
                 if option not in told}
        questions.append(Repair([sample], known, n, partial(others_of, generated, [sample], n), told, repairs))
    asked = questions[:args.limit]
    if args.dry_run:
        console.say(*estimate(asked, args))
        return
    try:
        if asked:
            generate_subactions(asked, generated, model_of(args), args)
    finally:
        generated.finish([sample.id for sample in samples])
    options, judged = sum(len(question.told) for question in asked), len(repairs.taken) + len(repairs.left)
    console.say(f"{len(repairs.found)} scripts of options have something ({repairs.how}): {options} asked again in "
                f"{len(asked)} questions, {len(repairs.taken)} taken, {len(repairs.left)} left as they were since the "
                f"answer was not better, {options - judged} not answered; {len(repairs.before)} were asked before "
                f"-> {args.output}")


def check_file(path, args):
    """Print what there is to say of a generated_subactions.json, and write it as a table if that is asked for."""
    if args.check_output:
        console.require_folder_of(args.check_output)
        quality.require_table(args.check_output)
    subactions = read_subactions(path)
    check, how = check_of(args, subactions)
    findings = check.findings(subactions)
    if args.check_output:
        quality.write_table(args.check_output, findings)
    console.say(*quality.lines(findings, subactions, how))
    if args.check_output:
        console.say(f"{len(findings)} findings -> {args.check_output}")


def parse_args(argv=None):
    parser = console.parser(__doc__)
    add, count = parser.add_argument, console.positive_int
    add("--input", help="processed_dataset.npy; only its index is read")
    add("--output", help="generated_subactions.json")
    add("--subactions", metavar="FILE", help="sub-actions of your own: an option's name on a line, its phases indented "
                                             "below it, or JSON; only what it lacks is asked for")
    add("--apikey", help="key of the API; better in the environment as OPENAI_API_KEY")
    add("--temp", type=console.temperature, default=0.2, help="temperature (default: %(default)s, the published one)")
    add("--model", default=MODEL, help="language model (default: %(default)s)")
    add("--base_url", default=os.environ.get("OPENAI_BASE_URL"), help="another server that speaks OpenAI's protocol")
    add("--prompt", choices=("context", "short"), default="context", help="short: the ablation without context")
    add("--min_subactions", type=count, default=MIN_SUBACTIONS, help="phrases an option needs (default: %(default)s)")
    add("--scripts", type=console.number(int, 1, MOST_SCRIPTS), default=1, metavar="N",
        help="ask N times for every option; seq_alignment.py --scripts averages their scores (default: %(default)s)")
    add("--max_tokens", type=count, help="limit of one answer (default: the server's own)")
    add("--attempts", type=count, default=ATTEMPTS, help="questions about one option (default: %(default)s)")
    add("--timeout", type=console.seconds, default=120, help="s to wait for an answer (default: %(default)s)")
    add("--workers", type=console.workers, default=4, help="requests in flight (default: %(default)s)")
    add("--limit", type=count, help="ask only so many questions, such as 3 to try a prompt")
    console.add_overwrite_argument(parser)
    add("--dry_run", action="store_true", help="only say what would be asked and what it would take")
    add("--batch", metavar="FILE", help="write the requests for OpenAI's Batch API instead of asking")
    add("--batch_results", metavar="FILE", help="take the answers from a Batch result file")
    add("--check", metavar="FILE",
        help="only tell what of a file cannot be aligned with: what is missing, repeated, too long or in words that no "
             "frame shows (actalign/words.txt)")
    add("--text_model", metavar="CHECKPOINT",
        help="SigLIP checkpoint for --check, whose text encoder tells which options and phases are the same to it")
    add("--video_embeddings", metavar="NPY", help="those of that checkpoint, to tell phases that no frames are like")
    add("--check_output", metavar="CSV", help="write what --check finds to a table")
    add("--repair", action="store_true",
        help="ask again for exactly what --check would find in the output, and take what is better by it")
    console.add_device_argument(parser)
    args = parser.parse_args(argv)
    if args.repair and (args.check or args.batch or args.batch_results or args.overwrite):
        parser.error("--repair: asks about what is there, and at once; leave --check, --batch, --batch_results and "
                     "--overwrite out")
    if args.video_embeddings and not args.text_model:
        parser.error("--video_embeddings: give --text_model, the checkpoint that made them")
    if not args.check and not (args.input and args.output):
        parser.error("--input and --output are needed")
    return args


@console.script
def main(argv=None):
    args = parse_args(argv)
    if args.check:
        check_file(args.check, args)
        return
    console.require_folder_of(args.output)
    samples, *_ = artifacts.read_samples(args.input)
    own = OwnSubactions(args.subactions) if args.subactions else None
    with files.lock(args.output):
        generated = GeneratedFile(args.output, partial(generated_with, args), args.overwrite, args.scripts)
        generated.follow(samples)
        if own:
            own.require_used(samples)
            console.say(f"{generated.take(samples, own)} samples take their sub-actions from {args.subactions}")
        questions = [] if args.repair else collect_questions(samples, generated)
        asked = [question for question in questions if question.options][:args.limit]
        if args.repair:
            repair(samples, generated, args)
        elif args.dry_run:
            console.say(*estimate(asked, args))
        elif args.batch and asked:
            write_batch(args.batch, asked, args)
            console.say(f"{len(asked)} requests -> {args.batch}; have them answered and run again with --batch_results")
        else:
            answer_questions(questions, asked, samples, generated, args)


def answer_questions(questions, asked, samples, generated, args):
    """Have those of the questions answered that are to be asked, and tell what became of the samples."""
    tokens, is_done = "", False
    known = [question for question in questions if not question.options]  # other samples have the same options
    try:
        for question in known:
            generated.add(question.samples, question.known, {}, args.temp, question.script)
        if args.batch_results:
            read_batch(args.batch_results, asked, generated, args)
        elif asked:
            model = model_of(args)
            generate_subactions(asked, generated, model, args)
            tokens = f"; {model.tokens_asked} tokens asked, {model.tokens_answered} answered"
        is_done = True
    finally:
        generated.finish([sample.id for sample in samples], is_done)
    todo, failed = ids_of(known + asked), ids_of(question for question in asked if question.options)
    handled = {*known, *asked}
    left = len({*ids_of(question for question in questions if question not in handled)} - {*failed})
    done, there = len({*todo} - {*failed}), len(samples) - len(ids_of(questions))
    why = (f" ({console.some_of(failed)}; {generated.missing.path} says why{generated.where_replies_are}, run again to "
           "ask again)") if failed else ""
    console.say(f"{done} samples generated, {there} were there already, "
                f"{len(failed)} failed{why}{f', {left} left' if left else ''}{tokens} -> {args.output}")
    if 0 < len(failed) == len(samples) - left:
        raise console.StageError(f"no sample got all its sub-actions ({failed[0]}: "
                                 f"{generated.reasons.get(failed[0], 'it was not answered')})")


def model_of(args):
    """The LanguageModel that the arguments name."""
    choices = language_model.request_choices(args.temp, SCHEMA, args.max_tokens, args.scripts > 1 or args.repair)
    return language_model.LanguageModel(args.model, choices, *server_of(args), args.timeout)


def api_key(args):
    """The key for the server, "" if there is none."""
    return (args.apikey or os.environ.get("OPENAI_API_KEY", "")).strip()


def server_of(args):
    """(API key, address) of the server. Raises InputError if one cannot be used: HTTP libraries' own words quote it."""
    key = api_key(args)
    if not key and not (args.base_url or "").strip():
        raise console.InputError("no API key; set OPENAI_API_KEY or give --base_url of a local server, or write "
                                 "the sub-actions yourself: --subactions FILE")
    if not re.fullmatch("[!-~]*", key):
        raise console.InputError("the API key holds a space, a line break or a letter that no key has; copy it again")
    address = (args.base_url or "").strip() or language_model.OPENAI
    with suppress(ValueError, AttributeError):
        parts = urllib.parse.urlsplit(address)
        if (re.fullmatch("[!-~]+", address) and parts.scheme in ("http", "https") and parts.port != 0
                and parts.hostname.encode("idna")):  # UnicodeError is a ValueError
            return key or "none", parts._replace(path=parts.path.removesuffix("/chat/completions")).geturl()
    raise console.InputError("--base_url or OPENAI_BASE_URL: is no address of a server; give one such as "
                             "http://127.0.0.1:8000/v1")


if __name__ == "__main__":
    raise SystemExit(main())
