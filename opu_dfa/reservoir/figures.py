"""The figures of forecasts: what was forecast, its error over time, its statistics, and a search."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from opu_dfa.errors import DataError
from opu_dfa.reservoir.evaluation import Skill
from opu_dfa.reservoir.metrics import power_spectrum, return_map
from opu_dfa.reservoir.search import SearchResult

Array = np.ndarray
TRUTH = "#1b1f24"
COLOURS = ("#d1495b", "#30638e", "#8d99ae", "#edae49")
_FIELD = 8  # channels from which on a series is drawn as a field in space and time


def forecast_figure(
    truth: Array, forecasts: Mapping[str, Array], valid: Mapping[str, float], step_time: float, unit: str
) -> Figure:
    """One forecast of each model beside the truth, all `(steps, D)`: fields for many channels, curves for few.

    Args:
        forecasts, valid: by the model's title; until when each is valid is marked.
        step_time: of a step, in units of the axis; unit: their name.
    """
    draw = _fields if truth.shape[1] >= _FIELD else _curves
    return draw(truth, forecasts, valid, step_time, unit)


def _fields(
    truth: Array, forecasts: Mapping[str, Array], valid: Mapping[str, float], step_time: float, unit: str
) -> Figure:
    figure = Figure(figsize=(1.2 + 5.6 * len(forecasts), 6.4), layout="constrained")
    grid = figure.subplots(3, len(forecasts), sharex=True, sharey=True, squeeze=False)
    spread, middle = 3 * float(truth.std()), float(truth.mean())
    extent = (0.0, len(truth) * step_time, 0.0, float(truth.shape[1]))
    for column, (title, forecast) in zip(grid.T, forecasts.items(), strict=True):
        rows = (("truth", truth, middle), (title, forecast, middle), ("error", forecast - truth, 0.0))
        for axes, (name, field, centre) in zip(column, rows, strict=True):
            image = axes.imshow(
                field.T,
                aspect="auto",
                origin="lower",
                extent=extent,
                cmap="RdBu_r",
                vmin=centre - spread,
                vmax=centre + spread,
                interpolation="nearest",
            )
            axes.axvline(valid[title], color=TRUTH, lw=1, ls="--")
            axes.set_title(name, fontsize="medium")
        column[-1].set_xlabel(unit)
    for axes in grid[:, 0]:
        axes.set_ylabel("channel")
    figure.colorbar(image, ax=grid, shrink=0.6)
    return figure


def _curves(
    truth: Array, forecasts: Mapping[str, Array], valid: Mapping[str, float], step_time: float, unit: str
) -> Figure:
    channels = truth.shape[1]
    figure = Figure(figsize=(7.6, 1.4 + 1.7 * channels), layout="constrained")
    column = figure.subplots(channels, 1, sharex=True, squeeze=False)[:, 0]
    t = np.arange(1, len(truth) + 1) * step_time
    for d, axes in enumerate(column):
        axes.plot(t, truth[:, d], color=TRUTH, lw=1.2, label="truth")
        for colour, (title, forecast) in zip(COLOURS, forecasts.items(), strict=False):
            axes.plot(t, forecast[:, d], color=colour, lw=1, label=title)
            axes.axvline(valid[title], color=colour, lw=0.8, ls="--")
        low, high = truth[:, d].min(), truth[:, d].max()
        axes.set_ylim(low - 0.3 * (high - low), high + 0.3 * (high - low))  # a forecast may run away
        axes.set_ylabel(f"channel {d}" if channels > 1 else "")
        _plain(axes)
    figure.legend(*column[0].get_legend_handles_labels(), frameon=False, loc="outside upper left", ncols=3)
    column[-1].set_xlabel(unit)
    return figure


def error_figure(skills: Mapping[str, Skill], step_time: float, unit: str, threshold: float) -> Figure:
    """NRMSE over all starts against how far ahead a step is, by the model's title."""
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.add_subplot()
    for colour, (title, skill) in zip(COLOURS, skills.items(), strict=False):
        ahead = np.array(list(skill.by_horizon)) * step_time
        axes.loglog(ahead, list(skill.by_horizon.values()), "o-", color=colour, ms=3, label=title)
    axes.axhline(1, color=TRUTH, lw=0.8, label="the mean as a forecast")
    axes.axhline(threshold, color=TRUTH, lw=0.8, ls="--", label="threshold of a valid prediction")
    axes.set(xlabel=f"ahead [{unit}]", ylabel="NRMSE of that step")
    axes.legend(frameon=False, fontsize="small")
    _plain(axes)
    return figure


def statistics_figure(truth: Array, free: Mapping[str, Array], dt: float) -> Figure:
    """Whether models go on like the system: power spectra, and successive maxima of the last channel, of long runs.

    Args:
        truth, free: `(T, D)` and, by the model's title, its own continuation.
    """
    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    segment = max(min(1024, *(len(run) // 4 for run in (truth, *free.values()))), 8)
    runs = {"truth": truth, **free}
    for colour, (title, run) in zip((TRUTH, *COLOURS), runs.items(), strict=False):
        with suppress(DataError):  # one that ran away, or never turns
            frequencies, power = power_spectrum(run, dt, segment)
            left.semilogy(frequencies[1:], power[1:].mean(1), color=colour, lw=1, label=title)
            pairs = return_map(run[:, -1])
            size, alpha = (8, 0.25) if title == "truth" else (5, 0.9)
            right.scatter(*pairs.T, color=colour, s=size, lw=0, alpha=alpha, label=title)
    left.set(xlabel="frequency [1 / unit of time]", ylabel="power density, mean over channels")
    right.set(xlabel="a maximum of the last channel", ylabel="the next")
    with suppress(DataError):
        maxima = return_map(truth[:, -1])
        margin = 0.1 * np.ptp(maxima)
        ends = maxima.min() - margin, maxima.max() + margin
        right.set(xlim=ends, ylim=ends)
    left.legend(frameon=False, fontsize="small")
    _plain(left)
    _plain(right)
    return figure


def search_figure(found: SearchResult) -> Figure:
    """The score of every trial against each parameter; the best is circled."""
    names = list(found.best.parameters)
    columns = min(len(names), 4)
    figure = Figure(figsize=(3.0 * columns, 2.8 * math.ceil(len(names) / columns)), layout="constrained")
    grid = figure.subplots(math.ceil(len(names) / columns), columns, sharey=True, squeeze=False)
    finite = [t for t in found.trials if np.isfinite(t.score)]
    for axes, name in zip(grid.flat, names, strict=False):
        seen = [t.parameters[name] for t in finite]
        numbers = all(isinstance(v, (int, float, np.number)) for v in seen)
        places: list[Any] = seen if numbers else [str(v) for v in seen]
        axes.plot(places, [t.score for t in finite], "o", color=COLOURS[1], ms=4)
        if found.best in finite:
            axes.plot([places[finite.index(found.best)]], [found.best.score], "o", color=COLOURS[0], ms=10, mfc="none")
        if numbers and seen and min(seen) > 0 and max(seen) > 20 * min(seen):
            axes.set_xscale("log")
        axes.set_xlabel(name.removeprefix("forecaster__"))
        _plain(axes)
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel(found.measure, fontsize="small")
    return figure


def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, lw=0.5)
