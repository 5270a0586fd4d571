"""What the measured hits say: gains with intervals, corrected tests, the recommendation, the page and its picture."""

from dataclasses import replace
from pathlib import Path

import jinja2
import numpy as np
import worlds
from methods import EMBEDDING_NOISE, METHODS, PUBLISHED, STRONG, VARIANTS, Method

from actalign import comparison
from actalign.alignment import ORDERS

SEED = 3  # of resampling
RESAMPLES, FLIPS = 2000, 5000
MOST_LOST = 1.0  # points that a recommendation may cost in any world with the strong encoder, when it is chosen
SIGNIFICANT = 0.05
TEMPLATE = Path(__file__).with_name("evidence.md.jinja")


# Results


class Results:
    """Hits of all encoders on the clips of one seed.

    hits: {encoder: {world: {method or control: (N,) bool}}}; the clips of a world are the same for all encoders
    """

    def __init__(self, hits):
        self.hits = hits
        self.worlds = [name for name in next(iter(hits.values())) if name not in worlds.CONTROLS]

    @property
    def weak(self):
        """The encoders that are weak by nature."""
        return [encoder for encoder in self.hits if encoder != STRONG and encoder not in EMBEDDING_NOISE]

    def of(self, method, encoder, world):
        """Hits (N,) of a method or control."""
        return self.hits[encoder][world][str(method)]

    def accuracy(self, method, encoder_names, world_names=None):
        """Top-1 in percent, the mean over encoders and worlds (without one named: the twelve)."""
        return 100 * np.mean([self.of(method, encoder, world).mean() for encoder in encoder_names
                              for world in world_names or self.worlds])

    def gains(self, method, other, encoder_names, world_names=None):
        """What every clip gains by `method` instead of `other`, the mean over encoders: (clips,) in percent."""
        return 100 * np.concatenate([
            np.mean([self.of(method, encoder, world).astype(float) - self.of(other, encoder, world)
                     for encoder in encoder_names], axis=0) for world in world_names or self.worlds])


def interval(gains):
    """(mean, low, high) of clips' gains, by the percentile bootstrap over clips."""
    rng = np.random.default_rng(SEED)
    means = [gains[rng.integers(len(gains), size=len(gains))].mean() for _ in range(RESAMPLES)]
    return gains.mean(), *np.percentile(means, [2.5, 97.5])


def paired_p(gains):
    """Two-sided p that clips' gains have mean 0: their signs are flipped at random, clip by clip.

    A clip counts once however many encoders saw it. With a single encoder this is McNemar's test, by simulation.
    """
    rng = np.random.default_rng(SEED)
    different = gains[gains != 0]
    flipped = [abs(rng.choice((-1, 1), len(different)) @ different) for _ in range(FLIPS)]
    return (1 + np.count_nonzero(flipped >= abs(different.sum()) - 1e-9)) / (1 + FLIPS)


def corrected_p(results, method, encoder_names):
    """{world: Holm's corrected p} that a method gains nothing over the published one with these encoders."""
    p = [paired_p(results.gains(method, PUBLISHED, encoder_names, [world])) for world in results.worlds]
    return dict(zip(results.worlds, comparison.holm(p), strict=True))


def recommended(results):
    """The Method with the best mean over weak encoders of those that cost the strong one no more than MOST_LOST.

    None if that is the published one.
    """
    def lost(method):
        return max(results.accuracy(PUBLISHED, [STRONG], [world]) - results.accuracy(method, [STRONG], [world])
                   for world in results.worlds)

    best = max((method for method in METHODS if lost(method) <= MOST_LOST),
               key=lambda method: results.accuracy(method, results.weak))
    return None if best == PUBLISHED else best


# The page


def markdown(rows):
    """A table in markdown; the first row is its header."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def with_interval(gains):
    """A mean gain as text."""
    return "{:+.1f} [{:+.1f}, {:+.1f}]".format(*interval(gains))


def encoder_rows(results, strengths, best):
    yield "encoder", "poses told right", "mean pool, base", "mean pool", "published", f"{best}", "gain"
    for name in results.hits:
        pooled = ["-"] * 2 if name in EMBEDDING_NOISE else [
            f"{results.accuracy('mean pool', [name], world_names):.1f}" for world_names in (["base"], None)]
        yield (name, f"{100 * strengths[name]:.0f}%" if name in strengths else "-", *pooled,
               *(f"{results.accuracy(method, [name]):.1f}" for method in (PUBLISHED, best)),
               with_interval(results.gains(best, PUBLISHED, [name])))


def world_rows(results, best):
    kinds = {"weak": results.weak, "strong": [STRONG]}
    p = {kind: corrected_p(results, best, names) for kind, names in kinds.items()}
    yield "world", *(f"{kind}: {column}" for kind in kinds for column in ("published", "it", "gain", "p"))
    for world in results.worlds:
        row = [f"{world}: {worlds.WORLDS[world].what}"]
        for kind, names in kinds.items():
            row += [f"{results.accuracy(PUBLISHED, names, [world]):.1f}",
                    f"{results.accuracy(best, names, [world]):.1f}",
                    with_interval(results.gains(best, PUBLISHED, names, [world])), comparison.p_text(p[kind][world])]
        yield row


def method_rows(results, contrast):
    kinds = tuple(dict.fromkeys(method.similarity for method in METHODS))
    yield "alignment", *kinds
    for name in dict.fromkeys(method.alignment for method in METHODS if method.orders or not contrast):
        yield name, *("{:.1f} / {:.1f}".format(*(results.accuracy(Method(name, kind, ORDERS * contrast), names)
                                                 for names in (results.weak, [STRONG]))) for kind in kinds)


def order_rows(results, methods):
    """What reversed clips and shuffled sub-actions lose, the strong encoder."""
    yield "world", *(f"{method}: {control}" for method in methods for control in ("reversed", "shuffled"))
    for world in (*results.worlds, *worlds.CONTROLS):
        if world in results.hits[STRONG]:
            yield world, *(with_interval(results.gains(method, f"{method}; {control}", [STRONG], [world]))
                           for method in methods for control in ("reversed", "shuffled"))


def failures(results):
    """Lines: for every alignment, with the similarity that suits it best, where it loses to the published one."""
    for name in dict.fromkeys(method.alignment for method in METHODS):
        method = max((one for one in METHODS if one.alignment == name and not one.orders),
                     key=lambda one: results.accuracy(one, list(results.hits)))
        lost = []
        for names, kind in ((results.weak, "weak"), ([STRONG], "strong")):
            for world, p in corrected_p(results, method, names).items():
                gain = results.gains(method, PUBLISHED, names, [world]).mean()
                lost += [f"{world} ({kind}, {gain:+.1f})"] if p < SIGNIFICANT and gain < 0 else []
        if method != PUBLISHED:
            yield f"- **{method}** is worse than the published method in {', '.join(lost) or 'none of these worlds'}."


def draw(path, results, strengths, best):
    """The picture: accuracy against the encoder's strength, and the gain by encoder and world."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5), layout="constrained")
    curves, heat = figure.subplots(1, 2, width_ratios=(1, 1.25))
    trained = sorted((name for name in strengths if name == STRONG or name.endswith("steps")), key=strengths.get)
    shown = {"published": PUBLISHED, f"recommended: {best}": best, "order contrast: segment, centred, contrast":
             "segment, centred, contrast", "equal parts: equal, cosine": "equal, cosine",
             "order ignored: unordered, sigmoid": "unordered, sigmoid", "mean pool": "mean pool"}
    for (label, method), style in zip(shown.items(), ("k-o", "g-o", "b--s", "m:^", "r:v", "y:x"), strict=True):
        curves.plot([100 * strengths[name] for name in trained],
                    [results.accuracy(method, [name]) for name in trained], style, label=label, markersize=4)
    for name in strengths.keys() - set(trained):
        for method, style in ((PUBLISHED, "k+"), (best, "g+")):
            curves.plot(100 * strengths[name], results.accuracy(method, [name]), style)
    curves.axhline(100 / worlds.OPTIONS, color="grey", linewidth=0.6)
    curves.set(xlabel="poses that the encoder tells right, of twenty, %", ylabel="Top-1, mean over the worlds, %",
               title="Accuracy against the encoder's strength")
    curves.legend(fontsize=7)
    gains = [[results.gains(best, PUBLISHED, [name], [world]).mean() for world in results.worlds]
             for name in results.hits]
    image = heat.imshow(gains, cmap="PiYG", vmin=-40, vmax=40, aspect="auto")
    heat.set_xticks(range(len(results.worlds)), results.worlds, rotation=45)
    heat.set_yticks(range(len(results.hits)), results.hits)
    for row, values in enumerate(gains):
        for column, value in enumerate(values):
            heat.text(column, row, f"{value:+.0f}", ha="center", va="center", fontsize=7)
    heat.set_title("Gain of the recommended over the published method, points")
    figure.colorbar(image)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def page(chosen_on, results, strengths, best, **more):
    """The text of docs/evidence.md: `chosen_on` are the Results that `best` was chosen on, `results` those reported."""
    strong = {world: results.gains(best, PUBLISHED, [STRONG], [world]).mean() for world in results.worlds}
    better = [world for world, p in corrected_p(results, best, results.weak).items() if p < SIGNIFICANT
              and results.gains(best, PUBLISHED, results.weak, [world]).mean() > 0]
    gains = results.gains(best, PUBLISHED, results.weak)
    template = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True,
                                  trim_blocks=True).from_string(TEMPLATE.read_text())
    return template.render(
        best=best, published=PUBLISHED, strong=[STRONG], results=results, better=better,
        weakest_gain=min(strong.values()), weakest_world=min(strong, key=strong.get), clips_compared=len(gains),
        gain=with_interval(gains),
        p=comparison.p_text(paired_p(gains)), gain_when_chosen=chosen_on.gains(best, PUBLISHED, results.weak).mean(),
        mean_strong_gain=np.mean(list(strong.values())), significant=SIGNIFICANT, orders=ORDERS,
        variants=VARIANTS, chance=100 / worlds.OPTIONS, worlds=worlds.WORLDS, methods=METHODS,
        failures=list(failures(results)),
        encoder_table=markdown(list(encoder_rows(results, strengths, best))),
        world_table=markdown(list(world_rows(results, best))), method_table=markdown(list(method_rows(results, False))),
        contrast_table=markdown(list(method_rows(results, True))),
        order_table=markdown(list(order_rows(results, [PUBLISHED, replace(best, orders=0)]))), **more)
