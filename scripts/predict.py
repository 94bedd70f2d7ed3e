"""Every number of docs/predict.md: learning curves predicted, and measured on simulated devices.

    python scripts/predict.py          # minutes on two cores; runs that are done are kept
    python scripts/predict.py page     # the page alone

Each part is an `opu-dfa predict` of its own in runs/predict. Fashion-MNIST is looked for where OPU_DFA_DATA says.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from opu_dfa.defense.report import markdown_table

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs" / "predict"
PAGE = ROOT / "docs" / "predict.md"
NOISY = ["opu.preset=noisy-8bit"]
FASHION = [*NOISY, "images=fashion-mnist", "n_components=600", "media=12", "seed=1"]
WORDS: Mapping[str, list[str]] = {
    "Fashion-MNIST, square": [*FASHION, "loss=square"],
    "Fashion-MNIST, logistic": [*FASHION, "loss=logistic"],
    "Fashion-MNIST, a weak ridge": [*FASHION, "loss=square", "ridge=3", "recommend=false"],
    "Fashion-MNIST, two classes": [*FASHION, "classes=[0,6]", "loss=logistic"],
    "Digits": [*NOISY, "media=12", "seed=1"],
}
DFA: Mapping[str, list[str]] = {
    "Optical DFA": [],
    "Optical DFA, no reference arm": ["opu.preset=anchor"],
    "Optical DFA, a threshold on the error": ["encoding=threshold"],
    "Optical DFA, more units and outputs": ["hidden=5", "teacher=3", "outputs=4"],
}


def main(words: list[str]) -> None:
    """Measure what is missing, then write the page."""
    for name, settings in {**WORDS, **{name: ["task=dfa", *each] for name, each in DFA.items()}}.items():
        if words != ["page"] and not (RUNS / slug(name) / "summary.json").exists():
            begun = (RUNS / slug(name) / "config.json").exists()
            command = [f"resume={RUNS / slug(name)}"] if begun else [*settings, f"hydra.run.dir={RUNS / slug(name)}"]
            subprocess.run([sys.executable, "-m", "opu_dfa.cli", "predict", *command], cwd=ROOT, check=True)
    PAGE.write_text("\n".join(page()).rstrip() + "\n")
    print(f"wrote {PAGE.relative_to(ROOT)}")


def page() -> Iterator[str]:
    """What is compared, then a part for each run that is done."""
    yield "# Learning curves, predicted and measured"
    yield ""
    yield "Written by `make predict` (`scripts/predict.py`); do not edit by hand."
    yield ""
    yield (
        "A linear reader of a device's intensities, on an 8-bit camera with noise. Theory is given the images' inner "
        "products, their labels and the camera's numbers, and no medium. The device is simulated, with other media and "
        "training rows for each n; in brackets the standard error over media, of the last digits. A ! marks a value "
        "that is neither within three standard errors of the measurement nor within 5 %."
    )
    yield from parts(WORDS, part)
    yield from ("", "# Optical DFA, predicted and trained", "")
    yield (
        "Two-layer networks of erf units learn one new input a step from a teacher of the same kind by direct feedback "
        "alignment, their errors projected by a simulated device. Theory is the equations of motion of infinitely many "
        "inputs (Refinetti, d'Ascoli, Ohana and Goldt 2021, with a device's encoding and noise): it is given the "
        "device's matrix and the SNR of its `fidelity()`. In brackets the standard error over trainings, of the last "
        "digits; a ! marks what is neither within three of them nor within 5 %."
    )
    yield from parts(DFA, dfa_part)


def parts(
    runs: Mapping[str, list[str]], write: Callable[[str, list[str], dict[str, Any]], Iterator[str]]
) -> Iterator[str]:
    """What is written of the runs that are done, each with its figure beside the page."""
    for name, words in runs.items():
        path = RUNS / slug(name) / "summary.json"
        if path.exists():
            shutil.copy(path.parent / "prediction.png", PAGE.parent / "figures" / f"predict-{slug(name)}.png")
            yield from write(name, words, json.loads(path.read_text()))


def part(name: str, words: list[str], summary: dict[str, Any]) -> Iterator[str]:
    """A run: its command, its table and its figure."""
    yield from ("", f"## {name}", "", f"`opu-dfa predict {' '.join(words)}`", "")
    kinds = {"loss": summary["loss_name"], "error": "error", "training_loss": f"training {summary['loss_name']}"}
    heading = ["n", *(f"{label}, {side}" for label in kinds.values() for side in ("theory", "device"))]
    rows = [[str(p["n"]), *(cell for kind in kinds for cell in cells(p[kind]))] for p in summary["points"]]
    yield from markdown_table(heading, rows)
    yield ""
    agreed = ", ".join(f"{label} {summary['agree'][kind]} of {len(rows)}" for kind, label in kinds.items())
    yield f"Ridge {summary['ridge']:.3g}, {summary['n_components']:,} components. Agree: {agreed}."
    yield from ("", f"![predicted and measured](figures/predict-{slug(name)}.png)")


def dfa_part(name: str, words: list[str], summary: dict[str, Any]) -> Iterator[str]:
    """A run of `task=dfa`: its command, its table, what noise it tolerates and its figure."""
    yield from ("", f"## {name}", "", f"`opu-dfa predict {' '.join(['task=dfa', *words])}`", "")
    rows = [
        [f"{p['time']:g}", f"{p['predicted']:.5f}", _measured(p), f"{aligned:.3f}"]
        for p, aligned in zip(summary["points"], summary["alignment"], strict=True)
    ]
    yield from markdown_table(["t", "risk, theory", "risk, device", "cos(Vᵀ, B), theory"], rows)
    least = summary["tolerated_snr"]
    costs = f"an SNR of {least:.3g} costs" if isinstance(least, float) and least > 0 else "no SNR tried costs"
    snr = summary["snr"] if isinstance(summary["snr"], str) else f"{summary['snr']:.3g}"
    yield ""
    yield (
        f"Agree: {summary['agree']} of {len(rows)}. The device's SNR is {snr}; by theory of the first device {costs} a "
        f"tenth of the risk at t = {summary['points'][-1]['time']:g}."
    )
    yield from ("", f"![predicted and trained](figures/predict-{slug(name)}.png)")


def _measured(point: dict[str, Any]) -> str:
    error = f"({1e5 * point['standard_error']:.0f})"
    return f"{point['measured']:.5f}{error}{'' if point['agrees'] else ' !'}"


def slug(name: str) -> str:
    """A title as a file's name."""
    return name.lower().replace(", a ", " ").replace(", ", " ").replace(" ", "-")


def cells(value: dict[str, Any]) -> tuple[str, str]:
    """Theory, and the device with its standard error."""
    error = f"({1e4 * value['standard_error']:.0f})"
    return f"{value['predicted']:.4f}", f"{value['measured']:.4f}{error}{'' if value['agrees'] else ' !'}"


if __name__ == "__main__":
    main(sys.argv[1:])
