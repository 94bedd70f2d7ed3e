"""Every number of docs/defense.md: the defence on CIFAR-10 and on digits, its twins, and all attacks on them.

    python scripts/defense.py          # hours on two cores; run again to continue where it stopped
    python scripts/defense.py digits   # this run alone
    python scripts/defense.py page     # the page alone, of the runs that are done

Each part is an `opu-dfa defend` of its own in runs/defense; its models are trained by two processes first.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs" / "defense"
PAGE = ROOT / "docs" / "defense.md"
WORDS: Mapping[str, list[str]] = {
    "cifar10": [
        "defense=cifar10",
        "opu=simulated",
        "seeds=2",
        "test_examples=100",
        "queries=1000",
        "score_measurements=1",
        "sanity=50",
    ],
    "digits": [
        "opu=simulated",
        "n_mirrors=64",
        "n_components=512",
        "test_examples=50",
        "attacks=all",
        "queries=5000",
        "score_measurements=20",
        "retrieval=[128,256,512,1024]",
        "adversarial=true",
        "seeds=3",
        "ablations=true",
        "sanity=50",
    ],
}
TITLES = {
    "cifar10": "CIFAR-10 (JPEG copy), a small VGG",
    "digits": "Digits: every head by each rule, and the medium's recovery",
}


def main(words: list[str]) -> None:
    """Train and attack what is missing, then write the page."""
    if words != ["page"]:
        for name in words or WORDS:
            if name not in WORDS:
                raise SystemExit(f"no such run: {name}; there are {', '.join(WORDS)}")
            if not (RUNS / name / "summary.json").exists():
                run(name)
    done = {name: RUNS / name for name in WORDS if (RUNS / name / "summary.json").exists()}
    for name, folder in done.items():
        shutil.copy(folder / "robustness.png", PAGE.parent / "figures" / f"defense-{name}.png")
    PAGE.write_text("\n".join(page(done)).rstrip() + "\n")
    print(f"wrote {PAGE.relative_to(ROOT)}")


def run(name: str) -> None:
    """One `opu-dfa defend`, its models first, in two processes."""
    folder = RUNS / name
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        for adversarial in (False, True):  # which goes on from another
            for job in [pool.submit(train, name, model) for model in missing(name, adversarial)]:
                job.result()
    command = [f"resume={folder}"] if (folder / "config.json").exists() else [*WORDS[name], f"hydra.run.dir={folder}"]
    subprocess.run([sys.executable, "-m", "opu_dfa.cli", "defend", *command], cwd=ROOT, check=True)


def missing(name: str, adversarial: bool) -> list[str]:
    """The models that are not trained."""
    from opu_dfa.config import composed, parse
    from opu_dfa.defend.models import variants
    from opu_dfa.defend.settings import DefendSettings

    chosen = parse(DefendSettings, composed("defend", WORDS[name]))
    found = [each for each in variants(chosen) if each.adversarial == adversarial]
    return [each.name for each in found if not (RUNS / name / each.file).exists()]


def train(name: str, model: str) -> None:
    """One model, in a process of the pool: one thread, no output."""
    import torch
    from rich.console import Console

    from opu_dfa.config import composed
    from opu_dfa.defend.fitting import prepare

    torch.set_num_threads(1)
    logging.getLogger("hardware").setLevel(logging.ERROR)
    print(f"{name}: training {model}", flush=True)
    prepare(composed("defend", WORDS[name]), RUNS / name, model, Console(quiet=True))


def page(done: Mapping[str, Path]) -> Iterator[str]:
    """The page: what was run, then a part for each run."""
    yield "# Does the optical defence hold?"
    yield ""
    yield "Written by `make defense` (`scripts/defense.py`); do not edit by hand."
    yield ""
    yield (
        "The defence of Cappelli et al. (arXiv 2101.02115): convolutional features, a binarisation, a fixed random "
        "optical projection measured as an intensity, a linear readout; the features learn by direct feedback "
        "alignment through a fixed random B. Beside it its undefended twin, of the same features, widths, optimiser, "
        "epochs and data, whose head is plain and which learns by backpropagation. Both meet the same attacks, each "
        "adapted to the defence by every gradient its attacker may have: the true B, another B, a surrogate of the "
        "head or a student of the whole model learned from queries, T recovered from queries, known in part, or known. "
        "The optics are the simulated device, with its camera's noise and 8 bits. Pixels are in [0, 1], budgets are L∞."
    )
    yield ""
    for name, folder in done.items():
        yield from part(name, folder)


def part(name: str, folder: Path) -> Iterator[str]:
    """One run: its verdict, then its tables, its figure and its checklist."""
    summary = json.loads((folder / "summary.json").read_text())
    models = summary["models"]
    yield f"## {TITLES[name]}"
    yield ""
    yield f"`opu-dfa defend {' '.join(WORDS[name])}`. {summary['description']}."
    yield ""
    for line in summary["verdict"]:
        yield line
        yield ""
    yield from overview(summary)
    yield f"![accuracy against eps](figures/defense-{name}.png)"
    yield ""
    swept = {model: series for model, series in models.items() if model in summary["scores"]}
    yield "Every attack, accuracy left in %; a model without a binarisation is attacked along its exact gradient:"
    yield ""
    columns = [(model, numbers) for model, series in swept.items() for numbers in series]
    yield f"| attack | attacker | {' | '.join(f'{model}, {eps(n)}' for model, n in columns)} |"
    yield "|---|---|" + "---:|" * len(columns)
    ordered = sorted(swept.items(), key=lambda item: item[0] != "defended")  # whose rows come first
    attackers = {a: k for _, series in ordered for numbers in series for a, k in numbers["attackers"].items()}
    for attack, knowledge in attackers.items():
        cells = [percent(numbers["accuracy"].get(attack)) for _, numbers in columns]
        yield f"| {attack} | {knowledge} | {' | '.join(cells)} |"
    for knowledge in dict.fromkeys(k for _, series in ordered for k in series[-1]["by_knowledge"]):
        cells = [percent(numbers["by_knowledge"].get(knowledge)) for _, numbers in columns]
        yield f"| **worst case per image** | up to: {knowledge} | {' | '.join(cells)} |"
    yield ""
    further = {model: series[-1] for model, series in models.items() if model not in swept}
    if further:
        yield f"Further models, at {eps(next(iter(further.values())))}, %:"
        yield ""
        yield "| model | clean, all held out | clean, attacked | worst case |"
        yield "|---|---:|---:|---:|"
        for model, numbers in further.items():
            values = summary["clean_accuracy"][model], numbers["clean_accuracy"], numbers["robust_accuracy"]
            yield f"| {model} | {' | '.join(map(percent, values))} |"
        yield ""
    yield "### Checklist"
    yield ""
    yield (folder / "report.md").read_text().partition("### Checklist\n\n")[2].rstrip()
    yield ""


def overview(summary: Mapping[str, Any]) -> Iterator[str]:
    """Clean accuracy and the worst case by eps; defended models of all seeds as mean and deviation."""
    models = summary["models"]
    first = next(iter(models.values()))
    yield f"| model | clean, all held out, % | {' | '.join(f'worst case, {eps(n)}, %' for n in first)} |"
    yield "|---|---:|" + "---:|" * len(first)
    for model in summary["scores"]:
        cells = [f"{100 * n['robust_accuracy']:.1f} ± {100 * n['standard_error']:.1f}" for n in models[model]]
        yield f"| {model} | {percent(summary['clean_accuracy'][model], 2)} | {' | '.join(cells)} |"
    seeds = [model for model in models if model == "defended" or model.startswith("defended, seed")]
    clean = spread([summary["clean_accuracy"][model] for model in seeds])
    worst = spread([models[model][-1]["robust_accuracy"] for model in seeds])
    gaps = [""] * (len(first) - 1)
    yield f"| defended, {len(seeds)} seeds, mean ± s.d. | {' | '.join([clean, *gaps, worst])} |"
    yield ""
    yield f"Worst cases are of {summary['images']} images, ± the standard error of their draw."
    yield ""


def spread(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else math.nan
    return f"{100 * statistics.mean(values):.2f} ± {100 * deviation:.2f}"


def eps(numbers: Mapping[str, Any]) -> str:
    return f"{255 * numbers['eps']:.3g}/255"


def percent(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{100 * value:.{digits}f}"


if __name__ == "__main__":
    main(sys.argv[1:])
