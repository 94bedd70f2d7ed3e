"""Run studies: theory next to experiment, the claim checked, a page and a figure of each in docs/studies.

python scripts/study.py                        # all of them at the small size, a minute or two
python scripts/study.py structured-reservoir   # one
python scripts/study.py structured-reservoir paper
"""

from __future__ import annotations

import sys
from pathlib import Path

from rich.progress import track

from opu_dfa.studies import load, names
from opu_dfa.studies.study import Size

PAGES = Path(__file__).resolve().parent.parent / "docs" / "studies"


def main(words: list[str]) -> None:
    size: Size = "paper" if "paper" in words else "small"
    for name in [word for word in words if word != "paper"] or names():
        run(name, size)


def run(name: str, size: Size) -> None:
    """One study, its page and its figure."""
    study = load(name)
    results = [study.run(point) for point in track(study.sweep(size), description=name)]
    claim = study.claim(results)
    PAGES.mkdir(parents=True, exist_ok=True)
    study.figure(results).savefig(PAGES / f"{name}.png", dpi=150)
    command = f"python scripts/study.py {name}" + (" paper" if size == "paper" else "")
    lines = [
        f"# {study.title}",
        f"Written by `{command}`; do not edit by hand. {len(study.seeds)} seeds.",
        f"Paper: {study.paper}.",
        f"Claim: {study.statement}",
        f"**{'Holds' if claim.holds else 'Does not hold'}**: {claim.detail}.",
        f"![theory and experiment]({name}.png)",
    ]
    (PAGES / f"{name}.md").write_text("\n\n".join(lines) + "\n")
    print(f"{name}: {'holds' if claim.holds else 'does not hold'}: {claim.detail}")


if __name__ == "__main__":
    main(sys.argv[1:])
