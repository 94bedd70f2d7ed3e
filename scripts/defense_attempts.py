"""Every number of docs/defense-attempts.md: variations of the optical defence against adversarial training alone.

    python scripts/defense_attempts.py                  # run again to continue where it stopped
    python scripts/defense_attempts.py fashion-mnist    # this setting alone; OPU_DFA_DATA says where its images are

Weights and what is left of each image are kept under runs/defense-attempts. The settings, the variations and their
attackers are in defense_attempts_rows.py; defense_attempts_page.py writes the page, from the rows that are finished.
"""

from __future__ import annotations

import json
import sys
import time
from itertools import product
from typing import Any

import torch
from defense_attempts_page import write_page
from defense_attempts_rows import ROWS, SEEDS, SETTINGS, Row, Setting, data, model_of, threats

from opu_dfa.defense.outcome import attacked, measured
from opu_dfa.defense.target import Target
from opu_dfa.defense.threats import varies
from opu_dfa.training.checkpoint import write_atomically

REPEATS, CHUNK = 11, 300


def main(names: list[str]) -> None:
    """Train and attack what is missing, row by row over the seeds; the page is written anew after each row."""
    known = [setting.name for setting in SETTINGS]
    if unknown := sorted(set(names) - set(known)):
        raise SystemExit(f"no such setting: {', '.join(unknown)}; there are {', '.join(known)}")
    torch.set_num_threads(1)
    for at, row in product(SETTINGS, ROWS):
        if names and at.name not in names:
            continue
        for seed in SEEDS:
            path = at.folder / f"seed-{seed}" / f"{row.name}.json"
            if not path.exists():
                began = time.process_time()
                found = result(at, row, seed)
                found["cpu_seconds"] = time.process_time() - began
                write_atomically(path, json.dumps(found).encode())
                print(f"{at.name}, seed {seed}, {row.title}: {summary(found)}", flush=True)
        write_page()


def result(at: Setting, row: Row, seed: int) -> dict[str, Any]:
    """Clean accuracy, and image by image what each attack in turn leaves standing."""
    model = model_of(at, row, seed)
    images, labels = data(at.name).test_images, data(at.name).test_labels
    clean = float((Target(model, CHUNK)(images).argmax(dim=1) == labels).float().mean())
    images, labels = images[: at.attacked], labels[: at.attacked]
    repeats = REPEATS if varies(model, images) else 1
    _, rate = measured(Target(model, CHUNK), images, labels, repeats)
    standing = rate > 0.5
    left = {"no attack": standing.tolist()}
    for name, threat in threats(at, row, model, seed).items():
        rows = standing.nonzero().flatten()
        if len(rows):
            outcome = attacked(model, images[rows], labels[rows], at.eps, name, threat, seed, repeats, CHUNK)
            standing = standing.clone()
            standing[rows] = outcome.right
        left[name] = standing.tolist()
    return {"row": row.name, "clean": clean, "left": left}


def summary(found: dict[str, Any]) -> str:
    left = [f"{name} {sum(each) / len(each):.3f}" for name, each in found["left"].items()]
    return f"clean {found['clean']:.3f}; {', '.join(left)}; {found['cpu_seconds']:.0f} s"


if __name__ == "__main__":
    main(sys.argv[1:])
