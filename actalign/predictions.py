"""predictions.json and its CSV twin: the scores of every option of every sample, written and read."""

import contextlib
from pathlib import Path

import numpy as np

from actalign.console import InputError, StageError, require_folder_of, say
from actalign.dataset import require_unique_ids, sample_from_record
from actalign.evaluation import Prediction, print_results, top_k
from actalign.exports import COLUMNS as PHASE_COLUMNS
from actalign.exports import FOUND_COLUMNS
from actalign.files import begins_with, csv_writer, lock, read_json, write_csv, write_json_items

FORMAT = "actalign-predictions"
VERSION = 1
ORDER_COLUMNS = ("order_p", "order_z", "confidence", "none_of_these")
COLUMNS = ("id", "domain", "option_index", "option", "score", "rank", "is_prediction", "is_answer")  # of the CSV twin


def publish(output, name, method, sources, predictions, not_scored, ids, compared=None, notes=(), phases_of=None,
            found=()):
    """Write what a scoring stage found to `output` unless that is None; then print it, and what it was made from.

    name: of the method where people read of it   ids: of all samples   notes: lines that go below the results
    found: what phases.found_counts gives
    The others are those of `print_results` and `write_predictions`.
    Raises StageError if no sample was scored, RuntimeError unless each has one prediction or one reason why not.
    """
    if sorted([prediction.sample.id for prediction in predictions] + list(not_scored)) != sorted(ids):
        raise RuntimeError("samples were joined wrongly; no result is printed")
    if output:
        write_predictions(output, method, sources, predictions, not_scored, phases_of)
        if found:
            write_csv(beside(output, "found"), FOUND_COLUMNS, found)
    print_results(name, predictions, not_scored, compared)
    made_from = ", ".join(f"{flag} {source['fingerprint']}" for flag, source in sources.items())
    say(*notes, f"made from {made_from}")
    if output:
        say(f"predictions -> {output}, {csv_path(output)}" + (f", {beside(output, 'phases')}" if phases_of else "")
            + (f", {beside(output, 'found')}" if found else ""))
    if not predictions:
        raise StageError("no sample could be scored; the lines above say why")


def write_predictions(path, method, sources, predictions, not_scored, phases_of=None):
    """Write predictions.json: the method and its settings, the artifacts it read, and every sample's scores.

    Beside it go its CSV twin, a row for every sample and option, and phases.csv, one for every sub-action as well.
    docs/artifacts.md describes them.
    method: {"name": ..., settings}   sources: {flag: {"path", "fingerprint", ...}}   not_scored: {id: reason}
    phases_of: function from a Prediction to the phases.records of its K options, where they are known
    """
    answered = [prediction for prediction in predictions if prediction.sample.answer is not None]
    summary = {"scored": len(predictions), "with_answer": len(answered), "not_scored": len(not_scored)}
    for k, top, by_chance in top_k(answered):
        summary[f"top{k}"] = {"accuracy": top.value, "low": top.low, "high": top.high, "chance": by_chance}
    header = {"format": FORMAT, "version": VERSION, "method": method, "sources": sources, "summary": summary,
              "not_scored": [{"id": id, "reason": reason} for id, reason in not_scored.items()]}
    has_order = any(prediction.order is not None for prediction in predictions)
    with contextlib.ExitStack() as tables:
        options = tables.enter_context(csv_writer(csv_path(path), (*COLUMNS, *ORDER_COLUMNS * has_order)))
        subactions = tables.enter_context(csv_writer(beside(path, "phases"), PHASE_COLUMNS)) if phases_of else None
        write_json_items(path, header, "samples", (
            _written(prediction, phases_of and phases_of(prediction), options, subactions)
            for prediction in predictions))


def _written(prediction, phases, options, subactions):
    """What predictions.json says of a Prediction, whose rows are written into the tables beside it."""
    sample, order, scores = prediction.sample, prediction.order, prediction.scores
    ranking = prediction.ranking.tolist()
    for k, option in enumerate(sample.options):
        about = {"id": sample.id, "domain": sample.domain, "option_index": k, "option": option,
                 "is_prediction": k == ranking[0], "is_answer": "" if sample.answer is None else k == sample.answer}
        sure = {} if order is None else {
            "order_p": float(order.p[k]), "order_z": float(order.z[k]), "none_of_these": prediction.is_none,
            "confidence": prediction.confidence if k == ranking[0] else ""}
        options.writerow({**about, "score": float(scores[k]), "rank": ranking.index(k) + 1, **sure})
        for m, phase in enumerate(phases[k] if phases else ()):
            subactions.writerow({**about, "subaction_index": m, **phase})
    return {**sample.record(), "scores": scores, "ranking": ranking,
            **({} if prediction.paths is None else {"paths": prediction.paths}),
            **({} if prediction.by_script is None else {"script_scores": prediction.by_script}),
            **({} if order is None else {"order_p": order.p, "order_z": order.z, "confidence": prediction.confidence,
                                         "none_of_these": prediction.is_none}),
            **({} if phases is None else {"phases": phases})}


def csv_path(path):
    """The CSV twin of the predictions at `path`."""
    return Path(path).with_suffix(".csv")


def beside(path, what):
    """A table beside the predictions at `path`: phases.csv beside predictions.json."""
    stem = Path(path).stem
    name = stem.replace("predictions", what) if "predictions" in stem else f"{stem}_{what}"
    return Path(path).with_name(f"{name}.csv")


def read_predictions(path):
    """(method, predictions) of a predictions.json. Raises InputError if it is none."""
    content = read_json(path, "predictions")
    if not isinstance(content, dict) or content.get("format") != FORMAT or content.get("version") != VERSION:
        raise InputError(f"{path}: holds no predictions of this version; give what a stage wrote as --output")
    try:
        predictions = [Prediction(sample_from_record(entry, path), np.array(entry["scores"], dtype=np.float64),
                                  entry.get("paths")) for entry in content["samples"]]
        require_unique_ids([prediction.sample for prediction in predictions], path)
        if not content["method"]["name"]:
            raise ValueError("its method has no name")
        return content["method"], predictions
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: is damaged ({error}); run the stage that writes it again") from None


def predictions_output(path):
    """A context in which no other run writes predictions to `path`; it does nothing where `path` is None.

    Raises InputError if its folder is not there, it or its CSV twin is a file of another kind, or another run holds it.
    """
    if path is None:
        return lock()
    require_folder_of(path)
    twin = csv_path(path)
    if twin == Path(path):
        raise InputError(f"--output {path}: .csv is the table beside the predictions; choose {twin.stem}.json")
    if Path(path).exists() and not begins_with(path, rf'\s*{{\s*"format"\s*:\s*"{FORMAT}"'):
        raise InputError(f"--output {path}: is there and holds no predictions; choose another name")
    for table, columns in ((twin, COLUMNS), (beside(path, "phases"), PHASE_COLUMNS),
                           (beside(path, "found"), FOUND_COLUMNS)):
        if table.exists() and not begins_with(table, ",".join(columns)):
            raise InputError(f"--output {path}: {table} goes beside it and has other content now; choose another name")
    return lock(path, twin)
