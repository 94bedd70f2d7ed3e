"""docs/dfa.md, from what `scripts/dfa.py` has finished; run by itself, it writes the page and trains nothing."""

from __future__ import annotations

import math
import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path

from dfa_rows import FACTORS, METHODS, ROWS, Job, Row, best, over_seeds, seed_jobs, sweep_jobs

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "dfa.md"


def write_page() -> None:
    """The page from all that is finished."""
    done = [row for row in ROWS if all(job.result for job in sweep_jobs(row)) and all(j.result for j in seed_jobs(row))]
    PAGE.write_text("\n".join(page(done)) + "\n")
    print(f"wrote {PAGE.relative_to(ROOT)}", flush=True)


def page(rows: list[Row]) -> Iterator[str]:
    """The page: one table of all experiments, then a part for each."""
    yield "# Direct feedback alignment on every architecture"
    yield ""
    yield "Written by `make dfa` (`scripts/dfa.py`); do not edit by hand."
    yield ""
    yield (
        "Every line is `opu-dfa train experiment=NAME`: optical DFA on the simulated device (8-bit camera, shot and "
        "read noise, two binary patterns an error), exact backprop, and frozen blocks, which train only what follows "
        "the last block. All three share initial weights, data order and steps. The learning rate of each method is "
        "the best of three, a factor of three apart, by the validation loss of seed 0; a variant of DFA has the rate "
        "of DFA. Scores are of the test set, mean ± standard deviation over seeds. Recovery is "
        "(frozen - DFA) / (frozen - backprop), of the test loss and of the score: 0 is no better than training the "
        "last layers alone, 1 is as good as backprop; where backprop gains little over frozen blocks it says little, "
        "and is left out below a gain of two standard deviations."
    )
    yield ""
    yield "| experiment | score | DFA | backprop | frozen | recovery: loss | score | seeds | goal |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for row in rows:
        cells = " | ".join(spread(row, method, ()) for method in METHODS)
        loss, score = recoveries(row, (), row.n_seeds)
        yield f"| `{row.experiment}` | {row.score} | {cells} | {loss} | {score} | {row.n_seeds} | {row.goal} |"
    yield ""
    yield (
        "What the recipes share: one random projection serves all blocks; it passes the exact derivative of what is "
        "between the blocks and the head (a final norm, a pooling, a graph propagation); the head starts at the "
        "feedback's columns, so that the projection stands in for its transpose from the first step; the error's "
        "encoding is unbiased. Backprop and frozen blocks start from the same head. With a single block, as in most of "
        "the graph networks, this makes DFA nearly backprop; the variants with the head as drawn show what is left "
        "without it."
    )
    yield ""
    for row in rows:
        yield from part(row)


def part(row: Row) -> Iterator[str]:
    """An experiment's rates, its variants and its pictures."""
    yield f"## {row.title}: `opu-dfa train experiment={row.experiment}`"
    yield ""
    yield f"| DFA variant | {row.score} | recovery: loss | score | learning rate | seeds |"
    yield "|---|---|---|---|---|---|"
    for title, words, n_seeds in [
        ("the default", (), row.n_seeds),
        *((v.title, v.words, v.n_seeds) for v in row.variants),
    ]:
        loss, score = recoveries(row, words, n_seeds)
        shown = title + (f": `{' '.join(words)}`" if words else "")
        rate = (best(row, "dfa").result or {}).get("learning_rate", math.nan)
        yield f"| {shown} | {spread(row, 'dfa', words, n_seeds)} | {loss} | {score} | {rate:.2g} | {n_seeds} |"
    yield ""
    yield "| validation loss of seed 0 | a third | configured | three times |"
    yield "|---|---|---|---|"
    for method in METHODS:
        jobs = [Job(row.experiment, (), 0, factor, method) for factor in FACTORS]
        chosen = best(row, method)
        losses = [
            (f"**{x:.4g}**" if job == chosen else f"{x:.4g}") for job in jobs if (x := (job.result or {})["val_loss"])
        ]
        yield f"| {method} | {' | '.join(losses)} |"
    yield ""
    if row.pictures:
        figures = PAGE.parent / "figures"
        figures.mkdir(exist_ok=True)
        for method in METHODS:
            picture = best(row, method).folder / f"{method}-sample.png"
            if picture.exists():
                name = f"{row.experiment}-{method}.png"
                shutil.copy(picture, figures / name)
                yield f"{method}: ![{row.title}, {method}](figures/{name})"
                yield ""


def scores(row: Row, method: str, words: tuple[str, ...], n_seeds: int, name: str) -> list[float]:
    return [test_score(job, name) for job in over_seeds(row, method, words, n_seeds)]


def spread(row: Row, method: str, words: tuple[str, ...], n_seeds: int | None = None) -> str:
    """Mean ± standard deviation of the score over the seeds."""
    found = scores(row, method, words, n_seeds or row.n_seeds, row.score)
    deviation = f" ± {statistics.stdev(found):.4f}" if len(found) > 1 else ""
    return f"{statistics.mean(found):.4f}{deviation}"


def recoveries(row: Row, words: tuple[str, ...], n_seeds: int) -> tuple[str, str]:
    """Recovery of the mean test loss and of the mean score, where backprop gains more than its scatter."""
    shown = []
    for name in ("loss", row.score):
        dfa = statistics.mean(scores(row, "dfa", words, n_seeds, name))
        bp, frozen = (scores(row, method, (), row.n_seeds, name) for method in ("bp", "frozen"))
        gain = statistics.mean(frozen) - statistics.mean(bp)
        scatter = math.hypot(*(statistics.stdev(s) if len(s) > 1 else 0.0 for s in (bp, frozen)))
        shown.append(f"{(statistics.mean(frozen) - dfa) / gain:.3f}" if abs(gain) > 2 * scatter else "-")
    return shown[0], shown[1]


def test_score(job: Job, name: str) -> float:
    assert job.result is not None
    return job.result.get("test", {}).get(name, math.nan)


if __name__ == "__main__":
    write_page()
