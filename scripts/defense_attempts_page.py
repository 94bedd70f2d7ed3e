"""docs/defense-attempts.md and its figure, from the seeds that `scripts/defense_attempts.py` has finished.

Run by itself, it writes the page and trains nothing.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from defense_attempts_numbers import ABOVE, BELOW, SAME, Difference, Found, difference, finished, matched
from defense_attempts_rows import BETA, FRONTIER, N_MEDIA, ROWS, SEEDS, SETTINGS, Setting

DOCS = Path(__file__).resolve().parent.parent / "docs"
TITLES = {"fashion-mnist": "Fashion-MNIST, averaged to 14 x 14"}
LAST = ("transfer", "square")  # that follow no gradient of the model
HOW = """## How

- Small settings, in which an undefended model falls to about 0 and adversarial training keeps a good part: they compare
  variations, and say nothing of other data or larger models.
- {seeds} seeds of weights and media; the device has 8 bits and noise; AdamW at 3e-3 for all rows. Adversarial training
  is at 1 eps where nothing else is said; of an optical head by straight-through with T known (tanh, slope {beta:g}), or
  along B where it says so. 4 thresholds take four times the mirrors.
- *Alone at equal clean accuracy*: the best of the five models without optics that are at least as accurate, or of two
  of them mixed by chance to that accuracy; the most accurate, where none is. The standard error joins that over images
  (of means over seeds) and that over the {seeds} seeds in quadrature. Clean accuracies are taken as exact.
- *3 media behind the same h* are one medium of three times the pixels. The ensembles are of whole models. *One of
  {media} media*: each has its own readout, fitted before; a measurement meets one of them by chance. *Fresh T per
  inference*: each batch measured meets a T that was never seen, in training, too.
- Attackers know weights, T and B, and may query (Kerckhoffs). Feature attack and PGD; APGD-CE and APGD-DLR by
  straight-through (tanh), and by a surrogate of the head fitted to its answers to all training images; PGD along the
  mean of three measurements. Of an ensemble the gradient is that of the mean logits; of one of several media that of
  the expectation over them all; of a fresh T the mean over {media} draws at every step. Models without a binarisation
  are attacked along their exact gradient, with two restarts. Transfer is PGD on a model of adversarial training alone
  (at 1 eps, of the same seed, or of another where it would attack itself). Square comes last.
- An image is broken if a majority of 11 fresh measurements is wrong. Optical models face more attacks than those
  without, as there are more ways to their gradient."""
GROUPS = {
    "replay": ("replay",),
    "feature": ("feature",),
    "T known": ("exact", "straight-through"),
    "surrogate": ("surrogate",),
    "B known": ("true feedback",),
    "transfer": ("transfer",),
    "Square": ("square",),
}


def write_page() -> None:
    """The page and its figure, of the rows that every seed of a setting is through with."""
    found = {at: rows for at in SETTINGS if (rows := finished(at))}
    if not found:
        return
    (DOCS / "figures").mkdir(parents=True, exist_ok=True)
    figure(found).savefig(DOCS / "figures" / "defense-attempts.png", dpi=150)
    (DOCS / "defense-attempts.md").write_text("\n".join(page(found)) + "\n")
    counts = ", ".join(f"{at.name} {len(rows)} of {len(ROWS)}" for at, rows in found.items())
    print(f"wrote docs/defense-attempts.md: rows of {counts}", flush=True)


def page(found: dict[Setting, dict[str, Found]]) -> Iterator[str]:
    """A part for each setting, then how its numbers were found."""
    yield "# Can the optical defence be made to hold?"
    yield ""
    yield "Written by `make defense-attempts` (`scripts/defense_attempts.py`); do not edit by hand."
    yield ""
    yield "![clean and robust accuracy](figures/defense-attempts.png)"
    yield ""
    for at, rows in found.items():
        yield from part(at, rows)
    yield HOW.format(seeds=len(SEEDS), beta=BETA, media=N_MEDIA)


def part(at: Setting, found: dict[str, Found]) -> Iterator[str]:
    """A setting: the verdict, and the numbers."""
    tried = [each for each in found.values() if each.row not in FRONTIER]
    against = {each.row.name: difference(each.standing, matched(_mean(each.clean), found)) for each in tried}
    yield f"## {TITLES[at.name]}, eps = {255 * at.eps:.4g}/255"
    yield ""
    stages = [list(stage) for stage in at.stages]
    yield (
        f"{at.trained:,} images learned from, {at.tested:,} for clean accuracy, {at.attacked} of these attacked. "
        f"Features {stages}, h of {at.n_mirrors}, {at.n_pixels:,} pixels, {at.epochs} epochs; PGD of "
        f"{at.inner_steps} steps in training, attacks of {at.steps} steps and {at.queries:,} queries."
    )
    yield ""
    for line in [*ranking(found, against), *remarks(found)]:
        yield f"- {line}"
    missing = [row.title for row in ROWS if row.name not in found]
    if missing:
        yield f"- Not run to the end: {_list(missing)}."
    yield ""
    yield (
        "Accuracy in %, mean ± standard deviation over seeds; *alone* is what adversarial training alone leaves at the "
        "same clean accuracy, and *difference* is paired by image and seed, ± its standard error."
    )
    yield ""
    yield "| variation | clean | worst case | alone | difference | |"
    yield "|---|---|---|---|---|---|"
    for each in found.values():
        cells = [each.row.title, _spread(each.clean), _spread(each.robust)]
        if each.row in FRONTIER:
            yield _line([*cells, "", "", ""])
        else:
            alone, gap = matched(_mean(each.clean), found), against[each.row.name]
            yield _line([*cells, f"{100 * alone.mean():.1f}", _points(gap), f"{gap.verdict} it"])
    yield ""
    yield (
        "What each kind of attacker leaves, in %, mean over seeds. They come in this order, and each meets the images "
        "that those before it left: the last column is the worst case. A cell is empty where a model has no such "
        "attacker."
    )
    yield ""
    yield _line(["variation", "none", *GROUPS])
    yield "|---|---|" + "---|" * len(GROUPS)
    for each in found.values():
        none = f"{100 * each.left['no attack'].mean():.1f}"
        yield _line([each.row.title, none, *(_after(each, words) for words in GROUPS.values())])
    yield ""


def ranking(found: dict[str, Found], against: dict[str, Difference]) -> Iterator[str]:
    """Which variations are above adversarial training alone, and what follows."""
    for word in (ABOVE, SAME, BELOW):
        rows = [f"{found[name].row.title} ({_points(gap)})" for name, gap in against.items() if gap.verdict == word]
        beyond = "within" if word == SAME else "beyond"
        yield (
            f"**{word.capitalize()} adversarial training alone at equal clean accuracy**, {beyond} two standard "
            f"errors: {_list(rows)}."
        )
    adopted = [
        found[name].row.title
        for name, gap in against.items()
        if gap.verdict == ABOVE and found[name].row.head == "optical" and _beats_its_control(found, found[name])
    ]
    if adopted:
        yield f"To adopt, by these numbers: {_list(adopted)}."
    else:
        yield "So nothing optical is adopted: no default of this package changes by what was tried here."
    for each in found.values():
        if each.row.against in found:
            control = found[each.row.against]
            gap = difference(each.standing, control.standing)
            yield (
                f"{each.row.title}, {_shown(each)}, is {gap.verdict} its control, {control.row.title}, "
                f"{_shown(control)}: {_points(gap)} points."
            )


def remarks(found: dict[str, Found]) -> Iterator[str]:
    """What else the numbers say, of the rows that are there."""
    bare = [each for each in found.values() if not each.row.hardened and each.row not in FRONTIER]
    if bare:
        best = max(bare, key=lambda each: _mean(each.robust))
        yield (
            f"Of the {len(bare)} variations without adversarial training the best is left with "
            f"{100 * _mean(best.robust):.1f} % ({best.row.title}); undefended it is "
            f"{100 * _mean(found['alone-0'].robust):.1f} %."
        )
    if "session" in found:
        session = found["session"]
        replay = session.left["replay of the old session"]
        yield (
            f"A fresh T per session: images made on the old session leave {100 * replay.mean():.1f} % of "
            f"{100 * session.left['no attack'].mean():.1f} %; an attacker who asks the new one leaves "
            f"{100 * _mean(session.robust):.1f} %."
        )
    if {"fresh", "straight"} <= set(found):
        fresh = found["fresh"]
        yield (
            "A T that is fresh at every inference leaves the readout one number, how many mirrors are on. What "
            "straight-through takes for its gradient is, in the mean over T, b less its mean: it spreads h about its "
            "mean, and flips no mirror. Clean accuracy "
            f"{100 * _mean(fresh.clean):.1f} % (chance is 10 %, with one T it is "
            f"{100 * _mean(found['straight'].clean):.1f} %), worst case {100 * _mean(fresh.robust):.1f} %."
        )
    if {"adv-sign", "adv-straight"} <= set(found):
        sign, optical = found["adv-sign"], found["adv-straight"]
        gap = difference(optical.standing, sign.standing)
        yield (
            f"The medium itself, under adversarial training: with it {_shown(optical)}; with the binarisation alone "
            f"{_shown(sign)}. The worst case is {gap.verdict} the latter's, {_points(gap)} points."
        )
    masked = {each.row.title: part for each in found.values() if (part := _masked(each)) > 0.01}
    if masked:
        shown = _list([f"{title} ({100 * part:.1f})" for title, part in masked.items()])
        yield f"Attacks that follow no gradient of the model came last, and broke more than a point of: {shown}."
    else:
        yield "Attacks that follow no gradient of the model came last, and nowhere broke more than a point."


def figure(found: dict[Setting, dict[str, Found]]) -> Any:
    """Worst case against clean accuracy: adversarial training alone as a line, variations as numbered points."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(9.0, 0.8 + 3.6 * len(found)), layout="constrained")
    axes = drawn.subplots(len(found), squeeze=False)[:, 0]
    numbers = {row.name: number for number, row in enumerate(row for row in ROWS if row not in FRONTIER)}
    for ax, (at, rows) in zip(axes, found.items(), strict=True):
        line = [rows[row.name] for row in FRONTIER]
        where = [[100 * _mean(each.clean) for each in line], [100 * _mean(each.robust) for each in line]]
        ax.plot(*where, "o-", color="0.3", label="adversarial training alone: 0, 0.25, 0.5, 1, 1.5 eps")
        for name, each in rows.items():
            if name not in numbers:
                continue
            x, y = 100 * _mean(each.clean), 100 * _mean(each.robust)
            errors = [100 * statistics.stdev(values) for values in (each.robust, each.clean)]
            colour, label = ("#d1495b" if each.row.hardened else "#30638e"), f"{numbers[name] + 1}  {each.row.title}"
            ax.errorbar(x, y, *errors, fmt="o", color=colour, ms=4, lw=0.8, label=label)
            beside = (3 + 8 * (numbers[name] % 3), 3)
            ax.annotate(str(numbers[name] + 1), (x, y), xytext=beside, textcoords="offset points", fontsize=8)
        ax.set(
            title=TITLES[at.name], xlabel="clean accuracy [%]", ylabel=f"worst case at eps = {255 * at.eps:.4g}/255 [%]"
        )
        ax.legend(frameon=False, fontsize=6, loc="center left", bbox_to_anchor=(1, 0.5))
        ax.spines[["top", "right"]].set_visible(False)
    return drawn


def _beats_its_control(found: dict[str, Found], each: Found) -> bool:
    """An ensemble that gains no more than one without optics owes it to there being several."""
    if each.row.against not in found:
        return not each.row.against
    return difference(each.standing, found[each.row.against].standing).verdict == ABOVE


def _masked(each: Found) -> float:
    """What attacks that follow no gradient broke after those that do."""
    names = list(each.left)
    before = next(name for name in reversed(names) if name not in LAST)
    return float(each.left[before].mean() - each.standing.mean())


def _after(each: Found, words: tuple[str, ...]) -> str:
    """What is left when the last attack of a kind is done."""
    mine = [left for name, left in each.left.items() if any(word in name for word in words)]
    return f"{100 * mine[-1].mean():.1f}" if mine else ""


def _mean(values: list[float]) -> float:
    return statistics.mean(values)


def _spread(values: list[float]) -> str:
    return f"{100 * statistics.mean(values):.1f} ± {100 * statistics.stdev(values):.1f}"


def _points(gap: Difference) -> str:
    return f"{100 * gap.mean:+.1f} ± {100 * gap.error:.1f}"


def _shown(each: Found) -> str:
    return f"clean {100 * _mean(each.clean):.1f} %, worst case {100 * _mean(each.robust):.1f} %"


def _list(words: list[str]) -> str:
    return "; ".join(words) if words else "none"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    write_page()
