"""The figures of a training run: losses, and the alignment of each block with backpropagation over time."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

COLOURS = {"dfa": "#d1495b", "bp": "#30638e", "frozen": "#8d99ae"}


def loss_figure(records: list[dict[str, Any]], titles: dict[str, str], unit: str) -> Figure:
    """Training loss (thin) and validation loss (marked) of each method against the step."""
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.add_subplot()
    for method in dict.fromkeys(r["method"] for r in records):
        mine = [r for r in records if r["method"] == method]
        colour = COLOURS[method]
        axes.plot([r["step"] for r in mine], [r["loss"] for r in mine], color=colour, lw=0.7, alpha=0.45)
        seen = [r for r in mine if "val_loss" in r]
        axes.plot(
            [r["step"] for r in seen],
            [r["val_loss"] for r in seen],
            color=colour,
            marker="o",
            ms=3,
            label=titles[method],
        )
    axes.set(
        xlabel="step",
        ylabel=f"loss ({unit})",
        title="training (thin) and validation (dots; the last is the whole held-out text)",
    )
    axes.legend(frameon=False)
    _plain(axes)
    return figure


def alignment_figure(records: list[dict[str, Any]]) -> Figure | None:
    """Cosine between the DFA and the backprop gradient of each block against the step; None if never measured."""
    seen = [r for r in records if "alignment" in r]
    if not seen:
        return None
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.add_subplot()
    blocks = list(seen[0]["alignment"])
    for i, block in enumerate(blocks):
        shade = 0.15 + 0.75 * i / max(1, len(blocks) - 1)
        axes.plot(
            [r["step"] for r in seen],
            [r["alignment"][block] for r in seen],
            color=(0.9 * shade + 0.1, 0.25, 0.75 * (1 - shade) + 0.1),
            marker="o",
            ms=3,
            label=block,
        )
    axes.axhline(0, color="black", lw=0.6)
    axes.set(xlabel="step", ylabel="cosine", title="alignment of each block's gradient with backprop")
    axes.legend(frameon=False, fontsize="small")
    _plain(axes)
    return figure


def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, lw=0.5)
